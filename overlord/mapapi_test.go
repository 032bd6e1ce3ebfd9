package overlord_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/client"
	"dominion/delegation"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
	"dominion/session"
)

// branch starts an overlord below f that signs its machines at once.
func branch(t *testing.T, top, f *fleettest.Fleet, name string) *fleettest.Fleet {
	t.Helper()
	resp, err := top.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: name, Role: "overlord"}))
	if err != nil {
		t.Fatal(err)
	}
	return fleettest.Start(t, overlord.Config{
		State: filepath.Join(t.TempDir(), name), Name: name, Parent: f.Address, Pin: f.Pin, Token: resp.Msg.Token,
		Autosign: []overlord.AutosignRule{{Names: "m*"}},
	})
}

// places gives what a map says of each place.
func places(m client.FleetMap) []string {
	var out []string
	for p, n := range m.All() {
		s := p.String()
		if n.Life != delegation.Alive {
			s += " " + n.Life.String()
		}
		out = append(out, s)
	}
	return out
}

func wantPlaces(t *testing.T, what string, m client.FleetMap, want ...string) {
	t.Helper()
	if got := places(m); !slices.Equal(got, want) {
		t.Errorf("%s: %q; want %q", what, got, want)
	}
}

func mapFile(t *testing.T, f *fleettest.Fleet) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.State, "map"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// told keeps what a building says.
type told struct {
	mu              sync.Mutex
	lines, warnings []string
}

func (s *told) observe(line string, warning bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if warning {
		s.warnings = append(s.warnings, line)
		return
	}
	s.lines = append(s.lines, line)
}

func (s *told) has(line string) bool {
	return slices.ContainsFunc(s.lines, func(l string) bool { return strings.Contains(l, line) })
}

func build(t *testing.T, f *fleettest.Fleet, opt client.MapOptions) (client.FleetMap, *told) {
	t.Helper()
	said := new(told)
	opt.Observe = said.observe
	m, err := f.Conn.BuildMap(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return m, said
}

func TestMapOfNobody(t *testing.T) {
	f := fleettest.New(t, 0)
	if _, err := f.Conn.Map(t.Context()); call.CodeOf(err) != call.NotFound {
		t.Errorf("before the first building: %v", err)
	}
	m, _ := build(t, f, client.MapOptions{Append: true})
	wantPlaces(t, "nobody", m)
	if text := mapFile(t, f); text != "--- {}\n" {
		t.Errorf("the file is %q", text)
	}
	if m, err := f.Conn.Map(t.Context()); err != nil || m.Self.Name != "overlord" || m.Built.IsZero() {
		t.Errorf("the map is %+v, %v", m, err)
	}
}

func TestBuildMap(t *testing.T) {
	f := fleettest.New(t, 1)
	mid := branch(t, f, f, "mid")
	low := branch(t, f, mid, "low")
	mid.Enrol("m02", minion.Config{})
	m03 := low.Enrol("m03", minion.Config{})
	f.Await(2)
	mid.Await(2)
	low.Await(1)
	m, said := build(t, f, client.MapOptions{})
	wantPlaces(t, "all", m, "m01", "mid", "mid/low", "mid/low/m03", "mid/m02")
	if want := "---\nm01: {}\nmid:\n    low:\n        m03: {}\n    m02: {}\n"; mapFile(t, f) != want {
		t.Errorf("the file is %q", mapFile(t, f))
	}
	for _, line := range []string{
		"asking this overlord", "this overlord answered: 2 machines", "asking mid", "mid answered: 2 machines", "mid/low answered: 1 machines", "merged mid: 3 places behind it",
		"wrote " + filepath.Join(f.State, "map") + ": 5 machines, 2 of them overlords",
	} {
		if !said.has(line) {
			t.Errorf("it did not say %q, but %q", line, said.lines)
		}
	}
	var audited []string
	for _, r := range records(t, f.Conn) {
		if r.Action == "map.build" {
			audited = append(audited, r.Actor+" "+r.Detail)
		}
	}
	if want := []string{"local/root 5 machines, 2 of them overlords"}; !slices.Equal(audited, want) {
		t.Errorf("audited %q; want %q", audited, want)
	}

	if err := m03.Stop(); err != nil {
		t.Fatal(err)
	}
	low.Await(0)
	m, _ = build(t, f, client.MapOptions{Dry: true, OnlyAlive: true})
	wantPlaces(t, "alive", m, "m01", "mid", "mid/low", "mid/m02")
	if !strings.Contains(mapFile(t, f), "m03") {
		t.Error("a dry building wrote the map")
	}
	if now, err := f.Conn.Map(t.Context()); err != nil || len(places(now)) != 5 {
		t.Errorf("a dry building changed the map: %q, %v", places(now), err)
	}
	m, _ = build(t, f, client.MapOptions{})
	wantPlaces(t, "one is down", m, "m01", "mid", "mid/low", "mid/low/m03 silent", "mid/m02")

	mid.Down()
	f.Await(1)
	m, said = build(t, f, client.MapOptions{Append: true})
	wantPlaces(t, "a dead branch, appended", m, "m01", "mid silent", "mid/low unasked", "mid/low/m03 unasked", "mid/m02 unasked")
	if !said.has("mid did not answer: ") || !said.has("merged with the map that was there: 5 machines then, 2 found, 5 now") || len(said.warnings) != 0 {
		t.Errorf("it said %q %q", said.lines, said.warnings)
	}
	m, _ = build(t, f, client.MapOptions{Append: true, OnlyAlive: true})
	wantPlaces(t, "only what is alive is added", m, "m01", "mid unasked", "mid/low unasked", "mid/low/m03 unasked", "mid/m02 unasked")
	m, _ = build(t, f, client.MapOptions{OnlyAlive: true})
	wantPlaces(t, "only what is alive", m, "m01")
}

// The map is what the file says, whoever wrote it.
func TestMapOfAnotherHand(t *testing.T) {
	f := fleettest.New(t, 1)
	build(t, f, client.MapOptions{})
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(f.State, "map"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("dc1: {web1: {}, dc1: {}, overlord: {x: {}}}\nm01:\n")
	m, err := f.Conn.Map(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantPlaces(t, "the file", m, "dc1 unasked", "dc1/web1 unasked", "m01 unasked")
	if !m.Built.IsZero() || len(m.Cut) != 2 || !slices.Contains(m.Cut, "cut dc1/dc1: it is dc1, which stands above it") || !slices.Contains(m.Cut, "cut dc1/overlord: it is the overlord at the top") {
		t.Errorf("built %s, cut %q", m.Built, m.Cut)
	}
	m, _ = build(t, f, client.MapOptions{Append: true})
	wantPlaces(t, "merged", m, "dc1 unasked", "dc1/web1 unasked", "m01")
	write("# as the overlord wrote it\n{m01: {}, dc1: {web1}}\n")
	if m, err := f.Conn.Map(t.Context()); err != nil || m.Built.IsZero() {
		t.Errorf("the same map in other words: %+v, %v", m, err)
	}

	if err := os.WriteFile(filepath.Join(f.State, "map.found"), []byte("\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Conn.Map(t.Context()); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "map.found") {
		t.Errorf("with damaged findings: %v", err)
	}
	m, said := build(t, f, client.MapOptions{Append: true})
	wantPlaces(t, "merged by name", m, "dc1 unasked", "dc1/web1 unasked", "m01")
	if len(said.warnings) != 1 || !strings.Contains(said.warnings[0], "only the names are merged") {
		t.Errorf("it warns %q", said.warnings)
	}

	write("m01: [dc1]\n")
	if _, err := f.Conn.Map(t.Context()); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a file that is no map: %v", err)
	}
	m, said = build(t, f, client.MapOptions{Append: true})
	wantPlaces(t, "a fresh one", m, "m01")
	if len(said.warnings) != 1 || !strings.Contains(said.warnings[0], "the old map could not be read, and the fresh one replaces it: ") {
		t.Errorf("it warns %q", said.warnings)
	}
	if mapFile(t, f) != "---\nm01: {}\n" {
		t.Errorf("the file is %q", mapFile(t, f))
	}
}

// A map of this machine is merged and written here.
func TestMapFileOfTheCaller(t *testing.T) {
	f := fleettest.New(t, 1)
	file := filepath.Join(t.TempDir(), "map")
	m, said := build(t, f, client.MapOptions{File: file, Append: true})
	wantPlaces(t, "fresh", m, "m01")
	if !said.has("there is no map to merge with") || !said.has("wrote "+file) {
		t.Errorf("it said %q", said.lines)
	}
	if err := os.WriteFile(file, []byte("a: {b: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, _ = build(t, f, client.MapOptions{File: file, Append: true})
	wantPlaces(t, "merged", m, "a unasked", "a/b unasked", "m01")
	if b, err := os.ReadFile(file); err != nil || string(b) != "---\na:\n    b: {}\nm01: {}\n" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	build(t, f, client.MapOptions{File: file, Append: true, Dry: true})
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("a dry building wrote %q, %v", b, err)
	}
	if _, said = build(t, f, client.MapOptions{File: file, Append: true}); len(said.warnings) != 1 {
		t.Errorf("it warns %q", said.warnings)
	}
	if _, err := f.Conn.Map(t.Context()); call.CodeOf(err) != call.NotFound {
		t.Errorf("the overlord has a map: %v", err)
	}
	if _, err := f.Conn.BuildMap(t.Context(), client.MapOptions{File: filepath.Join(file, "x")}); err == nil {
		t.Error("a file that cannot be written")
	}
}

// liar is the agent of a sub-overlord in the wrong hands.
type liar struct {
	stolen
	answer func(session.MapArgs) any // nil answer: none, ever
	asked  chan session.MapArgs      // holds some
}

func (m *liar) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	if c.Method != session.MethodMap {
		m.stolen.Call(s, id, c)
		return
	}
	var in session.MapArgs
	_ = json.Unmarshal(c.Args, &in)
	select {
	case m.asked <- in:
	default:
	}
	r := &fleetpb.Result{}
	switch out := m.answer(in).(type) {
	case nil:
		return
	case error:
		r.Code, r.Detail = uint32(call.CodeOf(out)), out.Error()
	case string:
		r.Output = []byte(out)
	default:
		r.Output, _ = json.Marshal(out)
	}
	go func() { _ = s.Reply(id, r) }() // a large one waits for the reader
}

func lies(t *testing.T, f *fleettest.Fleet, name string, answer func(session.MapArgs) any) *liar {
	t.Helper()
	sub := branch(t, f, f, name)
	sub.Down()
	m := &liar{answer: answer, asked: make(chan session.MapArgs, 100)}
	poseAs(t, f, sub, m)
	return m
}

func machines(names ...string) session.MapResult {
	var r session.MapResult
	for _, n := range names {
		n, key, _ := strings.Cut(n, "=")
		m := session.MapMachine{Name: strings.TrimSuffix(n, "!"), Alive: true, Overlord: strings.HasSuffix(n, "!"), Fingerprint: key}
		r.Machines = append(r.Machines, m)
	}
	return r
}

// What a sub-overlord says that is in the wrong hands.
func TestHostileMap(t *testing.T) {
	f := fleettest.New(t, 1)
	var says any
	lies(t, f, "mid", func(in session.MapArgs) any {
		if len(in.Path) > 0 {
			return machines("mid!", "overlord!", "x")
		}
		return says
	})
	f.Await(2)
	for _, tt := range []struct {
		name    string
		says    any
		want    string // places, with conflicts and what was cut
		problem string // of mid
	}{
		{"the truth", machines("a", "b"), "m01 mid mid/a mid/b", ""},
		{"circles", machines("low!", "m01", "mid!", "overlord!"), "m01 mid mid/low mid/low/x mid/m01 cut: 4", ""},
		{"a foreign name", machines("m01=other"), "m01 mid mid/m01 conflict: m01", ""},
		{"no names", machines("a", "b/c"), "m01 mid", `its answer is malformed: not a machine name: "b/c" holds "/"`},
		{"no JSON", "[", "m01 mid", "the answer of mid is malformed: "},
		{"an endless page", session.MapResult{More: true}, "m01 mid", "the answer of mid is malformed: a page of 0 machines"},
		{"an answer that is too long", session.MapResult{Machines: []session.MapMachine{{Name: "a", Problem: strings.Repeat("x", 5<<20)}}}, "m01 mid", "larger than"},
		{"escapes", session.MapResult{Machines: []session.MapMachine{{Name: "a", Problem: "\x1b[2J"}}}, "m01 mid mid/a", ""},
		{"no wish", call.Errorf(call.Denied, "\x1b[2Jnot yours"), "m01 mid", "?[2Jnot yours"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			says = tt.says
			m, _ := build(t, f, client.MapOptions{})
			var got []string
			for p, n := range m.All() {
				got = append(got, p.String())
				if strings.ContainsAny(n.Problem, "\x1b") {
					t.Errorf("%s: %q", p, n.Problem)
				}
			}
			if c := m.Barred(); len(c) > 0 {
				got = append(got, "conflict: "+strings.Join(c, " "))
			}
			if len(m.Cut) > 0 {
				got = append(got, "cut: "+string('0'+byte(len(m.Cut))))
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("%s; want %s", s, tt.want)
			}
			n, _ := m.Find("mid")
			if tt.problem == "" && n.Problem != "" || !strings.Contains(n.Problem, tt.problem) {
				t.Errorf("problem %q; want %q", n.Problem, tt.problem)
			}
		})
	}
}

// A name with two keys is not in the file, and not routed.
func TestMapConflict(t *testing.T) {
	f := fleettest.New(t, 1)
	lies(t, f, "mid", func(session.MapArgs) any { return machines("m01=other", "m02") })
	f.Await(2)
	m, said := build(t, f, client.MapOptions{})
	if !slices.Equal(m.Barred(), []string{"m01"}) || len(m.Conflicts[0].Places) != 2 || !said.has("m01 is the name of machines with different keys") {
		t.Errorf("conflicts %+v; it said %q", m.Conflicts, said.lines)
	}
	if want := "---\nmid:\n    m02: {}\n"; mapFile(t, f) != want {
		t.Errorf("the file is %q; want %q", mapFile(t, f), want)
	}
	if r := m.Index().Routes([]string{"m01", "m02"}, nil); !slices.Equal(r.Conflicts, []string{"m01"}) || len(r.Paths) != 1 {
		t.Errorf("routes %+v", r)
	}
	now, err := f.Conn.Map(t.Context())
	if err != nil || now.Built.IsZero() || !slices.Equal(now.Barred(), []string{"m01"}) {
		t.Errorf("the map is %+v, %v", now, err)
	}
	// The conflict is remembered while mid is away.
	m, _ = build(t, f, client.MapOptions{Append: true})
	if !slices.Equal(m.Barred(), []string{"m01"}) {
		t.Errorf("conflicts %+v", m.Conflicts)
	}
}

// One building at a time; who leaves stops his, and the old map stays.
func TestMapInterrupted(t *testing.T) {
	f := fleettest.New(t, 1)
	build(t, f, client.MapOptions{})
	before, err := f.Conn.Map(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := lies(t, f, "mid", func(session.MapArgs) any { return nil })
	f.Await(2)
	ctx, leave := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		_, err := f.Conn.BuildMap(ctx, client.MapOptions{Timeout: time.Hour})
		over <- err
	}()
	<-m.asked
	if _, err := f.Conn.BuildMap(t.Context(), client.MapOptions{}); call.CodeOf(err) != call.Conflict {
		t.Errorf("a second building: %v; want conflict", err)
	}
	leave()
	if err := <-over; err == nil {
		t.Error("an interrupted building has an outcome")
	}
	now, err := f.Conn.Map(t.Context())
	if err != nil || now.Built.IsZero() || !now.Built.Equal(before.Built) {
		t.Errorf("the map is %+v, %v", now, err)
	}
	wantPlaces(t, "the old map", now, "m01")
	var late client.FleetMap
	f.Until("the first building has ended", func() bool {
		late, err = f.Conn.BuildMap(t.Context(), client.MapOptions{Timeout: 50 * time.Millisecond})
		return call.CodeOf(err) != call.Conflict
	})
	if err != nil {
		t.Fatal(err)
	}
	wantPlaces(t, "one that is late", late, "m01", "mid silent")
	if n, _ := late.Find("mid"); !strings.HasSuffix(n.Problem, " within 50ms") && !strings.HasSuffix(n.Problem, " within 200ms") {
		t.Errorf("problem %q", n.Problem)
	}

	// The daemon does not wait for it when it stops.
	for len(m.asked) > 0 {
		<-m.asked
	}
	go func() {
		_, err := f.Conn.BuildMap(t.Context(), client.MapOptions{Timeout: time.Hour})
		over <- err
	}()
	<-m.asked
	began := time.Now()
	f.Down()
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("the overlord took %s to stop", d)
	}
	if err := <-over; err == nil {
		t.Error("a building that was stopped has an outcome")
	}
	f.Up()
	if now, err := f.Conn.Map(t.Context()); err != nil || len(places(now)) != 2 {
		t.Errorf("after it: %q, %v", places(now), err)
	}
}

// Who may not build the map is on the audit log; anybody with a certificate may
// look.
func TestMapDenied(t *testing.T) {
	f := fleettest.New(t, 1)
	build(t, f, client.MapOptions{})
	policy := "- {operators: carol, methods: test.*, targets: '*'}\n- {operators: dave, methods: map.*, targets: '*'}\n"
	if err := os.WriteFile(filepath.Join(f.State, "policy.yaml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Down()
	f.Up()
	dial := func(name string) *client.Conn {
		conn, err := client.Dial(t.Context(), loggedIn(t, f, name, f.Address))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	carol := dial("carol")
	if _, err := carol.BuildMap(t.Context(), client.MapOptions{}); call.CodeOf(err) != call.Denied {
		t.Errorf("carol builds: %v", err)
	}
	if m, err := carol.Map(t.Context()); err != nil || len(places(m)) != 1 {
		t.Errorf("carol looks: %v", err)
	}
	if _, err := dial("dave").BuildMap(t.Context(), client.MapOptions{Dry: true}); err != nil {
		t.Errorf("dave builds: %v", err)
	}
	denied := false
	for _, r := range records(t, f.Conn) {
		denied = denied || r.Action == "denied" && strings.Contains(r.Actor, "carol") && strings.Contains(r.Subject+r.Detail, "map")
	}
	if !denied {
		t.Error("the refusal is not on the audit log")
	}
}

package overlord_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/fleettest"
	"dominion/overlord"
	"dominion/session"
)

// remembers is a minion that keeps a journal, as the test says.
type remembers struct {
	t    *testing.T
	name string

	mu      sync.Mutex
	session *session.Session
	birth   int64 // as it was told
	ids     map[string]uint64
	state   map[string]session.JobResult
	quiet   bool // takes calls and does not answer
	refuse  call.Code
	calls   int
	asked   []session.JobArgs
	stored  []string
	over    chan error
}

func newRemembers(t *testing.T, name string) *remembers {
	return &remembers{t: t, name: name, ids: make(map[string]uint64), state: make(map[string]session.JobResult)}
}

// Call implements session.Handler.
func (m *remembers) Call(s *session.Session, id uint64, c *fleetpb.Call) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Method == session.MethodJob {
		var args session.JobArgs
		if err := json.Unmarshal(c.Args, &args); err != nil {
			m.t.Error(err)
		}
		m.asked = append(m.asked, args)
		r, ok := m.state[args.Job]
		if !ok {
			r.State = session.JobNone
		}
		if args.Cancel && r.State == session.JobRunning {
			r = session.JobResult{State: session.JobFinished, Code: uint32(call.Cancelled)}
		}
		b, err := json.Marshal(r)
		if err != nil {
			m.t.Error(err)
		}
		go s.Reply(id, &fleetpb.Result{Output: b})
		return
	}
	if strings.HasPrefix(c.Method, "session.") {
		_ = s.Reply(id, &fleetpb.Result{Output: []byte("{}")})
		return
	}
	o, err := call.ParseOrder(c.Order)
	if err != nil {
		m.t.Error(err)
		return
	}
	m.calls++
	if m.refuse != 0 {
		_ = s.Reply(id, &fleetpb.Result{Code: uint32(m.refuse), Detail: "for now"})
		return
	}
	job := o.Job.String()
	m.ids[job] = id
	m.state[job] = session.JobResult{State: session.JobRunning}
	if !m.quiet {
		m.state[job] = session.JobResult{State: session.JobFinished, Output: []byte(`{"ok":true}`)}
		_ = s.Reply(id, &fleetpb.Result{Output: []byte(`{"ok":true}`)})
	}
}

// Cancel implements session.Handler.
func (m *remembers) Cancel(*session.Session, uint64) {}

// Ack implements session.Handler.
func (m *remembers) Ack(_ *session.Session, _ uint64, a *fleetpb.Ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range a.Jobs {
		m.stored = append(m.stored, call.JobID(j).String())
	}
}

// Open implements session.Handler.
func (m *remembers) Open(*session.Session, *session.Stream) {}

// Closed implements session.Handler.
func (m *remembers) Closed(*session.Session, error) {}

// connect gives m a session; one that it has ends.
func (m *remembers) connect(f *fleettest.Fleet) {
	m.t.Helper()
	m.leave()
	root, issuing := authority(m.t, f, "root"), authority(m.t, f, "issuing")
	cert := mint(m.t, issuing, root, "dominion://minion/"+m.name)
	conn, err := session.Dial(m.t.Context(), f.Address, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
		Verify:      func(tls.ConnectionState) error { return nil },
	}))
	if err != nil {
		m.t.Fatal(err)
	}
	ready := make(chan struct{})
	s, err := session.New(conn, &session.Options{
		Handler: m, Ready: func(*session.Session) { close(ready) }, Heartbeat: nil,
		Hello: func(_ *session.Session, peer *fleetpb.Hello) (*fleetpb.Hello, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if peer != nil {
				m.birth = peer.JournalBirthMs
			}
			return &fleetpb.Hello{JournalId: make([]byte, 16), JournalBirthMs: m.birth}, nil
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.session, m.over = s, make(chan error, 1)
	go func() { m.over <- s.Serve(m.t.Context()) }()
	select {
	case <-ready:
	case err := <-m.over:
		m.t.Fatal(err)
	case <-time.After(fleettest.Patience):
		m.t.Fatal("no session")
	}
}

// leave ends m's session.
func (m *remembers) leave() {
	if m.session != nil {
		m.session.Close(call.OK, "it leaves")
		<-m.over
		m.session = nil
	}
}

// look reads what the session's goroutines write.
func (m *remembers) look(ok func() bool) func() bool {
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return ok()
	}
}

// given is an order as the test wants it.
type given struct {
	method, args string
	machines     []string
	confirmed    int
	life         time.Duration // zero: 1 h
	timeout      time.Duration
	wait         bool
}

func (g given) request(t *testing.T, f *fleettest.Fleet) (call.JobID, *apipb.CallRequest) {
	t.Helper()
	cert := operator(t, f, "alice")
	tree, err := call.NewNames(g.machines)
	if err != nil {
		t.Fatal(err)
	}
	if g.args == "" {
		g.args = "{}"
	}
	if g.life == 0 {
		g.life = time.Hour
	}
	now, salt := time.Now().Truncate(time.Millisecond), make([]byte, call.SaltSize)
	o := &call.Order{
		Job: call.NewJobID(now), Method: g.method, ArgsDigest: call.Digest(salt, []byte(g.args)), IssuedAt: now, NotBefore: now,
		Expiry: now.Add(g.life), Count: tree.Len(), Root: tree.Root(), Confirmed: g.confirmed,
	}
	key, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("no ECDSA key")
	}
	s, err := call.Sign(o, key, cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return o.Job, &apipb.CallRequest{
		Order: s.Order, Signature: s.Signature, OperatorCert: s.Cert, Args: []byte(g.args), Salt: salt,
		Names: strings.Join(g.machines, ","), TimeoutMs: uint64(g.timeout.Milliseconds()), Target: "as written", Wait: g.wait,
	}
}

// order begins a job and leaves it.
func (g given) order(t *testing.T, f *fleettest.Fleet) string {
	t.Helper()
	id, req := g.request(t, f)
	s, err := fleetOf(f, operator(t, f, "alice")).Call(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	if !s.Receive() || s.Msg().GetAccepted() == nil {
		t.Fatalf("the order is not accepted: %v", s.Err())
	}
	s.Close()
	return id.String()
}

// follow watches a job to its end and gives its groups.
func follow(t *testing.T, f *fleettest.Fleet, job string, seen uint64, now bool) (groups []*apipb.ResultGroup, last *apipb.CallEvent) {
	t.Helper()
	s, err := f.Conn.Fleet.Watch(t.Context(), connect.NewRequest(&apipb.WatchRequest{Job: job, Seen: seen, Now: now}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for s.Receive() {
		if g := s.Msg().GetResults(); g != nil {
			groups = append(groups, g)
		}
		last = s.Msg()
	}
	if s.Err() != nil {
		t.Fatalf("watch %s: %v", job, s.Err())
	}
	return groups, last
}

func jobOf(t *testing.T, f *fleettest.Fleet, id string) *apipb.Job {
	t.Helper()
	res, err := f.Conn.Fleet.Jobs(t.Context(), connect.NewRequest(&apipb.JobsRequest{Job: id}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.Jobs[0]
}

// hasty is an overlord that does not wait for calls when it stops.
func hasty(t *testing.T) *fleettest.Fleet {
	cfg := fleettest.Config()
	cfg.Grace = overlord.Duration(20 * time.Millisecond)
	return fleettest.Start(t, cfg)
}

// An overlord that comes back asks for what its machines did meanwhile, however
// large, and what was withdrawn stays so.
func TestJobsGoOn(t *testing.T) {
	f := hasty(t)
	a, b, c := newRemembers(t, "m1"), newRemembers(t, "m2"), newRemembers(t, "m3")
	all := []*remembers{a, b, c}
	for _, m := range all {
		m.quiet = m != a
		m.connect(f)
		if m.birth == 0 {
			t.Errorf("%s is not told when its journal began", m.name)
		}
	}
	f.Await(3)
	job := given{method: "command.run", args: `{"argv":["x"]}`, machines: []string{"m1", "m2", "m3"}, timeout: time.Hour}.order(t, f)
	withdrawn := given{method: "command.run", args: `{"argv":["x"]}`, machines: []string{"m2", "m3"}, timeout: time.Hour, wait: true}.order(t, f)
	f.Until("the calls are with the machines", func() bool {
		return b.look(func() bool { return b.calls == 2 })() && c.look(func() bool { return c.calls == 2 })() && jobOf(t, f, job).Groups == 1
	})
	c.leave()
	groups, last := follow(t, f, job, 0, true)
	if len(groups) != 1 || groups[0].Names != "m1" || last.GetProgress().GetWaiting() != "m[2,3]" {
		t.Errorf("in the middle: groups %v, then %v", groups, last)
	}
	b.leave()
	f.Until("m2 is away", func() bool { return f.Connected() == 1 })
	if _, err := f.Conn.Fleet.Cancel(t.Context(), connect.NewRequest(&apipb.CancelRequest{Job: withdrawn})); err != nil {
		t.Fatal(err)
	}
	f.Down()
	a.leave()
	large := `{"text":"` + strings.Repeat("x", 900_000) + `"}`
	b.state[job] = session.JobResult{State: session.JobFinished, Output: json.RawMessage(large), TookUs: 1500}
	delete(c.state, job)
	delete(c.state, withdrawn)
	f.Up()
	if j := jobOf(t, f, job); j.ClosedMs != 0 || j.Counts.Answered != 1 || j.Waiting != "m[2,3]" || j.Bare {
		t.Errorf("after the restart the job is %v", j)
	}
	c.quiet = false
	for _, m := range all {
		m.connect(f)
	}
	groups, last = follow(t, f, job, 0, false)
	if got := last.GetClosed().GetCounts().GetAnswered(); got != 3 {
		t.Errorf("%d machines answered; want all 3", got)
	}
	if i := slices.IndexFunc(groups, func(g *apipb.ResultGroup) bool { return g.Names == "m2" }); i < 0 || string(groups[i].Output) != large || groups[i].TookUs[0] != 1500 {
		t.Errorf("m2's result is not the one it kept: group %d", i)
	}
	if rest, _ := follow(t, f, job, 1, false); len(rest) != len(groups)-1 {
		t.Errorf("of %d groups %d are left when one was seen", len(groups), len(rest))
	}
	if a.calls != 1 || b.calls != 2 || c.calls != 3 {
		t.Errorf("the machines were sent %d, %d and %d calls; want 1, 2 and, as m3 had lost them, 3", a.calls, b.calls, c.calls)
	}
	_, last = follow(t, f, withdrawn, 0, false)
	if got := last.GetClosed().GetCounts(); got.GetSkipped() != 2 {
		t.Errorf("the job that was withdrawn: %v", got)
	}
	for _, m := range []*remembers{b, c} {
		for _, q := range m.asked {
			if q.Cancel != (q.Job == withdrawn) {
				t.Errorf("%s was asked %+v", m.name, q)
			}
		}
	}
	f.Until("no job is left", func() bool { return jobOf(t, f, withdrawn).ClosedMs != 0 && jobOf(t, f, job).ClosedMs != 0 })
	f.Down()
	f.Up()
	again, closed := follow(t, f, job, 0, false)
	if len(again) != len(groups) || closed.GetClosed().GetCounts().GetAnswered() != 3 {
		t.Errorf("from the store: %d groups, then %v", len(again), closed)
	}
}

// What a machine says it has finished is asked for, or need not be kept.
func TestFinishedIsAskedFor(t *testing.T) {
	f := hasty(t)
	m := newRemembers(t, "m1")
	m.quiet = true
	m.connect(f)
	f.Await(1)
	job := given{method: "test.ping", machines: []string{"m1"}, timeout: time.Hour}.order(t, f)
	f.Until("it has the call", m.look(func() bool { return m.calls == 1 }))
	stranger := call.NewJobID(time.Now())
	id, err := call.ParseJobID(job)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.state[job] = session.JobResult{State: session.JobFinished, Code: uint32(call.Failed), Detail: "broken"}
	m.mu.Unlock()
	finished := &fleetpb.Ack{State: fleetpb.Ack_FINISHED, Jobs: [][]byte{id[:], stranger[:], {1, 2, 3}}}
	if err := m.session.Ack(0, finished); err != nil {
		t.Fatal(err)
	}
	groups, _ := follow(t, f, job, 0, false)
	if len(groups) != 1 || groups[0].Detail != "broken" {
		t.Errorf("its groups are %v", groups)
	}
	// A thousand that wait are acknowledged without the heartbeat.
	for range 4 {
		jobs := make([][]byte, 300)
		for i := range jobs {
			j := call.NewJobID(time.Now())
			jobs[i] = j[:]
		}
		if err := m.session.Ack(0, &fleetpb.Ack{State: fleetpb.Ack_FINISHED, Jobs: jobs}); err != nil {
			t.Fatal(err)
		}
	}
	f.Until("both are acknowledged", m.look(func() bool {
		return slices.Contains(m.stored, job) && slices.Contains(m.stored, stranger.String())
	}))
}

// With wait a machine that is away gets its call when it comes; a busy one, later.
func TestWaitingCalls(t *testing.T) {
	t.Parallel()
	f := hasty(t)
	for _, name := range []string{"m1", "m2"} {
		m := newRemembers(t, name)
		m.connect(f) // it is known from now on
		f.Await(1)
		m.leave()
		f.Await(0)
	}
	away := given{method: "test.ping", machines: []string{"m1", "m2"}, timeout: time.Minute}.order(t, f)
	groups, _ := follow(t, f, away, 0, false)
	if len(groups) != 1 || call.Code(groups[0].Code) != call.NoSession {
		t.Errorf("without waiting: %v", groups)
	}
	job := given{method: "test.ping", machines: []string{"m1", "m2"}, timeout: time.Minute, wait: true}.order(t, f)
	m := newRemembers(t, "m1")
	m.connect(f)
	f.Until("m1 has answered", func() bool { return jobOf(t, f, job).Groups == 1 })
	if j := jobOf(t, f, job); !j.Wait || j.Waiting != "m2" || j.TimeoutMs != 60_000 || !j.Bare || j.Operator != "alice" || j.Target != "as written" {
		t.Errorf("the job is %v", j)
	}
	began := time.Now()
	f.Down()
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("the overlord took %s to stop while a job waits", d)
	}
	m.leave()
	f.Up()
	list, err := f.Conn.Fleet.Jobs(t.Context(), connect.NewRequest(&apipb.JobsRequest{Open: true, Operator: "alice"}))
	if err != nil || len(list.Msg.Jobs) != 1 || list.Msg.Jobs[0].Job != job {
		t.Errorf("open jobs: %v, %v", list, err)
	}
	n := newRemembers(t, "m2")
	n.birth = time.Now().Add(-time.Hour).UnixMilli()
	n.refuse = call.Busy
	n.connect(f)
	f.Until("it has refused", n.look(func() bool { return n.calls == 1 }))
	n.mu.Lock()
	n.refuse = 0
	n.mu.Unlock()
	_, last := follow(t, f, job, 0, false)
	if got := last.GetClosed().GetCounts().GetAnswered(); got != 2 {
		t.Errorf("at last: %v", last)
	}
}

// A method that destroys, or changes many machines, wants the count confirmed.
func TestGuard(t *testing.T) {
	cfg := fleettest.Config()
	cfg.Guard = 2
	f := fleettest.Start(t, cfg)
	for _, tt := range []struct {
		name string
		g    given
		want call.Code
	}{
		{"reads many", given{method: "test.ping", machines: []string{"m1", "m2", "m3"}}, call.OK},
		{"changes few", given{method: "command.run", args: `{"argv":["x"]}`, machines: []string{"m1", "m2"}}, call.OK},
		{"changes many", given{method: "command.run", args: `{"argv":["x"]}`, machines: []string{"m1", "m2", "m3"}}, call.Unconfirmed},
		{"changes many, confirmed", given{method: "command.run", args: `{"argv":["x"]}`, machines: []string{"m1", "m2", "m3"}, confirmed: 3}, call.OK},
	} {
		_, req := tt.g.request(t, f)
		s, err := fleetOf(f, operator(t, f, "alice")).Call(t.Context(), connect.NewRequest(req))
		if err == nil {
			for s.Receive() {
			}
			err = s.Err()
			s.Close()
		}
		if got := apierrOf(err); err != nil && got != tt.want || err == nil && tt.want != call.OK {
			t.Errorf("%s: %v; want %v", tt.name, err, tt.want)
		}
	}
	denied := 0
	for _, rec := range records(t, f.Conn) {
		if rec.Action == "denied" && strings.Contains(rec.Detail, "confirmed") {
			denied++
		}
	}
	if denied != 1 {
		t.Errorf("%d denials are on the audit log; want 1", denied)
	}
	res, err := f.Conn.Fleet.Resolve(t.Context(), connect.NewRequest(&apipb.ResolveRequest{Target: "*"}))
	if err != nil || res.Msg.Guard != 2 {
		t.Errorf("Resolve = %v, %v; want it to tell the guard", res, err)
	}
}

func TestUnknownJob(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	for _, tt := range []struct {
		job  string
		want call.Code
	}{{call.NewJobID(time.Now()).String(), call.NotFound}, {"x", call.Invalid}} {
		s, err := f.Conn.Fleet.Watch(t.Context(), connect.NewRequest(&apipb.WatchRequest{Job: tt.job}))
		if err == nil {
			s.Receive()
			err = s.Err()
			s.Close()
		}
		_, jerr := f.Conn.Fleet.Jobs(t.Context(), connect.NewRequest(&apipb.JobsRequest{Job: tt.job}))
		_, cerr := f.Conn.Fleet.Cancel(t.Context(), connect.NewRequest(&apipb.CancelRequest{Job: tt.job}))
		for what, err := range map[string]error{"Watch": err, "Jobs": jerr, "Cancel": cerr} {
			if got := apierrOf(err); got != tt.want {
				t.Errorf("%s of %s = %v; want %v", what, tt.job, err, tt.want)
			}
		}
	}
}

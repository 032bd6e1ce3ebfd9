package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apierr"
	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/client"
	"dominion/module"
	"dominion/module/command"
	"dominion/pki"
	"dominion/target"
)

// fakeOverlord answers a few questions of the API, for what a real overlord
// does not do when a test wants it: methods of its own, and broken connections.
type fakeOverlord struct {
	apipbconnect.UnimplementedFleetServiceHandler
	state   string
	methods []module.Method // of the module "fake"
	known   []string
	// What Resolve answers; nil: what of known the target names.
	resolve  func(*apipb.ResolveRequest) (*apipb.ResolveResponse, error)
	delegate bool // Status says that it is the default
	job      *apipb.Job
	// What comes after the order was sent, and when the job is watched.
	events func(req *apipb.CallRequest, send func(*apipb.CallEvent) error) error
	watch  func(seen uint64, send func(*apipb.CallEvent) error) error

	mu     sync.Mutex
	orders []*apipb.CallRequest
}

// cut breaks the connection of the stream that is being answered.
func cut() { panic(http.ErrAbortHandler) }

func (f *fakeOverlord) Status(context.Context, *connect.Request[apipb.StatusRequest]) (*connect.Response[apipb.StatusResponse], error) {
	return connect.NewResponse(&apipb.StatusResponse{Name: "fake", Delegate: f.delegate}), nil
}

func (f *fakeOverlord) Jobs(context.Context, *connect.Request[apipb.JobsRequest]) (*connect.Response[apipb.JobsResponse], error) {
	return connect.NewResponse(&apipb.JobsResponse{Jobs: []*apipb.Job{f.job}}), nil
}

func (f *fakeOverlord) Modules(context.Context, *connect.Request[apipb.ModulesRequest]) (*connect.Response[apipb.ModulesResponse], error) {
	table, err := module.NewTable([]module.Module{{Name: "fake", Doc: "For tests.", Methods: f.methods}, command.Module})
	if err != nil {
		return nil, err
	}
	b, err := module.EncodeSchemas(table.Schemas())
	return connect.NewResponse(&apipb.ModulesResponse{Modules: b}), err
}

func (f *fakeOverlord) Resolve(_ context.Context, r *connect.Request[apipb.ResolveRequest]) (*connect.Response[apipb.ResolveResponse], error) {
	if f.resolve != nil {
		m, err := f.resolve(r.Msg)
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(m), nil
	}
	e, err := target.Parse(r.Msg.GetTarget())
	if err != nil {
		return nil, err
	}
	res, err := e.Resolve(target.Env{Known: f.known})
	return connect.NewResponse(&apipb.ResolveResponse{Names: target.Fold(res.Names), Unknown: target.Fold(res.Unknown)}), err
}

func (f *fakeOverlord) Call(_ context.Context, r *connect.Request[apipb.CallRequest], s *connect.ServerStream[apipb.CallEvent]) error {
	f.mu.Lock()
	f.orders = append(f.orders, r.Msg)
	f.mu.Unlock()
	return f.events(r.Msg, s.Send)
}

func (f *fakeOverlord) Watch(_ context.Context, r *connect.Request[apipb.WatchRequest], s *connect.ServerStream[apipb.CallEvent]) error {
	return f.watch(r.Msg.GetSeen(), s.Send)
}

// start serves f on a socket in a state directory.
func (f *fakeOverlord) start(t *testing.T) {
	t.Helper()
	f.state = t.TempDir()
	root, err := pki.NewRoot(time.Now().AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Operator, Name: "root"}, PublicKey: key.Public()}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pem, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"operator.key": pem, "operator.crt": pki.MarshalCerts(cert)} {
		if err := os.WriteFile(filepath.Join(f.state, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("unix", filepath.Join(f.state, client.Socket))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(apipbconnect.NewFleetServiceHandler(f, connect.WithInterceptors(&apierr.Interceptor{})))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// The events of a job.
func takenOver() *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Accepted{Accepted: &apipb.Accepted{}}}
}

func answeredBy(name string) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: &apipb.ResultGroup{Names: name, Status: uint32(call.Answered), Output: []byte(`{"ok":true}`), Count: 1}}}
}

func closedWith(answered uint64) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Closed{Closed: &apipb.Closed{Counts: &apipb.Counts{Targeted: answered, Answered: answered}}}}
}

func wrote(name, text string) *apipb.CallEvent {
	return &apipb.CallEvent{Event: &apipb.CallEvent_Output{Output: &apipb.Output{Machine: name, Stream: "stdout", Data: []byte(text)}}}
}

// at runs a command line against f; what it writes goes to files.
func (f *fakeOverlord) at(t *testing.T, change func(*app), args ...string) (code int, out, errs string) {
	t.Helper()
	files := make([]*os.File, 3)
	for i, name := range []string{"in", "out", "err"} {
		var err error
		if files[i], err = os.Create(filepath.Join(t.TempDir(), name)); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
	}
	a := newApp(files[0], files[1], files[2], func(string) string { return "" })
	if change != nil {
		change(a)
	}
	code = a.main(t.Context(), append([]string{"--state", f.state}, args...))
	text := make([]string, 3)
	for i, file := range files {
		b, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		text[i] = string(b)
	}
	return code, text[1], text[2]
}

type wipeIn struct {
	Path   string `json:"path" doc:"What to wipe." required:"true"`
	DryRun bool   `json:"dry_run" doc:"Only say what would be wiped."`
}

type wipeOut struct {
	Wiped bool `json:"wiped" doc:"Whether it was."`
}

func wipe(context.Context, *module.Env, wipeIn) (wipeOut, error) { return wipeOut{}, nil }

type nothing struct{}

func look(context.Context, *module.Env, nothing) (wipeOut, error) { return wipeOut{}, nil }

func newFake(t *testing.T, known ...string) *fakeOverlord {
	f := &fakeOverlord{known: known, methods: []module.Method{
		module.Func("wipe", "Destroys.", module.Destroy, wipe, module.MethodOptions{}),
		module.Func("erase", "Destroys without a word.", module.Destroy, look, module.MethodOptions{}),
		module.Func("look", "Looks.", module.Read, look, module.MethodOptions{}),
	}}
	f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		err := send(takenOver())
		for _, n := range f.known {
			err = errors.Join(err, send(answeredBy(n)))
		}
		return errors.Join(err, send(closedWith(uint64(len(f.known)))))
	}
	f.start(t)
	return f
}

// Where a method can say what it would do, a dry run lets it; what destroys
// must be confirmed otherwise, be it on a single machine.
func TestDryRun(t *testing.T) {
	f := newFake(t, "web1", "web2")
	if code, out, errs := f.at(t, nil, "call", "web*", "fake.wipe", "/srv", "--dry-run"); code != exitOK {
		t.Fatalf("exit code %d: %s%s", code, out, errs)
	}
	r := f.orders[0]
	o, err := call.ParseOrder(r.GetOrder())
	if err != nil {
		t.Fatal(err)
	}
	if string(r.GetArgs()) != `{"dry_run":true,"path":"/srv"}` || o.Confirmed != 2 {
		t.Errorf("sent %s, %d confirmed; want dry_run set, 2", r.GetArgs(), o.Confirmed)
	}
	for _, tt := range []struct {
		name  string
		args  []string
		code  int
		words string
		sent  int
	}{
		{"a destroy on one machine", []string{"web1", "fake.erase"}, exitUsage, "fake.erase (destroy) on 1 minion needs their number confirmed: add --yes-count 1; nothing was sent", 0},
		{"without a field for it", []string{"web1", "fake.erase", "--dry-run"}, exitOK, "would call fake.erase (destroy) on 1 minion: web1\nit has to be confirmed: --yes-count 1\n", 0},
		{"confirmed", []string{"web*", "fake.wipe", "/srv", "--yes-count", "2"}, exitOK, "ok: true", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(f.orders)
			code, out, errs := f.at(t, nil, append([]string{"call"}, tt.args...)...)
			if code != tt.code || !strings.Contains(out+errs, tt.words) || len(f.orders)-before != tt.sent {
				t.Errorf("exit code %d, %d orders, said %q; want %d, %d, %q", code, len(f.orders)-before, out+errs, tt.code, tt.sent, tt.words)
			}
		})
	}
}

// What a command says and does when the connection breaks.
func TestBrokenConnection(t *testing.T) {
	const note = "dominion call: connection to the overlord lost; the job goes on there; trying again …\n"
	taken := func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		_ = errors.Join(send(takenOver()), send(answeredBy("web1")))
		cut()
		return nil
	}
	rest := func(seen uint64, send func(*apipb.CallEvent) error) error {
		err := send(takenOver())
		for _, n := range []string{"web1", "web2"}[seen:] {
			err = errors.Join(err, send(answeredBy(n)))
		}
		return errors.Join(err, send(closedWith(2)))
	}
	gone := func(uint64, func(*apipb.CallEvent) error) error { cut(); return nil }
	for _, tt := range []struct {
		name   string
		events func(*apipb.CallRequest, func(*apipb.CallEvent) error) error
		watch  func(uint64, func(*apipb.CallEvent) error) error
		args   []string
		code   int
		out    string
		says   []string
	}{
		{"it carries on", taken, rest, []string{"call", "web*", "fake.look"}, exitOK, "web[1,2] (2): ok: true\n", []string{note}},
		{
			"jsonl has each machine once", taken, rest,
			[]string{"call", "web*", "fake.look", "-o", "jsonl"},
			exitOK,
			`{"machine":"web1","status":"answered","reason":"","result":{"ok":true}}` + "\n" + `{"machine":"web2","status":"answered","reason":"","result":{"ok":true}}` + "\n",
			[]string{note},
		},
		{
			"it gives up", taken, gone,
			[]string{"call", "web*", "fake.look"},
			exitFailed, "web1: ok: true\n",
			[]string{note, "lost sight of it after 1 of 2 machines, it may go on: gave up after 300ms", "see it again with: dominion job watch "},
		},
		{
			"before the order was taken", func(*apipb.CallRequest, func(*apipb.CallEvent) error) error { cut(); return nil }, rest,
			[]string{"call", "web*", "fake.look"},
			exitOK, "web[1,2] (2): ok: true\n",
			[]string{"lost before it took the order; trying again …\n"},
		},
		{
			"only the id is wanted", func(*apipb.CallRequest, func(*apipb.CallEvent) error) error { cut(); return nil }, rest,
			[]string{"call", "web*", "fake.look", "--async"},
			exitOK, "ID\n",
			[]string{"trying again"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, "web1", "web2")
			f.events, f.watch = tt.events, tt.watch
			code, out, errs := f.at(t, func(a *app) {
				if tt.code != exitOK {
					a.reconnect = 300 * time.Millisecond
				}
			}, tt.args...)
			if o, err := call.ParseOrder(f.orders[0].GetOrder()); err == nil {
				out = strings.ReplaceAll(out, o.Job.String(), "ID")
			}
			if code != tt.code || out != tt.out {
				t.Errorf("exit code %d, output %q; want %d, %q\n%s", code, out, tt.code, tt.out, errs)
			}
			for _, w := range tt.says {
				if strings.Count(errs, w) != 1 {
					t.Errorf("it says %q; want once %q", errs, w)
				}
			}
			if n := strings.Count(errs, "trying again"); n != 1 {
				t.Errorf("%d notes; want one:\n%s", n, errs)
			}
		})
	}
}

// On a terminal the line of progress stays while the overlord is away.
func TestProgressWhileAway(t *testing.T) {
	f := newFake(t, "web1", "web2")
	f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		_ = errors.Join(send(takenOver()), send(answeredBy("web1")))
		cut()
		return nil
	}
	f.watch = func(_ uint64, send func(*apipb.CallEvent) error) error {
		return errors.Join(send(takenOver()), send(answeredBy("web2")), send(closedWith(2)))
	}
	code, shown := f.typed(t, "", "call", "web*", "fake.look")
	if want := "trying again …\r\n\r\x1b[K1/2: 1 answered, 1 silent: web2"; code != exitOK || !strings.Contains(shown, want) {
		t.Errorf("exit code %d, the terminal shows %q; want %q", code, shown, want)
	}
}

// Live output is not taken up again: what is shown says so, and raw bytes end.
func TestBrokenOutput(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"live", []string{"run", "web1", "--fold=false", "--", "x"}, exitOK, "what machines write from now on is not shown; trying again …"},
		{"raw", []string{"run", "web1", "--raw", "--", "x"}, exitFailed, "output is lost; it goes on: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, "web1")
			f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
				_ = errors.Join(send(takenOver()), send(wrote("web1", "one\n")))
				cut()
				return nil
			}
			f.watch = func(_ uint64, send func(*apipb.CallEvent) error) error {
				return errors.Join(send(takenOver()), send(answeredBy("web1")), send(closedWith(1)))
			}
			code, out, errs := f.at(t, nil, tt.args...)
			if code != tt.code || !strings.Contains(out, "one\n") || !strings.Contains(errs, tt.says) {
				t.Errorf("exit code %d, output %q, said %q; want %d, one, %q", code, out, errs, tt.code, tt.says)
			}
		})
	}
}

// typed runs a command line on a terminal of its own, and types text when the
// question is there; what was shown comes back.
func (f *fakeOverlord) typed(t *testing.T, text string, args ...string) (code int, shown string) {
	t.Helper()
	ours, theirs := terminal(t)
	var seen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1024)
		for asked := false; ; {
			n, err := ours.Read(buf) // ends with EIO when the other side is closed
			if err != nil {
				return
			}
			seen.Write(buf[:n])
			if !asked && bytes.Contains(seen.Bytes(), []byte("to go on: ")) {
				asked = true
				if _, err := io.WriteString(ours, text); err != nil {
					return
				}
			}
		}
	}()
	a := newApp(theirs, theirs, theirs, func(string) string { return "" })
	code = a.main(t.Context(), append([]string{"--state", f.state}, args...))
	theirs.Close()
	<-done
	return code, seen.String()
}

// On a terminal the number of machines must be typed.
func TestConfirm(t *testing.T) {
	var known []string
	for i := range 3 {
		known = append(known, fmt.Sprintf("web%d", i+1))
	}
	f := newFake(t, known...)
	for _, tt := range []struct {
		name, typed string
		code        int
		shows       string
	}{
		{"the number", "3\n", exitOK, "\x1b[1mweb[1,2,3] (3):\x1b[0m ok: true"},
		{"another number", "30\n", exitFailed, "not confirmed; nothing was sent"},
		{"yes", "yes\n", exitFailed, "not confirmed; nothing was sent"},
		{"nothing", "\n", exitFailed, "not confirmed; nothing was sent"},
		{"the end", "\x04", exitFailed, "not confirmed; nothing was sent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(f.orders)
			code, shown := f.typed(t, tt.typed, "call", "web*", "fake.erase")
			if code != tt.code || !strings.Contains(shown, tt.shows) || !strings.Contains(shown, "dominion call: fake.erase (destroy) on 3 minions: web[1") {
				t.Errorf("exit code %d, shown %q; want %d, %q", code, shown, tt.code, tt.shows)
			}
			if sent := len(f.orders) - before; sent != map[bool]int{true: 1}[tt.code == exitOK] {
				t.Errorf("%d orders were sent", sent)
			}
		})
	}
}

// Who leaves while the question is there is not kept by the terminal.
func TestReadTerminalEndsWithItsContext(t *testing.T) {
	_, theirs := terminal(t)
	defer theirs.Close()
	ctx, leave := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { leave(errInterrupted) })
	if _, err := readTerminal(ctx, int(theirs.Fd())); !errors.Is(err, errInterrupted) {
		t.Errorf("readTerminal = %v; want interrupted", err)
	}
}

package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

// ages is longer than any test may wait.
const ages = time.Hour

// impatient connects to the overlord in a state directory.
func impatient(t *testing.T, state string, stream, ping, answer time.Duration) *client.Conn {
	t.Helper()
	conn, err := client.Dial(t.Context(), client.Endpoint{State: state})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	conn.Patience(stream, ping, answer)
	return conn
}

// hang gives a function that returns when the test is over.
func hang(t *testing.T) func() error {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) }) // before the server is closed, which is registered earlier
	return func() error { <-over; return nil }
}

func wantSilent(t *testing.T, err error, parts ...string) {
	t.Helper()
	if call.CodeOf(err) != call.Unavailable {
		t.Fatalf("error %v; want code %v", err, call.Unavailable)
	}
	for _, p := range append(parts, "the overlord at ", " says nothing for ") {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q; want it to say %q", err, p)
		}
	}
}

// An overlord whose process is stopped still has its socket: the kernel accepts.
func TestSilentToQuestions(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, client.Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn := impatient(t, dir, ages, ages, 50*time.Millisecond)
	_, err = conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
	wantSilent(t, err, filepath.Join(dir, client.Socket), "50ms")
	_, err = conn.Audit.Recover(t.Context(), connect.NewRequest(&apipb.AuditRecoverRequest{}))
	wantSilent(t, err)

	// Who has a deadline is told of that.
	conn.Patience(ages, ages, ages)
	mine := errors.New("mine")
	ctx, stop := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, mine)
	defer stop()
	if _, err = conn.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{})); !errors.Is(err, mine) {
		t.Errorf("Status = %v; want the cause of the context", err)
	}
}

func TestSilentJob(t *testing.T) {
	for _, tt := range []struct {
		name   string
		accept bool
		says   string
	}{
		{"before it is accepted", false, "if it has the order, the job goes on there"},
		{"after it was accepted", true, "lost sight of it after 0 of 1 machines, it may go on"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, "web1")
			conn := impatient(t, f.state(t), 300*time.Millisecond, ages, ages)
			wait := hang(t)
			f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
				if tt.accept {
					if err := send(accepted()); err != nil {
						return err
					}
				}
				return wait()
			}
			c, err := conn.Target("web1", client.Options{Reconnect: -1})
			if err != nil {
				t.Fatal(err)
			}
			job, err := c.Call(t.Context(), "test.ping", nil)
			if tt.accept != (err == nil) {
				t.Fatalf("Call = %v", err)
			}
			if err == nil {
				defer job.Close()
				_, err = job.Groups()
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			o, perr := call.ParseOrder(f.calls[0].GetOrder())
			if perr != nil {
				t.Fatal(perr)
			}
			wantSilent(t, err, tt.says, "job "+o.Job.String(), "300ms")
		})
	}
}

// What counts is the time in which we wait, and between two messages.
func TestNotSilent(t *testing.T) {
	const limit = time.Second
	f := newFake(t, "web1")
	progress := &apipb.CallEvent{Event: &apipb.CallEvent_Progress{Progress: &apipb.Progress{Counts: &apipb.Counts{Targeted: 1}}}}
	f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		if err := send(accepted()); err != nil {
			return err
		}
		tick := time.NewTicker(limit / 20)
		defer tick.Stop()
		for range 30 {
			if err := send(progress); err != nil {
				return err
			}
			<-tick.C
		}
		return errors.Join(send(group("web1", call.OK, "", "{}")), send(closed(&apipb.Counts{Targeted: 1, Answered: 1})))
	}
	conn := impatient(t, f.state(t), limit, ages, ages)
	c, err := conn.Target("web1", client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	slow := sync.OnceFunc(func() { <-time.After(2 * limit) })
	for e, err := range job.Events() {
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := e.(*client.Group); ok {
			slow()
		}
	}
}

func TestSilentAudit(t *testing.T) {
	f := newFake(t)
	conn := impatient(t, f.state(t), 300*time.Millisecond, ages, ages)
	wait := hang(t)
	f.verify = func(send func(*apipb.AuditVerifyEvent) error) error {
		return errors.Join(send(&apipb.AuditVerifyEvent{Checked: 1, Total: 2}), wait())
	}
	f.list = func(send func(*apipb.AuditRecord) error) error {
		return errors.Join(send(&apipb.AuditRecord{}), send(&apipb.AuditRecord{Index: 7, LeafHash: []byte{1}}), send(&apipb.AuditRecord{}), wait())
	}
	v, err := conn.Audit.Verify(t.Context(), connect.NewRequest(&apipb.AuditVerifyRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for v.Receive() {
	}
	wantSilent(t, v.Err())

	l, err := conn.Audit.List(t.Context(), connect.NewRequest(&apipb.AuditListRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var got []uint64
	for l.Receive() {
		got = append(got, l.Msg().GetIndex())
	}
	wantSilent(t, l.Err())
	if len(got) != 1 || got[0] != 7 {
		t.Errorf("records %d; want 7 alone: the others are signs of life", got)
	}
}

func TestSilentPing(t *testing.T) {
	f := newFake(t)
	conn := impatient(t, f.state(t), time.Millisecond, 300*time.Millisecond, ages)
	ping := func(timeout time.Duration) error {
		c, err := conn.Target("web*", client.Options{Timeout: timeout})
		if err != nil {
			t.Fatal(err)
		}
		pings, err := c.Ping(t.Context())
		if err != nil {
			return err
		}
		defer pings.Close()
		for _, err := range pings.Results() {
			if err != nil {
				return err
			}
		}
		return nil
	}
	wait := hang(t)
	f.ping = func(r *apipb.PingRequest, send func(*apipb.PingEvent) error) error {
		if r.GetTimeoutMs() == 100 {
			return wait()
		}
		<-time.After(time.Duration(r.GetTimeoutMs()) * time.Millisecond)
		return send(&apipb.PingEvent{
			Pongs:  []*apipb.Pong{{Machine: "web1", Status: uint32(call.Unreachable), Code: uint32(call.NoAnswer)}},
			Closed: &apipb.Counts{Targeted: 1, Unreachable: 1},
		})
	}
	wantSilent(t, ping(100*time.Millisecond), "ping")
	// Within its own time-out a ping may be silent for longer than other streams.
	if err := ping(500 * time.Millisecond); err != nil {
		t.Error(err)
	}
}

// relay passes bytes on until it is frozen; its connections stay.
type relay struct {
	addr string

	mu     sync.Mutex
	frozen bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: ln.Addr().String()}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			wg.Go(func() { r.pass(in, out) })
			wg.Go(func() { r.pass(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

func (r *relay) pass(from io.Reader, to io.Writer) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		frozen := r.frozen
		r.mu.Unlock()
		if err != nil {
			return
		}
		if !frozen {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func (r *relay) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = true
}

// On a TLS connection the transport itself finds out.
func TestSilentTLS(t *testing.T) {
	f := newFake(t, "web1")
	r := newRelay(t, f.tls(t, f.overlord2(t)))
	dir := contexts(t)
	f.login(t, dir, "prod", r.addr, time.Now())
	conn, err := client.Dial(t.Context(), client.Endpoint{Contexts: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Patience(ages, ages, ages)
	conn.PingEvery(200*time.Millisecond, 300*time.Millisecond)
	wait := hang(t)
	f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		return errors.Join(send(accepted()), wait())
	}
	c, err := conn.Target("web1", client.Options{Reconnect: -1})
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	r.freeze()
	_, err = job.Groups()
	if call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "lost sight of it") || !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("Groups = %v; want code %v, why, and what became of the job", err, call.Unavailable)
	}
}

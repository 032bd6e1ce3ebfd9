package funcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dominion/call"
	"dominion/module/run/runtest"
	"dominion/pki"
	"dominion/xmlrpc"
)

// client calls the machine over a connection of its own.
type client struct {
	http *http.Client
	url  string
}

func (w *world) client(role pki.Role, name string) *client {
	w.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(w.root.Cert)
	tr := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool, Certificates: []tls.Certificate{*w.certificate(pki.Identity{Role: role, Name: name})},
	}}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &client{&http.Client{Transport: tr}, "https://" + w.addr}
}

// post gives the status and body of an answer.
func (c *client) post(ctx context.Context, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

func (c *client) call(ctx context.Context, method string, args ...any) (any, error) {
	doc, err := xmlrpc.Call{Method: method, Params: args}.Append(nil)
	if err != nil {
		return nil, err
	}
	status, b, err := c.post(ctx, doc)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %s", status, b)
	}
	if err != nil {
		return nil, err
	}
	return xmlrpc.ParseAnswer(b)
}

// gate is a module whose method waits until it is let go.
func gate() (begun chan string, open chan struct{}, m Module) {
	begun, open = make(chan string, 1000), make(chan struct{})
	return begun, open, Module{Name: "gate", Methods: []Method{{Name: "wait", Timeout: -1, Run: func(ctx context.Context, env *Env, _ []any) (any, error) {
		begun <- env.Caller.String()
		select {
		case <-open:
			return 1, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}}}}
}

func wantError(t *testing.T, got any, err error, kind, text string) {
	t.Helper()
	list, _ := got.([]any)
	if err != nil || len(list) != 4 || list[0] != "REMOTE_ERROR" || list[1] != kind || !strings.Contains(list[2].(string), text) {
		t.Errorf("got %v, %v; want %s: %s", got, err, kind, text)
	}
}

// What cannot be recorded is not run.
func TestUnwritableLogStopsCalls(t *testing.T) {
	begun, open, m := gate()
	close(open)
	w := newWorld(t, "* = *", func(opt *Options) { opt.Modules = append(opt.Modules, m) })
	w.log.full = call.Errorf(call.Unavailable, "the disk is full; nothing was run")
	c := w.client(pki.Operator, "alice")
	got, err := c.call(t.Context(), "gate.wait")
	wantError(t, got, err, TypeFuncException, "unavailable: the disk is full; nothing was run")
	got, err = c.call(t.Context(), "system.listMethods")
	wantError(t, got, err, TypeFuncException, "the disk is full")
	id, err := c.call(t.Context(), "async.gate.wait")
	if err != nil {
		t.Fatal(err)
	}
	runtest.Until(t, "the job has ended", func() bool {
		got, err = c.call(t.Context(), "jobs.job_status", id)
		return err != nil || got.([]any)[0] == jobFinished
	})
	wantError(t, got.([]any)[1], err, TypeFuncException, "the disk is full")
	if len(begun) > 0 {
		t.Error("a method ran that could not be recorded")
	}
}

// When the agent ends, what runs may end; what does not is cancelled, and nothing new
// begins.
func TestShutdown(t *testing.T) {
	for _, ends := range []bool{true, false} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			begun, open, m := gate()
			w := newWorld(t, "* = *", func(opt *Options) { opt.Modules = append(opt.Modules, m) })
			c := w.client(pki.Operator, "alice")
			if _, err := c.call(t.Context(), "async.gate.wait"); err != nil {
				t.Fatal(err)
			}
			type answer struct {
				v   any
				err error
			}
			answers := make(chan answer, 1)
			go func() {
				v, err := c.call(t.Context(), "gate.wait")
				answers <- answer{v, err}
			}()
			<-begun
			<-begun
			stopped := make(chan error, 1)
			go func() { stopped <- w.stop() }()
			runtest.Until(t, "the port is closed", func() bool {
				_, err := w.client(pki.Operator, "bob").call(t.Context(), "test.ping")
				return err != nil
			})
			if ends {
				close(open)
			}
			a := <-answers
			if err := <-stopped; err != nil {
				t.Error(err)
			}
			if ends && (a.err != nil || a.v != 1) || !ends && a.err == nil && fmt.Sprint(a.v) == "1" {
				t.Errorf("the call gave %v, %v", a.v, a.err)
			}
			if b, e, _ := w.log.all(); len(b) != 2 || len(e) != 2 {
				t.Errorf("%d calls begun, %d ended", len(b), len(e))
			}
		})
	}
}

// At most so many calls run at a time; asking how they fare, and what there is, never
// waits.
func TestPlacesAreBounded(t *testing.T) {
	begun, open, m := gate()
	w := newWorld(t, "* = *", func(opt *Options) { opt.Running, opt.Modules = 2, append(opt.Modules, m) })
	c := w.client(pki.Operator, "alice")
	var ids []any
	for range maxOwned {
		id, err := c.call(t.Context(), "async.gate.wait")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	<-begun
	<-begun
	got, err := c.call(t.Context(), "async.gate.wait")
	wantError(t, got, err, TypeFuncException, "busy: 256 calls in the background of operator/alice")
	if _, err := c.call(t.Context(), "system.list_modules"); err != nil {
		t.Error(err)
	}
	// Another's is taken, and waits.
	if id, err := w.client(pki.Operator, "bob").call(t.Context(), "async.gate.wait"); err != nil || fmt.Sprintf("%T", id) != "string" {
		t.Errorf("got %v, %v", id, err)
	}
	if len(begun) > 0 {
		t.Error("more calls run than may")
	}
	// Who loses his right while he waits does not run.
	w.acl("site.acl", "* = jobs.*\noperator/bob = *")
	close(open)
	runtest.Until(t, "all have ended", func() bool {
		for _, id := range ids {
			if got, err = c.call(t.Context(), "jobs.job_status", id); err != nil || got.([]any)[0] != jobFinished {
				return false
			}
		}
		return true
	})
	_, _, refused := w.log.all()
	denied := 0
	for _, r := range refused {
		if r.Code == call.Denied {
			denied++
		}
	}
	if denied != maxOwned-2 {
		t.Errorf("%d calls were denied while they waited; want %d", denied, maxOwned-2)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	w := newWorld(t, "operator/alice = test.*", nil)
	large, err := xmlrpc.Call{Method: "test.echo", Params: []any{strings.Repeat("a", maxStranger)}}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := w.client(pki.Operator, "alice").post(t.Context(), large); status != 200 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	// Whom no list names may not even send much.
	if status, b, err := w.client(pki.Operator, "bob").post(t.Context(), large); err == nil && status != 413 {
		t.Errorf("status %d: %s", status, b)
	}
	if _, err := w.client(pki.Operator, "bob").call(t.Context(), "test.ping"); err == nil || !strings.Contains(err.Error(), "AccessToMethodDenied") {
		t.Errorf("error %v; want a denial", err)
	}
	// A body without a length, a length without its body, and garbage.
	for _, body := range []io.Reader{io.MultiReader(bytes.NewReader(large), strings.NewReader("x")), strings.NewReader("<methodCall>"), strings.NewReader("")} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+w.addr, io.NopCloser(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := w.client(pki.Operator, "alice").http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if _, err := xmlrpc.ParseAnswer(b); err == nil || !strings.Contains(err.Error(), "ExpatError") {
			t.Errorf("answer %s, %v", b, err)
		}
	}
	half, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(half, http.MethodPost, "https://"+w.addr, never(half.Done()))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 1000
	if res, err := w.client(pki.Operator, "alice").http.Do(req); err == nil {
		res.Body.Close()
		t.Errorf("half a request was answered %d", res.StatusCode)
	}
}

// never is a body of which nothing comes.
type never <-chan struct{}

func (n never) Read([]byte) (int, error) {
	<-n
	return 0, context.Canceled
}

// One certificate has a quarter of the connections.
func TestConnectionsAreBounded(t *testing.T) {
	w := newWorld(t, "* = test.*", nil)
	cert := w.certificate(pki.Identity{Role: pki.Operator, Name: "alice"})
	pool := x509.NewCertPool()
	pool.AddCert(w.root.Cert)
	open := 0
	for range maxPerPeer + 10 {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{*cert}}}).DialContext(t.Context(), "tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			open++
		}
	}
	if open != maxPerPeer {
		t.Errorf("%d connections of one certificate are served; want %d", open, maxPerPeer)
	}
	if _, err := w.client(pki.Operator, "bob").call(t.Context(), "test.ping"); err != nil {
		t.Errorf("another's call: %v", err)
	}
}

func TestRevokedPeersAreCut(t *testing.T) {
	w := newWorld(t, "* = test.*", nil)
	alice, bob := w.client(pki.Operator, "alice"), w.client(pki.Operator, "bob")
	for _, c := range []*client{alice, bob} {
		if _, err := c.call(t.Context(), "test.ping"); err != nil {
			t.Fatal(err)
		}
	}
	leaf := alice.http.Transport.(*http.Transport).TLSClientConfig.Certificates[0].Leaf
	w.mu.Lock()
	w.revoked = pki.NewRevocations().Add(time.Now(), pki.Revoke(leaf, "stolen"))
	w.mu.Unlock()
	// Before anybody cuts it, the open connection is worth nothing any more.
	if status, _, err := alice.post(t.Context(), nil); err == nil && status != http.StatusForbidden {
		t.Errorf("a revoked operator was answered %d", status)
	}
	w.srv.Recheck()
	if v, err := alice.call(t.Context(), "test.ping"); err == nil {
		t.Errorf("a revoked operator was answered %v", v)
	}
	if _, err := bob.call(t.Context(), "test.ping"); err != nil {
		t.Errorf("another's connection: %v", err)
	}
	w.mu.Lock()
	w.revoked = pki.NewRevocations().Add(time.Now(), pki.Revoke(w.issuing.Cert, "stolen"))
	w.mu.Unlock()
	if _, err := w.client(pki.Minion, "web9").call(t.Context(), "test.ping"); err == nil {
		t.Error("a machine of a revoked authority was answered")
	}
}

func TestOverride(t *testing.T) {
	w := newWorld(t, "", func(opt *Options) {
		opt.Override = func(id pki.Identity) bool { return id == pki.Identity{Role: pki.Overlord, Name: "dc1"} }
	})
	if v, err := w.client(pki.Overlord, "dc1").call(t.Context(), "test.ping"); err != nil || v != 1 {
		t.Errorf("the overlord got %v, %v", v, err)
	}
	for _, c := range []*client{w.client(pki.Overlord, "dc2"), w.client(pki.Minion, "dc1"), w.client(pki.Operator, "dc1")} {
		if v, err := c.call(t.Context(), "test.ping"); err == nil {
			t.Errorf("another got %v", v)
		}
	}
}

// Whoever calls is who he is, whatever others do at the same time and however often
// the lists are read again.
func TestIdentitiesUnderLoad(t *testing.T) {
	var wrong atomic.Int64
	w := newWorld(t, "operator/alice = who.alice\nminion/web2 = who.web2\n* = who.am_i", func(opt *Options) {
		who := func(want string) Method {
			return Method{Name: strings.ReplaceAll(want, "/", "_"), Run: func(_ context.Context, env *Env, _ []any) (any, error) {
				return env.Caller.String(), nil
			}}
		}
		opt.Modules = append(opt.Modules, Module{Name: "who", Methods: []Method{who("alice"), who("web2"), who("am_i")}})
	})
	var wg sync.WaitGroup
	for _, p := range []struct {
		role        pki.Role
		name, other string
	}{{pki.Operator, "alice", "web2"}, {pki.Minion, "web2", "alice"}} {
		for range 2 {
			wg.Go(func() {
				c := w.client(p.role, p.name)
				me := string(p.role) + "/" + p.name
				for i := range 20 {
					v, err := c.call(t.Context(), []string{"who.am_i", "who." + p.name}[i%2])
					_, denied := c.call(t.Context(), "who."+p.other)
					if f, ok := errors.AsType[*xmlrpc.Fault](denied); err != nil || v != me || !ok || !strings.Contains(f.Text, "Denied") {
						wrong.Add(1)
						t.Errorf("%s got %v, %v and %v", me, v, err, denied)
						return
					}
				}
			})
		}
	}
	wg.Go(func() {
		for i := range 20 {
			w.acl("more.acl", fmt.Sprintf("# %d\nminion/nobody%d = *\n", i, i))
		}
	})
	wg.Wait()
	if begun, ended, _ := w.log.all(); wrong.Load() == 0 && (len(begun) != 80 || len(ended) != 80) {
		t.Errorf("%d begun, %d ended", len(begun), len(ended))
	}
}

func TestSecretsAreNotDigested(t *testing.T) {
	w := newWorld(t, "* = native.*", nil)
	if _, err := w.client(pki.Operator, "alice").call(t.Context(), "native.secret", "hunter2"); err != nil {
		t.Fatal(err)
	}
	if begun, _, _ := w.log.all(); len(begun) != 1 || begun[0].Args != nil {
		t.Errorf("records %+v", begun)
	}
}

func TestNewWantsWhatItNeeds(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("New made a face of nothing")
	}
	w := newWorld(t, "", nil)
	opt := w.srv.opt
	opt.Modules = append(opt.Modules, Module{Name: "jobs"})
	if _, err := New(opt); err == nil || !strings.Contains(err.Error(), "jobs is there twice") {
		t.Errorf("New = %v", err)
	}
}

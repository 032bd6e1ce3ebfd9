package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/nodescript"
)

const patience = 30 * time.Second

// serveOld speaks the old protocol for a bench until the test ends, or stop is
// called; it gives the address.
func (b *bench) serveOld(t testing.TB, grace time.Duration) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeLegacy(ctx, ln, grace) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ServeLegacy: %v", err)
			}
		case <-time.After(patience):
			t.Error("ServeLegacy does not end")
		}
	})
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

// dialOld connects from an address.
func dialOld(t testing.TB, addr, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// askOld gives the whole answer to a request.
func askOld(t testing.TB, addr, from, request string) string {
	t.Helper()
	c := dialOld(t, addr, from)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return rest(t, c, patience)
}

// sayOld is askOld for who says that nothing more will come: one that is refused
// is closed at once.
func sayOld(t testing.TB, addr, from, request string) string {
	t.Helper()
	c := dialOld(t, addr, from)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	return rest(t, c, patience)
}

// rest gives what still comes on a connection, until it is closed or silent for
// a time.
func rest(t testing.TB, c net.Conn, within time.Duration) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(c)
	return string(out)
}

const oldStart = "# PERCEUSD START\n"

// Two thousand connections that say nothing: some wait, the others are sent
// away, and a node gets its script all the same.
func TestLegacyFlood(t *testing.T) {
	b := newOldBench(t, func(c *Config) { c.Legacy.Rules = nodescript.Perceus193 })
	addr, stop := b.serveOld(t, 0)
	before := runtime.NumGoroutine()
	const flood, each = 2000, 50
	conns := make([]net.Conn, flood)
	for i := range conns {
		conns[i] = dialOld(t, addr, fmt.Sprintf("127.0.2.%d", 1+i/each))
	}
	if got := askOld(t, addr, "127.0.0.1", "ready nodeid="+macA+"\n\x00"); got != oldStart+"echo n0000\n# PROVISIOND END\n" {
		t.Errorf("the node gets %q", got)
	}
	for _, c := range conns { // the banner, or nothing
		if err := c.SetReadDeadline(time.Now().Add(50 * time.Microsecond)); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(c, make([]byte, len(oldStart)))
	}
	open, newest := 0, false
	for deadline := time.Now().Add(defaultLegacyTimes().request / 2); ; {
		open = 0
		for i, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Microsecond)) // of one that was closed it fails
			_, err := c.Read(make([]byte, len(oldStart)))
			if ne, ok := errors.AsType[net.Error](err); err == nil || ok && ne.Timeout() {
				open++
				newest = i == flood-1
			}
		}
		if open <= maxLegacyConns || time.Now().After(deadline) { // news of the end may be on its way
			break
		}
	}
	t.Logf("figure: of %d connections that say nothing %d are kept, %d goroutines", flood, open, runtime.NumGoroutine()-before)
	if open > maxLegacyConns || open < maxLegacyConns/2 || !newest {
		t.Errorf("%d connections are kept, the newest: %v", open, newest)
	}
	stop()
}

// One address has its share, and no more.
func TestLegacyConnectionsOfOneAddress(t *testing.T) {
	b := newOldBench(t, nil)
	addr, _ := b.serveOld(t, 0)
	conns := make([]net.Conn, maxLegacySource+20)
	greeted := 0
	for i := range conns {
		conns[i] = dialOld(t, addr, "127.0.3.1")
		if err := conns[i].SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(oldStart))
		if _, err := io.ReadFull(conns[i], buf); err == nil {
			greeted++
		}
	}
	if greeted != maxLegacySource {
		t.Errorf("%d connections of one address", greeted)
	}
	if got := askOld(t, addr, "127.0.0.1", "ping x\n"); got != oldStart+"x\n" {
		t.Errorf("another address gets %q", got)
	}
	conns[0].Close()
	deadline := time.Now().Add(patience)
	for askOld(t, addr, "127.0.3.1", "ping x\n") != oldStart+"x\n" {
		if time.Now().After(deadline) {
			t.Fatal("a place that is free is not given again")
		}
	}
}

// A request comes within its time, in whatever pieces.
func TestLegacyRequestInPieces(t *testing.T) {
	b := newOldBench(t, nil)
	addr, _ := b.serveOld(t, 0)
	c := dialOld(t, addr, "127.0.0.1")
	for _, piece := range []string{"pi", "ng a", " b\n"} {
		if _, err := io.WriteString(c, piece); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	if got := rest(t, c, patience); got != oldStart+"a b\n" {
		t.Errorf("in pieces: %q", got)
	}
}

// Who does not come to an end with his request is closed.
func TestLegacyRequestThatTakesTooLong(t *testing.T) {
	t.Parallel()
	b := newOldBench(t, nil)
	b.times.request = time.Second
	addr, _ := b.serveOld(t, 0)
	slow, mute, begin := dialOld(t, addr, "127.0.0.1"), dialOld(t, addr, "127.0.0.1"), time.Now()
	go func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
			if _, err := io.WriteString(slow, "p"); err != nil {
				tick.Stop()
				return
			}
		}
	}()
	if got := rest(t, slow, patience); got != oldStart || time.Since(begin) > defaultLegacyTimes().request {
		t.Errorf("one byte after the other: %q after %v", got, time.Since(begin))
	}
	if got := rest(t, mute, patience); got != oldStart || time.Since(begin) > defaultLegacyTimes().request {
		t.Errorf("not a byte: %q after %v", got, time.Since(begin))
	}
}

// Who is refused waits, as with the old daemon, and no longer.
func TestLegacyRefusedIsClosedInTheEnd(t *testing.T) {
	t.Parallel()
	b := newOldBench(t, nil)
	b.times.open = 2 * time.Second
	addr, _ := b.serveOld(t, 0)
	begin := time.Now()
	if got := askOld(t, addr, "127.0.0.1", "ready nodeid="+macB+"\n"); got != oldStart {
		t.Errorf("it gets %q", got)
	}
	if d := time.Since(begin); d < time.Second || d > defaultLegacyTimes().open {
		t.Errorf("closed after %v", d)
	}
}

// What is being answered when the daemon stops is answered, within the grace; what
// takes longer is cut, and nothing is left.
func TestLegacyStops(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	b := newOldBench(t, func(c *Config) {
		c.Legacy.Rules = nodescript.Perceus193
		c.Scripts = scripts(func(ctx context.Context, n nodescript.Node, state string) (*nodescript.Script, error) {
			begun <- struct{}{}
			if state == "init" {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			select {
			case <-goOn:
			case <-ctx.Done():
			}
			return &nodescript.Script{Text: []byte("echo " + n.Name + "\n")}, ctx.Err()
		})
	})
	addr, stop := b.serveOld(t, time.Second)
	answer := func(request string) chan string {
		out := make(chan string, 1)
		c := dialOld(t, addr, "127.0.0.1")
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		go func() { out <- rest(t, c, patience) }()
		return out
	}
	ready, endless := answer("ready nodeid="+macA+"\n"), answer("init nodeid="+macA+"\n")
	<-begun
	<-begun
	idle := dialOld(t, addr, "127.0.0.1")
	over := make(chan struct{})
	go func() { stop(); close(over) }()
	if got := rest(t, idle, patience); got != oldStart && got != "" {
		t.Errorf("who said nothing gets %q", got)
	}
	close(goOn)
	if got := <-ready; got != oldStart+"echo n0000\n# PROVISIOND END\n" {
		t.Errorf("what was begun: %q", got)
	}
	if got := <-endless; strings.Trim(strings.TrimPrefix(got, oldStart), legacyWait) != "" {
		t.Errorf("what does not end: %q", got)
	}
	<-over
}

// A client that goes away while its script is made ends that; one node's
// requests are few at a time.
func TestLegacyGoneAndMany(t *testing.T) {
	t.Parallel()
	begun, ended := make(chan struct{}, 100), make(chan struct{}, 100)
	b := newOldBench(t, func(c *Config) {
		c.Scripts = scripts(func(ctx context.Context, _ nodescript.Node, _ string) (*nodescript.Script, error) {
			begun <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return nil, context.Cause(ctx)
		})
	})
	b.times.alive, b.times.open = 100*time.Millisecond, 2*time.Second
	addr, _ := b.serveOld(t, 0)
	var conns []net.Conn
	for range maxLegacyOfNode {
		c := dialOld(t, addr, "127.0.0.1")
		if _, err := io.WriteString(c, "ready nodeid="+macA+"\n"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		<-begun
	}
	c := dialOld(t, addr, "127.0.0.1")
	if _, err := io.WriteString(c, "ready nodeid="+macA+"\n"); err != nil {
		t.Fatal(err)
	}
	if got := rest(t, c, patience); got != oldStart || len(begun) != 0 {
		t.Errorf("one more gets %q, %d are begun", got, len(begun))
	}
	for _, c := range conns {
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	for range conns {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("a script is made for nobody")
		}
	}
}

// A script that is larger than all buffers arrives, with what the client still
// had to say unread.
func TestLegacyLargeScript(t *testing.T) {
	text := bytes.Repeat([]byte("# 0123456789abcdef\n"), 200_000)
	b := newOldBench(t, func(c *Config) {
		c.Legacy.Rules = nodescript.Perceus193
		c.Scripts = scripts(func(context.Context, nodescript.Node, string) (*nodescript.Script, error) {
			return &nodescript.Script{Text: text}, nil
		})
	})
	addr, _ := b.serveOld(t, 0)
	for range 20 {
		if got := askOld(t, addr, "127.0.0.1", "ready nodeid="+macA+"\n"+strings.Repeat("x", 1000)+"\n\x00\x00"); got != oldStart+string(text)+"# PROVISIOND END\n" {
			t.Fatalf("%d bytes of %d", len(got), len(text))
		}
	}
}

// A listener that is closed ends the service with its error.
func TestLegacyListenerCloses(t *testing.T) {
	b := newOldBench(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.ServeLegacy(context.Background(), ln, 0) }()
	ln.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ServeLegacy: %v", err)
	}
}

func FuzzParseLegacy(f *testing.F) {
	for _, s := range []string{
		"init nodeid=52:54:00:00:00:0A nodename=x\n\x00", "ping", "log a b\r\n", "ready x\nhalt nodeid=y\n", "", "\x00\n", "../x", "-x", "single-user\n", "ready nodeid=\xff\xfe",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := ParseLegacy(in)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Fatalf("error %v does not wrap ErrRequest", err)
			}
			return
		}
		out := r.Append(nil)
		if len(out) > MaxLegacy { // it had no line end
			return
		}
		again, err := ParseLegacy(out)
		if err != nil || !bytes.Equal(again.Append(nil), out) {
			t.Fatalf("%q became %q, then %q, %v", in, out, again.Append(nil), err)
		}
		if _, err := nodescript.ParseState(r.State); err != nil {
			t.Fatalf("%q is taken for a state", r.State)
		}
	})
}

package overlord

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A node that has proved itself is not sent away, whoever comes after it.
func TestNodesAreNoStrangers(t *testing.T) {
	d := &door{max: 2}
	conns := make([]net.Conn, 5)
	for i := range conns {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		conns[i] = a
	}
	node, rest := conns[0], conns[1:]
	if gone := d.enter(node); gone != nil {
		t.Fatal("the first one makes room")
	}
	d.isNode(node)
	d.isNode(node) // it asks again
	d.isNode(rest[3])
	for i, c := range rest {
		gone := d.enter(c)
		if want := max(0, i-1); i >= 2 && gone != rest[want-1] || i < 2 && gone != nil {
			t.Errorf("stranger %d: %v makes room", i, gone)
		}
	}
	if len(d.nodes) != 1 || d.strangers.Len() != 2 {
		t.Errorf("%d nodes, %d strangers", len(d.nodes), d.strangers.Len())
	}
	for _, c := range conns {
		d.leave(c)
	}
	if len(d.nodes) != 0 || d.strangers.Len() != 0 || len(d.places) != 0 {
		t.Errorf("left over: %d nodes, %d strangers", len(d.nodes), d.strangers.Len())
	}
}

// One address has so many connections to the port for firmware, and no more;
// those that ended make room.
func TestCrowdIsBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := newCrowd(ln, slog.New(slog.DiscardHandler))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(c) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.all != 0 || len(c.from) != 0 {
			t.Errorf("%d connections of %d addresses are left over", c.all, len(c.from))
		}
	})
	dial := func() (net.Conn, bool) {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		b := make([]byte, 1024)
		n, _ := conn.Read(b)
		return conn, strings.HasSuffix(string(b[:n]), "here")
	}
	var last net.Conn
	for i := range maxBootSource {
		conn, ok := dial()
		if last = conn; !ok {
			t.Fatalf("connection %d gets no answer", i)
		}
	}
	if _, ok := dial(); ok {
		t.Error("one more gets an answer")
	}
	last.Close()
	for at := time.Now(); ; {
		if _, ok := dial(); ok {
			break
		}
		if time.Since(at) > 10*time.Second {
			t.Fatal("what ended makes no room")
		}
	}
}

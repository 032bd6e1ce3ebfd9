package overlord

import (
	"container/list"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"dominion/pki"
)

// Limits of what the API costs before, and beside, what a request may cost.
const (
	maxStrangers   = 512              // connections without an operator's certificate
	maxNodes       = 4096             // of these, that a node has shown to be its own: they are not sent away
	maxStreams     = 16               // requests at a time on one connection of HTTP/2
	strangerWindow = 256 << 10        // bytes of their bodies that wait to be read
	maxShown       = 16 << 10         // bytes of one certificate of a client
	strangerBody   = 30 * time.Second // for the body of a request that needs no certificate
	readerPatience = 5 * time.Minute  // with a reader that takes nothing of what waits for it
)

// door bounds the connections of those who are no operators: enrolment answers
// anybody, so anybody can connect. The one that came first makes room for a new
// one, as a request takes moments; operators are neither counted nor sent away.
// Nodes that are provisioned are counted apart: what they fetch takes minutes.
type door struct {
	max      int
	operator func(certs []*x509.Certificate) bool

	mu        sync.Mutex
	strangers list.List // of net.Conn, the first to come in front
	places    map[net.Conn]*list.Element
	nodes     map[net.Conn]struct{}
}

func newDoor(o *Overlord) *door {
	return &door{max: maxStrangers, operator: func(certs []*x509.Certificate) bool {
		v, err := o.verify(certs)
		return err == nil && v.Identity.Role == pki.Operator
	}}
}

// state is http.Server.ConnState.
func (d *door) state(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		t, ok := c.(*tls.Conn)
		if !ok { // the socket is for root alone
			return
		}
		if certs := t.ConnectionState().PeerCertificates; len(certs) > 0 && d.operator(certs) {
			return
		}
		if first := d.enter(c); first != nil {
			if t, ok := first.(*tls.Conn); ok {
				first = t.NetConn() // without a word: it may not be read
			}
			_ = first.Close()
		}
	case http.StateClosed, http.StateHijacked:
		d.leave(c)
	}
}

// enter counts a stranger, and gives the one that has to go.
func (d *door) enter(c net.Conn) (first net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.strangers.Len() >= d.max {
		first, _ = d.strangers.Remove(d.strangers.Front()).(net.Conn)
		delete(d.places, first)
	}
	if d.places == nil {
		d.places = make(map[net.Conn]*list.Element)
	}
	d.places[c] = d.strangers.PushBack(c)
	return first
}

// isNode makes of a stranger a node, if there is room.
func (d *door) isNode(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.places[c]
	if e == nil || len(d.nodes) >= maxNodes {
		return
	}
	d.strangers.Remove(e)
	delete(d.places, c)
	if d.nodes == nil {
		d.nodes = make(map[net.Conn]struct{})
	}
	d.nodes[c] = struct{}{}
}

func (d *door) leave(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.nodes, c)
	if e := d.places[c]; e != nil {
		d.strangers.Remove(e)
		delete(d.places, c)
	}
}

// boundShown refuses what no client has reason to show: it stays in memory as
// long as the connection does.
func boundShown(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) > 3 {
		return errors.New("more certificates than a chain has here")
	}
	for _, c := range cs.PeerCertificates {
		if len(c.Raw) > maxShown {
			return errors.New("a certificate that is too large")
		}
	}
	return nil
}

// hurried serves h with requests whose body must have come within limit.
func hurried(h http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Both protocols can; after the request the server sets its own.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit))
		h.ServeHTTP(w, r)
	})
}

// patient is a ResponseWriter that fails when its reader takes nothing for too
// long, so that a client that was stopped does not keep a job's results and the
// windows of its streams in memory. One that has nothing to read may wait.
type patient struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
	set      time.Time // when the deadline was; zero: there is none
	ending   bool      // the answer ends in a moment, and is flushed then
}

// patientKey is under which a request's context has its *patient.
type patientKey struct{}

// endAnswer says that what is sent from now on ends the answer at once, so that all of it
// is one write.
func endAnswer(ctx context.Context) {
	if p, ok := ctx.Value(patientKey{}).(*patient); ok {
		p.ending = true
	}
}

// withPatience serves h with patient writers.
func withPatience(h http.Handler, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := &patient{ResponseWriter: w, control: http.NewResponseController(w), patience: patience}
		p.deadline(time.Time{}) // the request before on this connection may have left one
		h.ServeHTTP(p, r.WithContext(context.WithValue(r.Context(), patientKey{}, p)))
		p.arm() // what is not flushed yet
	})
}

func (p *patient) deadline(t time.Time) { _ = p.control.SetWriteDeadline(t) } // both protocols can

// arm starts the time, anew when a good part of it is over: setting it costs a
// message to the connection's goroutine.
func (p *patient) arm() {
	if now := time.Now(); now.Sub(p.set) > p.patience/4 {
		p.set = now
		p.deadline(now.Add(p.patience))
	}
}

// Write implements http.ResponseWriter.
func (p *patient) Write(b []byte) (int, error) {
	p.arm()
	return p.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (p *patient) Flush() {
	p.arm()
	if p.ending {
		return
	}
	if p.control.Flush() == nil {
		p.set = time.Time{}
		p.deadline(p.set)
	}
}

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

package funcd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"dominion/module"
	"dominion/pki"
	"dominion/xmlrpc"
)

// Bounds on connections and requests.
const (
	maxConns    = 256              // at a time
	maxPerPeer  = 64               // of one certificate
	maxBodies   = 64 << 20         // bytes of requests that are carried out
	maxParked   = 32 << 20         // and of those in the background
	maxStranger = 64 << 10         // bytes of a request of somebody whom no access list names
	readTime    = time.Minute      // for a request to arrive
	writeTime   = time.Minute      // for an answer to be taken
	idleTime    = 2 * time.Minute  // between two requests
	roomTime    = 10 * time.Second // for others' requests to make room
)

// Options say what a Server is made of.
type Options struct {
	Machine string // its name; required
	Version string // of the agent
	// Table gives the minion's methods as they are now; required.
	Table func() *module.Table
	// Modules have Func's names and shapes, and come before those of the table. The
	// server adds jobs and the pseudo-module system.
	Modules []Module
	// ACL says who may call what; required.
	ACL *ACL
	// Override names identities that may call everything, whatever the ACL says; nil:
	// nobody.
	Override func(pki.Identity) bool
	// Admit verifies a chain, and that nothing in it was revoked. It is asked at each
	// handshake, each request, and before each call that waited. Required.
	Admit func([]*x509.Certificate) (pki.Verified, error)
	// Record keeps the machine's own log; required.
	Record recorder
	// Facts gives what is known of the machine; nil: nothing is.
	Facts func() []Fact
	// Running bounds the calls that run at a time; zero: 64.
	Running int
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: silent
}

func (o *Options) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

// Server is the Func face of one machine.
type Server struct {
	opt    Options
	log    *slog.Logger
	http   *http.Server
	shapes map[string]*Module
	system map[string]*Method
	slots  chan struct{}       // held by calls that run
	bodies *semaphore.Weighted // bytes of requests that somebody waits for
	parked *semaphore.Weighted // and of those in the background
	jobs   jobs
	tasks  sync.WaitGroup // requests, and calls in the background

	life context.Context //nolint:containedctx // of the calls: they outlive the requests that brought them
	end  context.CancelFunc

	mu       sync.Mutex
	stopping bool                           // nothing new begins
	conns    map[net.Conn][sha256.Size]byte // to the digest of the certificate
}

// New makes a Server. The error names what is missing.
func New(opt Options) (*Server, error) {
	if opt.Machine == "" || opt.Table == nil || opt.ACL == nil || opt.Admit == nil || opt.Record == nil {
		return nil, errors.New("make the Func face: something that is required is missing")
	}
	s := &Server{opt: opt, log: opt.Log, bodies: semaphore.NewWeighted(maxBodies), parked: semaphore.NewWeighted(maxParked), conns: make(map[net.Conn][sha256.Size]byte)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if opt.Running == 0 {
		opt.Running = defaultRunning
	}
	s.slots = make(chan struct{}, opt.Running)
	s.jobs.now = s.opt.now
	s.life, s.end = context.WithCancel(context.Background())
	s.shapes = make(map[string]*Module)
	for _, m := range append([]Module{s.jobsModule()}, opt.Modules...) {
		if s.shapes[m.Name] != nil {
			return nil, fmt.Errorf("make the Func face: module %s is there twice", m.Name)
		}
		s.shapes[m.Name] = &m
	}
	s.system = s.systemMethods()
	s.http = &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTime, MaxHeaderBytes: 16 << 10, ConnState: s.connection,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Verify decides at the end of a handshake whether a peer may speak: any
// certificate that Options.Admit takes.
func (s *Server) Verify(cs tls.ConnectionState) error {
	_, err := s.opt.Admit(cs.PeerCertificates)
	return err
}

// Run serves the connections of ln, *tls.Conn with their handshakes done, until ctx
// ends. Then it takes no more, lets calls end for up to grace, and cancels what still
// runs.
func (s *Server) Run(ctx context.Context, ln net.Listener, grace time.Duration) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := s.http.Serve(ln)
		if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) { // whose port it is has closed it
			return nil
		}
		return err
	})
	g.Go(func() error {
		<-ctx.Done()
		s.mu.Lock()
		s.stopping = true
		s.mu.Unlock()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		done := make(chan struct{})
		go func() { // ends when the calls have, at the latest when life ends
			s.tasks.Wait()
			close(done)
		}()
		_ = s.http.Shutdown(last) // an error: some still run
		select {
		case <-done:
		case <-last.Done():
		}
		s.end()
		err := s.http.Close()
		<-done
		return err
	})
	return g.Wait()
}

// begin counts something that Run waits for; false when the server shuts down.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.tasks.Add(1)
	}
	return !s.stopping
}

// Recheck closes the connections of those that Options.Admit takes no more: it is
// for when a list of revocations has come.
func (s *Server) Recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if t, ok := c.(*tls.Conn); ok && s.Verify(t.ConnectionState()) != nil {
			t.NetConn().Close() // without a word: a peer that does not read must not hold us up
		}
	}
}

// connection counts connections, in all and of each certificate.
func (s *Server) connection(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		var key [sha256.Size]byte
		if t, ok := c.(*tls.Conn); ok {
			if certs := t.ConnectionState().PeerCertificates; len(certs) > 0 {
				key = sha256.Sum256(certs[0].Raw)
			}
		}
		n := 0
		for _, k := range s.conns {
			if k == key {
				n++
			}
		}
		s.conns[c] = key
		if len(s.conns) > maxConns || n >= maxPerPeer {
			s.log.Warn("func connection closed: there are too many", "address", c.RemoteAddr().String(), "connections", len(s.conns))
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			c.Close() // without a word: a peer that does not read must not hold us up
		}
	case http.StateClosed, http.StateHijacked:
		delete(s.conns, c)
	}
}

// ServeHTTP implements http.Handler: one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		closing(w, http.StatusServiceUnavailable, "this machine's agent shuts down")
		return
	}
	defer s.tasks.Done()
	// One that was set for the answer before would hold for this one.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime)) // a connection that has none is gone
	peer, err := s.peer(r)
	if err != nil {
		closing(w, http.StatusForbidden, err.Error())
		return
	}
	switch {
	case r.Method != http.MethodPost: // Func's own tools take it for a sign of life
		http.Error(w, "this port speaks XML-RPC by POST", http.StatusNotImplemented)
	case r.URL.Path != "/RPC2" && r.URL.Path != "/":
		http.Error(w, "post to /RPC2", http.StatusNotFound)
	default:
		s.serve(w, r, peer)
	}
}

// peer reads who is at the other end of the connection on which the request came.
func (s *Server) peer(r *http.Request) (Peer, error) {
	if r.TLS == nil {
		return Peer{}, errors.New("no TLS")
	}
	v, err := s.opt.Admit(r.TLS.PeerCertificates)
	if err != nil {
		return Peer{}, err
	}
	p := NewPeer(v, r.RemoteAddr)
	p.certs = r.TLS.PeerCertificates
	return p, nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, peer Peer) {
	ctl := http.NewResponseController(w)
	limit := s.limit(peer)
	room := limit
	if r.ContentLength >= 0 {
		room = r.ContentLength
	}
	if room > limit {
		closing(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("a request has at most %d bytes here", limit))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), roomTime)
	err := s.bodies.Acquire(ctx, room)
	cancel()
	if err != nil {
		closing(w, http.StatusServiceUnavailable, "too many large requests at once; try again")
		return
	}
	defer s.bodies.Release(room)
	_ = ctl.SetReadDeadline(time.Now().Add(readTime)) // a connection that has none is gone
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		status := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		closing(w, status, err.Error())
		return
	}
	_ = ctl.SetReadDeadline(time.Time{})
	var out outcome
	if c, err := xmlrpc.ParseCall(body); err != nil {
		out.fault = &xmlrpc.Fault{Code: 1, Text: "<class 'xml.parsers.expat.ExpatError'>:" + err.Error()}
	} else {
		out = s.dispatch(peer, c.Method, c.Params, room)
	}
	if out.fault != nil {
		out.doc = xmlrpc.AppendFault(nil, *out.fault)
	}
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("Content-Length", fmt.Sprint(len(out.doc)))
	_ = ctl.SetWriteDeadline(time.Now().Add(writeTime))
	_, _ = w.Write(out.doc) // an error: nobody is there any more
}

// limit is the size of the largest request of a peer: whom no access list names is
// only told so.
func (s *Server) limit(peer Peer) int64 {
	if s.opt.Override != nil && s.opt.Override(peer.Identity) || s.opt.ACL.Rules().Names(peer) {
		return xmlrpc.MaxDocument
	}
	return maxStranger
}

// closing answers with an error and ends the connection: what is left of the request
// is not read.
func closing(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Connection", "close")
	http.Error(w, text, status)
}

// facts gives what is known of the machine.
func (s *Server) facts() []Fact {
	if s.opt.Facts == nil {
		return nil
	}
	return s.opt.Facts()
}

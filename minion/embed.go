package minion

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"dominion/call"
	"dominion/pki"
	"dominion/session"
)

// Embed says how the agent inside an overlord's process is made. It has the
// overlord's name, key and certificate, so it neither enrols nor renews.
type Embed struct {
	Name string // of the overlord; required
	// State is the directory of its journal, log and policy, made with mode 0700;
	// nobody else uses it. Required.
	State string
	// Parent is the name of the overlord that it keeps a session with, and Address
	// where that is dialled, host:port. Required.
	Parent, Address string
	Trust           *pki.Trust        // with its root; required
	Key             *ecdsa.PrivateKey // of the certificate; required
	// Certificate gives the overlord's own; asked at each handshake. Required.
	Certificate func() *tls.Certificate
	// OnRevocations is as in Options.
	OnRevocations func(signed []byte, list *pki.RevocationList)
	Host          Host   // answers the parent; required
	Confd         Confd  // as in Config
	ModulesDir    string // as in Config, and so the next two
	ModulesPush   bool
	ModulesMemory int
	Version       string // of the agent; empty: "devel"
	// Reload, when not nil, makes Run read the agent's policy again each time it yields.
	Reload <-chan os.Signal
	Log    *slog.Logger // nil: silent
}

// Embedded is the agent inside an overlord's process.
type Embedded struct {
	d      *daemon
	parent string
	addr   string
	cert   func() *tls.Certificate
	reload <-chan os.Signal
}

// NewEmbedded opens the agent's state. It has no session until Run.
func NewEmbedded(e Embed) (*Embedded, error) {
	c := Config{
		Name: e.Name, State: e.State, Overlords: []string{e.Address}, Confd: e.Confd, Version: e.Version,
		ModulesDir: e.ModulesDir, ModulesPush: e.ModulesPush, ModulesMemory: e.ModulesMemory,
	}
	s, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("the overlord's own agent: %w", err)
	}
	if e.Log == nil {
		e.Log = slog.New(slog.DiscardHandler)
	}
	d := newDaemon(s, e.Log)
	d.key, d.trust, d.onList, d.host = e.Key, e.Trust, e.OnRevocations, e.Host
	m := &Embedded{d: d, parent: e.Parent, addr: s.overlords[0], cert: e.Certificate, reload: e.Reload}
	if d.dir, err = pki.OpenDir(s.state); err == nil {
		if err = d.dir.Lock(); err == nil {
			err = d.openBooks()
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the overlord's own agent: %w", err), d.close())
	}
	d.agent.AddOverlord(e.Parent)
	return m, nil
}

// Close closes what NewEmbedded opened, after Run.
func (m *Embedded) Close() error { return m.d.close() }

// Run keeps a session with the parent until ctx ends. Then it takes no more
// calls and lets those that run finish for up to grace.
func (m *Embedded) Run(ctx context.Context, grace time.Duration) error {
	d := m.d
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(errStop)
	g, accept := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(work, d.clock.Run(work)) })
	g.Go(d.siteModules(accept))
	g.Go(func() error { m.keep(accept, work); return nil })
	g.Go(func() error { d.gatherFacts(accept); return nil })
	g.Go(func() error { d.replica.Run(accept); return nil })
	g.Go(func() error { d.reloads(accept, m.reload); return nil })
	g.Go(func() error {
		<-accept.Done()
		last, cancel := context.WithTimeoutCause(work, grace, errStop)
		defer cancel()
		d.agent.Drain(last)
		stop(errStop)
		return nil
	})
	err := g.Wait()
	return errors.Join(err, d.agent.Wait(context.WithoutCancel(ctx), d.agent.patience))
}

// keep dials the parent, serves, waits, and again. Sessions live until work ends.
func (m *Embedded) keep(accept, work context.Context) {
	var wait session.Backoff
	var said string // the last reason that was logged
	for accept.Err() == nil {
		opened, err := m.connect(accept, work)
		if opened {
			wait.Reset()
			said = ""
		} else {
			said = m.d.tell(accept, "no session with the parent", m.addr, err, said)
		}
		var atLeast time.Duration
		if g, ok := errors.AsType[*session.Goaway](err); ok {
			atLeast = g.RetryAfter
		}
		_ = wait.Wait(accept, atLeast) // the loop looks at accept
	}
}

func (m *Embedded) connect(accept, work context.Context) (opened bool, err error) {
	conn, err := session.Dial(accept, m.addr, session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return m.cert(), nil },
		Verify:      m.d.agent.VerifyPeer,
	}))
	if err != nil {
		return false, err
	}
	return m.d.agent.serve(work, conn)
}

// Connected says whether there is a session with the parent, and since when;
// the time is zero when there is none.
func (m *Embedded) Connected() (since time.Time, ok bool) {
	l := m.d.agent.link(m.parent)
	if l == nil {
		return time.Time{}, false
	}
	return l.session.Since(), true
}

// Ask calls one of the session's own methods at the parent: see Agent.Ask.
func (m *Embedded) Ask(ctx context.Context, method string, args, result any) error {
	return m.d.agent.Ask(ctx, m.parent, method, args, result)
}

// Pull makes one call at the parent that is answered with a stream: see
// session.Session.Pull. Without a session the error is call.NoSession.
func (m *Embedded) Pull(ctx context.Context, method string, args []byte, stream string) (io.ReadCloser, error) {
	return m.d.agent.Pull(ctx, m.parent, method, args, stream)
}

// TakeRevocations gives the agent a list that came by another way; one that is
// older than its own is no error.
func (m *Embedded) TakeRevocations(signed []byte) error {
	if _, err := m.d.agent.takeRevocations(signed); err != nil && call.CodeOf(err) != call.Conflict {
		return err
	}
	return nil
}

// Revocations gives the signed list in the agent's state directory; nil: none.
func (m *Embedded) Revocations() []byte {
	b, err := m.d.dir.ReadFile(FileRevocations)
	if err != nil {
		return nil // none yet; what cannot be read was an error at the start
	}
	return b
}

// Reconnect ends the session, so that the next one shows the newest certificate.
func (m *Embedded) Reconnect(why string) {
	if l := m.d.agent.link(m.parent); l != nil {
		l.session.Close(call.OK, why)
	}
}

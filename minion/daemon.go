package minion

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dominion/audit"
	"dominion/enrol"
	"dominion/funcd"
	"dominion/minion/candidate"
	"dominion/minion/journal"
	"dominion/module"
	"dominion/module/run"
	"dominion/module/site"
	"dominion/pki"
	"dominion/policy"
	"dominion/session"
)

const drainTime = 30 * time.Second // for calls that run when the agent is told to end

// errStop ends the sessions when the agent ends.
var errStop = errors.New("the agent ends")

// daemon is one machine's agent with its state directory.
type daemon struct {
	cfg     settings
	log     *slog.Logger
	dir     *pki.Dir
	key     *ecdsa.PrivateKey
	trust   *pki.Trust
	agent   *Agent
	replica *candidate.Candidate // of the cluster data
	own     *audit.FileLog
	acl     *funcd.ACL    // of the Func face; nil: there is none
	face    *funcd.Server // nil: there is none
	jobs    *journal.Journal
	ask     asker
	clock   *session.Clock
	wake    chan struct{} // of one: a session has begun, so a renewal can be tried

	site     *site.Set      // modules of the site's own
	again    chan struct{}  // of one: the site's modules that are disabled are to be tried again
	offering sync.Mutex     // held while the table of methods is made
	below    []module.Below // what machines below an embedded agent's overlord offer; covered by offering

	onList func(signed []byte, list *pki.RevocationList) // see Options.OnRevocations
	host   Host                                          // see Options.Host

	mu        sync.Mutex
	overlords map[string]string      // dialled address to the overlord found there
	certs     map[string]*credential // by overlord
}

// Run is the agent of one machine: it enrols, keeps its sessions and carries
// out orders until ctx ends. Then it takes no more calls, lets those that run
// finish for up to 30 s, and returns nil. Any error it returns is about its
// configuration or its state directory; what can pass is logged and tried again.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	s, err := cfg.check()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := newDaemon(s, log)
	if err := d.open(); err != nil {
		return errors.Join(err, d.close())
	}
	if _, err := run.Cgroup(); err != nil {
		log.Debug("commands get no cgroup of their own", "err", err)
	}
	err = d.run(ctx, cfg.Reload, cfg.Ready)
	return errors.Join(err, d.close())
}

func newDaemon(s settings, log *slog.Logger) *daemon {
	return &daemon{cfg: s, log: log, ask: enrol.Ask, clock: session.NewClock(0, 0), wake: make(chan struct{}, 1), again: make(chan struct{}, 1)}
}

// open reads the state directory, making what is missing.
func (d *daemon) open() error {
	var err error
	if d.dir, err = pki.OpenDir(d.cfg.state); err != nil {
		return err
	}
	if err := d.dir.Lock(); err != nil {
		return err
	}
	if d.key, err = d.dir.LoadOrCreateKey("minion.key"); err != nil {
		return err
	}
	if err := d.loadTrust(); err != nil {
		return err
	}
	if err := d.loadCredentials(); err != nil {
		return err
	}
	return d.openBooks()
}

// openBooks opens the agent's own log and journal, and makes the agent.
func (d *daemon) openBooks() error {
	pol, err := d.readPolicy()
	if err != nil {
		return err
	}
	d.own, err = audit.OpenFileLog(filepath.Join(d.cfg.state, "log"), audit.FileLogOptions{SetAside: true, Log: d.log})
	if err != nil {
		return err
	}
	d.jobs, err = journal.Open(filepath.Join(d.cfg.state, "journal"), journal.Options{Now: d.cfg.now, Log: d.log})
	if err != nil {
		return err
	}
	return d.makeAgent(pol)
}

func (d *daemon) makeAgent(pol *policy.Policy) error {
	d.openSite()
	table, err := module.NewTable(modules(d.own, d.key, d.site))
	if err != nil {
		return fmt.Errorf("make table of modules: %w", err)
	}
	saved := make(map[string][]byte)
	for _, name := range []string{FileRevocations, FileCheckpoints, FileSharers} {
		b, err := d.dir.ReadFile(name)
		switch {
		case err == nil:
			saved[name] = b
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	d.replica = candidate.Open(candidate.Options{
		Name: d.cfg.name, Dir: d.dir, Trust: d.trust, Listen: d.cfg.confd, Now: d.cfg.now, Log: d.log,
		Admit: func(id pki.Identity, leaf *x509.Certificate) error { return d.agent.admit(id, leaf) },
	})
	d.agent, err = New(Options{
		Name: d.cfg.name, Trust: d.trust, Table: table, Overlords: d.enrolledWith(), Policy: pol, Own: d.own, Journal: d.jobs,
		Save: d.dir.WriteFile, Saved: saved, Credit: session.NewPool(0), Heartbeat: d.clock, Log: d.log,
		Version: d.cfg.version, Now: d.cfg.now, MaxRunning: d.cfg.running, MaxQueued: d.cfg.queued, OnRevocations: d.newList, Host: d.host,
		Replica: d.replica, Forward: d.forwards(),
	})
	if err != nil {
		return err
	}
	if err := d.openFace(); err != nil {
		return err
	}
	d.agent.opened = func() {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

func (d *daemon) close() error {
	var errs []error
	if d.agent != nil {
		if err := d.agent.own.ready(); err != nil {
			d.log.Error("records of calls that ran are lost", "err", err)
		}
	}
	if d.jobs != nil {
		errs = append(errs, d.jobs.Close())
	}
	if d.own != nil {
		errs = append(errs, d.own.Close())
	}
	if d.dir != nil {
		errs = append(errs, d.dir.Close())
	}
	return errors.Join(errs...)
}

// run starts everything, waits for ctx, and ends it in the reverse order.
func (d *daemon) run(ctx context.Context, reload <-chan os.Signal, ready func(net.Addr)) error {
	ln, err := d.listen()
	if err != nil {
		return err
	}
	// Sessions and calls live longer than ctx: until what runs has finished.
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(errStop)
	g, accept := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(work, d.clock.Run(work)) })
	if ln != nil {
		opt := session.ListenOptions{
			Fleet: session.TLSOptions{Certificate: d.anyCertificate, Verify: d.agent.VerifyPeer},
			Serve: func(_ context.Context, conn *tls.Conn) { d.serve(work, conn) },
			Log:   d.log,
		}
		if d.face != nil {
			opt.HTTP, opt.FuncFace = &session.TLSOptions{Certificate: d.anyCertificate, Verify: d.face.Verify}, true
		}
		l := session.NewListener(ln, opt)
		if d.face != nil {
			g.Go(func() error { return ended(accept, d.face.Run(accept, l.HTTP(), drainTime)) })
		}
		g.Go(func() error { return ended(accept, l.Run(accept)) })
	}
	g.Go(d.siteModules(accept))
	for _, addr := range d.cfg.overlords {
		g.Go(func() error { d.keep(accept, work, addr); return nil })
	}
	g.Go(func() error { d.renewals(accept); return nil })
	g.Go(func() error { d.gatherFacts(accept); return nil })
	g.Go(func() error { d.replica.Run(accept); return nil })
	g.Go(func() error { d.reloads(accept, reload); return nil })
	g.Go(func() error {
		<-accept.Done()
		last, cancel := context.WithTimeoutCause(work, drainTime, errStop)
		defer cancel()
		d.agent.Drain(last)
		stop(errStop)
		return nil
	})
	if ready != nil {
		var at net.Addr
		if ln != nil {
			at = ln.Addr()
		}
		ready(at)
	}
	err = g.Wait()
	// Without sessions nothing holds up what was cancelled.
	return errors.Join(err, d.agent.Wait(context.WithoutCancel(ctx), d.agent.patience))
}

// ended gives no error for a part that ended because it was told to.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (d *daemon) listen() (net.Listener, error) {
	if d.cfg.listen == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", d.cfg.listen)
	if err != nil {
		return nil, fmt.Errorf("listen for overlords: %w", err)
	}
	d.log.Info("listening for overlords", "address", ln.Addr().String())
	return ln, nil
}

func (d *daemon) serve(ctx context.Context, conn *tls.Conn) {
	if _, err := d.agent.serve(ctx, conn); err != nil && ctx.Err() == nil {
		d.log.Debug("session ended", "err", err)
	}
}

// readPolicy gives nil when there is no file and none was asked for.
func (d *daemon) readPolicy() (*policy.Policy, error) {
	p, err := policy.Load(d.cfg.policy)
	if err == nil && p == nil && d.cfg.policyMust {
		err = fmt.Errorf("read policy: %s does not exist", d.cfg.policy)
	}
	return p, err
}

// reloads reads the policy, and the site's modules, again when it is asked to. A file that does not
// hold leaves the older one in use.
func (d *daemon) reloads(ctx context.Context, reload <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-reload:
			if !ok {
				return
			}
		}
		if d.acl != nil {
			d.acl.Reload()
		}
		select {
		case d.again <- struct{}{}:
		default: // they will be
		}
		p, err := d.readPolicy()
		if err == nil && p == nil && d.agent.verifier.currentPolicy() != nil {
			err = fmt.Errorf("%s is gone; without it everything would be allowed, which takes a restart", d.cfg.policy)
		}
		if err != nil {
			d.log.Error("policy not read again; the older one stays in use", "err", err)
			continue
		}
		d.agent.SetPolicy(p)
		d.log.Info("policy read again", "path", d.cfg.policy, "present", p != nil)
	}
}

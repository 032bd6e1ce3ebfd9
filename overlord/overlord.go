package overlord

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"dominion/audit"
	"dominion/call"
	"dominion/enrol"
	"dominion/groupsource"
	"dominion/job"
	"dominion/minion"
	"dominion/module"
	"dominion/module/facts"
	"dominion/pki"
	"dominion/policy"
	"dominion/session"
	"dominion/where"
)

// Overlord is the daemon. Everything in it is set by open and not changed
// after, unless it says otherwise.
type Overlord struct {
	cfg     Config
	log     *slog.Logger
	uid     uint32
	started time.Time

	dir       *pki.Dir
	keys      *keys
	trust     *pki.Trust
	keep      *keep
	registrar *enrol.Registrar
	table     *module.Table
	metrics   *metrics

	fleet   fleet
	jobs    jobTable
	outputs outputs
	budget  job.Budget
	callID  atomic.Uint64
	resumed atomic.Bool // the store's open jobs have been taken up: what is not in jobs is closed
	dialer  *dialer
	sess    session.Options
	routes  mapIndex

	builtin   map[string]bool // modules that come with agents
	catalogue catalogue

	cluster    clusterKeeper
	candidates candidates

	parent  *parent // nil: there is none, and the root's key is here
	passing passing // what is passed on to the parent

	blobs *blobs

	prov *provisioning // nil: it does not

	policy  atomic.Pointer[policy.Policy] // nil: no file
	revlist atomic.Pointer[revocations]

	minionCalls *semaphore.Weighted
	pulling     *semaphore.Weighted // candidates that are sent a piece of the cluster data
	looking     lookers             // sub-overlords that look for a file
	verifying   *semaphore.Weighted
	taking      *semaphore.Weighted
	scopes      scopes
	matches     recent[matchKey, match] // of the last expressions
	denials     *audit.Meter            // of what goes on the audit log
	refusals    *audit.Meter            // of what is only logged

	conditions *where.Language // of --where
	sources    *groupsource.Sources

	stopping chan struct{} // closed when the daemon begins to stop

	// life ends when the daemon does: work that outlives a request hangs on it.
	// It is the one context kept in a struct: a job belongs to no request.
	life       context.Context //nolint:containedctx // see above
	background sync.WaitGroup
}

// revocations is the list in force, and its signed form.
type revocations struct {
	list   *pki.RevocationList
	signed []byte
}

func (o *Overlord) revoked() *pki.RevocationList { return o.revlist.Load().list }
func (o *Overlord) revokedBytes() []byte         { return o.revlist.Load().signed }

func (o *Overlord) currentPolicy() *policy.Policy { return o.policy.Load() }

// Run is the daemon: it returns when ctx has ended and everything is closed, or
// when it cannot start. A second daemon on the same state directory is refused.
func Run(ctx context.Context, cfg Config, log *slog.Logger) (err error) {
	cfg, err = cfg.settle()
	if err != nil {
		return err
	}
	o, err := open(ctx, cfg, log)
	if err != nil && ctx.Err() != nil {
		return nil // told to end while it waited for its certificates
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for sessions and API: %w", err)
	}
	sock, err := o.listenSocket()
	if err != nil {
		ln.Close()
		return err
	}
	boot, err := o.listenBoot(ln)
	var legacy net.Listener
	if err == nil {
		legacy, err = o.listenLegacy()
	}
	if err == nil {
		err = o.dir.WriteFile(fileAddress, []byte(ln.Addr().String()+"\n"))
	}
	if err != nil {
		closeAll(ln, sock, boot, legacy)
		return err
	}
	o.log.Info("overlord ready", "name", o.cfg.Name, "address", ln.Addr().String(), "state", o.dir.Path(), "pin", o.keys.pin())
	if cfg.Ready != nil {
		cfg.Ready(ln.Addr().String())
	}
	return o.run(ctx, ln, sock, boot, legacy)
}

func closeAll(lns ...net.Listener) {
	for _, ln := range lns {
		if ln != nil {
			ln.Close()
		}
	}
}

// listenSocket opens the socket for root. The state directory's lock says that
// a socket already there is nobody's.
func (o *Overlord) listenSocket() (net.Listener, error) {
	path := filepath.Join(o.dir.Path(), fileSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("protect the socket: %w", err)
	}
	return ln, nil
}

// run serves until ctx ends, then stops in the reverse of start: no new
// requests, calls go on for the grace, sessions end, and close shuts the store.
// boot is nil when nodes are not provisioned, legacy when not by the old protocol.
func (o *Overlord) run(ctx context.Context, ln, sock, boot, legacy net.Listener) error {
	life, endLife := context.WithCancel(context.WithoutCancel(ctx))
	defer endLife()
	o.life = life
	o.takeUp()
	split := o.newListener(ln)
	api := o.newServer()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ignoreClosed(split.Run(gctx)) })
	g.Go(func() error { return ignoreClosed(api.Serve(split.HTTP())) })
	g.Go(func() error { return ignoreClosed(api.Serve(sock)) })
	g.Go(func() error { return ignoreClosed(o.sess.Heartbeat.Run(life)) })
	g.Go(func() error { return o.dialer.run(gctx) })
	g.Go(func() error { return o.housekeeping(gctx) })
	g.Go(func() error { o.cluster.run(gctx); return nil })
	if o.parent != nil {
		g.Go(func() error { return o.parent.agent.Run(gctx, time.Duration(o.cfg.Grace)) })
		g.Go(func() error { return o.renewals(gctx) })
		g.Go(func() error { o.rejoins(gctx); return nil })
	}
	if boot != nil {
		g.Go(func() error { return o.serveBoot(gctx, boot) })
	}
	if legacy != nil {
		g.Go(func() error { return o.serveLegacy(gctx, legacy) })
	}
	if o.cfg.MetricsListen != "" {
		g.Go(func() error { return o.serveMetrics(gctx) })
	}
	g.Go(func() error {
		<-gctx.Done()
		o.log.Info("stopping", "grace", time.Duration(o.cfg.Grace).String(), "jobs", o.jobs.count())
		o.finish(life, api)
		endLife()
		return nil
	})
	err := g.Wait()
	o.background.Wait()
	return err
}

// finish lets requests and calls end for at most the grace, then ends sessions.
// Jobs that are not closed then go on at the next start.
func (o *Overlord) finish(life context.Context, api *http.Server) {
	close(o.stopping)
	last, cancel := context.WithTimeout(life, time.Duration(o.cfg.Grace))
	defer cancel()
	if err := api.Shutdown(last); err != nil {
		o.log.Warn("requests cut at the end of the grace", "error", err)
		api.Close()
	}
	o.jobs.wait(last)
	for _, s := range o.fleet.all() {
		s.Close(call.Unavailable, "the overlord stops")
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// open reads or makes the state.
func open(ctx context.Context, cfg Config, log *slog.Logger) (_ *Overlord, err error) {
	dir, err := pki.OpenDir(cfg.State)
	if err != nil {
		return nil, err
	}
	o := &Overlord{
		cfg: cfg, log: log, uid: uint32(os.Getuid()), started: time.Now(), dir: dir,
		stopping:    make(chan struct{}),
		minionCalls: semaphore.NewWeighted(256), pulling: semaphore.NewWeighted(64), verifying: semaphore.NewWeighted(maxVerifying), taking: semaphore.NewWeighted(maxTaking), denials: audit.NewMeter(time.Now), refusals: audit.NewMeter(time.Now),
	}
	o.conditions = where.New(facts.Schema())
	o.sources = groupsource.New(groupsource.Options{Dir: cfg.Groups.Dir, Life: time.Duration(cfg.Groups.Life), Timeout: time.Duration(cfg.Groups.Timeout)})
	o.candidates.init(o)
	o.catalogue.init(o)
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	if err := dir.Lock(); err != nil {
		return nil, err
	}
	if err := o.keepName(); err != nil {
		return nil, err
	}
	if o.parent, err = openParent(dir, o.cfg); err != nil {
		return nil, err
	}
	if o.parent != nil {
		o.keys, err = loadSubKeys(dir, o.cfg)
	} else {
		o.keys, err = loadKeys(dir, o.cfg, time.Now())
	}
	if err != nil {
		return nil, err
	}
	if err := o.makeTable(); err != nil {
		return nil, err
	}
	if o.keep, err = openKeep(ctx, o); err != nil {
		return nil, err
	}
	if o.parent != nil {
		if err := o.join(ctx); err != nil {
			return nil, err
		}
	}
	if o.trust, err = pki.NewTrust(o.keys.rootCert); err != nil {
		return nil, err
	}
	if err := o.loadPolicy(); err != nil {
		return nil, err
	}
	return o, o.prepare(ctx)
}

// makeTable makes the table of the methods that come with agents.
func (o *Overlord) makeTable() (err error) {
	list := minion.Modules(nil, nil)
	o.builtin = make(map[string]bool, len(list))
	for _, m := range list {
		o.builtin[m.Name] = true
	}
	o.table, err = module.NewTable(list)
	return err
}

// keepName holds the overlord to the name of its first start: minions believe
// no other, and its log is signed with it.
func (o *Overlord) keepName() error {
	b, err := o.dir.ReadFile(fileTLSCert)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	certs, err := pki.ParseCerts(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", fileTLSCert, err)
	}
	id, err := pki.IdentityOf(certs[0])
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", fileTLSCert, err)
	case id.Name == o.cfg.Name:
	case !o.cfg.hostNamed:
		return fmt.Errorf("name: this overlord is %q since its first start and its minions believe no other; it cannot become %q", id.Name, o.cfg.Name)
	default:
		o.cfg.Name = id.Name
	}
	return nil
}

// close releases what open took, the store last.
func (o *Overlord) close() error {
	errs := []error{o.prov.close(), o.blobs.close()}
	if o.parent != nil && o.parent.agent != nil {
		errs = append(errs, o.parent.agent.Close())
	}
	if o.keep != nil {
		errs = append(errs, o.keep.close())
	}
	return errors.Join(append(errs, o.dir.Close())...)
}

// loadPolicy reads the policy file again. A file that cannot be read or parsed
// is an error, and leaves the policy as it was.
func (o *Overlord) loadPolicy() error {
	path := o.cfg.Policy
	if path == "" {
		path = filepath.Join(o.dir.Path(), filePolicy)
	}
	p, err := policy.Load(path)
	if err != nil {
		return err
	}
	switch {
	case p != nil:
	case o.cfg.Policy != "":
		return fmt.Errorf("policy %s: there is no such file; without policy: in the configuration it may be missing", path)
	case o.currentPolicy() != nil:
		return fmt.Errorf("policy %s is gone; without it everything would be allowed, which takes a restart", path)
	}
	if p != nil {
		p = p.WithGroups(o.keep.group)
	}
	o.policy.Store(p)
	return nil
}

// verify says what certificates prove, as a connection presented them.
func (o *Overlord) verify(certs []*x509.Certificate) (pki.Verified, error) {
	v, err := o.trust.Verify(certs, time.Now())
	if err != nil {
		return v, call.Errorf(call.Denied, "%v", err)
	}
	return v, o.notRevoked(v)
}

// notRevoked refuses a certificate that was revoked, or whose issuing CA was.
func (o *Overlord) notRevoked(v pki.Verified) error {
	if reason, yes := o.revoked().Revoked(v.Leaf, v.Issuer); yes {
		return call.Errorf(call.Revoked, "the certificate of %s was revoked: %s", v.Identity, reason)
	}
	return nil
}

package overlord

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/enrol"
	"dominion/nodescript"
	"dominion/pki"
	"dominion/provision"
)

// fileBootAddress says where /boot is, while the overlord runs.
const fileBootAddress = "boot_address"

// Limits of the port for firmware.
const (
	maxBootConns   = 4096
	maxBootSource  = 256 // of one address
	bootWrite      = 15 * time.Minute
	bootHeaders    = 8 << 10
	joinTokenLife  = time.Hour
	noProvisioning = "this overlord does not provision; set provision: {enabled: true} in its configuration"
)

// provisioning is what the overlord needs to provision nodes. A nil one does not.
type provisioning struct {
	cfg      ProvisionConfig
	service  *provision.Service
	port     string // of sessions and the API
	boot     string // host:port of /boot
	bootPort string
	door     *door // of that port
}

// prepareProvision opens the directory of node scripts and files, which it
// makes if it is missing.
func (o *Overlord) prepareProvision() error {
	c := o.cfg.Provision
	if !c.Enabled {
		return nil
	}
	// Once more: what was no link when the configuration was read may be one now.
	if err := outsideState(c.Statedir, o.dir.Path()); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Statedir, 0o700); err != nil {
		return fmt.Errorf("make the directory of node scripts: %w", err)
	}
	rules, err := nodescript.ParseRules(c.Rules)
	if err != nil {
		return err
	}
	onFailure, err := nodescript.ParseOnFailure(c.OnFailure)
	if err != nil {
		return err
	}
	scripts, err := nodescript.New(nodescript.Config{
		Statedir: c.Statedir, Rules: rules, OnFailure: onFailure, Shell: c.Shell,
		Transfer: nodescript.Transfer{Method: c.VNFS.Method, Master: c.VNFS.Master, Prefix: c.VNFS.Prefix}, Log: o.log,
	})
	if err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	approve, err := c.rules()
	if err != nil {
		return err
	}
	p := &provisioning{cfg: c}
	var above provision.Above
	if o.parent != nil {
		above = newAbove(o).look
	}
	var legacy *provision.Legacy
	if c.LegacyListen != "" {
		legacy = &provision.Legacy{Rules: rules, Neighbour: neighbour(arpTable), Enrolled: func(name string) bool { _, is := o.fleet.look(name); return is }}
	}
	p.service, err = provision.New(provision.Config{
		Above: above,
		Store: provStore{o}, Scripts: scripts, Statedir: c.Statedir, States: c.States, Approve: approve, Names: c.pattern(),
		Peer: o.nodePeer, Proven: p.proven, Token: o.nodeToken, IPXE: ipxe(c.KernelArgs), At: p.at, Pin: o.keys.pin(), Legacy: legacy, Log: o.log,
	})
	if err != nil {
		return err
	}
	o.prov = p
	return nil
}

// handler serves provision/1.
func (p *provisioning) handler() http.Handler {
	if p == nil {
		return http.NotFoundHandler()
	}
	return p.service.Handler()
}

// reapprove takes the rules of a configuration for nodes that become known from
// now on.
func (p *provisioning) reapprove(c ProvisionConfig) error {
	if p == nil {
		return nil
	}
	rules, err := c.rules()
	if err != nil {
		return err
	}
	return p.service.SetApprove(rules)
}

func (p *provisioning) close() error {
	if p == nil {
		return nil
	}
	return p.service.Close()
}

// at gives our ports at an address by which this host was reached.
func (p *provisioning) at(reached netip.Addr) (server, boot string) {
	return net.JoinHostPort(reached.String(), p.port), net.JoinHostPort(reached.String(), p.bootPort)
}

// proven notes that a connection is a node's, so that others do not push it aside.
func (p *provisioning) proven(r *http.Request) {
	if c, ok := r.Context().Value(netConnKey{}).(net.Conn); ok {
		p.door.isNode(c)
	}
}

// nodePeer gives the name of the minion of ours whose certificate a connection
// shows.
func (o *Overlord) nodePeer(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", errors.New("without a certificate")
	}
	id, err := pki.IdentityOf(r.TLS.PeerCertificates[0])
	if err != nil {
		return "", err
	}
	if id.Role != pki.Minion {
		return "", fmt.Errorf("%s is not a minion", id)
	}
	if err := o.verifyMinion(*r.TLS); err != nil {
		return "", err
	}
	return id.Name, nil
}

// nodeToken makes the join token of a node's minion.
func (o *Overlord) nodeToken(ctx context.Context, node string) (text, id string, err error) {
	text, t, err := o.registrar.CreateToken(ctx, "node/"+node, enrol.TokenSpec{Name: node, Role: pki.Minion, Uses: 1, Life: joinTokenLife, Replace: true})
	return text, t.ID, err
}

// listenBoot opens the port for firmware.
func (o *Overlord) listenBoot(main net.Listener) (net.Listener, error) {
	if o.prov == nil {
		return nil, nil
	}
	_, port, err := net.SplitHostPort(main.Addr().String())
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", o.prov.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for booting nodes: %w", err)
	}
	o.prov.port, o.prov.boot = port, ln.Addr().String()
	if _, o.prov.bootPort, err = net.SplitHostPort(o.prov.boot); err != nil {
		ln.Close()
		return nil, err
	}
	if err := o.dir.WriteFile(fileBootAddress, []byte(o.prov.boot+"\n")); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// serveBoot answers firmware until ctx ends; requests that are under way then
// may go on as long as others may.
func (o *Overlord) serveBoot(ctx context.Context, ln net.Listener) error {
	s := &http.Server{
		Handler: o.prov.service.BootHandler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: bootWrite, IdleTimeout: idleTimeout,
		MaxHeaderBytes: bootHeaders, ErrorLog: quietLog(o.log),
	}
	o.log.Info("nodes boot here", "address", ln.Addr().String(), "statedir", o.prov.cfg.Statedir, "rules", o.prov.cfg.Rules)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ignoreClosed(s.Serve(newCrowd(ln, o.log))) })
	g.Go(func() error {
		<-gctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(o.cfg.Grace))
		defer cancel()
		if err := s.Shutdown(last); err != nil {
			return s.Close()
		}
		return nil
	})
	return g.Wait()
}

// crowd is a listener that closes connections over its bounds.
type crowd struct {
	net.Listener
	log *slog.Logger

	mu   sync.Mutex
	all  int
	from map[netip.Addr]int
}

func newCrowd(ln net.Listener, log *slog.Logger) *crowd {
	return &crowd{Listener: ln, log: log, from: make(map[netip.Addr]int)}
}

// Accept implements net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err == nil && c.enter(ap.Addr()) {
			return &crowdConn{Conn: conn, leave: sync.OnceFunc(func() { c.leave(ap.Addr()) })}, nil
		}
		c.log.Debug("connection of a booting node refused: too many", "from", conn.RemoteAddr().String())
		conn.Close()
	}
}

func (c *crowd) enter(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxBootConns || c.from[a] >= maxBootSource {
		return false
	}
	c.all++
	c.from[a]++
	return true
}

func (c *crowd) leave(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.from[a]--; c.from[a] == 0 {
		delete(c.from, a)
	}
}

// crowdConn gives its place back. A file goes out by sendfile, as io.Copy lets
// the connection have it.
type crowdConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *crowdConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// ReadFrom implements io.ReaderFrom.
func (c *crowdConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// nodes gives the service, or says that there is none.
func (o *Overlord) nodes() (*provision.Service, error) {
	if o.prov == nil {
		return nil, call.Errorf(call.Unavailable, "%s", noProvisioning)
	}
	return o.prov.service, nil
}

// nodeCounts says how many nodes there are; nil: this overlord does not provision.
func (o *Overlord) nodeCounts(ctx context.Context) (*apipb.NodeCounts, error) {
	if o.prov == nil {
		return nil, nil
	}
	c, err := o.keep.db.NodeCounts(ctx)
	return &apipb.NodeCounts{All: uint64(c.All), Held: uint64(c.Held), Claimed: uint64(c.Claimed)}, err
}

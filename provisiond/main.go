package provisiond

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"dominion/pki"
)

// Names by which the program is called.
const (
	Name    = "provisiond"
	Getfile = "getfile"
)

// Exit codes.
const (
	exitUsage    = 1
	exitNoScript = 255
)

// The variables of a script.
const (
	sessionEnv = "DOMINION_SESSION"
	joinEnv    = "DOMINION_JOIN"
)

// How often servers are tried before a round ends without a script.
const (
	rounds = 5
	pause  = 2 * time.Second
)

// Invocation is one call of the program.
type Invocation struct {
	Name    string   // "getfile", or any other for provisiond
	Args    []string // without the name
	Environ []string
	Stdout  *os.File
	Stderr  *os.File
}

// Main runs the program and gives its exit code.
func Main(ctx context.Context, inv Invocation) int {
	p := &program{
		Invocation: inv, pause: pause, cmdline: "/proc/cmdline", pinFile: "/etc/dominion/pin",
		hwaddrs: hardwareAddresses, executable: os.Executable,
	}
	if inv.Name == Getfile {
		return p.getfile(ctx)
	}
	return p.main(ctx)
}

// program is the program with what tests replace.
type program struct {
	Invocation
	pause      time.Duration // between rounds
	cmdline    string        // file with the kernel's command line
	pinFile    string
	hwaddrs    func() ([]string, error)
	executable func() (string, error)
}

func (p *program) main(ctx context.Context) int {
	o, err := parseOptions(p.Args)
	if err != nil {
		fmt.Fprintf(p.Stderr, "provisiond: %v\n%s", err, usage)
		return exitUsage
	}
	if o.help {
		fmt.Fprint(p.Stdout, usage)
		return 0
	}
	if o.interval > 0 && !o.debug && !o.foreground {
		return p.background()
	}
	d, err := p.newDaemon(o)
	if err != nil {
		fmt.Fprintf(p.Stderr, "provisiond: %v\n", err)
		return exitUsage
	}
	defer d.link.close()
	return d.run(ctx)
}

// background starts this program once more, in a session of its own.
func (p *program) background() int {
	self, err := p.executable()
	if err != nil {
		fmt.Fprintf(p.Stderr, "provisiond: find myself: %v\n", err)
		return exitUsage
	}
	cmd := exec.Command(self, append([]string{"--foreground"}, p.Args...)...) //nolint:gosec,noctx // itself, and it is to live on
	cmd.Args[0] = Name
	cmd.Env, cmd.Stdout, cmd.Stderr = p.Environ, p.Stdout, p.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(p.Stderr, "provisiond: start the daemon: %v\n", err)
		return exitUsage
	}
	_ = cmd.Process.Release() // nothing is left to do with it
	return 0
}

// daemon asks, once or again and again.
type daemon struct {
	*program
	options
	link    *link
	servers []string // host:port
}

func (p *program) newDaemon(o options) (*daemon, error) {
	k, err := p.kernel()
	if err != nil {
		return nil, err
	}
	d := &daemon{program: p, options: o}
	for _, s := range o.servers {
		if s != "-" {
			d.servers = append(d.servers, address(s, o.port))
			continue
		}
		if len(k.servers) == 0 {
			return nil, errors.New("the kernel's command line has no dominion.server=")
		}
		for _, s := range k.servers {
			d.servers = append(d.servers, address(s, o.port))
		}
	}
	id := identity{State: o.state}
	if id.HWAddr, err = p.addresses(o.args, k); err != nil {
		return nil, err
	}
	if o.state == stateInit {
		id.Nonce = k.nonce
	} else {
		id.StateDir = o.stateDir
	}
	if id.Pin, err = p.findPin(o, k); err != nil {
		return nil, err
	}
	d.link, err = newLink(id)
	return d, err
}

func (p *program) kernel() (kernelArgs, error) {
	b, err := os.ReadFile(p.cmdline)
	if err != nil {
		return kernelArgs{}, nil //nolint:nilerr // without /proc there is none
	}
	return parseCmdline(string(b))
}

// findPin takes the first of: the option, the minion's root, /etc/dominion/pin,
// the kernel's command line.
func (p *program) findPin(o options, k kernelArgs) (string, error) {
	if o.pin != "" {
		return o.pin, nil
	}
	if o.state != stateInit {
		if pin, err := minionPin(o.stateDir); err == nil {
			return pin, nil
		}
	}
	if b, err := os.ReadFile(p.pinFile); err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if k.pin != "" {
		return k.pin, nil
	}
	return "", errors.New("the root's pin is not known: give --pin, " + p.pinFile + ", or dominion.pin= on the kernel's command line")
}

// addresses gives this machine's hardware addresses, first the one that is named:
// nodeid=MAC among the arguments, as the old one had it, or dominion.mac=.
func (p *program) addresses(args []string, k kernelArgs) ([]string, error) {
	first := k.mac
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "nodeid="); ok {
			mac, err := parseMAC(v)
			if err != nil {
				return nil, err
			}
			first = mac
		}
	}
	var all []string
	if first != "" {
		all = append(all, first)
	}
	found, err := p.hwaddrs()
	if err != nil && first == "" {
		return nil, fmt.Errorf("find the hardware addresses: %w", err)
	}
	for _, a := range found {
		if a != first && len(all) < maxHWAddrs {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no network interface has a hardware address; give nodeid=MAC")
	}
	return all, nil
}

const maxHWAddrs = 16 // more are refused

// hardwareAddresses gives those of devices; of all interfaces when there are none.
func hardwareAddresses() ([]string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var devices, all []string
	for _, i := range list {
		if len(i.HardwareAddr) != 6 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		all = append(all, i.HardwareAddr.String())
		if _, err := os.Stat("/sys/class/net/" + i.Name + "/device"); err == nil {
			devices = append(devices, i.HardwareAddr.String())
		}
	}
	if len(devices) > 0 {
		return devices, nil
	}
	return all, nil
}

func (d *daemon) debugf(format string, args ...any) {
	if d.debug {
		fmt.Fprintf(d.Stderr, "provisiond: "+format+"\n", args...)
	}
}

func (d *daemon) warnf(format string, args ...any) {
	if d.debug || d.verbose {
		fmt.Fprintf(d.Stderr, "provisiond: "+format+"\n", args...)
	}
}

// errUnresolved is wrapped when not one server's name is known.
var errUnresolved = errors.New("no server's name can be resolved")

// run asks until it is told to stop; once without an interval. SIGINT ends it at
// once; SIGTERM and SIGHUP after the script that runs.
func (d *daemon) run(ctx context.Context) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	soon := make(chan os.Signal, 1)
	signal.Notify(soon, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(soon)
	for {
		code := d.round(ctx, soon)
		if ctx.Err() != nil {
			return exitNoScript
		}
		if d.interval == 0 {
			return code
		}
		// Up to a tenth earlier, so that machines that started together spread.
		if !d.sleep(ctx, d.interval-rand.N(d.interval/10+1), soon) {
			return code
		}
	}
}

// sleep says false when it ended early.
func (d *daemon) sleep(ctx context.Context, length time.Duration, soon chan os.Signal) bool {
	t := time.NewTimer(length)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case s := <-soon:
		select { // whoever looks next is to know it, too
		case soon <- s:
		default: // another came meanwhile
		}
	}
	return false
}

// round fetches the script, runs it, tells the result, and gives the exit code.
func (d *daemon) round(ctx context.Context, soon chan os.Signal) int {
	s, err := d.search(ctx, soon)
	switch {
	case errors.Is(err, errUnresolved):
		d.warnf("%v", err)
		return exitUsage
	case err != nil:
		d.warnf("no script: %v", err)
		return exitNoScript
	}
	d.debugf("%s gives %q a script of %d bytes, %s", s.server, s.node, len(s.text), s.digest)
	r := d.execute(ctx, s)
	d.debugf("exit %d after %s", r.exit, r.took.Round(time.Millisecond))
	if r.detail != "" {
		d.warnf("%s", r.detail)
	}
	for try := range 3 {
		if try > 0 && !d.sleep(ctx, d.pause, soon) {
			break
		}
		if err = d.link.result(ctx, s, r); err == nil {
			break
		}
		d.warnf("tell %s the result: %v", s.server, err)
	}
	return r.exit
}

func (d *daemon) execute(ctx context.Context, s *script) ran {
	self, err := d.executable()
	var r *room
	if err == nil {
		sess := session{identity: d.link.identity, Servers: append([]string{s.server}, d.servers...)}
		r, err = makeRoom(self, s, sess, d.Environ)
	}
	if err != nil {
		return ran{exit: exitNoScript, detail: err.Error()}
	}
	defer func() {
		if err := r.remove(); err != nil {
			d.warnf("clean up: %v", err)
		}
	}()
	return r.run(ctx, d.shell, s.text, d.Stdout, d.Stderr)
}

// search asks the servers one after the other, in rounds. One that refuses is
// asked only once.
func (d *daemon) search(ctx context.Context, soon chan os.Signal) (*script, error) {
	servers := append([]string(nil), d.servers...)
	if d.random {
		rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	}
	var last error
	resolved := false
	for round := range rounds {
		if round > 0 && !d.sleep(ctx, d.pause, soon) {
			return nil, errors.New("told to stop")
		}
		var again []string
		for _, server := range servers {
			s, err := d.link.fetch(ctx, server, d.args)
			if err == nil {
				return s, nil
			}
			if ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			last = fmt.Errorf("%s: %w", server, err)
			d.debugf("%v", last)
			_, unresolved := errors.AsType[*net.DNSError](err)
			resolved = resolved || !unresolved
			if !hopeless(err) {
				again = append(again, server)
			}
		}
		if !resolved {
			return nil, fmt.Errorf("%w: %v", errUnresolved, last)
		}
		if servers = again; len(servers) == 0 {
			break
		}
	}
	return nil, last
}

// hopeless says that asking again within seconds changes nothing.
func hopeless(err error) bool {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.final()
	}
	return errors.Is(err, pki.ErrUntrusted)
}

package fleettest

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"dominion/minion"
	"dominion/minion/journal"
	"dominion/module"
	"dominion/pki"
	"dominion/session"
)

// Simulation is a crowd of minions in one process: the agent's real code over
// real sessions, each with a key and certificate of its own, without state
// directories.
type Simulation struct {
	Overlord string // host:port
	Name     string // of the overlord; empty: "overlord"
	State    string // of the overlord; its issuing CA signs the crowd
	Prefix   string // of the names: s0001 and on
	First    int    // how many of these names another crowd has
	Count    int
	// Journals is a directory in which each minion has a journal of its own, on
	// real files; empty: they remember their jobs in memory. With journals
	// command.run, which counts as a change, only answers: it starts no process.
	Journals string
	// Outputs makes command.run, without starting a process, print what a command
	// would: the same everywhere, but for every hundredth machine.
	Outputs bool
}

// syncing is how many journals of a crowd wait for the disk at a time: more only
// queue for it, each with a thread.
const syncing = 8

// Run keeps the crowd connected until ctx ends.
func (s Simulation) Run(ctx context.Context) error {
	ca, root, err := issuing(s.State)
	if err != nil {
		return err
	}
	trust, err := pki.NewTrust(root)
	if err != nil {
		return err
	}
	modules := minion.Modules(nil, nil)
	if s.Journals != "" || s.Outputs {
		other := standIn
		if s.Outputs {
			other = printing
		}
		modules = append(slices.DeleteFunc(modules, func(m module.Module) bool { return m.Name == "command" }), other)
	}
	table, err := module.NewTable(modules)
	if err != nil {
		return err
	}
	shared := minion.Options{
		Trust: trust, Table: table, Overlords: []string{cmp.Or(s.Name, "overlord")}, Credit: session.NewPool(0), Heartbeat: session.NewClock(0, 0), Version: "simulated",
	}
	limit := journal.NewLimiter(syncing)
	var wg sync.WaitGroup
	wg.Go(func() { _ = shared.Heartbeat.Run(ctx) }) // ends with ctx
	for i := range s.Count {
		opt := shared
		opt.Name = fmt.Sprintf("%s%04d", s.Prefix, s.First+i+1)
		if s.Journals != "" {
			j, err := journal.Open(filepath.Join(s.Journals, opt.Name), journal.Options{Sync: limit})
			if err != nil {
				return err
			}
			defer func() { _ = j.Close() }() // what was promised is on the disk already
			opt.Journal = j
		}
		one, err := newSimulated(opt, ca)
		if err != nil {
			return err
		}
		wg.Go(func() { one.run(ctx, s.Overlord) })
	}
	wg.Wait()
	return nil
}

// standIn has a method of the name and effect of the real one, and costs nothing.
var standIn = module.Module{Name: "command", Doc: "Runs nothing.", Methods: []module.Method{
	module.Func("run", "Answers as a command would that ended well.", module.Change,
		func(context.Context, *module.Env, standInArgs) (standInAnswer, error) { return standInAnswer{}, nil }, module.MethodOptions{}),
}}

type standInArgs struct {
	Argv []string `json:"argv" doc:"what would be run" required:"true"`
}

type standInAnswer struct {
	Status int `json:"status" doc:"always 0"`
}

// printing has a method of the name and effect of the real one that prints what a
// command would.
var printing = module.Module{Name: "command", Doc: "Prints what a command would.", Methods: []module.Method{
	module.Func("run", "Answers as a command would that prints some lines.", module.Change,
		func(_ context.Context, env *module.Env, _ standInArgs) (printed, error) {
			out := "Linux 6.12.48 x86_64\n"
			if strings.HasSuffix(env.Machine, "00") {
				out = "Linux 6.1.0 x86_64\n"
			}
			return printed{Stdout: out}, nil
		}, module.MethodOptions{}),
}}

type printed struct {
	Exit   int    `json:"exit" doc:"always 0"`
	Stdout string `json:"stdout" doc:"some lines"`
	Stderr string `json:"stderr" doc:"always empty"`
}

// issuing reads the CA that signs minions, and the root.
func issuing(state string) (*pki.Authority, *x509.Certificate, error) {
	read := func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(state, "ca", name)) }
	kb, err := read("issuing.key")
	cb, cerr := read("issuing.crt")
	if err = errors.Join(err, cerr); err != nil {
		return nil, nil, fmt.Errorf("read issuing CA: %w", err)
	}
	key, err := pki.ParseKey(kb)
	if err != nil {
		return nil, nil, err
	}
	certs, err := pki.ParseCerts(cb)
	if err != nil {
		return nil, nil, err
	}
	return &pki.Authority{Cert: certs[0], Key: key}, certs[1], nil
}

type simulated struct {
	agent *minion.Agent
	cfg   *tls.Config
}

func newSimulated(opt minion.Options, ca *pki.Authority) (*simulated, error) {
	agent, err := minion.New(opt)
	if err != nil {
		return nil, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	leaf, err := ca.Sign(pki.Template{Identity: pki.Identity{Role: pki.Minion, Name: opt.Name}, PublicKey: key.Public()}, time.Now())
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Cert.Raw, opt.Trust.Root().Raw}, PrivateKey: key, Leaf: leaf}
	return &simulated{agent: agent, cfg: session.ClientTLS(session.TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return cert, nil }, Verify: agent.VerifyPeer,
	})}, nil
}

func (s *simulated) run(ctx context.Context, addr string) {
	var b session.Backoff
	for b.Wait(ctx, 0) == nil {
		conn, err := session.Dial(ctx, addr, s.cfg)
		if err != nil {
			continue
		}
		b.Reset()
		_ = s.agent.Serve(ctx, conn) // never nil: the session is over, and the next one begins
	}
}

// Reachable says whether somebody listens at addr.
func Reachable(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

package main

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
)

func TestMain(m *testing.M) {
	programs := map[string]func(){"dominion": main, "func-grep": main} // one that is not there yet
	for _, n := range otherNames() {
		if n.there() {
			programs[n.name] = main
		}
	}
	testscript.Main(m, programs)
}

// The keys of what scripts keep in their environment.
type (
	testKey  struct{} // testing.TB
	fleetKey struct{} // *scriptFleet
)

type scriptFleet struct {
	*fleettest.Fleet
	minions map[string]*fleettest.Minion
	subs    map[string]*fleettest.Fleet
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			tb, ok := env.T().(testing.TB)
			if !ok {
				return errors.New("testscript gave no testing.TB")
			}
			env.Values[testKey{}] = tb
			env.Values[fleetKey{}] = &scriptFleet{minions: make(map[string]*fleettest.Minion), subs: make(map[string]*fleettest.Fleet)}
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("XDG_CONFIG_HOME", "")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // otherwise each command ends a second late
			env.Setenv("DOMINION_STATE", filepath.Join(env.WorkDir, "nowhere"))
			lab, err := filepath.Abs("../../confd/testdata/config.data")
			if err != nil {
				return err
			}
			env.Setenv("LAB", lab)
			return os.MkdirAll(filepath.Join(env.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": cmdExits,
			"fleet": cmdFleet,
			"site":  cmdSite,
			"boots": cmdBoots,
			"enrol": cmdEnrol,
			"leave": cmdLeave,
			"await": cmdAwait,
			"keep":  cmdKeep,
			"jobid": cmdJobID,
			"sub":   cmdSub,
			"dies":  cmdDies,
			"port":  cmdPort,
		},
	})
}

// cmdExits runs "exits N COMMAND…" and wants exactly that exit code.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		ee, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = ee.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d; want %d", got, want)
	}
}

// cmdKeep runs "keep VARIABLE FILE [FROM [TO]]": the file's text without line
// end, or those bytes of it, as a variable.
func cmdKeep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 4 {
		ts.Fatalf("usage: keep VARIABLE FILE [FROM [TO]]")
	}
	text := strings.TrimSpace(ts.ReadFile(args[1]))
	for i, at := range slices.Backward(args[2:]) {
		n, err := strconv.Atoi(at)
		ts.Check(err)
		if i == 1 {
			text = text[:n]
		} else {
			text = text[n:]
		}
	}
	ts.Setenv(args[0], text)
}

// cmdPort runs "port VARIABLE": a UDP port that nobody has on 127.0.0.1 to 127.0.0.3.
func cmdPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: port VARIABLE")
	}
	for range 100 {
		port := 10000 + rand.IntN(20000)
		free := true
		for i := range byte(3) {
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, i+1), Port: port})
			if err != nil {
				free = false
				continue
			}
			ts.Check(conn.Close())
		}
		if free {
			ts.Setenv(args[0], strconv.Itoa(port))
			return
		}
	}
	ts.Fatalf("no free port")
}

// cmdJobID runs "jobid VARIABLE": the job of the JSON line in stdout.
func cmdJobID(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: jobid VARIABLE")
	}
	var row jobRow
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &row))
	ts.Setenv(args[0], row.Job)
}

// cmdFleet runs "fleet [guard=N] NAME…": an overlord that signs the names given
// at once, and a minion for each. DOMINION_STATE, ADDR and PIN then lead to it.
func cmdFleet(ts *testscript.TestScript, neg bool, names []string) {
	if neg {
		ts.Fatalf("unsupported: ! fleet")
	}
	cfg := overlord.Config{}
	if len(names) > 0 && strings.HasPrefix(names[0], "guard=") {
		n, err := strconv.Atoi(names[0][len("guard="):])
		ts.Check(err)
		cfg.Guard, names = n, names[1:]
	}
	if len(names) > 0 {
		cfg.Autosign = []overlord.AutosignRule{{Names: strings.Join(names, ",")}}
	}
	f := ts.Value(fleetKey{}).(*scriptFleet)
	f.Fleet = fleettest.Start(ts.Value(testKey{}).(testing.TB), cfg)
	for _, n := range names {
		f.minions[n] = f.Enrol(n, minion.Config{})
	}
	f.Await(len(names))
	ts.Setenv("DOMINION_STATE", f.State)
	ts.Setenv("ADDR", f.Address)
	ts.Setenv("PIN", f.Pin)
}

// cmdSub runs "sub NAME MINION…": an overlord below the fleet's, with minions.
func cmdSub(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: sub NAME MINION…")
	}
	f := ts.Value(fleetKey{}).(*scriptFleet)
	resp, err := f.Conn.Admin.CreateToken(f.T.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: args[0], Role: "overlord"}))
	ts.Check(err)
	sub := fleettest.Start(f.T, overlord.Config{
		State: filepath.Join(f.T.TempDir(), args[0]), Name: args[0], Parent: f.Address, Pin: f.Pin, Token: resp.Msg.Token,
		Autosign: []overlord.AutosignRule{{Names: "*"}},
	})
	f.subs[args[0]] = sub
	for _, name := range args[1:] {
		sub.Enrol(name, minion.Config{})
	}
	sub.Await(len(args) - 1)
	f.Until(args[0]+" is connected", func() bool { return f.minion(args[0]).GetConnected() })
}

// cmdDies runs "dies NAME": the sub-overlord ends.
func cmdDies(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: dies NAME")
	}
	f := ts.Value(fleetKey{}).(*scriptFleet)
	f.subs[args[0]].Down()
	f.Until(args[0]+" is gone", func() bool { return !f.minion(args[0]).GetConnected() })
}

// cmdEnrol runs "enrol NAME [TOKENFILE]": a minion more, which may have to wait
// for its signature. "await NAME" waits until it is connected.
func cmdEnrol(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: enrol NAME [TOKENFILE]")
	}
	f := ts.Value(fleetKey{}).(*scriptFleet)
	cfg := minion.Config{State: ts.MkAbs("state-" + args[0])}
	if len(args) == 2 {
		cfg.TokenFile = ts.MkAbs(args[1])
	}
	f.minions[args[0]] = f.Enrol(args[0], cfg)
}

// cmdLeave runs "leave NAME": the minion ends.
func cmdLeave(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: leave NAME")
	}
	f := ts.Value(fleetKey{}).(*scriptFleet)
	ts.Check(f.minions[args[0]].Stop())
	f.Until(args[0]+" is gone", func() bool { return !f.minion(args[0]).GetConnected() })
}

// cmdAwait runs "await pending|connected NAME", "await results JOB NAME" (the
// machine's result is stored), "await FILE", or "await output FILE" (it is not empty).
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	f := ts.Value(fleetKey{}).(*scriptFleet)
	switch {
	case neg:
		ts.Fatalf("unsupported: ! await")
	case len(args) == 1:
		fleettest.Until(ts.Value(testKey{}).(testing.TB), args[0]+" is there", func() bool { return fleettest.Exists(ts.MkAbs(args[0])) })
	case len(args) == 2 && args[0] == "connected":
		f.Until(args[1]+" is connected", func() bool { return f.minion(args[1]).GetConnected() })
	case len(args) == 2 && args[0] == "output":
		f.Until("there is something in "+args[1], func() bool {
			info, err := os.Stat(ts.MkAbs(args[1]))
			return err == nil && info.Size() > 0
		})
	case len(args) == 3 && args[0] == "results":
		id, err := call.ParseJobID(args[1])
		ts.Check(err)
		f.Until(args[2]+" has answered", func() bool { return f.answered(id, args[2]) })
	case len(args) == 2 && args[0] == "pending":
		f.Until(args[1]+" has asked", func() bool {
			resp, err := f.Conn.Admin.Certs(f.T.Context(), connect.NewRequest(&apipb.CertsRequest{PendingOnly: true, Name: args[1]}))
			return err == nil && len(resp.Msg.GetPending()) > 0
		})
	default:
		ts.Fatalf("usage: await FILE | await output FILE | await pending|connected NAME | await results JOB NAME")
	}
}

// answered says whether a machine's result of a job is there.
func (f *scriptFleet) answered(id call.JobID, name string) bool {
	job, err := f.Conn.Watch(f.T.Context(), id, client.WatchOptions{Now: true})
	if err != nil {
		f.T.Fatal(err)
	}
	defer job.Close() // only read from
	for _, err := range job.Events() {
		if err != nil {
			f.T.Fatal(err)
		}
	}
	return !slices.Contains(job.Awaited(), name)
}

// minion gives what the overlord knows of a machine; nil: nothing.
func (f *scriptFleet) minion(name string) *apipb.Minion {
	resp, err := f.Conn.Fleet.Minions(f.T.Context(), connect.NewRequest(&apipb.MinionsRequest{Target: name}))
	if err != nil || len(resp.Msg.GetMinions()) != 1 {
		return nil
	}
	return resp.Msg.GetMinions()[0]
}

// Every command says what it does, shows an example, and checks its words.
func TestEveryCommandIsDescribed(t *testing.T) {
	a := newApp(os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" || c.Args == nil {
			t.Errorf("%s: short %q, example %q, checks its words: %v", c.CommandPath(), c.Short, c.Example, c.Args != nil)
		}
		if c.HasSubCommands() && c.RunE == nil {
			t.Errorf("%s does not say what is missing", c.CommandPath())
		}
		for _, k := range c.Commands() {
			walk(k)
		}
	}
	walk(a.root())
}

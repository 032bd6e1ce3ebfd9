//go:build fleet

package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/call"
	"dominion/fleettest"
	"dominion/target"
)

// forest is a tree of overlords with users who type commands: three overlords
// below the top, three below each of these, and four machines below each of the
// lowest.
type forest struct {
	*fleettest.Tree
	t    *testing.T
	root *user // on the top's host
	dir  string
}

// newForest starts a tree; mapped: the top has its map.
func newForest(t *testing.T, binary string, mapped bool) *forest {
	t.Helper()
	f := &forest{Tree: fleettest.NewTree(t, fleettest.TreeConfig{Binary: binary, Levels: []int{3, 3}, Machines: 4}), t: t}
	s := newSite(t, binary)
	f.dir, f.root = s.dir, s.user("root", "DOMINION_STATE="+f.Top.State)
	if mapped {
		f.root.run("map", "build").exits(0)
	}
	return f
}

// at is one of the overlords as tests of single sites see it.
func (f *forest) at(n *fleettest.TreeNode) *site {
	f.t.Helper()
	s := newSite(f.t, f.root.binary)
	s.state, s.address, s.pin, s.conn = n.State, n.Address, f.Pin, n.Conn
	s.root = s.user("root", "DOMINION_STATE="+s.state)
	return s
}

func (f *forest) node(name string) *fleettest.TreeNode { return f.Node(name) }

// of is the forest in a part of its test.
func (f *forest) of(t *testing.T) *forest {
	g, u := *f, *f.root
	u.t = t
	g.t, g.root = t, &u
	return &g
}

// behind gives the names of those below a node at any depth, sorted.
func behind(nodes ...*fleettest.TreeNode) (list []string) {
	for _, n := range nodes {
		list = append(append(list, names(n.Below)...), behind(n.Below...)...)
	}
	slices.Sort(list)
	return list
}

func names(nodes []*fleettest.TreeNode) (list []string) {
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	slices.Sort(list)
	return list
}

// onlyMachines leaves the overlords out.
func onlyMachines(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(name string) bool { return name[0] != 'm' })
}

// idle waits until no overlord has a job under way.
func (f *forest) idle() {
	f.t.Helper()
	for _, n := range f.Overlords() {
		s := site{t: f.t, conn: n.Conn}
		s.until("no job is left at "+n.Name, func() bool { return s.status().RunningJobs == 0 })
	}
}

// TestFleetTree: orders through three levels of overlords, each a process.
func TestFleetTree(t *testing.T) {
	binary := program(t)
	f := newForest(t, binary, false)
	overlords, machines := f.Resident()
	t.Logf("resident: overlords %d MB each, machines %d MB each\n%s", overlords>>20/13, machines>>20/36, f.Timing())
	for _, x := range []struct {
		name string
		test func(f *forest)
	}{
		{"Levels", treeLevels},
		{"Everybody", treeEverybody},
		{"Late", treeLate},
		{"Cancelled", treeCancelled},
		{"SlowReader", treeSlowReader},
		{"Verified", treeVerified},
	} {
		t.Run(x.name, func(t *testing.T) {
			defer f.In(t)()
			x.test(f.of(t))
		})
	}
}

// Each overlord sees what is directly below it, and an order given to it reaches
// just that.
func treeLevels(f *forest) {
	alice := f.at(f.Top).login("alice")
	for _, n := range f.Overlords() {
		below := names(n.Below)
		if got := n.Connected(); !slices.Equal(got, below) {
			f.t.Errorf("%s holds %q; want %q", n.Name, got, below)
		}
		alice.run("call", "*", "test.ping", "--context", "alice", "--overlord", n.Address).exits(0).
			prints(fmt.Sprintf("%s (%d): ok: true", target.Fold(below), len(below)))
		alice.run("minions", "--context", "alice", "--overlord", n.Address).exits(0).prints(below...)
	}
	for _, n := range f.Machines() {
		if k := len(n.OwnLog()); k != 1 {
			f.t.Errorf("%s has %d records in its own log; want one", n.Name, k)
		}
	}
}

// An order to everybody is answered by everybody; overlords run it when they are
// targets and not when they only pass it on, and what they do is in their audit.
func treeEverybody(f *forest) {
	f.root.run("map", "build").exits(0)
	everybody := behind(f.Top)
	all := f.root.run("call", "--delegate", "*", "test.ping", "-o", "json").exits(0).account(everybody...)
	some := f.root.run("call", "--delegate", "m*", "test.ping", "-o", "json").exits(0).account(onlyMachines(everybody)...)
	if all.Counts.Answered != 48 || some.Counts.Answered != 36 {
		f.t.Errorf("%+v and %+v; want 48 and 36 answers", all.Counts, some.Counts)
	}
	f.root.run("call", "--delegate", "m*", "test.ping").exits(0).prints("m[01-36] (36): ok: true")
	f.idle()
	for _, x := range []struct {
		job   string
		names []string
		hops  int // times that an overlord runs it itself
	}{{all.Job, everybody, 1}, {some.Job, onlyMachines(everybody), 0}} {
		id, err := call.ParseJobID(x.job)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, n := range f.Machines() {
			if k := n.Ran(id); k != 1 {
				f.t.Errorf("%s ran job %s %d times; want once", n.Name, x.job, k)
			}
		}
		for _, n := range f.Overlords()[1:] {
			if k := n.Ran(id); k != x.hops {
				f.t.Errorf("%s ran job %s %d times itself; want %d", n.Name, x.job, k, x.hops)
			}
			f.passedOn(n, x.job, x.names)
		}
	}
}

// passedOn wants a hop's audit to hold one delegation of a job by its parent, to
// those of the names that are below it, and nothing that says more.
func (f *forest) passedOn(n *fleettest.TreeNode, job string, all []string) {
	f.t.Helper()
	below := behind(n)
	reach := target.Fold(slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !slices.Contains(below, name) }))
	found := 0
	for _, r := range n.Audit(job) {
		switch r.Action {
		case "delegation":
			found++
			if r.Actor != "overlord/"+n.Parent.Name || strings.Contains(r.Detail, "test.ping") {
				f.t.Errorf("%s: by %s, %q; want it by its parent, without the method", n.Name, r.Actor, r.Detail)
			}
			if r.Order.GetReach() != reach || r.Order.GetNames() != target.Fold(all) || len(r.Order.GetSignature()) == 0 {
				f.t.Errorf("%s was sent an order to %q, to reach %q; want %q, %q, signed", n.Name, r.Order.GetNames(), r.Order.GetReach(), target.Fold(all), reach)
			}
		case "order", "denied":
			f.t.Errorf("%s: the audit says %s about job %s: %s", n.Name, r.Action, job, r.Detail)
		}
	}
	if found != 1 {
		f.t.Errorf("%s: %d delegations of job %s in the audit; want one", n.Name, found, job)
	}
}

// Who is late is named, and not those who passed the order on.
func treeLate(f *forest) {
	everybody := onlyMachines(behind(f.Top))
	nap, sleeping := naps(f.t, 100)
	late := func(c *command, late []string, says string, not ...string) {
		f.t.Helper()
		for _, r := range c.exits(3).account(everybody...).Results {
			switch bad := slices.Contains(late, r.Machine); {
			case bad == (r.Status == "answered"):
				f.t.Errorf("%s is %s: %q; late are %q", r.Machine, r.Status, r.Reason, late)
			case bad && !strings.Contains(r.Reason, says):
				f.t.Errorf("%s: %q; want %q", r.Machine, r.Reason, says)
			}
			for _, x := range not {
				if strings.Contains(r.Reason, x) {
					f.t.Errorf("%s: %q; want no word of %q", r.Machine, r.Reason, x)
				}
			}
		}
	}
	c := f.root.run("run", "--delegate", "m*", "--timeout", "2s", "-o", "json", "--shell", "--", "test $DOMINION_MACHINE != m07 || sleep "+nap)
	late(c.within(4*time.Second), []string{"m07"}, "2s", "behind", "dc1", "rack2")
	f.at(f.Top).until("nothing sleeps", func() bool { return len(sleeping()) == 0 })

	f.node("m07").Signal(syscall.SIGSTOP)
	c = f.root.run("call", "--delegate", "m*", "test.ping", "--timeout", "2s", "-o", "json")
	f.node("m07").Signal(syscall.SIGCONT)
	late(c.within(4*time.Second), []string{"m07"}, "2s", "behind", "dc1", "rack2")

	hop := f.node("rack5")
	hop.Signal(syscall.SIGSTOP)
	c = f.root.run("call", "--delegate", "m*", "test.ping", "--timeout", "3s", "-o", "json")
	hop.Signal(syscall.SIGCONT)
	late(c.within(5*time.Second), names(hop.Below), "behind rack5")

	f.root.run("call", "--delegate", "m*", "test.ping").exits(0).prints("m[01-36] (36): ok: true")
	f.idle()
}

// Ctrl-C ends what runs, at every depth.
func treeCancelled(f *forest) {
	everybody := onlyMachines(behind(f.Top))
	nap, sleeping := naps(f.t, 100)
	s := f.at(f.Top)
	for _, words := range [][]string{{"-o", "json", "--", "sleep", nap}, {"-o", "json", "--shell", "--", "trap '' TERM; sleep " + nap + "; sleep " + nap}} {
		c := f.root.start(append([]string{"run", "--delegate", "m*"}, words...)...)
		s.until("it sleeps everywhere", func() bool { return len(sleeping()) == 36 })
		c.signal(syscall.SIGINT)
		for _, r := range c.exits(130).account(everybody...).Results {
			if !strings.HasPrefix(r.Reason, "cancelled") {
				f.t.Errorf("%s is %s, %q; want cancelled", r.Machine, r.Status, r.Reason)
			}
		}
		s.until("nothing sleeps", func() bool { return len(sleeping()) == 0 })
		f.idle()
	}

	// At any moment, the earliest too.
	for i := range 20 {
		c := f.root.start("run", "--delegate", "m*", "--", "sleep", nap)
		<-time.After(time.Duration(20+7*i) * time.Millisecond)
		c.signal(syscall.SIGINT)
		c.exits(130).within(5 * time.Second)
		f.idle()
		s.until("nothing sleeps", func() bool { return len(sleeping()) == 0 })
	}
}

// treeVerified: after all that, every log is whole, and the machines agree with it.
func treeVerified(f *forest) {
	for _, n := range f.Overlords() {
		f.at(n).root.run("audit", "verify").exits(0)
	}
	bob := f.at(f.Top).login("bob")
	for _, n := range f.Overlords() {
		bob.run("audit", "verify", "--fleet", "--context", "bob", "--overlord", n.Address).exits(0)
	}
}

// tally is a file to which a command adds its machine's name each time that it runs.
func (f *forest) tally(name string) (path string, ran func() []string) {
	path = filepath.Join(f.dir, name)
	return path, func() []string {
		b, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			f.t.Fatal(err)
		}
		lines := strings.Fields(string(b))
		slices.Sort(lines)
		return lines
	}
}

// exits in JSON of one result of command.run.
func exitOf(r row) (code int) {
	var doc struct{ Exit int }
	if json.Unmarshal(r.Result, &doc) != nil {
		return -1
	}
	return doc.Exit
}

//go:build fleet

package main_test

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/fleettest"
)

// TestFleetTreeFaults: what happens to orders when overlords on their way end.
// Each part has a tree of its own.
func TestFleetTreeFaults(t *testing.T) {
	binary := program(t)
	for _, x := range []struct {
		name string
		test func(f *forest)
	}{
		{"HopKilledAndBack", treeHopKilled},
		{"HopDead", treeHopDead},
		{"HopLost", treeHopLost},
		{"AnotherWay", treeAnotherWay},
		{"CancelledMeanwhile", treeCancelledMeanwhile},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			x.test(newForest(t, binary, true))
		})
	}
}

// Overlords on the way that are killed in the middle of a job, and come back, go
// on with it; nothing runs twice.
func treeHopKilled(f *forest) {
	everybody := onlyMachines(behind(f.Top))
	s := f.at(f.Top)
	for i, killed := range [][]string{{"dc2"}, {"dc1", "rack1", "rack9"}, {"top", "rack7"}} {
		what := strings.Join(killed, " and ")
		path, ran := f.tally(fmt.Sprintf("tally%d", i))
		c := f.root.start("run", "--delegate", "m*", "-o", "json", "--shell", "--", "echo $DOMINION_MACHINE >> "+path+"; sleep 4; echo done")
		s.until(what+": it runs everywhere", func() bool { return len(ran()) == 36 })
		began := time.Now()
		for _, name := range killed {
			f.node(name).Kill()
		}
		for _, name := range killed { // the upper ones first
			f.node(name).Up()
		}
		f.Await()
		back := time.Since(began)
		a := c.exits(0).account(everybody...)
		f.t.Logf("killed %s: all back after %.1f s, the job ended after %.1f s", what, back.Seconds(), time.Since(began).Seconds())
		if got := ran(); !slices.Equal(got, everybody) {
			f.t.Errorf("killed %s: it was run by %q; want each once", what, got)
		}
		for _, r := range a.Results {
			if exitOf(r) != 0 {
				f.t.Errorf("killed %s: %s: %s", what, r.Machine, r.Result)
			}
		}
		s.accounted(a.Job, "answered", everybody...)
		f.idle()
	}
	for _, n := range f.Overlords() {
		f.at(n).root.run("audit", "verify").exits(0)
	}
}

// Machines behind an overlord that is not there are named, with the one that is missing.
func treeHopDead(f *forest) {
	everybody := behind(f.Top)
	lost := map[string]string{} // by machine: the hop that is missing
	for _, name := range []string{"dc3", "rack4"} {
		n := f.node(name)
		for _, x := range behind(n) {
			lost[x] = name
		}
		n.Kill()
	}
	s := f.at(f.Top)
	s.until("the top misses dc3", func() bool { return !slices.Contains(f.Top.Connected(), "dc3") })
	s.until("dc2 misses rack4", func() bool { return !slices.Contains(f.node("dc2").Connected(), "rack4") })
	began := time.Now()
	a := f.root.run("call", "--delegate", "*", "test.ping", "-o", "json").exits(3).account(everybody...)
	if d := time.Since(began); d > 5*time.Second {
		f.t.Errorf("it took %s; want what is known at once to be told at once", d)
	}
	for _, r := range a.Results {
		hop, dead := lost[r.Machine]
		switch {
		case dead && (r.Status != "unreachable" || !strings.Contains(r.Reason, "behind "+hop)):
			f.t.Errorf("%s is %s: %q; want it unreachable behind %s", r.Machine, r.Status, r.Reason, hop)
		case r.Machine == "dc3" || r.Machine == "rack4":
			if r.Status != "unreachable" || strings.Contains(r.Reason, "behind") {
				f.t.Errorf("%s is %s: %q; want it unreachable itself", r.Machine, r.Status, r.Reason)
			}
		case !dead && r.Status != "answered":
			f.t.Errorf("%s is %s: %q; want an answer", r.Machine, r.Status, r.Reason)
		}
	}
	if n := a.Counts; n.Unreachable != 16+5 || n.Answered != 48-21 {
		f.t.Errorf("%+v; want 21 unreachable", n)
	}
	f.node("dc3").Up()
	f.node("rack4").Up()
	f.Await()
	f.root.run("call", "--delegate", "*", "test.ping", "-o", "json").exits(0).account(everybody...)
	f.idle()
}

// A hop that is lost in the middle of a job and does not come back: its machines
// are named when the time is over, the others are answered.
func treeHopLost(f *forest) {
	everybody := onlyMachines(behind(f.Top))
	path, ran := f.tally("lost")
	c := f.root.start("run", "--delegate", "m*", "--timeout", "6s", "-o", "json", "--shell", "--", "echo $DOMINION_MACHINE >> "+path+"; sleep 2")
	f.at(f.Top).until("it runs everywhere", func() bool { return len(ran()) == 36 })
	dc2 := f.node("dc2")
	dc2.Kill()
	gone := behind(dc2)
	a := c.exits(3).within(9 * time.Second).account(everybody...)
	for _, r := range a.Results {
		lost := slices.Contains(gone, r.Machine)
		if lost != (r.Status == "unreachable") || lost && !strings.Contains(r.Reason, "behind dc2") {
			f.t.Errorf("%s is %s: %q", r.Machine, r.Status, r.Reason)
		}
	}
	if got := ran(); !slices.Equal(got, everybody) {
		f.t.Errorf("it was run by %q; want each once", got)
	}
}

// What is withdrawn while a hop is away ends when it is back.
func treeCancelledMeanwhile(f *forest) {
	nap, sleeping := naps(f.t, 100)
	s := f.at(f.Top)
	for _, killed := range [][]string{{"dc2"}, {"rack5"}, {"dc2", "top"}} {
		what := strings.Join(killed, " and ")
		job := strings.TrimSpace(f.root.run("run", "--delegate", "m*", "--async", "--wait-for", "1h", "--", "sleep", nap).exits(0).out.String())
		s.until("it sleeps everywhere", func() bool { return len(sleeping()) == 36 })
		f.node(killed[0]).Kill()
		f.root.run("job", "cancel", job, "--no-wait").exits(0)
		for _, name := range killed[1:] {
			f.node(name).Kill()
		}
		for _, name := range killed {
			f.node(name).Up()
		}
		f.Await()
		began := time.Now()
		s.until(what+": nothing sleeps", func() bool { return len(sleeping()) == 0 })
		f.t.Logf("killed %s: nothing sleeps %.1f s after it is back", what, time.Since(began).Seconds())
		c := f.root.run("job", "watch", job, "-o", "json").exits(3).account(onlyMachines(behind(f.Top))...)
		if c.Counts.Skipped+c.Counts.Failed != 36 {
			f.t.Errorf("killed %s: %+v; want all cancelled", what, c.Counts)
		}
		f.idle()
	}
}

// A machine that two overlords have runs an order once, and is reached by the
// other way when one is gone.
func treeAnotherWay(f *forest) {
	m := f.Machine("m99", f.node("rack1"), f.node("rack4"))
	f.root.run("map", "build").exits(0)
	ping := func(way string) {
		f.t.Helper()
		a := f.root.run("call", "--delegate", "m99", "test.ping", "-o", "json").exits(0).account("m99")
		id, err := call.ParseJobID(a.Job)
		if err != nil {
			f.t.Fatal(err)
		}
		if n := m.Ran(id); n != 1 {
			f.t.Errorf("by %s: m99 ran it %d times", way, n)
		}
		for _, name := range []string{"rack1", "rack4"} {
			if passed := len(f.node(name).Audit(a.Job)) > 0; passed != (name == way) {
				f.t.Errorf("%s has records of the job: %v; want the way by %s", name, passed, way)
			}
		}
	}
	ping("rack1")
	for _, hop := range []string{"rack1", "dc1"} {
		f.node(hop).Kill()
		f.at(f.Top).until("it is missed", func() bool { return !slices.Contains(f.node(hop).Parent.Connected(), hop) })
		a := f.root.run("call", "--delegate", "m99,m01", "test.ping", "-o", "json").exits(3).account("m01", "m99")
		if a.Results[0].Status != "unreachable" || a.Results[1].Status != "answered" {
			f.t.Errorf("without %s: %+v", hop, a.Results)
		}
		f.node(hop).Up()
		f.Await()
		ping("rack1")
	}
}

// treeSlowReader: what a machine three levels down writes comes whole, at the pace
// of who reads it, and nobody on the way keeps it.
func treeSlowReader(f *forest) {
	const size = 64 << 20
	words := []string{"run", "--delegate", "m01", "--raw", "--", "head", "-c", fmt.Sprint(size), "/dev/zero"}
	f.root.run("run", "--delegate", "m01", "--raw", "--", "head", "-c", "1000000", "/dev/zero").exits(0) // what is made once, is made
	way := []*fleettest.TreeNode{f.Top, f.node("dc1"), f.node("rack1"), f.node("m01")}
	before := make(map[string]int64)
	for _, n := range way {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", n.PID()), []byte("5"), 0); err != nil {
			f.t.Logf("the peak of %s is not reset: %v", n.Name, err)
		}
		before[n.Name] = memory(f.t, n.PID(), "VmRSS")
	}
	r, w, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Close()
	c := f.root.startTo(w, words...)
	w.Close() // the command has its own
	writing := func() bool {
		return len(processes(f.t, func(line string) bool { return line == strings.Join(words[len(words)-4:], " ") })) == 1
	}
	f.at(f.Top).until("the command writes", writing)
	for range 10 { // nobody reads: everybody else is served
		f.root.run("call", "--delegate", "m*", "test.ping").exits(0).within(5 * time.Second).prints("m[01-36] (36): ok: true")
	}
	if !writing() {
		f.t.Errorf("%d bytes were taken although nobody reads", size)
	}
	got, err := io.Copy(io.Discard, r)
	if err != nil || got != size {
		f.t.Errorf("%d bytes came, %v; want %d", got, err, size)
	}
	c.exits(0)
	for _, n := range way {
		grown := memory(f.t, n.PID(), "VmHWM") - before[n.Name]
		f.t.Logf("%s: %d KiB resident before, its peak %d KiB more", n.Name, before[n.Name]>>10, grown>>10)
		if grown > 24<<20 {
			f.t.Errorf("%s grew by %d bytes while %d flowed; want less than 24 MiB", n.Name, grown, size)
		}
	}
	f.idle()
}

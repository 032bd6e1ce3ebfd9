//go:build fleet

package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/fleettest"
)

// named starts a machine whose name its overlord signs only with a token.
func (s *site) named(name string) {
	s.t.Helper()
	_, file := s.token(name+".join", "--name", name)
	s.minion(name, "--token-file", file)
}

// freeze stops a process and returns when all of its threads stand still.
func (d *daemon) freeze() {
	d.t.Helper()
	d.signal(syscall.SIGSTOP)
	fleettest.Until(d.t, d.name+" stands still", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", d.pid()))
		if err != nil {
			d.t.Fatal(err)
		}
		for _, name := range tasks {
			b, err := os.ReadFile(name)
			_, after, _ := strings.Cut(string(b), ") ")
			if err == nil && !strings.HasPrefix(after, "T") {
				return false
			}
		}
		return true
	})
}

// mapText gives the map's file.
func (s *site) mapText() string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.state, "map"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *site) wantMap(what, want string) {
	s.t.Helper()
	if got := s.mapText(); got != want {
		s.t.Errorf("%s: the map is\n%s\nwant\n%s", what, got, want)
	}
}

// branches is a top overlord with dc1 and dc2 below it and rack1 below dc1, and
// machines at each.
func branches(t *testing.T, binary string) (top, dc1, dc2, rack1 *site) {
	t.Helper()
	top = newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	dc1, dc2 = top.sub(top, "dc1"), top.sub(top, "dc2")
	rack1 = dc1.sub(top, "rack1")
	top.minion("top-1")
	dc1.minion("dc1-1")
	dc2.minion("dc2-1")
	rack1.minion("rack1-1")
	rack1.minion("rack1-2")
	top.await(3)
	dc1.await(2)
	dc2.await(1)
	rack1.await(2)
	return top, dc1, dc2, rack1
}

const wholeMap = `---
dc1:
    dc1-1: {}
    rack1:
        rack1-1: {}
        rack1-2: {}
dc2:
    dc2-1: {}
top-1: {}
`

// A tree of three layers is built, shown, and found again by each of its overlords;
// then branches of it die.
func testMap(t *testing.T, binary string) {
	top, dc1, dc2, rack1 := branches(t, binary)
	alice := top.login("alice")
	top.root.run("map", "show").exits(1).silent().tells("make one with: dominion map build")
	alice.run(top.orders("map", "build", "-v")...).exits(0).prints("asking dc1/rack1", "dc1/rack1 answered: 2 machines", "merged dc1: 4 places behind it",
		"wrote "+filepath.Join(top.state, "map")+": 8 machines, 3 of them overlords", "8 machines, 3 overlords among them, 3 levels")
	top.wantMap("all alive", wholeMap)
	top.root.run("map", "show").exits(0).prints("top: 8 machines, 3 overlords among them, 3 levels; built ", "│   ├── rack1: 2 machines\n", "│   │   └── rack1-[1,2] (2)\n", "│   └── dc1-1\n", "└── top-1\n")
	top.root.run("map", "route", "*").exits(0).prints("dc[1,2],top-1 (3): direct", "dc1-1,rack1 (2): by dc1", "dc2-1: by dc2", "rack1-[1,2] (2): by dc1/rack1")
	top.root.run("audit", "list", "--action", "map.build").exits(0).prints("operator/alice")
	alice.run(dc1.orders("map", "build")...).exits(0)
	dc1.wantMap("its own", "---\ndc1-1: {}\nrack1:\n    rack1-1: {}\n    rack1-2: {}\n")

	// A branch that hangs costs its own time-out; one that is dead, nothing.
	dc2.overlord.freeze()
	c := top.root.run("map", "diff", "--timeout", "1").exits(1).within(10 * time.Second)
	c.prints("- dc2/dc2-1\n").tells("dc2: no answer within 1s")
	if n := strings.Count(c.out.String(), "\n"); n != 1 {
		t.Errorf("more differs than the branch that hangs: %s", c.out)
	}
	dc2.overlord.signal(syscall.SIGCONT)
	rack1.overlord.freeze()
	top.root.run("map", "diff", "-t", "4s").exits(1).within(10 * time.Second).prints("- dc1/rack1/rack1-[1,2] (2)\n").tells(`dc1/rack1: dc1: time-out: no answer from "rack1" within 3.`)
	rack1.overlord.signal(syscall.SIGCONT)
	rack1.overlord.kill()
	dc1.await(1)
	top.root.run("map", "build", "-a").exits(0).tells("dc1/rack1: disconnected").prints("1 silent")
	top.wantMap("appended", wholeMap)
	top.root.run("map", "show").exits(0).prints("rack1: silent, disconnected", "; 2 machines, from the map before", "rack1-[1,2] (2): not heard of, from the map before")
	top.root.run("map", "build").exits(0)
	top.wantMap("a fresh one", strings.Replace(wholeMap, "rack1:\n        rack1-1: {}\n        rack1-2: {}\n", "rack1: {}\n", 1))
	top.root.run("map", "build", "-o").exits(0)
	top.wantMap("only what is alive", strings.Replace(wholeMap, "    rack1:\n        rack1-1: {}\n        rack1-2: {}\n", "", 1))
	dc1.overlord.kill()
	top.await(2)
	top.root.run("map", "build", "-o").exits(0)
	top.wantMap("at every level", "---\ndc2:\n    dc2-1: {}\ntop-1: {}\n")

	// What was dead comes back.
	rack1.up("--autosign", "rack1-*")
	dc1.up("--autosign", "dc1-*")
	top.await(3)
	dc1.await(2)
	rack1.await(2)
	top.root.run("map", "build", "-a").exits(0)
	top.wantMap("all alive again", wholeMap)
	top.root.run("map", "diff").exits(0).silent()
}

// The old map: one that cannot be read, one with a circle, and one that stays
// when a building is interrupted, or its overlord killed.
func testOldMap(t *testing.T, binary string) {
	top := newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	dc1 := top.sub(top, "dc1")
	dc1.minion("dc1-1")
	dc1.await(1)
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(top.state, "map"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const fresh = "---\ndc1:\n    dc1-1: {}\n"
	put("{ this is no map")
	top.root.run("map", "show").exits(1).tells("line 1", "dominion map build")
	top.root.run("map", "build", "-a").exits(0).tells("the old map could not be read, and the fresh one replaces it")
	top.wantMap("instead of one that cannot be read", fresh)

	put("dc1:\n    dc1-1: {}\n    old1:\n        dc1:\n            old2: {}\n")
	top.root.run("map", "show").exits(0).prints("cut dc1/old1/dc1: it is dc1, which stands above it")
	top.root.run("map", "route", "old*").exits(0).prints("old1: by dc1\n")
	top.root.run("map", "build", "-a").exits(0)
	top.wantMap("without the circle", "---\ndc1:\n    dc1-1: {}\n    old1: {}\n")

	before := top.mapText()
	dc1.overlord.freeze()
	c := top.root.start("map", "build", "-v")
	c.awaitPrints("asking dc1")
	top.root.run("map", "build").exits(1).tells("the map is being built at this moment")
	c.signal(syscall.SIGINT)
	c.exits(130)
	top.wantMap("after an interrupt", before)
	top.until("the building has ended", func() bool {
		c = top.root.start("map", "build", "-v", "--timeout", "60")
		<-time.After(100 * time.Millisecond)
		return !strings.Contains(c.err.String(), "being built")
	})
	c.awaitPrints("asking dc1")
	top.overlord.kill()
	c.exits(1)
	top.wantMap("after the overlord was killed", before)
	dc1.overlord.signal(syscall.SIGCONT)
	top.up()
	top.await(1)
	top.root.run("map", "build").exits(0)
	top.wantMap("a fresh one", fresh)
	files, err := filepath.Glob(filepath.Join(top.state, ".*"))
	if err != nil || len(files) > 0 {
		t.Errorf("left over: %q, %v", files, err)
	}
}

// Machines of one name below different overlords are named, and not routed.
func testMapConflict(t *testing.T, binary string) {
	top := newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	dc1, dc2 := top.sub(top, "dc1"), top.sub(top, "dc2")
	dc1.named("web1")
	dc2.named("web1")
	dc2.named("web2")
	dc1.await(1)
	dc2.await(2)
	top.root.run("map", "build").exits(0).tells("web1 is not routed, machines with different keys bear the name: dc1/web1 sha256:")
	top.wantMap("a conflict", "---\ndc1: {}\ndc2:\n    web2: {}\n")
	top.root.run("map", "show").exits(0).prints("Not routed, as machines with different keys bear the name:\n  web1: dc1/web1 sha256:")
	top.root.run("map", "route", "web1").exits(0).prints("web1: not routed, machines with different keys bear the name: by dc1, by dc2")

	// As Func's command, from the host of the overlord.
	fm := *top.root
	fm.binary = filepath.Join(top.dir, "func-build-map")
	if err := os.Symlink(binary, fm.binary); err != nil {
		t.Fatal(err)
	}
	fm.run("--copy", "copy").exits(0).silent()
	if b, err := os.ReadFile(filepath.Join(top.dir, "copy")); err != nil || string(b) != top.mapText() {
		t.Errorf("the copy is %q, %v", b, err)
	}
	fm.run("-v", "-a", "-o", "-t", "10", "--copy", filepath.Join("nosuch", "map")).exits(0).prints("asking this overlord", "wrote ").tells("no copy for Func")
}

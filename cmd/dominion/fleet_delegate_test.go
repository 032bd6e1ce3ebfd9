//go:build fleet

package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/call"
	"dominion/client"
)

// Orders by the map as those see them who give them.
func TestFleetDelegate(t *testing.T) {
	binary := program(t)
	for _, x := range []struct {
		name string
		test func(t *testing.T, binary string)
	}{
		{"Resolve", testDelegateResolve},
		{"Where", testDelegateWhere},
		{"Orders", testDelegateOrders},
		{"Default", testDelegateDefault},
		{"Conflict", testDelegateConflict},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			x.test(t, binary)
		})
	}
}

// mapped is a tree with its map, and a group that each overlord has its own part of.
func mapped(t *testing.T, binary string) (top, mid, low *site) {
	t.Helper()
	top, mid, low = tree(t, binary)
	top.root.run("map", "build").exits(0).prints("5 machines")
	for _, s := range []struct {
		*site
		member string
	}{{top, "top-1"}, {mid, "mid-1"}, {low, "low-1"}} {
		s.root.run("group", "set", "web", s.member).exits(0)
	}
	low.root.run("group", "set", "deep", "low-1").exits(0)
	return top, mid, low
}

// Whom a target names by the map, and what is said of those who are missing.
func testDelegateResolve(t *testing.T, binary string) {
	top, mid, low := tree(t, binary)
	call := func(words ...string) *command { return top.root.run(append([]string{"call"}, words...)...) }
	call("--delegate", "*", "test.ping", "--dry-run").exits(1).silent().tells("has no map", "dominion map build")
	top.root.run("map", "build").exits(0)
	call("--delegate", "*", "test.ping", "--dry-run").exits(0).
		prints("on 5 minions: low,low-1,mid,mid-1,top-1", "    direct: mid,top-1 (2)\n", "    by mid: low,mid-1 (2)\n", "    by mid/low: low-1\n")
	call("--delegate", "*-1", "-x", "mid*", "test.ping", "--dry-run").exits(0).prints("on 2 minions: low-1,top-1")
	call("--delegate", "*", "--limit", "4", "test.ping", "--dry-run").exits(1).tells("names 5 machines")
	call("--delegate", "rack*", "test.ping", "--dry-run").exits(4).tells("dominion map show")
	call("--delegate", "low-1,nosuch", "test.ping", "--dry-run").exits(0).prints("on 1 minion: low-1", "unknown: nosuch")
	call("low-1", "test.ping", "--dry-run").exits(4)

	// Groups are those of everybody below, each for what is below itself.
	mid.root.run("group", "set", "web", "mid-1,top-1").exits(0)
	low.root.run("group", "set", "web", "low-1,mid-1,mid,top-1").exits(0)
	low.root.run("group", "set", "deep", "mid-1").exits(0)
	call("--delegate", "@web", "test.ping", "--dry-run").exits(0).prints("on 2 minions: low-1,mid-1")
	top.root.run("group", "set", "web", "top-1").exits(0)
	c := call("--delegate", "@web", "test.ping", "--dry-run", "-o", "json").exits(0).prints(`"low-1"`, `"mid-1"`, `"top-1"`)
	var doc struct {
		Count int
		Ways  []struct{ Hops, Machines []string }
	}
	if err := json.Unmarshal(c.out.Bytes(), &doc); err != nil || doc.Count != 3 || len(doc.Ways) != 3 || strings.Join(doc.Ways[2].Hops, "/") != "mid/low" {
		t.Errorf("the plan is %+v, %v; want 3 machines by 3 ways, the last by mid/low", doc, err)
	}
	call("--delegate", "@deep", "test.ping", "--dry-run").exits(4) // it is a group, of nobody that low may speak for
	call("--delegate", "@nobody", "test.ping", "--dry-run").exits(2).tells(`no group "nobody"`)

	// Who is away is named; and who hangs costs no more than its time.
	low.overlord.signal(syscall.SIGSTOP)
	began := time.Now()
	call("--delegate", "@web", "test.ping", "--dry-run").exits(0).prints("mid-1,top-1").tells("low did not say who is in the groups there: machines may be missing")
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("it took %s; want about 5s", d)
	}
	low.overlord.signal(syscall.SIGCONT)
	low.overlord.kill()
	mid.await(1)
	call("--delegate", "@web", "test.ping", "--dry-run").exits(0).prints("mid-1,top-1").tells("low did not say")
	mid.overlord.kill()
	top.await(1)
	call("--delegate", "@web", "test.ping", "--dry-run").exits(0).prints("on 1 minion: top-1").tells("mid did not say")
	call("--delegate", "@deep", "test.ping", "--dry-run").exits(2).tells("mid did not say whether it is known there")
}

// One order reaches every level, and the answers are shown as those of direct machines.
func testDelegateOrders(t *testing.T, binary string) {
	const maxArgs = call.MaxArgs
	top, _, low := mapped(t, binary)
	alice := top.login("alice")
	call := func(words ...string) *command { return alice.run(append([]string{"call"}, words...)...) }
	call("--delegate", "*", "test.ping").exits(0).prints("low,low-1,mid,mid-1,top-1 (5): ok: true")
	call("--delegate", "@web", "test.ping").exits(0).prints("low-1,mid-1,top-1 (3): ok: true").tells(`"@web" names 3 minions`)
	alice.run("run", "--delegate", "@deep", "--", "echo", "hello").exits(0).prints("low-1: hello")
	alice.run("run", "--delegate", "--fold=false", "*-1", "--", "echo", "hi").exits(0).prints("low-1: hi\n", "mid-1: hi\n", "top-1: hi\n")
	if c := alice.run("run", "--delegate", "--raw", "low-1", "--", "printf", "a\\tb").exits(0); c.out.String() != "a\tb" {
		t.Errorf("raw output is %q; want a, tab, b", c.out)
	}
	call("*", "test.ping").exits(0).prints("mid,top-1 (2): ok: true")
	two := call("--delegate", "low-1,mid-1", "test.ping", "-o", "jsonl").exits(0)
	if lines := strings.Count(two.out.String(), "\n"); lines != 2 {
		t.Errorf("%d lines; want 2: %s", lines, two.out)
	}
	two.prints(`{"machine":"low-1","status":"answered","reason":"","result":{"ok":true}}`)

	// What the map does not know, or another map does.
	top.minion("top-2") // has enrolled since
	top.await(3)
	call("--delegate", "top-1,top-2,nosuch", "test.ping").exits(3).prints("top-1: ok: true").tells("2 of 3 minions unreachable", "not in the map")
	call("--delegate", "nosuch", "test.ping", "-o", "json").exits(3).prints(`"unreachable": 1`, "not in the map")
	call("--delegate", "rack*", "test.ping").exits(4)
	file := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(file, []byte("mid: {low: {low-1: {}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	call("--map", file, "*-1", "test.ping").exits(0).prints("low-1: ok: true")
	call("--map", file, "mid-1,low-1", "test.ping").exits(3).prints("low-1: ok: true").tells("mid-1", "not in the map")

	// An order that is too long for a frame, with the longest arguments, goes down as a stream.
	long := filepath.Join(t.TempDir(), "args")
	text := strings.Repeat("x", maxArgs-len(`{"text":""}`))
	if err := os.WriteFile(long, []byte(`{"text":"`+text+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	call("--delegate", "low-1,mid-1", "test.echo", "--args", "@"+long).exits(0).prints("low-1,mid-1 (2): text: " + text)

	// A program does it with a few words.
	c, err := top.conn.Target("*-1", client.Options{Delegate: true, MapFile: file})
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := job.ByMachine(); err != nil || len(got) != 1 || string(got["low-1"].Output) != `{"ok":true}` {
		t.Errorf("ByMachine = %v, %v; want low-1 alone", got, err)
	}

	// A job goes on without its command, is watched at the top, and goes the same way again.
	id := strings.TrimSpace(call("--delegate", "*-1", "test.ping", "--async").exits(0).out.String())
	alice.run("job", "watch", id).exits(0).prints("low-1,mid-1,top-1 (3): ok: true")
	alice.run("job", "show", id).exits(0).prints("by the map")
	low.overlord.kill()
	failed := call("--delegate", "*-1", "test.ping", "-o", "json").exits(3).prints("unreachable behind")
	var doc struct{ Job string }
	if err := json.Unmarshal(failed.out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	low.up()
	low.await(1)
	top.until("the way is open", func() bool { return low.status().Parent.Connected })
	alice.run("job", "rerun", doc.Job).exits(0).prints("low-1: ok: true")
}

// By the configuration orders go by the map, unless the command says otherwise.
func testDelegateDefault(t *testing.T, binary string) {
	top, _, _ := mapped(t, binary)
	top.overlord.stop()
	top.up("--autosign", "top-*", "--name", "top", "--config", top.write("delegate.yaml", "delegate: true\n"))
	top.await(2)
	top.root.run("status").exits(0).prints("by the map")
	top.root.run("call", "*-1", "test.ping", "--dry-run").exits(0).prints("on 3 minions: low-1,mid-1,top-1")
	top.root.run("call", "--delegate=false", "*-1", "test.ping", "--dry-run").exits(0).prints("on 1 minion: top-1")
	top.root.run("call", "*-1", "test.ping").exits(0).prints("low-1,mid-1,top-1 (3): ok: true")
	top.root.run("call", "--delegate=false", "*-1", "test.ping").exits(0).prints("top-1: ok: true")
}

// Of two machines with one name neither runs the order, and the name is accounted for.
func testDelegateConflict(t *testing.T, binary string) {
	top := newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	dc1, dc2 := top.sub(top, "dc1"), top.sub(top, "dc2")
	dc1.named("twin")
	dc2.named("twin")
	dc2.named("web1")
	dc1.await(1)
	dc2.await(2)
	top.root.run("map", "build").exits(0)
	dc2.root.run("group", "set", "web", "twin,web1").exits(0)
	const warning = "not reached, since machines with different keys bear the name: twin; dominion map show tells where they are"
	for _, target := range []string{"*!dc*", "@web", "twin,web1"} {
		top.root.run("call", "--delegate", target, "test.ping").exits(3).prints("web1: ok: true").tells(warning, "1 of 2 minions unreachable: twin: unknown name: machines with different keys")
	}
	top.root.run("call", "--delegate", "twin", "test.ping", "-o", "jsonl").exits(3).prints(`"machine":"twin","status":"unreachable"`, "different keys").tells(warning)
	file := filepath.Join(t.TempDir(), "map") // who says which of them is meant, is not believed: the keys decide
	if err := os.WriteFile(file, []byte("dc1: {twin: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	top.root.run("call", "--map", file, "twin", "test.ping").exits(3).tells(warning)
}

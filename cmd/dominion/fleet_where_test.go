//go:build fleet

package main_test

import (
	"strings"
	"syscall"
	"testing"

	"dominion/fleettest"
)

// A condition by the map is judged by the overlord that each machine is below.
func testDelegateWhere(t *testing.T, binary string) {
	top, _, low := mapped(t, binary)
	call := func(words ...string) *command {
		return top.root.run(append([]string{"call", "--delegate"}, words...)...)
	}
	// Facts come with the session, and a moment after it.
	fleettest.Until(t, "all overlords have their machines' facts", func() bool {
		c := call("*", "test.ping", "--dry-run", "--where", "facts.memory_bytes > 0")
		<-c.done
		return strings.Contains(c.out.String(), "on 5 minions: low,low-1,mid,mid-1,top-1")
	})
	call("*", "test.ping", "--dry-run", "--where", "facts.memory_bytes < 5").exits(4).tells(`no machine of the map matches "*" with --where`)
	call("*", "test.ping", "--dry-run", "--where", `name.endsWith("-1") && has(facts.os)`).exits(0).prints("on 3 minions: low-1,mid-1,top-1")
	call("*", "test.ping", "--dry-run", "--where", "facts.nosuch == 1").exits(2).tells("there is no fact facts.nosuch")
	call("*", "test.ping", "--dry-run", "--where", `"nosuch" in groups`).exits(2).tells(`there is no group "nosuch"`)
	// Each overlord knows its own part of the group; what is known above counts below.
	call("*", "test.ping", "--dry-run", "--where", `"web" in groups`).exits(0).prints("on 3 minions: low-1,mid-1,top-1")
	top.root.run("group", "set", "some", "low-1,mid").exits(0)
	call("*", "test.ping", "--dry-run", "--where", `"some" in groups`).exits(0).prints("on 2 minions: low-1,mid")
	call("@web", "test.ping", "--dry-run", "--where", `"deep" in groups`).exits(0).prints("on 1 minion: low-1")
	call("*-1", "test.ping", "--where", `"web" in groups && facts.memory_bytes > 0`).exits(0).prints("low-1,mid-1,top-1 (3): ok: true").tells(`"*-1" names 3 minions`)
	// One that is not there is named, and so are its machines.
	low.overlord.signal(syscall.SIGSTOP)
	call("*", "test.ping", "--dry-run", "--where", "facts.memory_bytes > 0").exits(0).prints("on 4 minions: low,mid,mid-1,top-1").tells("low did not say", "left out, since --where cannot be judged without their facts: low-1")
	low.overlord.signal(syscall.SIGCONT)
}

//go:build fleet

package main_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/fleettest"
)

// One machine is stopped, one is dead: both are named with the reason of each,
// in every form of output, within the time-out.
func testUnreachable(t *testing.T, binary string) {
	s := startSite(t, binary, 3)
	m04, m05 := s.minion("m04"), s.minion("m05")
	s.await(5)
	m04.signal(syscall.SIGSTOP)
	m05.kill()
	s.await(4)
	all := []string{"m01", "m02", "m03", "m04", "m05"}
	const limit = 5 * time.Second
	text := s.root.start("call", "*", "test.ping", "--timeout", "5s")
	doc := s.root.start("call", "*", "test.ping", "--timeout", "5s", "-o", "json")
	lines := s.root.start("call", "*", "test.ping", "--timeout", "5s", "-o", "jsonl")

	text.exits(3).within(limit).prints("m[01-03] (3): ok: true\n").
		tells("2 of 5 minions unreachable", "m04: no answer within 5s", "m05: no session: disconnected")
	a := doc.exits(3).within(limit).account(all...)
	if a.Counts.Answered != 3 || a.Counts.Unreachable != 2 {
		t.Errorf("counts %+v; want 3 answered and 2 unreachable", a.Counts)
	}
	rows := lines.exits(3).within(limit).tells("5 targeted: 3 answered, 0 failed, 2 unreachable, 0 skipped").lines(all...)
	for name, reason := range map[string]string{"m01": "", "m02": "", "m03": "", "m04": "no answer within 5s", "m05": "no session: disconnected"} {
		if got := rows[name]; !strings.Contains(got.Reason, reason) || (reason == "") != (got.Status == "answered") {
			t.Errorf("%s: %+v; want a reason with %q", name, got, reason)
		}
	}

	s.root.run("call", "nosuch*", "test.ping").exits(4).silent().tells(`dominion call: no minion matches "nosuch*"; enrolled minions: dominion minions`)
	s.root.run("call", "nosuch*", "test.ping", "-o", "jsonl").exits(4).silent()
	s.root.run("ping", "nosuch*").exits(4).silent().tells(`"nosuch*"`)
	s.root.run("call", "nosuch", "test.ping").exits(3).tells("1 of 1 minion unreachable: nosuch: unknown name")
	s.root.run("call", "nosuch", "test.ping", "-o", "json").exits(3).account("nosuch")
	s.root.run("call", "m01,nosuch", "test.ping", "-o", "json").exits(3).account("m01", "nosuch")
	s.root.run("call", "m01,nosuch", "test.ping", "-o", "jsonl").exits(3).lines("m01", "nosuch")
	s.root.run("call", "m01,m02", "test.fail", "broken", "-o", "json").exits(3).account("m01", "m02")
	s.root.run("ping", "*", "--timeout", "1s", "-o", "json").exits(3).within(time.Second).account(all...)

	m04.signal(syscall.SIGCONT)
	s.root.run("call", "m[01-04]", "test.ping").exits(0).prints("m[01-04] (4): ok: true\n")
}

// A machine that dies while it runs a command, and does not come back, is told
// of after half a minute, beside one that goes on.
func testKilledInTheMiddle(t *testing.T, binary string) {
	s := startSite(t, binary, 1)
	m02 := s.minion("m02")
	s.await(2)
	long, sleeping := naps(t, 50)
	alone := s.root.start("run", "m02", "--", "sleep", long)
	both := s.root.start("call", "m01,m02", "test.sleep", "6", "-o", "jsonl")
	fleettest.Until(t, "the command runs", func() bool { return len(sleeping()) == 1 })
	fleettest.Until(t, "both jobs are under way", func() bool { return s.status().RunningJobs == 2 })
	m02.kill()
	killed := time.Now()

	alone.exits(3).tells("1 of 1 minion unreachable: m02: session lost: the connection ended before the answer")
	if d := time.Since(killed); d < 28*time.Second || d > 33*time.Second {
		t.Errorf("the command ended %s after the machine; want it to wait 30 s for its return", d)
	}
	rows := both.exits(3).lines("m01", "m02")
	if rows["m01"].Status != "answered" || rows["m02"].Status != "unreachable" || !strings.Contains(rows["m02"].Reason, "session lost") {
		t.Errorf("%+v; want m01 answered and m02 lost", rows)
	}
}

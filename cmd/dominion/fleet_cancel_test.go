//go:build fleet

package main_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	modrun "dominion/module/run"
)

// TestFleetCancel: Ctrl-C ends what runs on a whole fleet, with what left the
// command's process group and what does not want to end.
func TestFleetCancel(t *testing.T) {
	const n = 40
	s := newSite(t, program(t))
	s.up("--autosign", "w*")
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("w%02d", i+1)
		s.minion(names[i])
	}
	s.await(n)
	nap, sleeping := naps(t, 100)
	script := func(text string) []string { return []string{"--shell", "--", strings.ReplaceAll(text, "NAP", nap)} }
	for _, test := range []struct {
		name  string
		words []string
		each  int  // processes that sleep on a machine
		apart bool // some of them are found in a cgroup alone
	}{
		{"plain", []string{"--", "sleep", nap}, 1, false},
		{"deaf", script("trap '' TERM; sleep NAP & sleep NAP; sleep NAP"), 2, false},
		{"apart", script("setsid sleep NAP >/dev/null 2>&1 </dev/null & (setsid sh -c 'sleep NAP & exit' &); sleep NAP"), 3, true},
	} {
		if test.apart && !cgroups() {
			t.Logf("SKIPPED %s: it needs root and a version 2 cgroup hierarchy", test.name)
			continue
		}
		c := s.root.start(append([]string{"run", "w*", "-o", "json"}, test.words...)...)
		s.until(test.name+": it runs everywhere", func() bool { return len(sleeping()) == n*test.each })
		began := time.Now()
		c.signal(syscall.SIGINT)
		s.until(test.name+": nothing sleeps", func() bool { return len(sleeping()) == 0 })
		gone := time.Since(began)
		a := c.exits(130).account(names...)
		ended := time.Since(began)
		t.Logf("%s: nothing sleeps %s after Ctrl-C, and the command ended by %s", test.name, gone.Round(time.Millisecond), ended.Round(time.Millisecond))
		if gone > 3*time.Second || ended > 3*time.Second {
			t.Errorf("%s: nothing sleeps after %s, the command ended by %s; want 3s at most", test.name, gone, ended)
		}
		for _, r := range a.Results {
			if !strings.HasPrefix(r.Reason, "cancelled") {
				t.Errorf("%s: %s is %s, %q; want cancelled", test.name, r.Machine, r.Status, r.Reason)
			}
		}
	}
}

// cgroups says whether agents here give commands cgroups of their own.
func cgroups() bool {
	dir, err := modrun.Cgroup()
	if err != nil {
		return false
	}
	probe, err := os.MkdirTemp(dir, "probe-*")
	if err != nil {
		return false
	}
	return os.Remove(probe) == nil
}

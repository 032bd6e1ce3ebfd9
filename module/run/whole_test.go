package run

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dominion/module"
	"dominion/module/run/runtest"
)

// TestWhole: what a program leaves behind ends with it, whether there is a cgroup
// or not, and its first process's status counts.
func TestWhole(t *testing.T) {
	for _, cgroup := range []bool{true, false} {
		t.Run(fmt.Sprintf("cgroup %t", cgroup), func(t *testing.T) {
			quick := Runner{Grace: 200 * time.Millisecond, Cancel: 200 * time.Millisecond, Idle: 20 * time.Millisecond}
			if cgroup {
				home := ownHome(t)
				quick.Cgroup = func() (string, error) { return home, nil }
			}
			seconds, sleeping := runtest.Nap(t)
			c := Tool(&module.Env{}, "/bin/sh", "-c", strings.ReplaceAll(`
sleep NAP &
setsid sh -c 'trap "" TERM; sleep NAP & sleep NAP' >/dev/null 2>&1 &
(setsid sh -c 'sleep NAP >/dev/null 2>&1 & exit' &)
while [ "$(pgrep -cxf 'sleep NAP')" -lt 4 ]; do :; done
echo out; exit 3`, "NAP", seconds))
			c.Whole = true
			r, err := quick.Run(t.Context(), c)
			if e, ok := errors.AsType[*ExitError](err); !ok || e.Result.Exit != 3 || string(r.Stdout.Bytes()) != "out\n" {
				t.Errorf("%+v, %v", r, err)
			}
			if left := sleeping(); len(left) > 0 {
				t.Errorf("processes %v still sleep", left)
			}
		})
	}
}

// TestMemory: a program that allocates more than it may fails, another does not.
func TestMemory(t *testing.T) {
	for _, test := range []struct {
		bytes string
		fails bool
	}{{"1000", false}, {"100000000", true}} {
		c := Tool(nil, "/bin/sh", "-c", "x=$(head -c "+test.bytes+" /dev/zero | tr '\\0' x); echo ${#x}")
		c.Memory = 32 << 20
		if out, err := System.Output(t.Context(), c); (err != nil) != test.fails {
			t.Errorf("%s bytes: %q, %v", test.bytes, out, err)
		}
	}
}

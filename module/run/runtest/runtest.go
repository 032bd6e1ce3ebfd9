// Package runtest finds, for tests, what programs have left running.
package runtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// patience is how long Until waits.
const patience = 20 * time.Second

// Until waits for something to come true, and fails the test when it does not.
func Until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it did not come true that %s", what)
		}
	}
}

// Nap gives a time for sleep(1) that nobody else uses, and finds who sleeps so
// long. Who still does at the end of the test is killed.
func Nap(t *testing.T) (seconds string, sleeping func() []int) {
	t.Helper()
	seconds = fmt.Sprintf("100.%09d", rand.IntN(1e9))
	sleeping = func() (pids []int) {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && string(b) == "sleep\x00"+seconds+"\x00" {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				pids = append(pids, pid)
			}
		}
		return pids
	}
	t.Cleanup(func() {
		for _, pid := range sleeping() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	})
	return seconds, sleeping
}

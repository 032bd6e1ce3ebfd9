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
)

// processes gives the ids of the processes whose command line, words joined by
// blanks, fits.
func processes(t *testing.T, fits func(line string) bool) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if fits(strings.ReplaceAll(strings.TrimSuffix(string(b), "\x00"), "\x00", " ")) {
			var pid int
			if _, err := fmt.Sscanf(f, "/proc/%d/cmdline", &pid); err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// holding fits command lines with text in them.
func holding(text string) func(string) bool {
	return func(line string) bool { return strings.Contains(line, text) }
}

// naps gives a duration for sleep(1) that no other test uses, and how to find
// the processes that sleep so long. What is left of them ends with the test.
func naps(t *testing.T, seconds int) (argument string, find func() []int) {
	t.Helper()
	argument = fmt.Sprintf("%d.%09d", seconds, time.Now().UnixNano()%1e9)
	find = func() []int { return processes(t, func(line string) bool { return line == "sleep "+argument }) }
	t.Cleanup(func() {
		for _, pid := range find() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	})
	return argument, find
}

// memory reads a field of /proc/PID/status, in bytes.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), field+":")
	var kb int64
	if _, err := fmt.Sscan(rest, &kb); !ok || err != nil {
		t.Fatalf("no %s in the status of process %d", field, pid)
	}
	return kb << 10
}

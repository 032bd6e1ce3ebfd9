package nodescript_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/module/run/runtest"
	"dominion/nodescript"
)

// TestManyNodes: nodes that ask at the same time get each their own.
func TestManyNodes(t *testing.T) {
	dir := put(t, sh("ready/all/10-a", `echo "name=$NODENAME"`), sh("ready/group/g1/20-b", "sleep 0.01; echo group 1"), sh("ready/group/g2/20-b", "echo group 2; exit 5"), sh("ready/all/30-c", `echo "vnfs=$VNFS"`))
	a, err := nodescript.New(nodescript.Config{Statedir: dir, Places: 8})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			n := nodescript.Node{Name: fmt.Sprintf("n%d", i%40), Group: fmt.Sprintf("g%d", i%3), VNFS: fmt.Sprintf("v%d", i)}
			s, err := a.Assemble(t.Context(), n, "ready")
			if err != nil {
				t.Error(err)
				return
			}
			want := fmt.Sprintf("name=%s\nvnfs=%s\n", n.Name, n.VNFS)
			if i%3 == 1 {
				want = fmt.Sprintf("name=%s\ngroup 1\nvnfs=%s\n", n.Name, n.VNFS)
			}
			if i%3 == 2 {
				if s.Failure != "ready/group/g2/20-b: it ended with status 5" || strings.Contains(string(s.Text), "name=") || !strings.Contains(string(s.Text), "no script for "+n.Name+" in state ready") {
					t.Errorf("%v: %q, %q", n, s.Failure, s.Text)
				}
			} else if string(s.Text) != want {
				t.Errorf("%v: %q; want %q", n, s.Text, want)
			}
		})
	}
	all.Wait()
}

// TestStarvation: a node that asks a hundred times delays others by one place.
func TestStarvation(t *testing.T) {
	dir := put(t, sh("ready/node/n1/10-a", "sleep 0.002"), sh("ready/all/20-b", "echo $NODENAME"))
	a, err := nodescript.New(nodescript.Config{Statedir: dir, Places: 2})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	var mu sync.Mutex
	greedy := 0
	for range 100 {
		all.Go(func() {
			if _, err := a.Assemble(t.Context(), n1, "ready"); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			greedy++
		})
	}
	runtest.Until(t, "the first are done", func() bool { mu.Lock(); defer mu.Unlock(); return greedy > 2 })
	for i := range 10 {
		s, err := a.Assemble(t.Context(), nodescript.Node{Name: fmt.Sprintf("m%d", i)}, "ready")
		if err != nil || string(s.Text) != fmt.Sprintf("m%d\n", i) {
			t.Errorf("m%d: %v, %v", i, s, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if greedy > 90 {
		t.Errorf("the others waited for %d assemblies of n1", greedy)
	}
}

// openFiles are the numbers of this process's open files.
func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// TestNothingLeaks: whatever came of assemblies, no file and no goroutine is
// left.
func TestNothingLeaks(t *testing.T) {
	dir := put(t,
		sh("ready/all/10-a", "echo a >&2; exit 1"), x("ready/all/20-b", "#!/nosuch\n"), sh("ready/all/30-c", "exec cat /dev/zero"), sh("ready/all/40-d", "sleep 60"), link("ready/all/50-e", "nosuch"),
		sh("ready/all/60-f", "kill -9 $$"), x("ready/all/70-g", "\x7fELF\x00"), plain("ready/all/80-h", "#!/bin/sh\n"), sh("ready/all/90-i", "sleep 60 & exit"),
	)
	for _, rules := range []nodescript.Rules{nodescript.Documented, nodescript.Perceus193} {
		a, err := nodescript.New(nodescript.Config{Statedir: dir, Rules: rules, OnFailure: nodescript.Ignore, Time: 300 * time.Millisecond, Output: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		files, goroutines := openFiles(t), runtime.NumGoroutine()
		for range 3 {
			if _, err := a.Assemble(t.Context(), n1, "ready"); err != nil {
				t.Fatal(err)
			}
		}
		runtest.Until(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
		if now := openFiles(t); len(now) > len(files) {
			t.Errorf("%v: the open files were %v, and are %v", rules, files, now)
		}
	}
}

// TestOutOfFiles: when this process may open no more files, a node gets all of
// its script or none of it, and the next one gets all.
func TestOutOfFiles(t *testing.T) {
	const want = "a\nb\n"
	dir := put(t, sh("ready/all/10-a", "echo a"), sh("ready/all/20-b", "echo b"))
	a, err := nodescript.New(nodescript.Config{Statedir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	reset := func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
	}
	defer reset()
	outcomes := make(map[string]int)
	files := len(openFiles(t))
	for more := range 28 {
		low := was
		low.Cur = uint64(files - 6 + more)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		s, err := a.Assemble(t.Context(), n1, "ready")
		reset()
		switch {
		case errors.Is(err, syscall.EMFILE):
			outcomes["error"]++
		case err == nil && strings.HasSuffix(s.Failure, "too many open files") && !strings.HasPrefix(string(s.Text), "a\n"):
			outcomes["failure"]++
		case err == nil && s.Failure == "" && string(s.Text) == want:
			outcomes["script"]++
		default:
			t.Errorf("%d more files: %+v, %v", more, s, err)
		}
		if s, err := a.Assemble(t.Context(), n1, "ready"); err != nil || string(s.Text) != want {
			t.Errorf("afterwards: %+v, %v", s, err)
		}
	}
	if outcomes["error"] == 0 || outcomes["failure"] == 0 || outcomes["script"] == 0 {
		t.Errorf("what came of it: %v; want each once at least", outcomes)
	}
}

//go:build bench

package nodescript_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/nodescript"
)

// The budget of assemblies of 10 scripts per second, on two cores.
const budgetAssemblies = 100

// TestBudgetsAssembly prints assemblies per second with nodes that ask one
// after the other and all at once, beside programs that are merely started: the
// same scripts, as many at a time, by os/exec. The processor time is that of
// this process and of the scripts.
func TestBudgetsAssembly(t *testing.T) {
	const nodes, scripts, places = 200, 10, 4
	dir := benchTree(t, scripts)
	a, err := nodescript.New(nodescript.Config{Statedir: dir, Places: places})
	if err != nil {
		t.Fatal(err)
	}
	one := func(i int) time.Duration {
		n, start := n1, time.Now()
		n.Name = fmt.Sprintf("n%04d", i)
		if s, err := a.Assemble(t.Context(), n, "ready"); err != nil || s.Failure != "" || len(s.Ran) != scripts {
			t.Errorf("%+v, %v", s, err)
		}
		return time.Since(start)
	}
	one(0)
	rate, _ := measured(func() {
		for i := range nodes {
			one(i)
		}
	}, nodes)
	fmt.Printf("budget: assemblies of 10 scripts, one after the other: %.1f/s\n", rate)

	took := make([]time.Duration, nodes)
	rate, cpu := measured(func() {
		var all sync.WaitGroup
		for i := range nodes {
			all.Go(func() { took[i] = one(i) })
		}
		all.Wait()
	}, nodes)
	budget(t, "assemblies of 10 scripts, 200 nodes at once", rate)
	slices.Sort(took)
	fmt.Printf("budget: 200 nodes at once with 10 scripts each: p50 %v, p99 %v, the last after %v\n",
		took[nodes/2].Round(time.Millisecond), took[nodes*99/100].Round(time.Millisecond), took[nodes-1].Round(time.Millisecond))

	files := benchFiles(t, dir, scripts)
	bare, bareCPU := measured(func() {
		turn := make(chan struct{}, places)
		var all sync.WaitGroup
		for range nodes {
			all.Go(func() {
				turn <- struct{}{}
				defer func() { <-turn }()
				for _, f := range files {
					if _, err := exec.CommandContext(t.Context(), f).Output(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
	}, nodes)
	fmt.Printf("budget: the same scripts merely started, as many at a time: %.1f/s; processor time of 10: %.1f ms, of an assembly %.1f ms\n", bare, bareCPU, cpu)
}

func benchFiles(t *testing.T, dir string, want int) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"nodescripts/ready/*/*-bench", "nodescripts/ready/*/*/*-bench"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) != want {
		t.Fatalf("%d scripts; want %d", len(files), want)
	}
	return files
}

// measured gives how often per second f does what it does n times, and the
// processor time of one in milliseconds.
func measured(f func(), n float64) (rate, cpu float64) {
	used := func() (sum time.Duration) {
		for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
			var u syscall.Rusage
			if err := syscall.Getrusage(who, &u); err == nil {
				sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
			}
		}
		return sum
	}
	before, start := used(), time.Now()
	f()
	return n / time.Since(start).Seconds(), (used() - before).Seconds() * 1000 / n
}

// budget prints a rate beside its budget. One below it fails the run.
func budget(t *testing.T, what string, rate float64) {
	t.Helper()
	word := "within"
	if rate < budgetAssemblies {
		word = "UNDER"
		t.Fail()
	}
	fmt.Printf("budget: %-64s %10.1f %-4s of %8d %-4s %s\n", what, rate, "/s", budgetAssemblies, "/s", word)
}

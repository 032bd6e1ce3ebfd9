package fleettest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"dominion/overlord"
)

// roleEnv makes a test binary that was started again play a part.
const roleEnv = "DOMINION_FLEETTEST"

// part is what a child process plays: one of both.
type part struct {
	Overlord *overlordPart
	Crowd    []Simulation
}

type overlordPart struct {
	State, Name, Listen string
	Parent, Pin, Token  string // of a sub-overlord
	Autosign            string // names of minions; empty: none
}

// Play plays the part that a parent gave this process, and then ends it; with
// no part it returns. TestMain of a package that starts processes calls it first.
func Play() {
	text := os.Getenv(roleEnv)
	if text == "" {
		return
	}
	var p part
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		fmt.Fprintln(os.Stderr, "fleettest:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := p.play(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleettest:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (p part) play(ctx context.Context) error {
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	go func() { // for the life of the process: SIGUSR1 gives memory back, so that it can be measured
		for range usr1 {
			runtime.GC()
			runtime.GC()
			debug.FreeOSMemory()
			if name := os.Getenv("DOMINION_MEMPROFILE"); name != "" {
				writeHeap(name)
			}
		}
	}()
	name := os.Getenv("DOMINION_CPUPROFILE")
	if p.Crowd != nil {
		name = os.Getenv("DOMINION_CROWD_CPUPROFILE")
	}
	if name != "" {
		usr2 := make(chan os.Signal, 1)
		signal.Notify(usr2, syscall.SIGUSR2)
		go profile(name, usr2)
	}
	if p.Crowd != nil {
		g, ctx := errgroup.WithContext(ctx)
		for _, s := range p.Crowd {
			g.Go(func() error { return s.Run(ctx) })
		}
		return g.Wait()
	}
	return p.Overlord.run(ctx)
}

func (p *overlordPart) run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := overlord.Batch(); err != nil {
		return err
	}
	go overlord.RareCollections(ctx)
	cfg := overlord.Config{
		State: p.State, Name: p.Name, Listen: p.Listen, Parent: p.Parent, Pin: p.Pin, Token: p.Token,
		Ready: func(address string) { fmt.Println("ready", address) },
	}
	if p.Autosign != "" {
		cfg.Autosign = []overlord.AutosignRule{{Names: p.Autosign}}
	}
	return overlord.Run(ctx, cfg, log)
}

// profile writes a CPU profile to the file from one signal to the next.
func profile(name string, toggle <-chan os.Signal) {
	for range toggle {
		f, err := os.Create(name)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "fleettest: profile:", err)
			return
		}
		var from, to runtime.MemStats
		runtime.ReadMemStats(&from)
		<-toggle
		pprof.StopCPUProfile()
		f.Close()
		runtime.ReadMemStats(&to)
		fmt.Fprintf(os.Stderr, "fleettest: %d bytes in %d pieces allocated, %d collections, %d bytes live\n",
			to.TotalAlloc-from.TotalAlloc, to.Mallocs-from.Mallocs, to.NumGC-from.NumGC, to.HeapAlloc)
	}
}

// writeHeap writes a heap profile, and says how much memory stacks take.
func writeHeap(name string) {
	f, err := os.Create(name)
	if err == nil {
		err = pprof.WriteHeapProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleettest: profile:", err)
		return
	}
	f.Close()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(os.Stderr, "fleettest: heap in use %d KB of %d KB in spans, stacks %d KB, %d goroutines, runtime %d KB\n", m.HeapAlloc>>10, m.HeapInuse>>10, m.StackInuse>>10,
		runtime.NumGoroutine(), (m.MSpanInuse+m.MCacheInuse+m.GCSys+m.OtherSys+m.BuckHashSys)>>10)
}

// Process is a child that plays a part. It ends with the test.
type Process struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines chan string // of its standard output; closed at its end
	ended chan struct{}
}

// StartOverlord starts an overlord in a process of its own and gives its
// address. listen may be "127.0.0.1:0".
func StartOverlord(t testing.TB, state, listen string) (*Process, string) {
	t.Helper()
	p := start(t, part{Overlord: &overlordPart{State: state, Name: "overlord", Listen: listen}})
	select {
	case line := <-p.lines:
		address, ok := strings.CutPrefix(line, "ready ")
		if !ok {
			t.Fatalf("the overlord's process says %q", line)
		}
		return p, address
	case <-time.After(Patience):
		t.Fatal("the overlord's process is not ready")
	}
	return nil, ""
}

// StartCrowd starts simulated minions in a process of their own: one crowd, or
// some beside each other.
func StartCrowd(t testing.TB, crowds ...Simulation) *Process {
	t.Helper()
	return start(t, part{Crowd: crowds})
}

// command is how a process is started that plays the part.
func (p part) command(env ...string) (*exec.Cmd, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), roleEnv+"="+string(text)), env...)
	return cmd, nil
}

func start(t testing.TB, p part) *Process {
	t.Helper()
	cmd, err := p.command()
	if err != nil {
		t.Fatal(err)
	}
	proc := &Process{t: t, cmd: cmd, lines: make(chan string, 16), ended: make(chan struct{})}
	if p.Crowd != nil {
		// Thousands of agents share a collector that a real one has for itself,
		// and it would shrink all their stacks between orders.
		proc.cmd.Env = append(proc.cmd.Env, "GOGC=800")
	}
	proc.cmd.Stderr = os.Stderr
	proc.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := proc.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := proc.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(proc.ended)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			proc.lines <- sc.Text()
		}
		_ = proc.cmd.Wait() // how it ended is the test's affair
	}()
	t.Cleanup(proc.Kill)
	return proc
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %v: %v", s, err)
	}
}

// Kill ends the process with SIGKILL and waits for its end.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.ended
}

// CPU is the processor time that a process has used, user and system.
func CPU(t testing.TB, pid int) time.Duration {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var sum time.Duration
	for _, name := range tasks {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

// RSS is the resident memory of a process in bytes.
func RSS(t testing.TB, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b))
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

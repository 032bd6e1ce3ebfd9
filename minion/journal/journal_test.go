package journal

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
)

var now = time.UnixMilli(1_790_000_000_000)

func fixed() time.Time { return now }

func open(t testing.TB, dir string, opt Options) *Journal {
	t.Helper()
	if opt.Now == nil {
		opt.Now = fixed
	}
	j, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// reopen opens the journal as a process does that finds what another left.
func reopen(t testing.TB, j *Journal, dir string, opt Options) *Journal {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir, opt)
	t.Cleanup(func() { j.Close() })
	return j
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func receive(t testing.TB, j *Journal) call.JobID {
	t.Helper()
	job := call.NewJobID(now)
	ok(t, j.Receive(job, now.Add(time.Hour), "dc1", "test.touch", now))
	return job
}

func start(t testing.TB, j *Journal) call.JobID {
	t.Helper()
	job := receive(t, j)
	ok(t, j.Start(job))
	return job
}

func result(i int) *fleetpb.Result {
	return &fleetpb.Result{Code: uint32(i % 3), Detail: strings.Repeat("d", i%5), Output: []byte(fmt.Sprintf(`{"n":%d}`, i)), TookUs: uint64(i)}
}

func run(t testing.TB, j *Journal, r *fleetpb.Result) call.JobID {
	t.Helper()
	job := start(t, j)
	ok(t, j.Finish(job, r))
	return job
}

// wantResult compares what is told of a job with what was given.
func wantResult(t testing.TB, j *Journal, job call.JobID, want *fleetpb.Result) {
	t.Helper()
	state, got, err := j.Find(job)
	ok(t, err)
	if state != call.Finished || got.Code != want.Code || got.Detail != want.Detail || !bytes.Equal(got.Output, want.Output) || got.TookUs != want.TookUs {
		t.Fatalf("Find(%s) = %d, %v; want %v", job, state, got, want)
	}
}

func wantState(t testing.TB, j *Journal, job call.JobID, want call.State) {
	t.Helper()
	if got, _, err := j.Find(job); got != want || err != nil {
		t.Fatalf("Find(%s) = %d, %v; want %d", job, got, err, want)
	}
}

func wantCode(t testing.TB, err error, want call.Code) {
	t.Helper()
	if got := call.CodeOf(err); got != want {
		t.Fatalf("%v (%s); want %s", err, got, want)
	}
}

func TestSurvivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := open(t, dir, Options{})
	id := bytes.Clone(j.ID())
	ok(t, j.SetBirth(now.Add(-time.Minute)))
	ok(t, j.SetBirth(now)) // the first word counts
	waits, runs, ended := receive(t, j), start(t, j), run(t, j, result(7))
	wantState(t, j, waits, call.Received)
	wantState(t, j, runs, call.Started)
	wantResult(t, j, ended, result(7))

	j = reopen(t, j, dir, Options{})
	if !bytes.Equal(j.ID(), id) || !j.Birth().Equal(now.Add(-time.Minute)) {
		t.Errorf("id %x, birth %s; want %x, %s", j.ID(), j.Birth(), id, now.Add(-time.Minute))
	}
	wantState(t, j, waits, 0) // it never started, and may come again
	wantResult(t, j, ended, result(7))
	state, r, err := j.Find(runs)
	if state != call.Finished || err != nil || call.Code(r.Code) != call.Unknown || !strings.Contains(r.Detail, "test.touch") {
		t.Errorf("a job that ran: %d, %v, %v; want that it is unknown", state, r, err)
	}
	for _, job := range []call.JobID{runs, ended} {
		wantCode(t, j.Check(job, now.Add(time.Hour), now), call.Repeated)
		wantCode(t, j.Receive(job, now.Add(time.Hour), "dc1", "test.touch", now), call.Repeated)
		if owner, known := j.Owner(job); owner != "dc1" || !known {
			t.Errorf("owner = %q, %t; want dc1", owner, known)
		}
	}
	if got := j.Finished("dc1", 10); len(got) != 2 {
		t.Errorf("Finished = %v; want both", got)
	}
	if got := j.Finished("dc2", 10); len(got) != 0 {
		t.Errorf("Finished of another overlord = %v", got)
	}
	// An overlord's word that it stored them survives too.
	j.Release(runs)
	j.Release(ended)
	j = reopen(t, j, dir, Options{})
	if got := j.Finished("dc1", 10); len(got) != 0 {
		t.Errorf("Finished after Release = %v; want none", got)
	}
	wantResult(t, j, ended, result(7)) // while there is room
	if len(j.Notes()) != 0 {
		t.Errorf("notes = %q", j.Notes())
	}
}

func TestPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := open(t, dir, Options{})
	defer j.Close()
	for name, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, fileName): 0o600} {
		info, err := os.Stat(name)
		ok(t, err)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o; want %o", name, got, want)
		}
	}
}

func TestStatesOnlyMoveForward(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	defer j.Close()
	job := start(t, j)
	wantCode(t, j.Start(job), call.Internal)
	j.Withdraw(job)
	wantState(t, j, job, call.Started)
	j.Release(job) // nothing to store yet
	ok(t, j.Finish(job, result(1)))
	wantCode(t, j.Start(job), call.Internal)
	wantCode(t, j.Finish(job, result(2)), call.Internal)
	wantResult(t, j, job, result(1))
	wantCode(t, j.Start(call.NewJobID(now)), call.Internal)

	waits := receive(t, j)
	j.Withdraw(waits)
	wantState(t, j, waits, 0)
	ok(t, j.Receive(waits, now.Add(time.Hour), "dc1", "test.touch", now))
}

func TestManyShareTheDisk(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{Sync: NewLimiter(1)})
	real, syncs := j.sync, 0
	j.sync = func(f *os.File) error { // one at a time: turn is held
		syncs++
		return real(f)
	}
	const n = 200
	jobs := make([]call.JobID, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			jobs[i] = call.NewJobID(now)
			for _, err := range []error{
				j.Receive(jobs[i], now.Add(time.Hour), "dc1", "test.touch", now), j.Start(jobs[i]), j.Finish(jobs[i], result(i)),
			} {
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d writes shared %d syncs", 2*n, syncs)
	j = reopen(t, j, dir, Options{})
	for i, job := range jobs {
		wantResult(t, j, job, result(i))
	}
}

// Nobody is told of an end that a crash could take back.
func TestEndIsToldWhenItIsDurable(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	defer j.Close()
	job := start(t, j)
	syncing, goOn := make(chan struct{}), make(chan struct{})
	real := j.sync
	j.sync = func(f *os.File) error {
		close(syncing)
		<-goOn
		return real(f)
	}
	done := make(chan error)
	go func() { done <- j.Finish(job, result(4)) }()
	<-syncing
	wantState(t, j, job, call.Started)
	if got := j.Finished("dc1", 9); len(got) != 0 {
		t.Errorf("Finished = %v before it is durable", got)
	}
	close(goOn)
	ok(t, <-done)
	wantResult(t, j, job, result(4))
}

func BenchmarkStartFinish(b *testing.B) {
	j := open(b, b.TempDir(), Options{Entries: 1 << 30})
	defer j.Close()
	b.SetParallelism(32)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			job := run(b, j, result(0))
			j.Release(job)
		}
	})
}

// BenchmarkMemory tells what a full journal costs in memory and on disk.
func BenchmarkMemory(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		dir := b.TempDir()
		j := open(b, dir, Options{})
		j.sync = func(*os.File) error { return nil }
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			run(b, j, result(i))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/job")
		b.ReportMetric(float64(sizes(b, dir))/n, "disk-B/job")
		begun := time.Now()
		if j = reopen(b, j, dir, Options{}); j.Len() != n {
			b.Fatalf("%d jobs; want %d", j.Len(), n)
		}
		b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms-to-open")
	}
}

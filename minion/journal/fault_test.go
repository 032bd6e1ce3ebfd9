package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
)

func content(t testing.TB, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	ok(t, err)
	return b
}

func put(t testing.TB, b []byte) string {
	t.Helper()
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, fileName), b, 0o600))
	return dir
}

// A crash leaves any part of what was written last, and perhaps rubbish after it.
func TestTornAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	first := run(t, j, result(1))
	marks := []int64{j.offset}
	second := start(t, j)
	marks = append(marks, j.offset)
	ok(t, j.Finish(second, result(5)))
	marks = append(marks, j.offset)
	id := bytes.Clone(j.ID())
	ok(t, j.Close())
	whole := content(t, dir)
	for cut := marks[0]; cut <= marks[2]; cut++ {
		for _, tail := range [][]byte{nil, make([]byte, 100), bytes.Repeat([]byte{0xd0}, 30)} {
			dir := put(t, append(bytes.Clone(whole[:cut]), tail...))
			j := open(t, dir, Options{})
			if !bytes.Equal(j.ID(), id) {
				t.Fatalf("cut at %d: another id; notes %q", cut, j.Notes())
			}
			wantResult(t, j, first, result(1))
			state, r, err := j.Find(second)
			ok(t, err)
			switch {
			case cut < marks[1] && state != 0, cut >= marks[1] && state != call.Finished,
				cut >= marks[1] && cut < marks[2] && call.Code(r.Code) != call.Unknown, cut == marks[2] && r.Code != result(5).Code:
				t.Fatalf("cut at %d of %v: state %d, result %v", cut, marks, state, r)
			}
			clean := len(tail) == 0 && (cut == marks[0] || cut == marks[1] || cut == marks[2])
			if clean != (len(j.Notes()) == 0) {
				t.Fatalf("cut at %d of %v: notes %q", cut, marks, j.Notes())
			}
			third := run(t, j, result(8))
			ok(t, j.Close())
			j = open(t, dir, Options{})
			wantResult(t, j, third, result(8))
			ok(t, j.Close())
		}
	}
}

// A last frame with all its bytes and a bit that flipped may have been durable: what
// it began must not begin again when an overlord is told that nobody knows the job.
func TestLastFrameThatDoesNotHold(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	ok(t, j.SetBirth(time.Now().Add(-time.Hour)))
	first := run(t, j, result(1))
	mark := j.offset
	second := start(t, j)
	ok(t, j.Close())
	whole := content(t, dir)
	for at := mark; at < int64(len(whole)); at++ {
		if at >= mark+4 && at < mark+8 {
			continue // its length: the frame looks torn
		}
		b := bytes.Clone(whole)
		b[at] ^= 4
		dir := put(t, b)
		for range 2 { // no restart makes it forget
			j := open(t, dir, Options{})
			wantResult(t, j, first, result(1))
			if state, _, err := j.Find(second); state == 0 && !j.Birth().IsZero() || err != nil {
				t.Fatalf("flipped at %d: job %v is not known (%v), and the journal was born at %s", at, second, err, j.Birth())
			}
			if _, err := os.Stat(filepath.Join(dir, fileName)); err != nil {
				t.Fatal(err)
			}
			ok(t, j.Close())
		}
	}
}

func TestDamageIsSetAside(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	ok(t, j.SetBirth(now))
	at := j.offset
	for i := range 3 {
		run(t, j, result(i))
	}
	id := bytes.Clone(j.ID())
	ok(t, j.Close())
	whole := content(t, dir)
	for _, where := range []int64{0, 10, headerSize - 1, at, at + 5, at + 9, at + frameHeader, at + frameHeader + 30} {
		t.Run(fmt.Sprint(where), func(t *testing.T) {
			bad := bytes.Clone(whole)
			bad[where] ^= 0x10
			dir := put(t, bad)
			j := open(t, dir, Options{})
			defer j.Close()
			if bytes.Equal(j.ID(), id) || !j.Birth().IsZero() || j.Len() != 0 || len(j.Notes()) != 1 {
				t.Errorf("id %x, birth %s, %d jobs, notes %q; want a new journal and a note", j.ID(), j.Birth(), j.Len(), j.Notes())
			}
			kept, err := filepath.Glob(filepath.Join(dir, "damaged-*"))
			if err != nil || len(kept) != 1 {
				t.Fatalf("set aside: %v, %v; want one file", kept, err)
			}
			if b, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(b, bad) {
				t.Errorf("what was set aside changed: %v", err)
			}
			run(t, j, result(1))
		})
	}
	for name, bad := range map[string][]byte{"an empty file": {}, "half a header": whole[:20], "another file": []byte(strings.Repeat("x", 5000))} {
		t.Run(name, func(t *testing.T) {
			j := open(t, put(t, bad), Options{})
			defer j.Close()
			if j.Len() != 0 || len(j.Notes()) != 1 {
				t.Errorf("%d jobs, notes %q", j.Len(), j.Notes())
			}
		})
	}
}

// A result that holds the bytes of a frame does not make a torn end look like damage.
func TestResultThatLooksLikeAFrame(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	run(t, j, result(1))
	frames := content(t, dir)[headerSize:]
	before := j.offset
	job := start(t, j)
	torn := j.offset
	ok(t, j.Finish(job, &fleetpb.Result{Output: bytes.Repeat(frames, 50)}))
	ok(t, j.Close())
	whole := content(t, dir)
	whole[torn] = 0 // the first sector was not written
	j = open(t, put(t, whole), Options{})
	defer j.Close()
	if len(j.Notes()) != 1 || !strings.Contains(j.Notes()[0], "torn") || j.Len() != 2 || before >= torn {
		t.Errorf("%d jobs, notes %q; want that the end was torn", j.Len(), j.Notes())
	}
}

// A disk without room takes nothing, and later it does.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	before, runs := run(t, j, result(1)), start(t, j)
	waits := receive(t, j)
	real := j.file
	readOnly, err := os.Open(filepath.Join(dir, fileName)) // as good as no room for who writes
	ok(t, err)
	defer readOnly.Close()
	j.file = readOnly
	wantCode(t, j.Finish(runs, result(2)), call.Unavailable)
	wantResult(t, j, runs, result(2))
	wantResult(t, j, before, result(1))
	wantCode(t, j.Start(waits), call.Unavailable)
	wantState(t, j, waits, call.Received)
	j.file = real
	j.broken = nil
	ok(t, j.Start(waits))
	ok(t, j.Finish(waits, result(3)))
	j = reopen(t, j, dir, Options{})
	for i, job := range []call.JobID{before, runs, waits} {
		wantResult(t, j, job, result(i+1))
	}
}

func TestSyncErrorStopsIt(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	before := run(t, j, result(1))
	runs := start(t, j)
	real := j.sync
	j.sync = func(*os.File) error { return errors.New("I/O error") }
	wantCode(t, j.Finish(runs, result(2)), call.Unavailable)
	j.sync = real
	// What the disk has is not known any more, so nothing more is believed of it.
	wantResult(t, j, runs, result(2)) // from memory
	wantResult(t, j, before, result(1))
	wantCode(t, j.Receive(call.NewJobID(now), now.Add(time.Hour), "dc1", "test.touch", now), call.Unavailable)
	wantCode(t, j.Ready(), call.Unavailable)
	wantCode(t, j.Close(), call.Unavailable)
	j = open(t, dir, Options{})
	defer j.Close()
	wantResult(t, j, before, result(1))
	wantCode(t, j.Check(runs, now.Add(time.Hour), now), call.Repeated)
}

// sizes gives the bytes of a journal's files.
func sizes(t testing.TB, dir string) (n int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	ok(t, err)
	for _, e := range entries {
		info, err := e.Info()
		ok(t, err)
		n += info.Size()
	}
	return n
}

func TestWrittenAnew(t *testing.T) {
	dir := t.TempDir()
	clock := now
	opt := Options{Now: func() time.Time { return clock }}
	j := open(t, dir, opt)
	ok(t, j.SetBirth(now))
	id := bytes.Clone(j.ID())
	big := func(i int) *fleetpb.Result {
		return &fleetpb.Result{Code: uint32(i), Output: bytes.Repeat([]byte{byte(i)}, 40_000)}
	}
	kept, runs := run(t, j, big(1)), start(t, j)
	stored := run(t, j, result(4))
	j.Release(stored)
	var old []call.JobID
	for i := range 60 {
		job := call.NewJobID(now)
		ok(t, j.Receive(job, now.Add(time.Minute), "dc2", "test.touch", now))
		ok(t, j.Start(job))
		ok(t, j.Finish(job, big(i)))
		j.Release(job)
		old = append(old, job)
	}
	if n := sizes(t, dir); n > 40_000*20 {
		t.Errorf("%d bytes on disk; want it written anew", n)
	}
	clock = now.Add(30 * time.Minute)
	wantCode(t, j.Check(old[0], now.Add(time.Minute), clock), call.Expired)
	ok(t, j.Finish(runs, big(2)))
	for range 2 {
		wantResult(t, j, kept, big(1))
		wantResult(t, j, runs, big(2))
		wantState(t, j, stored, call.Finished)
		wantState(t, j, old[3], 0)
		j = reopen(t, j, dir, opt)
		if !bytes.Equal(j.ID(), id) || !j.Birth().Equal(now) || len(j.Notes()) != 0 {
			t.Errorf("id %x, birth %s, notes %q", j.ID(), j.Birth(), j.Notes())
		}
		if got := j.Finished("dc1", 9); len(got) != 2 {
			t.Errorf("Finished = %v; want two", got)
		}
		// It had to grow by as much as it had for the next time.
		for i := range 30 {
			j.Release(run(t, j, big(i)))
		}
	}
	// A clock set back does not make a forgotten job acceptable, in another process either.
	clock = now
	j = reopen(t, j, dir, opt)
	wantCode(t, j.Receive(old[0], now.Add(time.Minute), "dc1", "test.touch", clock), call.Expired)
}

func TestWrittenAnewWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	ok(t, os.Mkdir(filepath.Join(dir, fileNew), 0o700)) // it cannot be made
	big := &fleetpb.Result{Output: make([]byte, 100_000)}
	var jobs []call.JobID
	for range 20 {
		job := run(t, j, big)
		j.Release(job)
		jobs = append(jobs, job)
	}
	for _, job := range jobs {
		wantResult(t, j, job, big)
	}
	ok(t, os.Remove(filepath.Join(dir, fileNew)))
	for range 20 {
		j.Release(run(t, j, big))
	}
	if n := sizes(t, dir); n > 2_000_000 {
		t.Errorf("%d bytes on disk; want it written anew once there is room", n)
	}
	j = reopen(t, j, dir, Options{})
	for _, job := range jobs {
		wantCode(t, j.Check(job, now.Add(time.Hour), now), call.Repeated)
	}
}

func TestBounds(t *testing.T) {
	t.Run("entries", func(t *testing.T) {
		j := open(t, t.TempDir(), Options{Entries: 2})
		defer j.Close()
		run(t, j, result(1))
		job := receive(t, j)
		another := call.NewJobID(now)
		wantCode(t, j.Receive(another, now.Add(time.Hour), "dc1", "test.touch", now), call.Busy)
		j.Withdraw(job)
		ok(t, j.Receive(another, now.Add(time.Hour), "dc1", "test.touch", now))
	})
	t.Run("results", func(t *testing.T) {
		j := open(t, t.TempDir(), Options{Results: 1000})
		defer j.Close()
		a, b, late := start(t, j), start(t, j), receive(t, j)
		for _, job := range []call.JobID{a, b} { // what runs may end
			ok(t, j.Finish(job, &fleetpb.Result{Output: make([]byte, 900)}))
		}
		wantCode(t, j.Start(late), call.Busy)
		wantCode(t, j.Receive(call.NewJobID(now), now.Add(time.Hour), "dc1", "test.touch", now), call.Busy)
		j.Release(a)
		ok(t, j.Start(late))
	})
	t.Run("an output that no method makes", func(t *testing.T) {
		dir := t.TempDir()
		j := open(t, dir, Options{})
		job := run(t, j, &fleetpb.Result{Output: make([]byte, maxOutput+1)})
		j = reopen(t, j, dir, Options{})
		if _, r, err := j.Find(job); err != nil || call.Code(r.Code) != call.Internal || len(r.Output) != 0 {
			t.Errorf("Find = %v, %v; want that it is too large", r, err)
		}
	})
	t.Run("the largest output", func(t *testing.T) {
		dir := t.TempDir()
		j := open(t, dir, Options{})
		want := &fleetpb.Result{Output: bytes.Repeat([]byte("x"), maxOutput), Detail: strings.Repeat("d", maxDetail)}
		job := run(t, j, want)
		j = reopen(t, j, dir, Options{})
		wantResult(t, j, job, want)
	})
}

// Nobody who asks late is told that a job never ran.
func TestHowLongAJobIsRemembered(t *testing.T) {
	clock := now
	j := open(t, t.TempDir(), Options{Now: func() time.Time { return clock }})
	defer j.Close()
	runs, unheard, heard, waits := start(t, j), run(t, j, result(1)), run(t, j, result(2)), receive(t, j)
	j.Release(heard)
	at := func(d time.Duration) {
		clock = now.Add(d)
		_ = j.Check(call.NewJobID(clock), clock.Add(time.Hour), clock)
	}
	at(time.Hour + Keep - time.Minute)
	wantState(t, j, heard, call.Finished)
	at(time.Hour + Keep + 2*time.Minute)
	wantState(t, j, heard, 0)
	wantState(t, j, unheard, call.Finished)
	at(KeepUnheard - time.Minute)
	wantState(t, j, unheard, call.Finished)
	at(KeepUnheard + 2*time.Minute)
	wantState(t, j, unheard, 0)
	wantState(t, j, runs, call.Started)
	wantState(t, j, waits, call.Received)
	ok(t, j.Finish(runs, result(3)))
	at(KeepUnheard + time.Hour)
	wantState(t, j, runs, call.Finished)
	j.Release(runs)
	at(KeepUnheard + 2*time.Hour)
	wantState(t, j, runs, 0)
}

const childDir = "DOMINION_JOURNAL_CHILD"

// child appends until it is killed, and says what is on the disk.
func child(dir string) {
	j, err := Open(dir, Options{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		go func() {
			job := call.NewJobID(time.Now())
			r := &fleetpb.Result{Output: []byte(job.String()), Code: uint32(i % 2)}
			if j.Receive(job, time.Now().Add(time.Hour), "dc1", "test.touch", time.Now()) != nil || j.Start(job) != nil {
				return
			}
			fmt.Println("started", job)
			if j.Finish(job, r) == nil {
				fmt.Println("finished", job)
			}
			if i%3 == 0 {
				j.Release(job)
			}
		}()
		time.Sleep(50 * time.Microsecond) // in a process of its own: it sets the pace
	}
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// What a process was told is on the disk is there after kill -9.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		said := kill(t, dir, 20+rand.IntN(100))
		j, err := Open(dir, Options{})
		ok(t, err)
		for job, how := range said {
			state, r, err := j.Find(job)
			ok(t, err)
			if state != call.Finished || how == "finished" && string(r.Output) != job.String() {
				t.Errorf("round %d: %s was %s and is %d, %v", round, job, how, state, r)
			}
			wantCode(t, j.Check(job, time.Now().Add(time.Hour), time.Now()), call.Repeated)
		}
		for _, note := range j.Notes() {
			if !strings.Contains(note, "torn") {
				t.Errorf("round %d: %s", round, note)
			}
		}
		t.Logf("round %d: %d jobs were told of; %d are in the journal; notes %q", round, len(said), j.Len(), j.Notes())
		ok(t, j.Close())
	}
}

// kill runs a child until it has said so many lines, kills it, and gives all it said.
func kill(t *testing.T, dir string, lines int) map[call.JobID]string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	said := make(map[call.JobID]string)
	in := bufio.NewScanner(out)
	for n := 0; in.Scan(); n++ {
		how, id, _ := strings.Cut(in.Text(), " ")
		job, err := call.ParseJobID(id)
		if err != nil {
			break // the last line was cut by the kill
		}
		if said[job] != "finished" {
			said[job] = how
		}
		if n == lines {
			ok(t, cmd.Process.Kill())
		}
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // killed
	return said
}

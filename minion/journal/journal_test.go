package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

const overlord = "dc1"

func open(t testing.TB, dir string, opt Options) *Journal {
	t.Helper()
	j, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() }) // a second Close says that it is closed
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// receive claims a new job that expires in an hour.
func receive(t testing.TB, j *Journal) call.JobID {
	t.Helper()
	now := j.opt.Now()
	id := call.NewJobID(now)
	must(t, j.Receive(id, now.Add(time.Hour), overlord, now))
	return id
}

func done(text string) *fleetpb.Result {
	return &fleetpb.Result{Output: []byte(fmt.Sprintf("%q", text)), TookUs: 7}
}

func want(t testing.TB, j *Journal, id call.JobID, state call.State, r *fleetpb.Result) {
	t.Helper()
	e, ok := j.Look(id)
	if !ok || e.State != state || e.Overlord != overlord {
		t.Errorf("job %s: %+v, %v; want state %d of %s", id, e, ok, state, overlord)
		return
	}
	if r == nil {
		return
	}
	got, err := j.Result(id)
	must(t, err)
	if !proto.Equal(got, r) {
		t.Errorf("job %s: %v; want %v", id, got, r)
	}
}

// abandoned copies what the journal has on disk, as a crash would leave it.
func abandoned(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	must(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

func TestEveryStateAfterCrash(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	must(t, j.SetBirth(time.UnixMilli(1_700_000_000_123)))
	must(t, j.SetBirth(time.UnixMilli(5))) // the first counts
	received, begun, ended, taken, never := receive(t, j), receive(t, j), receive(t, j), receive(t, j), receive(t, j)
	must(t, j.Start(begun))
	for _, id := range []call.JobID{ended, taken} {
		must(t, j.Start(id))
		must(t, j.Finish(id, done("x")))
	}
	j.Release(taken)
	must(t, j.Finish(never, &fleetpb.Result{Code: uint32(call.Cancelled)})) // withdrawn while it waited
	want(t, j, begun, call.Started, nil)

	again := open(t, abandoned(t, dir), Options{})
	if again.ID() != j.ID() || !again.Birth().Equal(time.UnixMilli(1_700_000_000_123)) {
		t.Errorf("id %x born %s; want %x and the first birth", again.ID(), again.Birth(), j.ID())
	}
	if _, ok := again.Look(received); ok {
		t.Error("a job that never started is known after the crash; it may be ordered again")
	}
	want(t, again, begun, call.Finished, unknown())
	want(t, again, ended, call.Finished, done("x"))
	want(t, again, taken, call.Finished, done("x"))
	want(t, again, never, call.Finished, &fleetpb.Result{Code: uint32(call.Cancelled)})
	waiting := again.Unacknowledged(func(o string) bool { return o == overlord }, 10)
	if len(waiting) != 3 {
		t.Errorf("%d results wait; want 3", len(waiting))
	}
	if n := len(again.Unacknowledged(func(string) bool { return false }, 10)); n != 0 {
		t.Errorf("%d results wait for nobody", n)
	}
	for _, id := range []call.JobID{begun, ended, taken, never} {
		if err := again.Check(id, time.Now().Add(time.Hour), time.Now()); call.CodeOf(err) != call.Repeated {
			t.Errorf("job %s: %v; want repeated", id, err)
		}
		if err := again.Start(id); err == nil {
			t.Errorf("job %s starts again", id)
		}
		if err := again.Finish(id, done("y")); err == nil {
			t.Errorf("job %s finishes again", id)
		}
	}
	must(t, again.Receive(received, time.Now().Add(time.Hour), overlord, time.Now()))
	must(t, again.Start(received))
}

// The end of the file is cut at every byte of the last two frames: what was
// durable before is there, and the journal goes on.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	a, b := receive(t, j), receive(t, j)
	must(t, j.Start(a))
	must(t, j.Finish(a, done("whole")))
	whole := j.offset
	must(t, j.Start(b))
	must(t, j.Finish(b, done("torn")))
	for cut := whole; cut < j.offset; cut++ {
		copied := abandoned(t, dir)
		must(t, os.Truncate(filepath.Join(copied, fileJournal), cut))
		again := open(t, copied, Options{})
		if again.ID() != j.ID() || (cut > whole) != (len(again.Notes()) == 1) && cut != j.offset && len(again.Notes()) > 1 {
			t.Fatalf("cut at %d: id %x, notes %q", cut, again.ID(), again.Notes())
		}
		want(t, again, a, call.Finished, done("whole"))
		c := receive(t, again)
		must(t, again.Start(c))
		must(t, again.Close())
		want(t, open(t, copied, Options{}), c, call.Finished, unknown())
	}
}

// A changed byte with good frames after it is no crash's doing.
func TestDamageIsSetAside(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	must(t, j.SetBirth(time.Now()))
	var ids []call.JobID
	for range 3 {
		id := receive(t, j)
		must(t, j.Start(id))
		ids = append(ids, id)
	}
	content, err := os.ReadFile(filepath.Join(dir, fileJournal))
	must(t, err)
	for _, at := range []int{0, 10, headerSize + 20, len(content) / 2} {
		copied := t.TempDir()
		bad := bytes.Clone(content)
		bad[at] ^= 1
		must(t, os.WriteFile(filepath.Join(copied, fileJournal), bad, 0o600))
		again := open(t, copied, Options{})
		if again.ID() == j.ID() || !again.Birth().IsZero() || len(again.Notes()) != 1 {
			t.Errorf("byte %d: id %x born %s, notes %q; want a new journal", at, again.ID(), again.Birth(), again.Notes())
		}
		if _, ok := again.Look(ids[0]); ok {
			t.Errorf("byte %d: a job of the damaged journal is known", at)
		}
		if aside, _ := filepath.Glob(filepath.Join(copied, "damaged-*")); len(aside) != 1 {
			t.Errorf("byte %d: %q set aside", at, aside)
		}
		must(t, again.SetBirth(time.Now()))
		must(t, again.Start(receive(t, again)))
	}
}

func TestBounds(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	j := open(t, t.TempDir(), Options{MaxEntries: 3, MaxResults: 1000, Now: clock})
	big := done(strings.Repeat("x", 600))
	a, b := receive(t, j), receive(t, j)
	for _, id := range []call.JobID{a, b} {
		must(t, j.Start(id))
		must(t, j.Finish(id, big))
	}
	other := call.NewJobID(now)
	if err := j.Receive(other, now.Add(time.Hour), overlord, now); call.CodeOf(err) != call.Busy || !strings.Contains(err.Error(), "stored yet") {
		t.Errorf("with too many results: %v", err)
	}
	j.Release(a) // makes room: results that an overlord has go first
	r, err := j.Result(a)
	must(t, err)
	if len(r.Output) > 0 || !strings.Contains(r.Detail, "not kept") {
		t.Errorf("a dropped result: %v", r)
	}
	want(t, j, b, call.Finished, big)
	c := receive(t, j)
	if err := j.Check(other, now.Add(time.Hour), now); call.CodeOf(err) != call.Busy || !strings.Contains(err.Error(), "3 jobs") {
		t.Errorf("with too many jobs: %v", err)
	}
	// Nothing is forgotten before its time, and what runs not even then.
	must(t, j.Start(c))
	now = now.Add(time.Hour + Keep - time.Minute)
	if err := j.Check(a, now, now); call.CodeOf(err) != call.Repeated {
		t.Errorf("before its time: %v", err)
	}
	now = now.Add(3 * time.Minute)
	must(t, j.Check(other, now.Add(time.Hour), now))
	if err := j.Check(a, now.Add(-2*time.Hour), now); call.CodeOf(err) != call.Expired {
		t.Errorf("an order older than what was forgotten: %v", err)
	}
	want(t, j, c, call.Started, nil)
	must(t, j.Finish(c, done("late")))
	now = now.Add(Keep - 2*time.Minute)
	must(t, j.Check(other, now.Add(time.Hour), now))
	want(t, j, c, call.Finished, done("late"))
	now = now.Add(4 * time.Minute)
	must(t, j.Check(other, now.Add(time.Hour), now))
	if _, ok := j.Look(c); ok {
		t.Error("a job is kept for ever")
	}
	if j.results != 0 || j.unstored != 0 || len(j.entries) != 0 || len(j.byEnd) != 0 {
		t.Errorf("an empty journal counts %d and %d bytes, %d entries, %d minutes", j.results, j.unstored, len(j.entries), len(j.byEnd))
	}
}

func TestInMemory(t *testing.T) {
	j := InMemory(Options{MaxResults: 1000})
	must(t, j.SetBirth(time.UnixMilli(3)))
	must(t, j.SetBirth(time.UnixMilli(4)))
	if !j.Birth().Equal(time.UnixMilli(3)) {
		t.Errorf("birth %s", j.Birth())
	}
	a, b, c := receive(t, j), receive(t, j), receive(t, j)
	must(t, j.Start(a))
	want(t, j, a, call.Started, nil)
	must(t, j.Finish(a, done(strings.Repeat("x", 600))))
	must(t, j.Finish(b, done(strings.Repeat("y", 600)))) // there is no room for both
	want(t, j, a, call.Finished, done(strings.Repeat("x", 600)))
	want(t, j, b, call.Finished, dropped(call.OK))
	j.Release(a)
	want(t, j, a, call.Finished, dropped(call.OK))
	must(t, j.Finish(c, &fleetpb.Result{Code: uint32(call.Failed), Detail: "no"}))
	want(t, j, c, call.Finished, &fleetpb.Result{Code: uint32(call.Failed), Detail: "no"})
	j.Release(b)
	j.Release(c)
	want(t, j, c, call.Finished, dropped(call.Failed))
	if j.results != 0 || j.unstored != 0 || j.unwritten != nil {
		t.Errorf("%d and %d bytes, %d results are held", j.results, j.unstored, len(j.unwritten))
	}
	if err := j.Check(a, time.Now().Add(time.Hour), time.Now()); call.CodeOf(err) != call.Repeated {
		t.Error(err)
	}
	must(t, j.Close())
}

// A file of which little counts is written anew, with everything that does.
func TestRewrite(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	j := open(t, dir, Options{MaxResults: 100_000, Now: func() time.Time { return now }})
	must(t, j.SetBirth(now))
	running, waiting := receive(t, j), receive(t, j)
	must(t, j.Start(running))
	kept := receive(t, j)
	must(t, j.Start(kept))
	must(t, j.Finish(kept, done("kept")))
	rounds := 0
	for largest := int64(0); j.offset >= largest; rounds++ {
		largest = j.offset
		id := receive(t, j)
		must(t, j.Start(id))
		must(t, j.Finish(id, done(strings.Repeat("x", 20_000))))
		j.Release(id)
		if rounds > 1000 {
			t.Fatalf("after %d jobs of 20 kB, and 100 kB kept, the file has %d bytes", rounds, j.offset)
		}
	}
	must(t, j.Start(waiting))
	for _, at := range []string{dir, abandoned(t, dir)} {
		if at != dir {
			j = open(t, at, Options{MaxResults: 100_000, Now: func() time.Time { return now }})
			want(t, j, running, call.Finished, unknown())
			want(t, j, waiting, call.Finished, unknown())
		}
		if !j.Birth().Equal(now.Truncate(time.Millisecond)) {
			t.Errorf("birth %s; want %s", j.Birth(), now)
		}
		want(t, j, kept, call.Finished, done("kept"))
		if n := len(j.entries); n != rounds+3 {
			t.Errorf("%d jobs are known; want %d", n, rounds+3)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{Syncing: make(chan struct{}, 1), MaxResults: 1 << 20})
	const n = 200
	var wg sync.WaitGroup
	ids := make([]call.JobID, n)
	for i := range n {
		ids[i] = receive(t, j)
		wg.Go(func() {
			if err := j.Start(ids[i]); err != nil {
				t.Error(err)
			}
			if err := j.Finish(ids[i], done(strings.Repeat("y", 10_000+i))); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				j.Release(ids[i])
			}
			if _, err := j.Result(ids[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again := open(t, abandoned(t, dir), Options{})
	for i, id := range ids {
		if i%2 == 1 {
			want(t, again, id, call.Finished, done(strings.Repeat("y", 10_000+i)))
		}
	}
}

// TestMain runs a process that starts jobs until it is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DOMINION_JOURNAL_APPEND"); dir != "" {
		j, err := Open(dir, Options{})
		for err == nil {
			now := time.Now()
			id := call.NewJobID(now)
			if err = j.Receive(id, now.Add(time.Hour), overlord, now); err == nil {
				err = j.Start(id)
			}
			fmt.Println(id)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// What Start returned for is there after SIGKILL.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	for range 5 {
		var out bytes.Buffer
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env, cmd.Stdout = append(os.Environ(), "DOMINION_JOURNAL_APPEND="+dir), &out
		must(t, cmd.Start())
		time.AfterFunc(time.Duration(20+rand.IntN(100))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // it was killed
		j := open(t, dir, Options{})
		lines := strings.Split(out.String(), "\n")
		for _, line := range lines[:len(lines)-1] {
			id, err := call.ParseJobID(line)
			must(t, err)
			want(t, j, id, call.Finished, unknown())
		}
		must(t, j.Close())
	}
}

func TestFsyncErrorStopsIt(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	id := receive(t, j)
	must(t, j.file.Close()) // what fdatasync and write say of a lost disk
	if err := j.Start(id); call.CodeOf(err) != call.Unavailable {
		t.Errorf("start: %v", err)
	}
	if err := j.Start(id); call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "restart the agent") {
		t.Errorf("start again: %v", err)
	}
	if err := j.Finish(id, done("x")); err == nil {
		t.Error("a result is said to be durable")
	}
	want(t, j, id, call.Finished, done("x")) // from memory
	now := time.Now()
	if err := j.Receive(call.NewJobID(now), now.Add(time.Hour), overlord, now); call.CodeOf(err) != call.Unavailable {
		t.Errorf("receive: %v", err)
	}
}

// Whatever is in the file, opening it neither panics nor loses a whole frame
// before the damage.
func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	j := open(f, dir, Options{})
	a, b := receive(f, j), receive(f, j)
	must(f, j.Start(a))
	must(f, j.Finish(a, done("seed")))
	must(f, j.Start(b))
	j.Release(a)
	must(f, j.Close())
	content, err := os.ReadFile(filepath.Join(dir, fileJournal))
	must(f, err)
	f.Add(content)
	f.Add(content[:headerSize])
	f.Add(content[:len(content)-3])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, fileJournal), b, 0o600))
		j, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for id, e := range j.entries {
			if e.state == uint8(call.Finished) {
				if _, err := j.Result(id); err != nil && !errors.Is(err, ErrFile) {
					t.Fatal(err)
				}
			}
		}
		now := time.Now()
		id := call.NewJobID(now)
		if err := j.Receive(id, now.Add(time.Hour), overlord, now); err == nil {
			must(t, j.Start(id))
		}
		must(t, j.Close())
		again, err := Open(dir, Options{})
		must(t, err)
		if again.ID() != j.ID() {
			t.Fatal("what was good is damaged now")
		}
		must(t, again.Close())
	})
}

// A frame that is accepted encodes to the same bytes.
func FuzzFrame(f *testing.F) {
	frame := beginFrame(nil)
	id := call.NewJobID(time.Now())
	for _, r := range []record{
		{kind: birth, at: time.Now()},
		{kind: floor, at: time.UnixMilli(-5)},
		{kind: started, job: id, expiry: time.Now(), overlord: "dc1"},
		{kind: finished, job: id, expiry: time.Now(), until: time.Now(), overlord: "", result: []byte("\x08\x01")},
		{kind: acknowledged, job: id},
	} {
		frame = appendRecord(frame, &r)
	}
	endFrame(frame)
	f.Add(frame)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= frameHeader && len(b) <= maxPayload {
			copy(b, frameMagic)
			endFrame(b) // so that the checksum does not keep the fuzzer out
		}
		records, n, err := parseFrame(b)
		if err != nil {
			if !errors.Is(err, ErrFile) {
				t.Fatal(err)
			}
			return
		}
		again := beginFrame(nil)
		for _, p := range records {
			again = appendRecord(again, &p.record)
		}
		endFrame(again)
		if !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x became %x", b[:n], again)
		}
	})
}

func BenchmarkStartFinish(b *testing.B) {
	j := open(b, b.TempDir(), Options{MaxEntries: 1 << 30})
	for b.Loop() {
		id := receive(b, j)
		must(b, j.Start(id))
		must(b, j.Finish(id, done("x")))
		j.Release(id)
	}
}

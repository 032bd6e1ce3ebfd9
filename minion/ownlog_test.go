package minion

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/minion/journal"
)

// fullDisk is an own log that cannot be written until there is room.
type fullDisk struct {
	mu      sync.Mutex
	room    bool
	records []*auditpb.MinionRecord
}

func (d *fullDisk) Append(r *auditpb.MinionRecord) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.room {
		return 0, fmt.Errorf("append to audit log: %w", call.Errorf(call.Unavailable, "disk full"))
	}
	d.records = append(d.records, r)
	return int64(len(d.records)), nil
}

func (d *fullDisk) set(room bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = room
}

// codes gives what is on the log.
func (d *fullDisk) codes() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []call.Code
	for _, r := range d.records {
		out = append(out, call.Code(r.Code))
	}
	return fmt.Sprint(out)
}

func (d *fullDisk) want(t *testing.T, codes ...call.Code) {
	t.Helper()
	if got, want := d.codes(), fmt.Sprint(codes); got != want {
		t.Errorf("the log holds %s; want %s", got, want)
	}
}

// wantUnrecorded checks the refusal of a call that could not be recorded.
func wantUnrecorded(t *testing.T, r *fleetpb.Result, cause string) {
	t.Helper()
	wantCode(t, r, call.Unavailable)
	for _, part := range []string{"this machine's own audit log cannot be written: ", cause, "; nothing was run"} {
		if !strings.Contains(r.Detail, part) {
			t.Errorf("detail = %q; want it to say %q", r.Detail, part)
		}
	}
	if r.TookUs != 0 || len(r.Output) != 0 {
		t.Errorf("a refused call took %d µs and gave %q", r.TookUs, r.Output)
	}
}

// What cannot be recorded is not run; once there is room, nothing is missing.
func TestUnwritableLogStopsCalls(t *testing.T) {
	f, g, disk := newFleet(t), newGate(), &fullDisk{}
	a := newAgent(t, f, gated(t, g, func(opt *Options) { opt.Own = disk }))
	p := attach(t, a, newOverlord(t, f).listen())
	ping := func() *fleetpb.Call { return f.call(t, draft{method: "test.ping"}) }
	runs := p.start(f.call(t, draft{method: "gate.wait"}))
	<-g.begun
	// The call that finds out has run, and so has what ran beside it.
	c := ping()
	wantCode(t, p.do(c), call.OK)
	close(g.open)
	wantCode(t, runs.wait(), call.OK)
	for range 3 {
		wantUnrecorded(t, p.do(f.call(t, draft{method: "gate.wait"})), "disk full")
	}
	select {
	case <-g.begun:
		t.Error("a method ran that could not be recorded")
	default:
	}
	wantCode(t, p.do(c), call.Repeated) // refused as before, and not recorded
	alive := &pending{p: p, id: 1 << 40, result: make(chan *fleetpb.Result, 1), lost: make(chan error, 1)}
	if err := p.s.StartPing(alive.id, alive); err != nil {
		t.Fatal(err)
	}
	wantCode(t, alive.wait(), call.OK)
	disk.want(t)

	disk.set(true)
	wantCode(t, p.do(ping()), call.OK)
	wantCode(t, p.do(c), call.Repeated)
	disk.want(t, call.OK, call.OK, call.OK, call.Repeated)
	if d := disk.records[3].Detail; !strings.Contains(d, "(4 refusals before it are not recorded)") {
		t.Errorf("detail = %q; want the number of refusals that are missing", d)
	}
	wantCode(t, p.do(ping()), call.OK)
	disk.want(t, call.OK, call.OK, call.OK, call.Repeated, call.OK) // one record for each call
}

func TestUnwrittenRefusalStopsCalls(t *testing.T) {
	f, disk := newFleet(t), &fullDisk{}
	p := attach(t, newAgent(t, f, func(opt *Options) { opt.Own = disk }), newOverlord(t, f).listen())
	bad := &fleetpb.Call{Method: "test.ping"}
	wantCode(t, p.do(bad), call.BadOrder)
	wantCode(t, p.do(bad), call.BadOrder)
	wantUnrecorded(t, p.do(f.call(t, draft{method: "test.ping"})), "disk full")
	disk.set(true)
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	disk.want(t, call.BadOrder, call.OK)
}

// What an agent that ends still has to record is recorded if there is room now.
func TestUnwrittenRecordsAtTheEnd(t *testing.T) {
	f := newFleet(t)
	for _, tt := range []struct {
		name string
		room bool
		want []call.Code
	}{{"room", true, []call.Code{call.OK}}, {"none", false, nil}} {
		t.Run(tt.name, func(t *testing.T) {
			disk := &fullDisk{}
			a := newAgent(t, f, func(opt *Options) { opt.Own = disk })
			wantCode(t, attach(t, a, newOverlord(t, f).listen()).do(f.call(t, draft{method: "test.ping"})), call.OK)
			disk.set(tt.room)
			if err := (&daemon{agent: a, log: testLogger(t)}).close(); err != nil {
				t.Fatal(err)
			}
			disk.want(t, tt.want...)
		})
	}
}

// A record that no log takes is a fault of ours and no reason to stop.
func TestRecordThatNoLogTakes(t *testing.T) {
	own := must[*audit.FileLog](t)(audit.OpenFileLog(t.TempDir(), audit.FileLogOptions{}))
	t.Cleanup(func() { own.Close() })
	k := recorder{log: own, tell: testLogger(t)}
	large := &auditpb.MinionRecord{Detail: strings.Repeat("x", audit.MaxMinionRecord)}
	if err := k.ran(large); err == nil {
		t.Error("ran = nil; want an error")
	}
	if err := k.refused(large, 0); err == nil {
		t.Error("refused = nil; want an error")
	}
	if err := k.ready(); err != nil {
		t.Error(err)
	}
}

func TestFullDiskUnderTheOwnLog(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIPPED, full disk under a minion's own log: a tmpfs cannot be mounted here (%v)", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	own := must[*audit.FileLog](t)(audit.OpenFileLog(filepath.Join(dir, "log"), audit.FileLogOptions{}))
	t.Cleanup(func() { own.Close() })
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 100<<10), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	f := newFleet(t)
	p := attach(t, newAgent(t, f, func(opt *Options) { opt.Own = own }), newOverlord(t, f).listen())
	answered, last := int64(0), (*fleetpb.Result)(nil)
	for range 100 { // what is left of the file's last page takes some records
		if last = p.do(f.call(t, draft{method: "test.ping"})); call.Code(last.Code) != call.OK {
			break
		}
		answered++
	}
	wantUnrecorded(t, last, "no space left on device")
	if own.Size() != answered-1 {
		t.Errorf("%d records of %d calls that ran; want all but the last", own.Size(), answered)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	if own.Size() != answered+1 {
		t.Errorf("%d records of %d calls that ran", own.Size(), answered+1)
	}
	if err := own.Verify(); err != nil {
		t.Error(err)
	}
}

// A call that ran when the agent was killed is on the machine's own log, once,
// however often it starts again.
func TestLostCallIsRecordedOnce(t *testing.T) {
	dir := t.TempDir()
	j := must[*journal.Journal](t)(journal.Open(dir, journal.Options{}))
	job, ended := call.NewJobID(time.Now()), call.NewJobID(time.Now())
	expiry := time.Now().Add(time.Hour)
	for _, id := range []call.JobID{job, ended} {
		if err := errors.Join(j.Receive(id, expiry, "dc1", "ledger.line", time.Now()), j.Start(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Finish(ended, &fleetpb.Result{}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	own := new(fullDisk)
	f := newFleet(t)
	for _, tc := range []struct {
		name string
		want int
	}{{"the log cannot be written", 0}, {"first", 1}, {"second", 1}} {
		j := must[*journal.Journal](t)(journal.Open(dir, journal.Options{}))
		a := newAgent(t, f, func(o *Options) { o.Journal, o.Own = j, own })
		if err := a.own.ready(); (err != nil) == own.room {
			t.Errorf("%s: ready to run calls: %v", tc.name, err)
		}
		if len(own.records) != tc.want {
			t.Fatalf("%s: %d records; want %d", tc.name, len(own.records), tc.want)
		}
		if state, r, err := j.Find(job); state != call.Finished || err != nil || call.Code(r.Code) != call.Unknown {
			t.Errorf("%s: the job is %v, %v, %v; want finished as unknown", tc.name, state, r, err)
		}
		if got := j.Finished("dc1", 10); len(got) != 2 {
			t.Errorf("%s: %d jobs wait for the overlord; want 2", tc.name, len(got))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		own.room = true
	}
	r := own.records[0]
	if call.JobID(r.Job) != job || r.Method != "ledger.line" || r.Overlord != "dc1" || call.Code(r.Code) != call.Unknown || r.Detail == "" {
		t.Errorf("record %v", r)
	}
}

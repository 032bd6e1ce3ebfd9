package minion

import (
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
)

var bookNow = time.UnixMilli(1_790_000_000_000)

func TestBookRunsAJobOnce(t *testing.T) {
	var b memoryBook
	job, expiry := call.NewJobID(bookNow), bookNow.Add(time.Hour)
	if err := b.Receive(job, expiry, "dc1", "test.touch", bookNow); err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Duration{0, time.Hour, time.Hour + bookKeep} {
		if err := b.Check(job, expiry, bookNow.Add(at)); call.CodeOf(err) != call.Repeated {
			t.Errorf("Check after %s = %v; want repeated", at, err)
		}
		if err := b.Receive(job, expiry, "dc1", "test.touch", bookNow.Add(at)); call.CodeOf(err) != call.Repeated {
			t.Errorf("Receive after %s = %v; want repeated", at, err)
		}
	}
}

func TestBookStatesOnlyMoveForward(t *testing.T) {
	var b memoryBook
	job := call.NewJobID(bookNow)
	if err := b.Receive(job, bookNow.Add(time.Hour), "dc1", "test.touch", bookNow); err != nil {
		t.Fatal(err)
	}
	if s, _, _ := b.Find(job); s != call.Received {
		t.Errorf("state = %d; want Received", s)
	}
	if err := b.Start(job); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(job); err == nil {
		t.Error("a second Start is accepted")
	}
	r := &fleetpb.Result{Output: []byte("{}")}
	if err := b.Finish(job, r); err != nil {
		t.Fatal(err)
	}
	if s, got, _ := b.Find(job); s != call.Finished || got != r {
		t.Errorf("state = %d with result %v; want Finished with %v", s, got, r)
	}
	if err := b.Finish(job, r); err == nil {
		t.Error("a second Finish is accepted")
	}
	b.Release(job)
	if s, got, _ := b.Find(job); s != call.Finished || call.Code(got.GetCode()) != call.Unknown {
		t.Errorf("after Release: state = %d with result %v; want Finished, and that the result is gone", s, got)
	}
	if b.held != 0 {
		t.Errorf("%d bytes of results are held after Release; want 0", b.held)
	}
}

func TestBookForgetsWhatCouldNotBeAccepted(t *testing.T) {
	var b memoryBook
	old, young := call.NewJobID(bookNow), call.NewJobID(bookNow)
	for job, life := range map[call.JobID]time.Duration{old: time.Minute, young: time.Hour} {
		if err := b.Receive(job, bookNow.Add(life), "dc1", "test.touch", bookNow); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Finish(old, &fleetpb.Result{Output: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	later := bookNow.Add(time.Minute + bookKeep + 2*time.Minute)
	if err := b.Check(call.NewJobID(later), later.Add(time.Hour), later); err != nil {
		t.Fatal(err)
	}
	if len(b.jobs) != 1 || len(b.byEnd) != 1 || b.held != 0 {
		t.Errorf("%d jobs in %d minutes, %d bytes; want the young one only", len(b.jobs), len(b.byEnd), b.held)
	}
	// A clock set back does not make a forgotten order acceptable again.
	if err := b.Receive(old, bookNow.Add(time.Minute), "dc1", "test.touch", bookNow); call.CodeOf(err) != call.Expired {
		t.Errorf("the forgotten job is answered with %v; want expired", err)
	}
	if err := b.Check(young, bookNow.Add(time.Hour), later); call.CodeOf(err) != call.Repeated {
		t.Errorf("the young job is answered with %v; want repeated", err)
	}
}

func TestBookFullIsBusyAndForgetsNothing(t *testing.T) {
	b := memoryBook{maxJobs: 2}
	jobs := []call.JobID{call.NewJobID(bookNow), call.NewJobID(bookNow), call.NewJobID(bookNow)}
	for _, job := range jobs[:2] {
		if err := b.Receive(job, bookNow.Add(time.Hour), "dc1", "test.touch", bookNow); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Receive(jobs[2], bookNow.Add(time.Hour), "dc1", "test.touch", bookNow); call.CodeOf(err) != call.Busy {
		t.Errorf("a third job = %v; want busy", err)
	}
	for _, job := range jobs[:2] {
		if err := b.Check(job, bookNow.Add(time.Hour), bookNow); call.CodeOf(err) != call.Repeated {
			t.Errorf("job %s = %v; want repeated", job, err)
		}
	}
	for _, job := range jobs[:2] {
		if err := b.Finish(job, new(fleetpb.Result)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Receive(jobs[2], bookNow.Add(3*time.Hour), "dc1", "test.touch", bookNow.Add(2*time.Hour)); err != nil {
		t.Errorf("when the others are forgotten: %v", err)
	}
}

func TestBookHoldsBoundedResults(t *testing.T) {
	var b memoryBook
	big := make([]byte, bookResults/2+1)
	for i := range 3 {
		job := call.NewJobID(bookNow)
		if err := b.Receive(job, bookNow.Add(time.Hour), "dc1", "test.touch", bookNow); err != nil {
			t.Fatal(err)
		}
		if err := b.Finish(job, &fleetpb.Result{Output: big}); err != nil {
			t.Fatal(err)
		}
		if b.held > bookResults {
			t.Errorf("after %d results %d bytes are held; at most %d", i+1, b.held, bookResults)
		}
	}
}

func BenchmarkBookReceive(b *testing.B) {
	var book memoryBook
	expiry := bookNow.Add(time.Hour)
	for b.Loop() {
		if err := book.Receive(call.NewJobID(bookNow), expiry, "dc1", "test.touch", bookNow); err != nil && call.CodeOf(err) != call.Busy {
			b.Fatal(err)
		}
	}
}

func TestSecondSendersAreBounded(t *testing.T) {
	var b books
	first := call.NewJobID(bookNow)
	b.came(first, "dc2")
	for range maxAlso - 1 {
		b.came(call.NewJobID(bookNow), "dc2")
	}
	b.came(first, "dc2") // known already
	if !b.broughtBy(first, "dc2") || b.broughtBy(first, "dc1") {
		t.Error("the first job is not known as dc2's alone")
	}
	b.came(call.NewJobID(bookNow), "dc2")
	if b.broughtBy(first, "dc2") || len(b.also) != maxAlso {
		t.Errorf("%d second senders are kept, the oldest: %v; want %d", len(b.also), b.broughtBy(first, "dc2"), maxAlso)
	}
}

package job_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dominion/call"
	"dominion/job"
)

// A call that went out once has used up its id, also when sending it again
// failed: every time after that is another one.
func TestSentAgainIsSaidAgain(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails error // of the second attempt
		then  func(r *job.Run)
	}{
		{"the session was lost", call.Errorf(call.NoSession, "gone"), func(r *job.Run) { r.Arrived("m") }},
		{"the session was full", call.Errorf(call.Busy, "full"), func(*job.Run) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := request(t, time.Minute, nil, "m")
				req.Wait = true
				w := &forgetful{fails: tt.fails}
				w.run = newRun(t, req)
				done := make(chan error)
				go func() { done <- w.run.Do(t.Context(), w, new(shelf)) }()
				time.Sleep(time.Second)
				w.run.Lost("m") // it is asked, never heard of it, and is sent it again, which fails
				time.Sleep(time.Second)
				tt.then(w.run)
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if want := []bool{false, true, true}; !slices.Equal(w.again, want) {
					t.Errorf("sent with again = %v; want %v", w.again, want)
				}
			})
		})
	}
}

// forgetful is a machine that loses its first call, cannot be sent the second,
// and answers the third.
type forgetful struct {
	noHops
	run   *job.Run
	fails error
	mu    sync.Mutex
	again []bool
}

func (f *forgetful) Send(m string, again bool, _, _ []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.again = append(f.again, again)
	switch len(f.again) {
	case 2:
		return f.fails
	case 3:
		go f.run.Deliver(call.Result{Machine: m})
	}
	return nil
}

func (f *forgetful) Ask(m string, number uint64, _ bool) error {
	go f.run.Told(m, job.Answer{Number: number, State: job.None})
	return nil
}
func (f *forgetful) Cancel(string)   {}
func (f *forgetful) Stored([]string) {}

package job_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
)

// twoWays gives top with dc1 (a1, c1) and dc2 (b1, c1): c1 is one machine.
func twoWays() (top level, dc1, dc2 *subOverlord, reach *fleetpb.Branch) {
	top = newLevel("m1")
	dc1, dc2 = top.below("dc1", "a1", "c1"), top.below("dc2", "b1")
	dc2.mu = dc1.mu
	dc2.of["c1"] = dc1.of["c1"]
	return top, dc1, dc2, branch("top", []string{"m1"}, branch("dc1", []string{"a1", "c1"}), branch("dc2", []string{"b1", "c1"}))
}

// misses makes a sub-overlord have no session with c1, whoever else has one.
func (s *subOverlord) misses() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of["c1"] = &machine{away: true}
}

// gets gives it that session.
func (s *subOverlord) gets(c1 *machine) {
	s.mu.Lock()
	s.of["c1"] = c1
	s.mu.Unlock()
	s.smu.Lock()
	defer s.smu.Unlock()
	for _, r := range s.jobs {
		r.Arrived("c1")
	}
}

// A machine that one sub-overlord may have given the call is not said never to have
// begun it because another cannot reach it.
func TestDelegatedOtherWayFails(t *testing.T) {
	for _, test := range []struct {
		name string
		back bool // the first sub-overlord is, by then
		code call.Code
		why  string
	}{
		{"away", false, call.SessionLost, "unreachable behind dc1: the connection ended before the answer; whether the call ran is not known"},
		{"back", true, call.OK, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				top, dc1, dc2, reach := twoWays()
				dc2.misses()
				c1 := dc1.of["c1"]
				dc1.with("c1", func(m *machine) { m.runs = 10 * time.Second })
				dc2.with("b1", func(m *machine) { m.runs = 20 * time.Second })
				_, _, wait := delegate(t, &top, time.Minute, reach, nil, "a1", "b1", "c1", "m1")
				time.Sleep(time.Second)
				if test.back { // for a moment it was not there
					dc2.smu.Lock()
					dc2.pause = 5 * time.Second
					dc2.smu.Unlock()
				}
				dc1.down()
				if test.back {
					time.Sleep(time.Second)
					dc1.back()
				}
				got := wait()
				wantCode(t, got, call.OK, "", "a1", "b1", "m1")
				wantCode(t, got, test.code, test.why, "c1")
				time.Sleep(time.Minute)
				dc1.finished.Wait()
				if c1.started != 1 {
					t.Errorf("c1 ran %d times", c1.started)
				}
			})
		})
	}
}

// Cancelled when its call has just been moved to one that had not begun: the first
// one may have.
func TestDelegatedOtherWayCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, dc2, reach := twoWays()
		dc2.misses()
		dc1.with("c1", func(m *machine) { m.runs = time.Hour })
		dc2.with("b1", func(m *machine) { m.runs = time.Hour })
		r, _, wait := delegate(t, &top, 0, reach, func(r *job.Request) { r.Wait = true }, "a1", "b1", "c1", "m1")
		time.Sleep(time.Second)
		dc1.down()
		time.Sleep(time.Second)
		r.Cancel()
		got := wait()
		wantCode(t, got, call.Cancelled, "", "b1")
		wantCode(t, got, call.SessionLost, "may have begun it", "c1")
		time.Sleep(2 * time.Hour)
		dc1.finished.Wait()
	})
}

// What a sub-overlord cannot reach that does not carry the machine's call any more
// says nothing of it.
func TestDelegatedFormerWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, dc2, reach := twoWays()
		dc1.with("a1", func(m *machine) { m.runs = 10 * time.Second })
		dc1.with("c1", func(m *machine) { m.runs = 15 * time.Second })
		_, _, wait := delegate(t, &top, time.Minute, reach, nil, "a1", "b1", "c1", "m1")
		time.Sleep(time.Second)
		dc1.down()
		dc1.smu.Lock()
		dc1.jobs = nil // its store is another
		dc1.smu.Unlock()
		dc1.misses()
		time.Sleep(2 * time.Second)
		dc1.back()
		wantCode(t, wait(), call.OK, "", "a1", "b1", "c1", "m1")
		dc1.finished.Wait()
		dc2.finished.Wait()
		dc2.runsOnce(t)
	})
}

// Where calls wait, each way is taken again when the others fail.
func TestDelegatedWaysInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, dc2, reach := twoWays()
		c1 := dc1.of["c1"]
		dc1.misses()
		dc2.misses()
		begun := time.Now()
		_, _, wait := delegate(t, &top, time.Minute, reach, func(r *job.Request) { r.Wait = true }, "a1", "b1", "c1", "m1")
		time.Sleep(time.Second)
		dc1.down() // dc2 is to do it
		time.Sleep(10 * time.Second)
		dc1.back()
		time.Sleep(10 * time.Second)
		dc2.down() // for ever: dc1 is to do it
		time.Sleep(10 * time.Second)
		dc1.gets(c1)
		wantCode(t, wait(), call.OK, "", "a1", "b1", "c1", "m1")
		if d := time.Since(begun); d > time.Minute {
			t.Errorf("it took %v", d)
		}
		dc2.gets(c1)
		dc1.finished.Wait()
		dc2.finished.Wait()
		dc1.runsOnce(t)
	})
}

// Who is told to have no session with a sub-overlord is not given the call by it
// when the job is taken up again for others.
func TestDelegatedResumedSpares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, dc2, reach := twoWays()
		names := []string{"a1", "b1", "c1", "m1"}
		req := request(t, time.Minute, nil, names...)
		req.Reach = reach
		r := newRun(t, req)
		dc1.down()
		dc2.down()
		s := new(shelf)
		kept := job.Group{Names: []string{"a1"}, Status: call.Unreachable, Code: call.NoSession, Detail: "unreachable behind dc1: dc1 is off", Took: make([]time.Duration, 1)}
		s.groups = append(s.groups, kept)
		r.Restore(kept)
		r.Resume(false)
		top.names, top.machines.run = names, r
		done := make(chan error, 1)
		go func() { done <- r.Do(t.Context(), &top, s) }()
		time.Sleep(10 * time.Second)
		dc1.back()
		time.Sleep(10 * time.Second)
		dc2.back()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		dc1.finished.Wait()
		if a1 := dc1.of["a1"]; a1.started != 0 {
			t.Errorf("a1 ran %d times, and was told to have no session", a1.started)
		}
		wantCode(t, account(t, r, s), call.OK, "", "b1", "c1", "m1")
	})
}

// A machine that comes back to a sub-overlord is there by an order of its own: that
// the first one has ended there says nothing of it.
func TestDelegatedBackAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, dc2, reach := twoWays()
		c1 := dc1.of["c1"]
		dc1.with("a1", func(m *machine) { m.runs = 10 * time.Second })
		dc1.with("c1", func(m *machine) { m.runs = 30 * time.Second })
		_, _, wait := delegate(t, &top, time.Minute, reach, nil, "a1", "b1", "c1", "m1")
		time.Sleep(time.Second)
		dc1.down()
		dc1.smu.Lock()
		dc1.jobs = nil
		dc1.smu.Unlock()
		dc1.misses()
		time.Sleep(time.Second)
		dc1.back() // and says that it has no session with c1
		time.Sleep(2 * time.Second)
		dc1.gets(c1)
		dc2.down()
		wantCode(t, wait(), call.OK, "", "a1", "b1", "c1", "m1")
		dc1.finished.Wait()
		dc2.finished.Wait()
		dc1.runsOnce(t)
	})
}

// The first sub-overlord, when it is back, gets the order for those, too, that went
// another way meanwhile, and may begin with it.
func TestDelegatedFirstComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, dc2, reach := twoWays()
		dc1.with("a1", func(m *machine) { m.runs = time.Hour })
		dc1.with("c1", func(m *machine) { m.runs = time.Hour })
		c1 := dc1.of["c1"]
		dc2.misses()
		dc1.down()
		r, _, wait := delegate(t, &top, 0, reach, func(r *job.Request) { r.Wait = true }, "a1", "b1", "c1", "m1")
		time.Sleep(3 * time.Second)
		dc1.back()
		time.Sleep(3 * time.Second)
		r.Cancel()
		got := wait()["c1"]
		if c1.started != 1 {
			t.Errorf("c1 ran %d times; want it reached through dc1", c1.started)
		}
		if got.Code == call.NoSession || strings.HasPrefix(got.Detail, "cancelled before") {
			t.Errorf("c1: %v %q; it had begun", got.Code, got.Detail)
		}
		time.Sleep(2 * time.Hour)
		dc1.finished.Wait()
		dc2.finished.Wait()
	})
}

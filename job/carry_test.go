package job_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/job"
)

func TestDelegated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, rack1, reach, names := twoLevels()
		r, s, wait := delegate(t, top, time.Minute, reach, nil, names...)
		wantCode(t, wait(), call.OK, "", names...)
		if dc1.calls != 1 || rack1.calls != 1 {
			t.Errorf("dc1 got the order %d times, rack1 %d times", dc1.calls, rack1.calls)
		}
		if len(s.groups) > 2 {
			t.Errorf("%d groups; want equal results folded", len(s.groups))
		}
		for _, hop := range []*subOverlord{dc1, rack1} {
			hop.finished.Wait()
			hop.runsOnce(t)
		}
		got := dc1.got[0].TimeoutMs
		if got > 60_000-20 || rack1.got[0].TimeoutMs > got-20 {
			t.Errorf("time-outs on the way down: 60000, %d, %d ms; each hop has 20 ms less", got, rack1.got[0].TimeoutMs)
		}
		if snap := r.Watch(0); snap.Reason != "" {
			t.Errorf("the job closed with %q", snap.Reason)
		}
	})
}

func TestDelegatedHopAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, _, rack1, reach, names := twoLevels()
		rack1.down()
		_, _, wait := delegate(t, top, time.Minute, reach, nil, names...)
		got := wait()
		wantCode(t, got, call.OK, "", "m1", "a1", "a2")
		wantCode(t, got, call.NoSession, "unreachable behind rack1: rack1 is off", "b1")

		top, dc1, _, reach, names := twoLevels()
		dc1.down()
		_, _, wait = delegate(t, top, time.Minute, reach, nil, names...)
		got = wait()
		wantCode(t, got, call.OK, "", "m1")
		wantCode(t, got, call.NoSession, "unreachable behind dc1: dc1 is off", "a1", "a2", "b1")
	})
}

func TestDelegatedHopDies(t *testing.T) {
	for _, test := range []struct {
		name  string
		back  time.Duration // 0: never
		wait  bool
		code  call.Code
		takes time.Duration // at most
	}{
		{"it comes back", 20 * time.Second, false, call.OK, 45 * time.Second},
		{"it stays away", 0, false, call.SessionLost, 45 * time.Second},
		{"it comes back late, and the order waits", 20 * time.Minute, true, call.OK, 21 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				top, dc1, rack1, reach, names := twoLevels()
				dc1.with("a1", func(m *machine) { m.runs = 10 * time.Second })
				rack1.with("b1", func(m *machine) { m.runs = 15 * time.Second })
				begun := time.Now()
				_, _, wait := delegate(t, top, time.Minute, reach, func(r *job.Request) { r.Wait = test.wait }, names...)
				time.Sleep(5 * time.Second)
				dc1.down()
				if test.back > 0 {
					time.Sleep(test.back)
					dc1.back()
				}
				got := wait()
				wantCode(t, got, call.OK, "", "m1", "a2")
				wantCode(t, got, test.code, "", "a1", "b1")
				if test.code != call.OK {
					wantCode(t, got, test.code, "unreachable behind dc1: ", "a1", "b1")
				}
				if d := time.Since(begun); d > test.takes {
					t.Errorf("it took %v; want at most %v", d, test.takes)
				}
				dc1.finished.Wait()
				dc1.runsOnce(t)
				rack1.runsOnce(t)
			})
		})
	}
}

// An overlord that goes on with a job does not know what the one before it had
// passed on: a sub-overlord that is away at first may well have it.
func TestDelegatedResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, _, reach, names := twoLevels()
		req := request(t, time.Minute, nil, names...)
		req.Reach = reach
		r := newRun(t, req)
		r.Resume(false)
		top.names, top.machines.run = names, r
		dc1.down()
		s, done := new(shelf), make(chan error, 1)
		go func() { done <- r.Do(t.Context(), top, s) }()
		time.Sleep(10 * time.Second)
		dc1.back()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wantCode(t, account(t, r, s), call.OK, "", names...)
		dc1.finished.Wait()
		dc1.runsOnce(t)
	})
}

// Two ways lead to c1 and c2; the first one, by name, fails.
func TestDelegatedOtherWay(t *testing.T) {
	for _, when := range []string{"before", "in the middle", "at the hop"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				top := newLevel("m1")
				shared := []string{"c1", "c2"}
				dc1, dc2 := top.below("dc1", "a1", "c1", "c2"), top.below("dc2", "b1")
				dc2.mu = dc1.mu
				for _, n := range shared { // one machine with two overlords
					dc2.of[n] = dc1.of[n]
				}
				reach := branch("top", []string{"m1"}, branch("dc1", []string{"a1", "c1", "c2"}), branch("dc2", []string{"b1", "c1", "c2"}))
				switch when {
				case "before":
					dc1.down()
				case "in the middle":
					for _, n := range shared {
						dc1.with(n, func(m *machine) { m.deaf = true })
					}
				case "at the hop":
					dc1.of["c1"], dc1.of["c2"] = &machine{away: true}, &machine{away: true}
				}
				_, _, wait := delegate(t, &top, time.Minute, reach, nil, "a1", "b1", "c1", "c2", "m1")
				if when == "in the middle" {
					time.Sleep(time.Second)
					for _, n := range shared {
						dc1.with(n, func(m *machine) { m.deaf = false })
					}
					dc1.down()
				}
				got := wait()
				wantCode(t, got, call.OK, "", "b1", "c1", "c2", "m1")
				if when == "before" {
					wantCode(t, got, call.NoSession, "unreachable behind dc1", "a1")
				}
				dc1.finished.Wait()
				dc2.runsOnce(t)
				if len(dc2.got) < 2 {
					t.Fatalf("dc2 got the order %d times; want one for its own and one for the others", len(dc2.got))
				}
			})
		})
	}
}

func TestDelegatedDirectFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top := newLevel("c1", "c2")
		dc1 := top.below("dc1", "c2")
		top.with("c2", func(m *machine) { m.away = true })
		reach := branch("top", []string{"c1", "c2"}, branch("dc1", []string{"c1", "c2"}))
		_, _, wait := delegate(t, &top, time.Minute, reach, nil, "c1", "c2")
		wantCode(t, wait(), call.OK, "", "c1", "c2")
		if len(dc1.got) != 1 || dc1.got[0].Reach.Machines != "c2" {
			t.Errorf("dc1 was sent %v; want c2 alone, which has no session with the top", dc1.got)
		}
	})
}

func TestDelegatedLiars(t *testing.T) {
	for _, test := range []struct {
		name string
		liar func(g job.Group) []job.Group
		code call.Code
		why  string
	}{
		{"answers for a machine that it was not sent", func(g job.Group) []job.Group {
			g.Names = append(slices.Clone(g.Names), "m1", "z9")
			return []job.Group{g}
		}, call.OK, "overlord/dc1 answered for machines that it was not sent, which was dropped: m1,z9"},
		{"drops results", func(job.Group) []job.Group { return nil }, call.NoAnswer, ""},
		{"repeats results", func(g job.Group) []job.Group { return []job.Group{g, g, g} }, call.OK, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				top, dc1, _, reach, names := twoLevels()
				top.with("m1", func(m *machine) { m.runs = 3 * time.Second })
				dc1.liar = test.liar
				r, _, wait := delegate(t, top, time.Minute, reach, nil, names...)
				got := wait()
				wantCode(t, got, call.OK, "", "m1")
				if string(got["m1"].Output) != `{"ok":true}` {
					t.Errorf("m1's result is %s; want its own", got["m1"].Output)
				}
				wantCode(t, got, test.code, "", "a1", "a2", "b1")
				if test.code != call.OK {
					wantCode(t, got, test.code, "unreachable behind dc1: it gave no result", "a1", "a2", "b1")
				}
				if snap := r.Watch(0); snap.Reason != test.why {
					t.Errorf("closed with %q; want %q", snap.Reason, test.why)
				}
			})
		})
	}
}

func TestDelegatedTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, rack1, reach, names := twoLevels()
		rack1.with("b1", func(m *machine) { m.deaf = true })
		begun := time.Now()
		_, _, wait := delegate(t, top, 5*time.Second, reach, nil, names...)
		got := wait()
		wantCode(t, got, call.OK, "", "a1", "a2", "m1")
		wantCode(t, got, call.NoAnswer, "no answer within 5s", "b1")
		if strings.Contains(got["b1"].Detail, "behind") {
			t.Errorf("b1: %q; it was late, not its overlord", got["b1"].Detail)
		}
		if d := time.Since(begun); d > 5*time.Second {
			t.Errorf("it took %v", d)
		}
		dc1.finished.Wait()
	})
}

func TestDelegatedCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, rack1, reach, names := twoLevels()
		for _, w := range []*machines{top.machines, dc1.machines, rack1.machines} {
			for n := range w.of {
				w.with(n, func(m *machine) { m.runs = time.Hour })
			}
		}
		r, _, wait := delegate(t, top, 0, reach, nil, names...)
		time.Sleep(time.Second)
		r.Cancel()
		begun := time.Now()
		wantCode(t, wait(), call.Cancelled, "", names...)
		if d := time.Since(begun); d > 2*time.Second {
			t.Errorf("it took %v", d)
		}
		time.Sleep(2 * time.Hour) // until the methods have ended
	})
}

// Cancelled while the sub-overlord is away: one that had the order says so when it
// is back, and one that had not is not asked.
func TestDelegatedCancelAway(t *testing.T) {
	for _, had := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			top, dc1, _, reach, names := twoLevels()
			for n := range dc1.of {
				dc1.with(n, func(m *machine) { m.runs = time.Hour })
			}
			if !had {
				dc1.down()
			}
			r, _, wait := delegate(t, top, 0, reach, func(r *job.Request) { r.Wait = true }, names...)
			time.Sleep(time.Second)
			dc1.down()
			time.Sleep(time.Second)
			r.Cancel()
			if had {
				time.Sleep(10 * time.Second)
				dc1.back()
			}
			got := wait()
			wantCode(t, got, call.Cancelled, "", "a1", "a2")
			time.Sleep(2 * time.Hour) // until the methods have ended
			if had {
				dc1.finished.Wait()
			}
		})
	}
}

// Cancelled while the sub-overlord is away, and its machines come back later than it
// does: it awaits them, and is awaited.
func TestDelegatedCancelBothAway(t *testing.T) {
	for _, late := range []time.Duration{10 * time.Second, 25 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			top, dc1, _, reach, names := twoLevels()
			for n := range dc1.of {
				dc1.with(n, func(m *machine) { m.runs = time.Hour })
			}
			r, _, wait := delegate(t, top, 0, reach, func(r *job.Request) { r.Wait = true }, names...)
			time.Sleep(time.Second)
			dc1.down()
			dc1.with("a1", func(m *machine) { m.away = true })
			dc1.only().Lost("a1")
			time.Sleep(time.Second)
			r.Cancel()
			begun := time.Now()
			time.Sleep(time.Second)
			dc1.back()
			go func() {
				time.Sleep(late)
				dc1.with("a1", func(m *machine) { m.away = false })
				dc1.only().Arrived("a1")
			}()
			got := wait()
			if late < time.Hour {
				wantCode(t, got, call.Cancelled, "", "a1", "a2")
			} else {
				wantCode(t, got, call.SessionLost, "", "a1")
			}
			if d := time.Since(begun); d > returnGrace+5*time.Second {
				t.Errorf("it took %v", d)
			}
			time.Sleep(2 * time.Hour) // until the methods have ended
			dc1.finished.Wait()
		})
	}
}

func TestDelegatedRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, _, reach, names := twoLevels()
		dc1.refuse = call.Errorf(call.Denied, "policy")
		_, _, wait := delegate(t, top, time.Minute, reach, nil, names...)
		got := wait()
		wantCode(t, got, call.OK, "", "m1")
		wantCode(t, got, call.Denied, "dc1: policy", "a1", "a2", "b1")
	})
}

// One that refuses for now is asked again for a while, not for ever.
func TestDelegatedUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, _, reach, names := twoLevels()
		dc1.refuse = call.Errorf(call.Unavailable, "the disk is full")
		begun := time.Now()
		_, _, wait := delegate(t, top, 0, reach, nil, names...)
		wantCode(t, wait(), call.Unavailable, "unreachable behind dc1: the disk is full", "a1", "a2", "b1")
		if d := time.Since(begun); d < returnGrace || d > 2*returnGrace {
			t.Errorf("it was tried for %v; want about %v", d, returnGrace)
		}

		top, dc1, _, reach, names = twoLevels()
		dc1.refuse = call.Errorf(call.Unavailable, "the disk is full")
		_, _, wait = delegate(t, top, 0, reach, nil, names...)
		time.Sleep(12 * time.Second)
		dc1.smu.Lock()
		dc1.refuse = nil
		dc1.smu.Unlock()
		wantCode(t, wait(), call.OK, "", names...)
		dc1.finished.Wait()
	})
}

// One that loses its session, or says so, whenever it is sent the order is not sent
// it as fast as that goes.
func TestDelegatedLosesEveryTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, _, reach, names := twoLevels()
		dc1.refuse = call.Errorf(call.SessionLost, "it fell")
		_, _, wait := delegate(t, top, 10*time.Second, reach, nil, names...)
		got := wait()
		wantCode(t, got, call.OK, "", "m1")
		wantCode(t, got, call.SessionLost, "unreachable behind dc1: ", "a1", "a2", "b1")
		if dc1.calls > 11 {
			t.Errorf("it was sent the order %d times in 10 seconds", dc1.calls)
		}
	})
}

// One that has given all results and does not say so keeps a job with live output
// open as long as some of that comes.
func TestDelegatedEndless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, _, reach, names := twoLevels()
		dc1.endless = true
		r, _, wait := delegate(t, top, 0, reach, func(r *job.Request) { r.Stream = true }, names...)
		begun := time.Now()
		passed := r.Flow()
		time.Sleep(time.Minute) // the reader is slow
		passed()
		wantCode(t, wait(), call.OK, "", names...)
		if d := time.Since(begun) - time.Minute; d < 5*time.Second || d > 15*time.Second {
			t.Errorf("it took %v after the last output; want about 10s", d)
		}
	})
}

// What is to be kept of the ways follows from the number of machines.
func TestReachIsBounded(t *testing.T) {
	for name, change := range map[string]func(reach *fleetpb.Branch){
		"wide": func(reach *fleetpb.Branch) {
			for n := range 300 {
				reach.Below = append(reach.Below, branch(fmt.Sprintf("hop-%d", n), []string{"a1"}))
			}
		},
		"empty": func(reach *fleetpb.Branch) {
			for n := range 300 {
				reach.Below[0].Below = append(reach.Below[0].Below, branch(fmt.Sprintf("hop-%d", n), nil))
			}
		},
		"deep": func(reach *fleetpb.Branch) {
			for at, n := reach.Below[0], 0; n < call.MaxHops; n++ {
				at.Below = []*fleetpb.Branch{branch(fmt.Sprintf("hop-%d", n), []string{"a1"})}
				at = at.Below[0]
			}
		},
		"in a circle": func(reach *fleetpb.Branch) {
			reach.Below[0].Below = []*fleetpb.Branch{branch("dc2", []string{"a1"}, branch("dc1", []string{"a1"}))}
		},
		"back to itself": func(reach *fleetpb.Branch) { reach.Below[0].Below = []*fleetpb.Branch{branch("top", []string{"a1"})} },
		"back up":        func(reach *fleetpb.Branch) { reach.Below[0].Below = []*fleetpb.Branch{branch("above", []string{"a1"})} },
	} {
		req := request(t, time.Minute, nil, "a1", "m1")
		req.Reach, req.Via = branch("top", []string{"m1"}, branch("dc1", []string{"a1"})), []string{"above"}
		if _, err := job.NewPlan(req); err != nil {
			t.Fatal(err)
		}
		change(req.Reach)
		if _, err := job.NewPlan(req); call.CodeOf(err) != call.Invalid {
			t.Errorf("%s: %v; want it refused", name, err)
		}
	}
}

// A sub-overlord that a machine is reached through, or could be, is not foreign to it.
func TestLeads(t *testing.T) {
	req := request(t, time.Minute, nil, "a1", "c1", "m1")
	req.Reach = branch("top", []string{"m1"}, branch("dc1", []string{"a1", "c1"}), branch("dc2", []string{"c1"}))
	r := newRun(t, req)
	for machine, hops := range map[string]string{"a1": "dc1", "c1": "dc1,dc2", "m1": "", "z9": ""} {
		for _, hop := range []string{"dc1", "dc2", "dc3", ""} {
			if got := r.Leads(machine, hop); got != (hop != "" && strings.Contains(hops, hop)) {
				t.Errorf("%s leads to %s: %v", hop, machine, got)
			}
		}
	}
}

// What is no answer is not awaited any longer.
func TestDelegatedNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, _, reach, names := twoLevels()
		dc1.refuse = call.Errorf(call.NoAnswer, "it cannot be read")
		_, _, wait := delegate(t, top, 0, reach, nil, names...)
		wantCode(t, wait(), call.NoAnswer, "unreachable behind dc1: it cannot be read", "a1", "a2", "b1")
		if dc1.calls != 1 {
			t.Errorf("it was sent the order %d times; want once", dc1.calls)
		}
	})
}

// A sub-overlord whose store was lost begins anew, and numbers its groups anew.
func TestDelegatedHopForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, rack1, reach, names := twoLevels()
		rack1.with("b1", func(m *machine) { m.runs = 10 * time.Second })
		_, _, wait := delegate(t, top, time.Minute, reach, nil, names...)
		time.Sleep(5 * time.Second) // a1 and a2 have answered
		dc1.down()
		dc1.smu.Lock()
		dc1.jobs = nil
		dc1.smu.Unlock()
		time.Sleep(time.Second)
		dc1.back()
		wantCode(t, wait(), call.OK, "", names...)
		dc1.finished.Wait()
		rack1.finished.Wait()
	})
}

func TestDelegatedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, _, reach, names := twoLevels()
		dc1.down()
		_, _, wait := delegate(t, top, time.Minute, reach, func(r *job.Request) { r.Wait = true }, names...)
		time.Sleep(10 * time.Minute)
		dc1.back()
		wantCode(t, wait(), call.OK, "", names...)
		dc1.finished.Wait()
	})
}

// A machine that the map knows no way to is told of at once, and one that is not
// in the order cannot be reached.
func TestDelegatedNoWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, _, _, reach, names := twoLevels()
		_, _, wait := delegate(t, top, time.Minute, reach, nil, append(names, "x1")...)
		wantCode(t, wait(), call.UnknownName, "the map knows no way to it", "x1")
	})
	req := request(t, time.Minute, nil, "a1", "m1")
	_, _, _, reach, _ := twoLevels()
	req.Reach = reach
	if _, err := job.NewPlan(req); call.CodeOf(err) != call.BadOrder {
		t.Errorf("a way to a machine outside the order: %v", err)
	}
}

// One that says that it stops, and is gone when the order is withdrawn, is reported as
// gone, not with the last that it said.
func TestDelegatedStopsAndIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top, dc1, _, reach, names := twoLevels()
		for n := range dc1.of {
			dc1.with(n, func(m *machine) { m.runs = time.Hour })
		}
		dc1.refuse = call.Errorf(call.Unavailable, "the overlord stops")
		r, _, wait := delegate(t, top, 0, reach, nil, names...)
		time.Sleep(time.Second)
		dc1.down()
		r.Cancel()
		wantCode(t, wait(), call.SessionLost, "unreachable behind dc1: ", "a1", "a2", "b1")
	})
}

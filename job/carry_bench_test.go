package job_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/job"
	"dominion/target"
)

// hopsAtOnce answers for all machines of a hop in one group.
type hopsAtOnce struct {
	noMachines
	plan   *job.Plan
	folded map[string]string
	took   []uint64
}

type noMachines struct{}

func (noMachines) Send(string, bool, []byte, []byte) error { return nil }
func (noMachines) Cancel(string)                           {}
func (noMachines) Ask(string, uint64, bool) error          { return nil }
func (noMachines) Stored([]string)                         {}

func (h *hopsAtOnce) Arrival(string) <-chan struct{} { return nil }

func (h *hopsAtOnce) Delegate(_ context.Context, hop string, _ *fleetpb.Delegate, _ <-chan struct{}, take func(job.Told)) error {
	at, _, err := h.plan.Find(h.folded[hop])
	take(job.Told{At: at, Output: []byte(`{"ok":true}`), Took: h.took[:len(at)]})
	return err
}

// BenchmarkDelegated is the plan and the accounting of an order to 5,000 machines
// behind 10 sub-overlords: a part of what a leaf costs the overlord at the top.
func BenchmarkDelegated(b *testing.B) {
	const hops, each = 10, 500
	h := &hopsAtOnce{folded: make(map[string]string), took: make([]uint64, each)}
	reach := &fleetpb.Branch{Name: "top"}
	var all []string
	for i := range hops {
		hop := fmt.Sprintf("dc%02d", i)
		var names []string
		for k := range each {
			names = append(names, fmt.Sprintf("%s-m%04d", hop, k))
		}
		all, h.folded[hop] = append(all, names...), target.Fold(names)
		reach.Below = append(reach.Below, &fleetpb.Branch{Name: hop, Machines: h.folded[hop]})
	}
	req := request(b, time.Minute, nil, all...)
	req.Reach = reach
	b.ReportAllocs()
	for b.Loop() {
		p, err := job.NewPlan(req)
		if err != nil {
			b.Fatal(err)
		}
		h.plan = p
		r := job.NewRun(p, new(job.Budget), slog.New(slog.DiscardHandler))
		if err := r.Do(b.Context(), h, new(shelf)); err != nil {
			b.Fatal(err)
		}
		if c := r.Watch(0).Counts; c.Answered != hops*each {
			b.Fatal(c)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*hops*each), "ns/leaf")
}

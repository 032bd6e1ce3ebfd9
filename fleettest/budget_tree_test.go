//go:build bench

package fleettest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"dominion/client"
	"dominion/fleettest"
)

// TestBudgetsTree: an order to 5,000 leaves behind 10 sub-overlords, each a process
// of its own, beside one to as many leaves without anybody between.
func TestBudgetsTree(t *testing.T) {
	const subs = 10
	n := sizes()[len(sizes())-1]
	flat, flatCPU := flatOrder(t, n)

	tr := fleettest.NewTree(t, fleettest.TreeConfig{Levels: []int{subs}})
	began := time.Now()
	tr.Crowd(n / subs)
	t.Logf("%d simulated machines connected in %.1f s\n%s", n, time.Since(began).Seconds(), tr.Timing())
	r := &rig{t: t, state: tr.Top.State, address: tr.Top.Address, overlord: tr.Top.Process(), conn: tr.Top.Conn}
	if _, err := r.conn.BuildMap(t.Context(), client.MapOptions{}); err != nil {
		t.Fatal(err)
	}
	const rounds = 15
	order := func(target string) (wall, top, below time.Duration) {
		one := func() time.Duration {
			return r.orderBy(client.Options{Delegate: true}, target, "test.ping", map[string]any{})
		}
		for range 3 {
			one()
		}
		before := subsCPU(t, tr)
		wall, top = r.measured(rounds, one)
		return wall, top, (subsCPU(t, tr) - before) / rounds
	}
	var few []string // one behind each
	for i := range subs {
		few = append(few, fmt.Sprintf("m%04d", i*n/subs+1))
	}
	_, fixed, _ := order(strings.Join(few, ","))
	wall, cpu, below := order("m*")
	fmt.Printf("budget: an order to %d directly: %.1f ms, the overlord's CPU %.1f ms; through %d sub-overlords: %.1f ms, the top's CPU %.1f ms, theirs %.1f ms\n",
		n, us(flat)/1e3, us(flatCPU)/1e3, subs, us(wall)/1e3, us(cpu)/1e3, us(below)/1e3)
	fmt.Printf("budget: of the top's CPU %.1f ms are those of an order to one leaf behind each of them; each further leaf takes %.2f µs\n",
		us(fixed)/1e3, us(cpu-fixed)/float64(n-subs))
	budget(t, fmt.Sprintf("top overlord CPU per leaf, %d leaves behind %d sub-overlords", n, subs), us(cpu)/float64(n), 1, "µs")
}

// subsCPU is what the overlords below the top have used.
func subsCPU(t *testing.T, tr *fleettest.Tree) (sum time.Duration) {
	t.Helper()
	for _, n := range tr.Lowest() {
		sum += fleettest.CPU(t, n.PID())
	}
	return sum
}

// flatOrder measures orders to n machines of one overlord.
func flatOrder(t *testing.T, n int) (wall, cpu time.Duration) {
	t.Helper()
	r := newRig(t)
	crowd := r.crowd(n)
	r.await(n)
	for range 3 {
		r.order("*", "test.ping")
	}
	before := fleettest.CPU(t, r.overlord.PID())
	var walls []time.Duration
	for range 15 {
		walls = append(walls, r.order("*", "test.ping"))
	}
	cpu = (fleettest.CPU(t, r.overlord.PID()) - before) / time.Duration(len(walls))
	crowd.Kill()
	r.overlord.Kill()
	return median(walls), cpu
}

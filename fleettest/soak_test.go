//go:build soak

package fleettest_test

import (
	"testing"
	"time"
)

// TestSoakSurvives is TestFleetSurvives, larger and longer: DOMINION_MACHINES
// and DOMINION_ROUNDS say how much.
func TestSoakSurvives(t *testing.T) {
	machines, rounds := int(number(t, "DOMINION_MACHINES", 200)), int(number(t, "DOMINION_ROUNDS", 20))
	storms{machines: machines, rounds: rounds, seed: seed(t), lasts: 8 * time.Second, limit: 5 * time.Minute, drop: 0.05}.run(t, faultyBinary(t))
}

// TestSoakTreeSurvives is TestFleetTreeSurvives, larger and longer, and overlords end
// in order, too: DOMINION_TREE_ROUNDS says how many rounds.
func TestSoakTreeSurvives(t *testing.T) {
	groveStorms{
		machines: map[string]int{"top": 2, "dc1": 3, "dc2": 3, "dc3": 2, "rack1": 4, "dc1 dc2": 2, "rack1 dc2": 2, "top dc3": 1, "dc2 dc3": 1},
		rounds:   int(number(t, "DOMINION_TREE_ROUNDS", 20)), seed: seed(t), lasts: 8 * time.Second, limit: 3 * time.Minute, terms: true,
	}.run(t, faultyBinary(t))
}

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

//go:build soak

package fleettest_test

import (
	"testing"
	"time"
)

// TestSoakSurvives is TestFleetSurvives, larger and longer.
func TestSoakSurvives(t *testing.T) {
	storms{machines: 200, rounds: 20, seed: seed(t), lasts: 8 * time.Second, limit: 5 * time.Minute}.run(t, faultyBinary(t))
}

//go:build fleet

package minion

import "testing"

// The long form of TestRandomCrashes.
func TestFleetRandomCrashes(t *testing.T) { randomCrashes(t, 1000) }

//go:build fleet && !bench

package fleettest_test

import (
	"os"
	"testing"

	"dominion/fleettest"
)

func TestMain(m *testing.M) {
	fleettest.Play()
	os.Exit(m.Run())
}

//go:build !faults

package session

// copies is how often a frame is written: always once, but in the build for
// fault tests (see faults.go).
func copies(Type) int { return 1 }

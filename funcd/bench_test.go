package funcd

import (
	"testing"

	"dominion/pki"
)

// BenchmarkCall is one call after the other over one connection, with a log in
// memory; the client's own share, in Go, is in it.
func BenchmarkCall(b *testing.B) {
	w := newWorld(b, "operator/alice = test.*", nil)
	c := w.client(pki.Operator, "alice")
	for b.Loop() {
		if v, err := c.call(b.Context(), "test.add", 1, 2); err != nil || v != 3 {
			b.Fatal(v, err)
		}
	}
}

// BenchmarkInventory asks for everything that there is.
func BenchmarkInventory(b *testing.B) {
	w := newWorld(b, "operator/alice = system.*", nil)
	c := w.client(pki.Operator, "alice")
	for b.Loop() {
		if _, err := c.call(b.Context(), "system.inventory"); err != nil {
			b.Fatal(err)
		}
	}
}

package overlord

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// heapFloor is how many bytes of garbage the process may have before they are
// collected, where Go would collect as soon as there are as many as bytes in use.
const heapFloor = 16 << 20

// RareCollections lets a small heap be collected more rarely than Go does by default:
// an overlord of few sessions uses some 8 MB, and each order makes some of garbage,
// so that collections were a sixth of what an order costs. Once more than heapFloor is in use
// it is Go's default again, twice of what is in use at most. It is for the whole process,
// like Batch, and ends with ctx. GOGC in the environment wins.
func RareCollections(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	again := make(chan struct{}, 1)
	for {
		runtime.AddCleanup(new([2]*byte), func(again chan struct{}) { again <- struct{}{} }, again) // after the next one
		debug.SetGCPercent(collectAt(live()))
		select {
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// collectAt gives the percentage of what is in use, in bytes, that may become garbage.
// Go's smallest heap, 4 MiB, grows by it too.
func collectAt(inUse uint64) int {
	return int(min(max(100, 100*heapFloor/max(inUse, 1)), 100*heapFloor/(4<<20)))
}

// live is how many bytes were in use after the last collection.
func live() uint64 {
	s := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(s)
	return s[0].Value.Uint64()
}

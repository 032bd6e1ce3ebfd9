//go:build faults

package session

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
)

// What the build for fault tests reads from its environment: a seed, and the
// parts, from 0 to 1, of RESULT and ACK frames that are not sent, and that are
// sent twice.
const (
	faultSeed   = "DOMINION_FAULTS_SEED"
	faultDrop   = "DOMINION_FAULTS_DROP"
	faultDouble = "DOMINION_FAULTS_DOUBLE"
)

// copies is how often a frame is written: answers and acknowledgements get
// lost, or come twice. TLS over TCP never does that; what must hold when a
// connection breaks at any moment must hold then too.
func copies(t Type) int {
	if t != TypeResult && t != TypeAck {
		return 1
	}
	return theFaults().copies()
}

var theFaults = sync.OnceValue(func() *faults {
	f, err := newFaults(os.Getenv)
	if err != nil {
		panic(err) // whoever tests faults wants to know that there are none
	}
	return f
})

type faults struct {
	drop, double float64

	mu   sync.Mutex
	rand *rand.Rand
}

func newFaults(getenv func(string) string) (*faults, error) {
	f := new(faults)
	for _, v := range []struct {
		name string
		to   *float64
	}{{faultDrop, &f.drop}, {faultDouble, &f.double}} {
		s := getenv(v.name)
		if s == "" {
			continue
		}
		p, err := strconv.ParseFloat(s, 64)
		if err != nil || !(p >= 0 && p <= 1) {
			return nil, fmt.Errorf("%s=%q: want a number from 0 to 1", v.name, s)
		}
		*v.to = p
	}
	var seed uint64
	if s := getenv(faultSeed); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			return nil, fmt.Errorf("%s: %w", faultSeed, err)
		}
	}
	f.rand = rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // it is to be repeated, not to be secret
	return f, nil
}

func (f *faults) copies() int {
	f.mu.Lock()
	p := f.rand.Float64()
	f.mu.Unlock()
	switch {
	case p < f.drop:
		return 0
	case p < f.drop+f.double:
		return 2
	}
	return 1
}

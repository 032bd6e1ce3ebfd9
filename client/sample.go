package client

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dominion/call"
)

// Sample says how many of some machines to take, and which.
//
// Each name is given the SHA-256 of the text "dominion-sample-v1", a space, the seed in
// decimal digits, a space and the name; the names with the smallest digests, compared
// as bytes, are taken. So the same seed takes the same machines of the same ones, whoever
// asks and in whatever version; a machine that is added or removed changes at most one
// other; and a larger sample holds every smaller one of the same seed.
//
// The zero Sample takes all.
type Sample struct {
	Count      int // of machines; zero: Hundredths decides
	Hundredths int // of a percent of the machines, rounded up: 1000 are 10 %; at most 10000
	Seed       uint64
}

// ParseSample reads "5" or "10%" or "0.25%".
func ParseSample(s string) (Sample, error) {
	bad := call.Errorf(call.Invalid, "sample %q: give a number of machines, such as 5, or a part of them, such as 10%%", s)
	share, percent := strings.CutSuffix(s, "%")
	if !percent {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return Sample{}, bad
		}
		return Sample{Count: n}, nil
	}
	whole, part, _ := strings.Cut(share, ".")
	n, err := strconv.ParseUint(whole, 10, 8)
	if err != nil || len(part) > 2 {
		return Sample{}, bad
	}
	p, err := strconv.ParseUint((part + "00")[:2], 10, 8)
	if err != nil || n*100+p == 0 || n*100+p > 10000 {
		return Sample{}, bad
	}
	return Sample{Hundredths: int(n*100 + p)}, nil
}

// String gives what ParseSample reads; empty for all.
func (s Sample) String() string {
	switch {
	case s.Count > 0:
		return strconv.Itoa(s.Count)
	case s.Hundredths > 0:
		return strconv.FormatFloat(float64(s.Hundredths)/100, 'f', -1, 64) + "%"
	}
	return ""
}

func (s Sample) on() bool { return s.Count != 0 || s.Hundredths != 0 }

func (s Sample) check() error {
	if s.Count < 0 || s.Hundredths < 0 || s.Hundredths > 10000 || s.Count > 0 && s.Hundredths > 0 {
		return call.Errorf(call.Invalid, "a sample of %d machines and %d hundredths of a percent: give one of them", s.Count, s.Hundredths)
	}
	return nil
}

// Of takes its part of some names and gives it sorted. It does not change them.
func (s Sample) Of(names []string) []string {
	n := len(names)
	switch {
	case s.Count > 0:
		n = min(n, s.Count)
	case s.Hundredths > 0:
		n = (n*s.Hundredths + 9999) / 10000
	}
	type drawn struct {
		name string
		sum  [sha256.Size]byte
	}
	all := make([]drawn, len(names))
	for i, name := range names {
		all[i] = drawn{name, sha256.Sum256(fmt.Appendf(nil, "dominion-sample-v1 %d %s", s.Seed, name))}
	}
	slices.SortFunc(all, func(a, b drawn) int {
		if d := bytes.Compare(a.sum[:], b.sum[:]); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	out := make([]string, n)
	for i := range out {
		out[i] = all[i].name
	}
	slices.Sort(out)
	return out
}

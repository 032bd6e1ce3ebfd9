package overlord

import "time"

// candidates is what the overlord knows of the machines that serve its cluster
// data.
type candidates struct{}

// announce tells the candidates of a new version. It does not block.
func (*candidates) announce(*clusterVersion) {}

// states gives what each candidate of a version last said, by name.
func (*candidates) states(*clusterVersion) map[string]candidateState { return nil }

// candidateState is what a candidate last said.
type candidateState struct {
	state  string    // current, behind, away, refuses
	serial uint64    // of the data it holds; 0: none known
	made   time.Time // of the data it holds
	heard  time.Time // zero: never
	reason string    // of away and refuses, and why it does not serve
	listen string    // where it answers; empty: nowhere, or not known
}

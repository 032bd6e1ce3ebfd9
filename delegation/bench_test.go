package delegation_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"dominion/delegation"
)

// bigMap has so many sub-overlords of so many machines each.
func bigMap(overlords, machines int) delegation.Map {
	self := delegation.Node{}
	for i := range overlords {
		o := delegation.Node{Name: fmt.Sprintf("dc%04d", i)}
		for j := range machines {
			o.Below = append(o.Below, delegation.Node{Name: fmt.Sprintf("n%04d-%04d.dc%04d.example.org", i, j, i)})
		}
		self.Below = append(self.Below, o)
	}
	m, err := delegation.New(self)
	if err != nil {
		panic(err)
	}
	return m
}

// simulated is a probe of a tree of so many sub-overlords, each tenth at the
// top and nine behind it, with so many machines each, which answer after a wait.
func simulated(overlords, machines int, wait time.Duration) (probe delegation.Probe, places int) {
	key := func(name string) string { return fmt.Sprintf("sha256:%064x", name) }
	answers := make(map[string]delegation.Answer)
	var top delegation.Answer
	for i := range overlords {
		var a delegation.Answer
		for j := range machines {
			name := fmt.Sprintf("n%04d-%02d", i, j)
			a.Machines = append(a.Machines, delegation.Machine{Name: name, Fingerprint: key(name), Alive: j%10 != 9})
		}
		name := fmt.Sprintf("o%04d", i)
		self := delegation.Machine{Name: name, Fingerprint: key(name), Alive: true, Overlord: true}
		if i%10 == 0 {
			top.Machines = append(top.Machines, self)
		} else {
			above := fmt.Sprintf("o%04d", i/10*10)
			up := answers[above]
			up.Machines = append(up.Machines, self)
			answers[above] = up
		}
		answers[name] = a
	}
	return func(ctx context.Context, path delegation.Path) (delegation.Answer, error) {
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return delegation.Answer{}, ctx.Err()
			}
		}
		if len(path) == 0 {
			return top, nil
		}
		return answers[path[len(path)-1]], nil
	}, overlords * (machines + 1)
}

func BenchmarkBuild(b *testing.B) {
	for _, wait := range []time.Duration{0, 5 * time.Millisecond} {
		b.Run(fmt.Sprintf("overlords/1000/machines/50/latency/%v", wait), func(b *testing.B) {
			probe, places := simulated(1000, 50, wait)
			b.ReportAllocs()
			for b.Loop() {
				m, err := delegation.Build(b.Context(), probe, delegation.Options{Name: "top"})
				if err != nil || m.Count().Places != places {
					b.Fatal(m.Count(), err)
				}
			}
		})
	}
}

func BenchmarkIndex(b *testing.B) {
	m := bigMap(2000, 50)
	b.Run("make/102000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Index()
		}
	})
	ix := m.Index()
	b.Run("routes/102000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r := ix.Routes(ix.Names(), func(string) bool { return true }); len(r.Paths) != 102_000 {
				b.Fatal(len(r.Paths))
			}
		}
	})
	b.Run("group/102000", func(b *testing.B) {
		paths := ix.Routes(ix.Names(), nil).Paths
		b.ReportAllocs()
		for b.Loop() {
			delegation.Group(paths)
		}
	})
	b.Run("route/1", func(b *testing.B) {
		for b.Loop() {
			ix.Route("n1234-0033.dc1234.example.org")
		}
	})
}

func BenchmarkFile(b *testing.B) {
	m := bigMap(2000, 50)
	text := m.Append(nil)
	b.Run("parse/102000", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := delegation.Parse(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("save/102000", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "map")
		for b.Loop() {
			if err := delegation.Save(path, m); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkMerge(b *testing.B) {
	old, fresh := bigMap(2000, 50), bigMap(2000, 51)
	for b.Loop() {
		delegation.Merge(old, fresh)
	}
}

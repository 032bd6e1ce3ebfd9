package delegation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
	"dominion/delegation"
)

// fleet is a simulated tree: the answer of each overlord by its path, after a wait.
type fleet struct {
	below map[string]string        // path -> machines; "!" behind one: an overlord, "-": no session, "=KEY" its key, "?WHY" there is no session
	wait  map[string]time.Duration // path -> how long its answer takes; negative: for ever
	err   map[string]error

	mu    sync.Mutex
	asked []string
}

func (f *fleet) probe(ctx context.Context, path delegation.Path) (delegation.Answer, error) {
	at := path.String()
	f.mu.Lock()
	f.asked = append(f.asked, at)
	f.mu.Unlock()
	if d := f.wait[at]; d != 0 {
		var after <-chan time.Time
		if d > 0 {
			after = time.After(d)
		}
		select {
		case <-after:
		case <-ctx.Done():
			return delegation.Answer{}, ctx.Err()
		}
	}
	if err := f.err[at]; err != nil {
		return delegation.Answer{}, err
	}
	return answer(f.below[at]), nil
}

func answer(machines string) delegation.Answer {
	var a delegation.Answer
	for _, word := range strings.Fields(machines) {
		word, problem, _ := strings.Cut(word, "?")
		word, key, _ := strings.Cut(word, "=")
		m := delegation.Machine{Name: strings.TrimRight(word, "!-"), Fingerprint: key, Alive: true, Problem: problem}
		m.Overlord = strings.Contains(word, "!")
		m.Alive = !strings.HasSuffix(word, "-")
		a.Machines = append(a.Machines, m)
	}
	return a
}

// tell gives a map with what is known of each place.
func tell(m delegation.Map) []string {
	out := []string{}
	for p, n := range m.All() {
		s := p.String()
		if n.Overlord {
			s += "!"
		}
		if n.Life != delegation.Alive {
			s += " " + n.Life.String()
		}
		if n.Problem != "" {
			s += ": " + n.Problem
		}
		out = append(out, s)
	}
	return out
}

func TestBuild(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fleet *fleet
		opts  delegation.Options
		want  []string
		cuts  []string
		asked string
		took  time.Duration
	}{
		{
			name:  "nobody",
			fleet: &fleet{},
			want:  []string{}, asked: ".",
		},
		{
			name: "three levels",
			fleet: &fleet{below: map[string]string{
				".": "mail1 dc1! DC2!", "dc1": "web2 web1 rack1!", "dc1/rack1": "n1 n2- n3-?gone\x1b", "dc2": "",
			}},
			want:  []string{"dc1!", "dc1/rack1!", "dc1/rack1/n1", "dc1/rack1/n2 silent: no session with the overlord above it", "dc1/rack1/n3 silent: gone?", "dc1/web1", "dc1/web2", "dc2!", "mail1"},
			asked: ". dc1 dc1/rack1 dc2",
		},
		{
			name: "problems are leaves",
			fleet: &fleet{
				below: map[string]string{".": "a! b! c! d!- e!", "e": "x"},
				err: map[string]error{
					"a": call.Errorf(call.NoSession, "b is not here"), "b": call.Errorf(call.Denied, "not yours"), "c": errors.New("line\x1b[2J\xff\n" + strings.Repeat("é", 200)),
				},
			},
			want: []string{
				"a! silent: no session: b is not here", "b!: denied: not yours", "c! silent: line?[2J??" + strings.Repeat("é", 123) + "…",
				"d! silent: no session with the overlord above it", "e!", "e/x",
			},
			asked: ". a b c e",
		},
		{
			name: "a slow branch costs its own time-out",
			fleet: &fleet{
				below: map[string]string{".": "a! b! c!", "a": "a1!", "a/a1": "x", "b": "y", "c": "c1! c2!", "c/c2": "z"},
				wait:  map[string]time.Duration{"b": -1, "a": 9 * time.Second, "a/a1": 9 * time.Second, "c/c1": -1, "c/c2": time.Second},
			},
			opts:  delegation.Options{Timeout: 10 * time.Second},
			want:  []string{"a!", "a/a1!", "a/a1/x", "b! silent: no answer within 10s", "c!", "c/c1! silent: no answer within 10s", "c/c2!", "c/c2/z"},
			asked: ". a a/a1 b c c/c1 c/c2",
			took:  18 * time.Second,
		},
		{
			name: "a branch has four time-outs in all",
			fleet: &fleet{
				below: map[string]string{".": "a! b!", "a": "a1!", "a/a1": "a2!", "a/a1/a2": "a3!", "a/a1/a2/a3": "a4!", "a/a1/a2/a3/a4": "a5! a6!", "b": "x"},
				wait: map[string]time.Duration{
					"a": 9 * time.Second, "a/a1": 9 * time.Second, "a/a1/a2": 9 * time.Second, "a/a1/a2/a3": 9 * time.Second, "a/a1/a2/a3/a4": 9 * time.Second,
				},
			},
			opts: delegation.Options{Timeout: 10 * time.Second},
			want: []string{
				"a!", "a/a1!", "a/a1/a2!", "a/a1/a2/a3!", "a/a1/a2/a3/a4! silent: its branch was not done within 40s", "b!", "b/x",
			},
			asked: ". a a/a1 a/a1/a2 a/a1/a2/a3 a/a1/a2/a3/a4 b",
			took:  40 * time.Second,
		},
		{
			name: "cycles by name",
			fleet: &fleet{below: map[string]string{
				".": "a! b!", "a": "b! x A!", "b": "a! top!", "a/b": "a! y Top", "b/a": "b! x",
			}},
			opts:  delegation.Options{Name: "TOP"},
			want:  []string{"a!", "a/b!", "a/b/y", "a/x", "b!", "b/a!", "b/a/x"},
			cuts:  []string{"a/a", "a/b/a", "a/b/top", "b/a/b", "b/top"},
			asked: ". a a/b b b/a",
		},
		{
			name: "cycles by key",
			fleet: &fleet{below: map[string]string{
				".": "a!=k1", "a": "alias!=k1 b!=k2 other=k0", "a/b": "c!=k1 d=k3",
			}},
			opts:  delegation.Options{Name: "top", Fingerprint: "k0"},
			want:  []string{"a!", "a/b!", "a/b/d"},
			cuts:  []string{"a/alias", "a/b/c", "a/other"},
			asked: ". a a/b",
		},
		{
			name: "a machine at several places",
			fleet: &fleet{below: map[string]string{
				".": "a!=k1 b!=k2 m=k3", "a": "s!=k4 m=k3", "b": "s!=k4", "a/s": "x=k5", "b/s": "x=k5",
			}},
			want:  []string{"a!", "a/m", "a/s!", "a/s/x", "b!", "b/s!", "b/s/x", "m"},
			asked: ". a a/s b b/s",
		},
		{
			name: "malformed answers",
			fleet: &fleet{below: map[string]string{
				".": "a! b! c! d!", "a": "x_y", "b": "x X", "c": "x=" + strings.Repeat("k", 129), "d": "x=k\x01",
			}},
			want: []string{
				`a!: invalid: its answer is malformed: not a machine name: "x_y" holds "_"`, `b!: invalid: its answer is malformed: it names "x" twice`,
				`c!: invalid: its answer is malformed: the key fingerprint of "x"`, `d!: invalid: its answer is malformed: the key fingerprint of "x"`,
			},
			asked: ". a b c d",
		},
		{
			name: "one at a time",
			fleet: &fleet{
				below: map[string]string{".": "a! b!", "a": "a1! a2!", "b": "b1!"},
				wait:  map[string]time.Duration{"a": time.Second, "b": time.Second, "a/a1": time.Second, "a/a2": time.Second, "b/b1": time.Second},
			},
			opts:  delegation.Options{Width: 1},
			want:  []string{"a!", "a/a1!", "a/a2!", "b!", "b/b1!"},
			asked: ". a a/a1 a/a2 b b/b1",
			took:  5 * time.Second,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				m, err := delegation.Build(t.Context(), tt.fleet.probe, tt.opts)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("it took %v; want %v", took, tt.took)
				}
				if diff := cmp.Diff(tt.want, tell(m)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				slices.Sort(tt.fleet.asked)
				if got := strings.Join(tt.fleet.asked, " "); got != tt.asked {
					t.Errorf("asked %s; want %s", got, tt.asked)
				}
				var cuts []string
				for _, c := range m.Cuts {
					cuts = append(cuts, c.Path.String())
				}
				slices.Sort(cuts)
				if diff := cmp.Diff(tt.cuts, cuts); diff != "" {
					t.Errorf("cuts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A hop that shows an ancestor's name with another key is cut, and a conflict.
func TestBuildConflicts(t *testing.T) {
	f := &fleet{below: map[string]string{".": "a!=k1 b!=k2 web1=k3", "a": "b=k9 web1=k4 top=k8", "b": "a=k1 b=k7"}}
	m, err := delegation.Build(t.Context(), f.probe, delegation.Options{Name: "top", Fingerprint: "k0"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range delegation.Conflicts(m) {
		s := c.Name
		for _, p := range c.Places {
			s += " " + p.Path.String() + "=" + p.Fingerprint
		}
		got = append(got, s)
	}
	want := []string{"b b=k2 a/b=k9 b/b=k7", "top .=k0 a/top=k8", "web1 web1=k3 a/web1=k4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBuildErrors(t *testing.T) {
	cause := errors.New("enough")
	t.Run("the top does not answer", func(t *testing.T) {
		f := &fleet{err: map[string]error{".": call.Errorf(call.Denied, "no")}}
		if _, err := delegation.Build(t.Context(), f.probe, delegation.Options{}); call.CodeOf(err) != call.Denied {
			t.Errorf("%v", err)
		}
	})
	t.Run("the top answers nonsense", func(t *testing.T) {
		f := &fleet{below: map[string]string{".": "a a"}}
		if _, err := delegation.Build(t.Context(), f.probe, delegation.Options{}); call.CodeOf(err) != call.Invalid {
			t.Errorf("%v", err)
		}
	})
	t.Run("the top is slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{wait: map[string]time.Duration{".": -1}}
			_, err := delegation.Build(t.Context(), f.probe, delegation.Options{})
			if err == nil || !strings.Contains(err.Error(), "no answer within 1m0s") {
				t.Errorf("%v", err)
			}
		})
	})
	for _, at := range []string{".", "a", "a/b"} {
		t.Run("withdrawn while asking "+at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(3*time.Second, func() { cancel(cause) })
				f := &fleet{below: map[string]string{".": "a! c!", "a": "b!"}, wait: map[string]time.Duration{at: -1}}
				start := time.Now()
				_, err := delegation.Build(ctx, f.probe, delegation.Options{})
				if !errors.Is(err, cause) || time.Since(start) != 3*time.Second {
					t.Errorf("%v after %v", err, time.Since(start))
				}
			})
		})
	}
}

// A branch that invents sub-overlords without end costs the others nothing, and ends.
func TestBuildInventor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probe := func(ctx context.Context, path delegation.Path) (delegation.Answer, error) {
			switch {
			case len(path) == 0:
				return answer("bad! good!"), nil
			case path[0] == "good" && len(path) == 1:
				time.Sleep(time.Second)
				return answer("g1! g2!"), nil
			case path[0] == "good":
				return answer("x"), nil
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return delegation.Answer{}, ctx.Err()
			}
			var a delegation.Answer
			for i := range 100 {
				a.Machines = append(a.Machines, delegation.Machine{Name: fmt.Sprintf("i%d-%d", len(path), i), Alive: true, Overlord: true})
			}
			return a, nil
		}
		start := time.Now()
		var good time.Duration
		m, err := delegation.Build(t.Context(), probe, delegation.Options{Timeout: 5 * time.Second, Width: 8, Observe: func(e delegation.Event) {
			if e.Kind == delegation.Merged && e.Path[0] == "good" {
				good = time.Since(start)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if good != time.Second || time.Since(start) != 20*time.Second {
			t.Errorf("the good branch took %v, all %v", good, time.Since(start))
		}
		if _, ok := m.Find("good", "g2", "x"); !ok {
			t.Error("the good branch is not whole")
		}
	})
}

// Without end in depth: it stops at the limit.
func TestBuildDeep(t *testing.T) {
	probe := func(_ context.Context, path delegation.Path) (delegation.Answer, error) {
		return answer(fmt.Sprintf("n%d!=k%d", len(path), len(path))), nil
	}
	m, err := delegation.Build(t.Context(), probe, delegation.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c := m.Count(); c.Places != delegation.MaxDepth || c.Depth != delegation.MaxDepth {
		t.Errorf("%+v", c)
	}
	lines := tell(m)
	if last := lines[len(lines)-1]; !strings.HasSuffix(last, "not asked: a map has at most 64 levels") {
		t.Errorf("the last: %s", last)
	}
	parse(t, m.String())
}

// An answer that does not fit counts as none, and a branch leaves room.
func TestBuildWide(t *testing.T) {
	many := make([]delegation.Machine, delegation.MaxNodes/2+1)
	for i := range many {
		many[i] = delegation.Machine{Name: fmt.Sprintf("n%d", i), Alive: true}
	}
	probe := func(_ context.Context, path delegation.Path) (delegation.Answer, error) {
		if len(path) == 0 {
			return answer("a! b! c!"), nil
		}
		if path[0] == "b" {
			return delegation.Answer{Machines: many[:10]}, nil
		}
		if path[0] == "c" {
			return delegation.Answer{Machines: many[:len(many)-1]}, nil
		}
		return delegation.Answer{Machines: many}, nil
	}
	m, err := delegation.Build(t.Context(), probe, delegation.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.Count().Places, 3+10+delegation.MaxNodes/2; got != want {
		t.Errorf("%d places; want %d", got, want)
	}
	if n, _ := m.Find("a"); n.Problem != "too many: its answer of 524289 machines does not fit into the map" {
		t.Errorf("%q", n.Problem)
	}
}

// Layers that all know each other would multiply; each is asked at few places.
func TestBuildMesh(t *testing.T) {
	const layers, wide = 12, 3
	var asked atomic.Int64
	probe := func(_ context.Context, path delegation.Path) (delegation.Answer, error) {
		asked.Add(1)
		if len(path) == layers {
			return answer("m=k"), nil
		}
		var a []string
		for i := range wide {
			a = append(a, fmt.Sprintf("l%d-%d!=k%d-%d", len(path), i, len(path), i))
		}
		return answer(strings.Join(a, " ")), nil
	}
	m, err := delegation.Build(t.Context(), probe, delegation.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n > 1+wide*(1+4*wide*layers) {
		t.Errorf("%d probes", n)
	}
	for i := range layers {
		if p, ok := m.Index().Route(fmt.Sprintf("l%d-0", i)); !ok || len(p) != i+1 {
			t.Errorf("layer %d: %v, %v", i, p, ok)
		}
	}
	if p, ok := m.Index().Route("m"); !ok || len(p) != layers+1 {
		t.Errorf("m: %v, %v", p, ok)
	}
}

func TestBuildEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{
			below: map[string]string{".": "a! b! d!- m", "a": "x a1! A", "a/a1": "y z"},
			wait:  map[string]time.Duration{".": time.Millisecond, "a": 2 * time.Second, "b": -1, "a/a1": 12345 * time.Microsecond},
		}
		var got []string
		_, err := delegation.Build(t.Context(), f.probe, delegation.Options{Timeout: 3 * time.Second, Observe: func(e delegation.Event) {
			got = append(got, e.String())
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"asking this overlord",
			"this overlord answered: 4 machines, 1ms",
			"d did not answer: no session with the overlord above it",
			"asking a",
			"asking b",
			"a answered: 3 machines, 2s",
			"cut a/a: it is a, which stands above it",
			"asking a/a1",
			"a/a1 answered: 2 machines, 12ms",
			"merged a: 4 places behind it",
			"b did not answer: no answer within 3s, 3s",
			"merged b: 0 places behind it",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// The same fleet gives the same map, whatever the order of the answers.
func TestBuildIsTheSameEachTime(t *testing.T) {
	var first string
	for i := range 20 {
		probe, _ := simulated(20, 5, 0)
		m, err := delegation.Build(t.Context(), probe, delegation.Options{Width: 1 + i})
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%+v", m)
		if first == "" {
			first = text
		}
		if text != first {
			t.Fatalf("%s; first %s", text, first)
		}
	}
}

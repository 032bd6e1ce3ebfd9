package provision

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/nodescript"
)

// memory is a Store that keeps everything in maps.
type memory struct {
	mu     sync.Mutex
	nodes  map[string]Node
	nonces map[string]Nonce
	groups map[string][]string
	taken  map[string]bool
	log    []*auditpb.Record
	fail   error // of every Update
}

func newMemory() *memory {
	return &memory{nodes: map[string]Node{}, nonces: map[string]Nonce{}, groups: map[string][]string{}, taken: map[string]bool{}}
}

func (m *memory) Update(_ context.Context, fn func(Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	nodes, nonces, log := maps.Clone(m.nodes), maps.Clone(m.nonces), len(m.log)
	groups := maps.Clone(m.groups)
	err := fn(memoryTx{m})
	if err != nil {
		m.nodes, m.nonces, m.groups, m.log = nodes, nonces, groups, m.log[:log]
	}
	return err
}

func (m *memory) View(_ context.Context, fn func(View) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fn(memoryTx{m})
}

// records gives what the log says, as "actor action subject detail".
func (m *memory) records() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, r := range m.log {
		out = append(out, fmt.Sprintf("%s %s %s %s", r.Actor, r.Action, r.Subject, r.Detail))
	}
	return out
}

type memoryTx struct{ m *memory }

func (t memoryTx) Node(name string) (Node, bool, error) { n, ok := t.m.nodes[name]; return n, ok, nil }

func (t memoryTx) NodeOf(hwaddr string) (Node, bool, error) {
	for _, n := range t.m.nodes {
		if n.HWAddr == hwaddr {
			return n, true, nil
		}
	}
	return Node{}, false, nil
}

func (t memoryTx) NodeAt(addr netip.Addr) (out Node, ok bool, err error) {
	for _, n := range t.m.nodes {
		if !n.held() && n.Addr == addr && (!ok || n.Contact.After(out.Contact)) {
			out, ok = n, true
		}
	}
	return out, ok, nil
}

func (t memoryTx) Nodes() ([]Node, error) {
	var out []Node
	for _, name := range slices.Sorted(maps.Keys(t.m.nodes)) {
		out = append(out, t.m.nodes[name])
	}
	return out, nil
}

func (t memoryTx) Nonce(hash [32]byte) (Nonce, bool, error) {
	for _, n := range t.m.nonces {
		if n.Hash == hash {
			return n, true, nil
		}
	}
	return Nonce{}, false, nil
}

func (t memoryTx) NonceOf(node string) (Nonce, bool, error) {
	n, ok := t.m.nonces[node]
	return n, ok, nil
}

func (t memoryTx) Nonces() ([]Nonce, error) { return slices.Collect(maps.Values(t.m.nonces)), nil }

func (t memoryTx) PutNode(n Node) error { t.m.nodes[n.Name] = n; return nil }

func (t memoryTx) DeleteNode(name string) error {
	delete(t.m.nodes, name)
	delete(t.m.nonces, name)
	return nil
}

func (t memoryTx) Join(group string, nodes ...string) error {
	t.m.groups[group] = append(slices.Clone(t.m.groups[group]), nodes...)
	return nil
}

func (t memoryTx) Leave(group string, nodes ...string) error {
	t.m.groups[group] = slices.DeleteFunc(slices.Clone(t.m.groups[group]), func(n string) bool { return slices.Contains(nodes, n) })
	return nil
}

func (t memoryTx) LeaveAll(nodes ...string) error {
	for g := range t.m.groups {
		if err := t.Leave(g, nodes...); err != nil {
			return err
		}
	}
	return nil
}

func (t memoryTx) PutNonce(n Nonce) error        { t.m.nonces[n.Node] = n; return nil }
func (t memoryTx) DeleteNonce(node string) error { delete(t.m.nonces, node); return nil }

func (t memoryTx) Held(source netip.Addr) (all, ofSource int, err error) {
	for _, n := range t.m.nodes {
		if n.held() {
			all++
			if n.Source == source {
				ofSource++
			}
		}
	}
	return all, ofSource, nil
}

func (t memoryTx) Stale(since time.Time) (out []string, err error) {
	for _, n := range t.m.nodes {
		if n.held() && n.Contact.Before(since) {
			out = append(out, n.Name)
		}
	}
	return out, nil
}

func (t memoryTx) Count() (int, error)             { return len(t.m.nodes), nil }
func (t memoryTx) Names() ([]string, error)        { return slices.Sorted(maps.Keys(t.m.nodes)), nil }
func (t memoryTx) Taken(name string) (bool, error) { return t.m.taken[name], nil }
func (t memoryTx) Audit(r *auditpb.Record) error   { t.m.log = append(t.m.log, r); return nil }

// scripts is an Assembler that runs nothing.
type scripts func(ctx context.Context, n nodescript.Node, state string) (*nodescript.Script, error)

func (f scripts) Assemble(ctx context.Context, n nodescript.Node, state string) (*nodescript.Script, error) {
	return f(ctx, n, state)
}

// bench is a Service whose clock stands until it is moved.
type bench struct {
	*Service
	m   *memory
	now time.Time
	t   testing.TB
}

func newBench(t testing.TB, change func(*Config)) *bench {
	t.Helper()
	b := &bench{m: newMemory(), now: time.Unix(1_800_000_000, 0), t: t}
	cfg := Config{
		Store: b.m, Statedir: t.TempDir(), States: []string{"init", "ready"}, Names: Pattern{Text: "n####"},
		Scripts: scripts(func(_ context.Context, n nodescript.Node, _ string) (*nodescript.Script, error) {
			return &nodescript.Script{Text: []byte("echo " + n.Name + "\n")}, nil
		}),
		Peer:  func(*http.Request) (string, error) { return "", fmt.Errorf("without a certificate") },
		Token: func(_ context.Context, node string) (string, string, error) { return "token of " + node, "id", nil },
		IPXE:  func(b BootScript) []byte { return []byte(fmt.Sprint(b)) },
		At:    func(netip.Addr) (string, string) { return "server", "boot" },
		Now:   func() time.Time { return b.now },
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if b.Service, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func (b *bench) pass(d time.Duration) { b.now = b.now.Add(d) }

// claim boots a machine from an address.
func (b *bench) claim(hwaddr, from string) BootScript {
	b.t.Helper()
	out, err := b.Claim(b.t.Context(), hwaddr, netip.MustParseAddr(from))
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) node(name string) Node {
	b.t.Helper()
	n, ok := b.m.nodes[name]
	if !ok {
		b.t.Fatalf("there is no node %s", name)
	}
	return n
}

// logged says how many records hold a text.
func (b *bench) logged(text string) int {
	n := 0
	for _, r := range b.m.records() {
		if strings.Contains(r, text) {
			n++
		}
	}
	return n
}

package overlord

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/cluster"
	"dominion/pki"
)

// ledger is an overlord that does not serve, whose inventory the test makes.
type ledger struct {
	*Overlord
	api clusterAPI
	log *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// openAt opens an overlord's state.
func openAt(t testing.TB, dir string) *ledger {
	t.Helper()
	cfg, err := Config{State: dir, Name: "overlord"}.settle()
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{log: new(syncBuffer)}
	if l.Overlord, err = open(t.Context(), cfg, slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug}))); err != nil {
		t.Fatal(err)
	}
	l.life = t.Context()
	l.api = clusterAPI{l.Overlord}
	return l
}

func (l *ledger) shut(t testing.TB) {
	t.Helper()
	if err := l.Overlord.close(); err != nil {
		t.Fatal(err)
	}
}

func newLedger(t testing.TB, machines ...string) *ledger {
	t.Helper()
	l := openAt(t, filepath.Join(t.TempDir(), "state"))
	t.Cleanup(func() { l.shut(t) })
	l.enrol(machines...)
	return l
}

// enrol makes machines known, with addresses as if they had been connected.
func (l *ledger) enrol(machines ...string) {
	i := &l.cluster.inventor
	i.mu.Lock()
	defer i.mu.Unlock()
	for n, m := range machines {
		l.fleet.enrolled(m)
		i.from[m] = whence{address: fmt.Sprintf("192.0.%d.%d", 2+(n+1)>>8, (n+1)&255)}
	}
}

func as(ctx context.Context, name string) context.Context {
	id := pki.Identity{Role: pki.Operator, Name: name}
	return context.WithValue(ctx, callerKey{}, caller{Identity: id, local: name == localOperator})
}

func root(t testing.TB) context.Context { return as(t.Context(), localOperator) }

// done makes a change that must succeed, and gives the serial.
func done[R any](t testing.TB, f func(context.Context, *connect.Request[R]) (*connect.Response[apipb.ClusterChanged], error), r *R) uint64 {
	t.Helper()
	out, err := f(root(t), connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	return out.Msg.Serial
}

func (l *ledger) candidate(t testing.TB, names ...string) uint64 {
	t.Helper()
	return done(t, l.api.SetCandidates, &apipb.ClusterSetCandidatesRequest{Nodes: names})
}

// records gives the audit records from an index on.
func (l *ledger) records(t testing.TB, from int64) (out []*auditpb.Record) {
	t.Helper()
	for row, err := range l.keep.db.LogRows(t.Context(), from, l.keep.logSize()) {
		if err != nil {
			t.Fatal(err)
		}
		var r auditpb.Record
		if err := proto.Unmarshal(row.Leaf, &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, &r)
	}
	return out
}

// verified gives what the header of the version in force says.
func (l *ledger) verified(t testing.TB) *cluster.Signed {
	t.Helper()
	v := l.clusterNow()
	h, err := cluster.Verify(l.trust, v.header, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := h.Unpack(v.data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(doc, v.doc.Bytes()) || h.Serial != v.serial || h.Serial != v.doc.Serial() || h.Cluster != v.doc.UUID() || h.KeyDigest != cluster.KeyDigest(v.key) || !slices.Equal(h.Candidates, v.candidates) {
		t.Fatalf("the header of version %d says %+v", v.serial, h)
	}
	return h
}

// count asks the database of an overlord that runs for a number.
func (l *ledger) count(t testing.TB, query string, args ...any) (n int) {
	t.Helper()
	db := sqlOf(t, l.dir.Path())
	defer db.Close()
	if err := db.QueryRow(query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

package main

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/minion"
	"dominion/module"
	"dominion/pki"
)

const testOverlord = "dc1"

// fleetCase is one order, what a minion signed about it, and what the overlord
// recorded; a test spoils one of them.
type fleetCase struct {
	order   *call.Order
	told    *audit.MinionRecord
	results *auditpb.Results
	log     *minionLog
}

func newFleetCase(t *testing.T) *fleetCase {
	t.Helper()
	tree, err := call.NewNames([]string{"web1"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Millisecond)
	o := &call.Order{
		Job: call.NewJobID(now), Method: "test.ping", ArgsDigest: call.Digest([]byte("salt"), []byte("{}")),
		IssuedAt: now, NotBefore: now, Expiry: now.Add(time.Hour), Count: 1, Root: tree.Root(),
	}
	return &fleetCase{
		order: o,
		told: &audit.MinionRecord{
			TimeMs: now.UnixMilli(), Job: o.Job[:], Operator: "alice", Method: o.Method, ArgsDigest: o.ArgsDigest[:], OutputSha256: []byte("digest"),
			Overlord: testOverlord,
		},
		results: &auditpb.Results{Job: o.Job[:], Names: "web1", Status: uint32(call.Answered), OutputSha256: []byte("digest")},
		log:     &minionLog{name: "web1"},
	}
}

func (c *fleetCase) compare() []string {
	if c.told != nil {
		c.log.records = append(c.log.records, c.told)
	}
	cmp := newComparison(testOverlord, 100)
	cmp.minion(c.log)
	if c.order != nil {
		cmp.record(0, &audit.Record{Order: &auditpb.Order{Order: c.order.Marshal()}})
	}
	if c.results != nil {
		cmp.record(1, &audit.Record{Results: c.results})
	}
	cmp.end()
	return cmp.differences
}

func TestComparison(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*fleetCase)
		want  string // empty: no difference
	}{
		{"equal", func(*fleetCase) {}, ""},
		{"an order left out", func(c *fleetCase) { c.order, c.results = nil, nil }, "web1 ran test.ping by operator alice in job"},
		{"another method", func(c *fleetCase) { c.told.Method = "command.run" }, "has another order there"},
		{"other arguments", func(c *fleetCase) { c.told.ArgsDigest = []byte("x") }, "has another order there"},
		{"another output", func(c *fleetCase) { c.results.OutputSha256 = []byte("other") }, "another result"},
		{"another code", func(c *fleetCase) { c.told.Code = uint32(call.Failed) }, `ended job`},
		{"an invented answer", func(c *fleetCase) { c.told = nil }, "its own log does not have that job"},
		{"an answer older than the log", func(c *fleetCase) {
			c.told, c.log.first = nil, 7
			c.log.records = []*audit.MinionRecord{{TimeMs: c.order.IssuedAt.Add(time.Minute).UnixMilli(), Overlord: testOverlord}}
		}, ""},
		{"a lost answer", func(c *fleetCase) { c.results.Code = uint32(call.NoAnswer) }, ""},
		{"a job of another overlord", func(c *fleetCase) { c.order, c.results, c.told.Overlord = nil, nil, "dc2" }, ""},
		{"a refusal without an order", func(c *fleetCase) { c.order, c.results, c.told.Code = nil, nil, uint32(call.BadOrder) }, ""},
		{"run twice", func(c *fleetCase) { c.log.records = append(c.log.records, c.told) }, "twice"},
		{"a loss, whatever came before", func(c *fleetCase) {
			c.told.Code, c.told.Operator, c.told.ArgsDigest, c.told.OutputSha256 = uint32(call.Unknown), "", nil, nil
		}, ""},
		{"a loss that a crash doubled", func(c *fleetCase) {
			c.told.Code = uint32(call.Unknown)
			c.log.records = append(c.log.records, c.told)
		}, ""},
		{"a loss of another method", func(c *fleetCase) { c.told.Code, c.told.Method = uint32(call.Unknown), "command.run" }, "has another order there"},
		{"a loss without an order", func(c *fleetCase) {
			c.order, c.results, c.told.Code, c.told.Operator = nil, nil, uint32(call.Unknown), ""
		}, "web1 ran test.ping by operator unknown in job"},
		{"no output, and the digest of none", func(c *fleetCase) {
			c.told.OutputSha256 = nil
			c.results.OutputSha256 = []byte("\xe3\xb0\xc4\x42\x98\xfc\x1c\x14\x9a\xfb\xf4\xc8\x99\x6f\xb9\x24\x27\xae\x41\xe4\x64\x9b\x93\x4c\xa4\x95\x99\x1b\x78\x52\xb8\x55")
		}, ""},
		{"a log that was not read", func(c *fleetCase) { c.told, c.log.problem = nil, "its log is torn" }, "web1: its log is torn"},
		{"names that are none", func(c *fleetCase) { c.results.Names = "web[" }, "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newFleetCase(t)
			tt.spoil(c)
			got := c.compare()
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("differences %q; want none", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("differences %q; want one with %q", got, tt.want)
			}
		})
	}
}

// What the overlord has of calls on a machine's Func face is what the machine's own log
// has there.
func TestComparisonOfTheFuncFace(t *testing.T) {
	own := &audit.MinionRecord{Job: make([]byte, 16), Caller: "operator/alice", Method: "test.ping", Stage: 1}
	leaf, err := audit.EncodeMinion(own)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		r        *audit.Record
		compared int
		want     string
	}{
		{"equal", &audit.Record{Actor: "minion/web1", MinionLeaf: leaf, MinionIndex: 6, MinionLog: "a"}, 1, ""},
		{"another call", &audit.Record{Actor: "minion/web1", MinionLeaf: append(leaf[:len(leaf):len(leaf)], 0x60, 2), MinionIndex: 6, MinionLog: "a"}, 1, "web1: record 17 has a call"},
		{"another place", &audit.Record{Actor: "minion/web1", MinionLeaf: leaf, MinionIndex: 5, MinionLog: "a"}, 1, "something else in that place (5)"},
		{"an older log", &audit.Record{Actor: "minion/web1", MinionLeaf: leaf, MinionIndex: 6, MinionLog: "b"}, 0, ""},
		{"dropped there", &audit.Record{Actor: "minion/web1", MinionLeaf: leaf, MinionIndex: 4, MinionLog: "a"}, 0, ""},
		{"not there yet", &audit.Record{Actor: "minion/web1", MinionLeaf: leaf, MinionIndex: 7, MinionLog: "a"}, 0, ""},
		{"another machine", &audit.Record{Actor: "minion/web2", MinionLeaf: leaf, MinionIndex: 6, MinionLog: "a"}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newComparison(testOverlord, 100)
			c.minion(&minionLog{name: "web1", id: "a", first: 5, next: 7, records: []*audit.MinionRecord{{Method: "test.ping"}, own}})
			c.record(17, tt.r)
			c.end()
			got := strings.Join(c.differences, "\n")
			if c.compared != tt.compared || (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("%d compared, differences %q; want %d and %q", c.compared, got, tt.compared, tt.want)
			}
		})
	}
}

func TestComparisonIsBounded(t *testing.T) {
	c := newComparison(testOverlord, 0)
	for range maxDifferences + 5 {
		c.differ("x")
	}
	c.end()
	if n := len(c.differences); n != maxDifferences+1 || c.differences[n-1] != "and 5 more" {
		t.Errorf("%d differences, the last %q", n, c.differences[n-1])
	}
}

// pages gives what agent.log answers for a log of n records.
func pages(t testing.TB, n int) (*ecdsa.PrivateKey, []minion.LogOut) {
	t.Helper()
	log, err := audit.OpenFileLog(filepath.Join(t.TempDir(), "log"), audit.FileLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for range n {
		if _, err := log.Append(&audit.MinionRecord{TimeMs: 1, Method: "test.ping"}); err != nil {
			t.Fatal(err)
		}
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	table, err := module.NewTable(minion.Modules(log, key))
	if err != nil {
		t.Fatal(err)
	}
	m, ok := table.Lookup("agent.log")
	if !ok {
		t.Fatal("no agent.log")
	}
	var outs []minion.LogOut
	for from := 0; from < n; from += 3 {
		args, err := json.Marshal(map[string]int{"from": from, "limit": 3})
		if err != nil {
			t.Fatal(err)
		}
		b, err := m.Run(t.Context(), nil, args)
		if err != nil {
			t.Fatal(err)
		}
		var out minion.LogOut
		if err := json.Unmarshal(b, &out); err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out)
	}
	return key, outs
}

func answer(t testing.TB, out minion.LogOut) call.Result {
	t.Helper()
	b, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return call.Result{Machine: "web1", Output: b}
}

func TestMinionLog(t *testing.T) {
	key, outs := pages(t, 5)
	l := &minionLog{name: "web1", key: &key.PublicKey}
	for i, o := range outs {
		if l.done {
			t.Fatalf("done before page %d", i)
		}
		if err := l.take(answer(t, o)); err != nil {
			t.Fatal(err)
		}
	}
	if !l.done || len(l.records) != 5 {
		t.Errorf("done %v with %d records; want 5", l.done, len(l.records))
	}
	other, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(*minionLog, *minion.LogOut, *call.Result)
		want  string
	}{
		{"another key", func(l *minionLog, _ *minion.LogOut, _ *call.Result) { l.key = &other.PublicKey }, "not signed by its key"},
		{"a changed head", func(_ *minionLog, o *minion.LogOut, _ *call.Result) {
			o.Head = strings.Replace(o.Head, "\n3\n", "\n4\n", 1)
		}, "not signed"},
		{"a record changed", func(_ *minionLog, o *minion.LogOut, _ *call.Result) {
			b, err := audit.EncodeMinion(&audit.MinionRecord{TimeMs: 2, Method: "test.ping"})
			if err != nil {
				t.Fatal(err)
			}
			o.Records[1] = base64.StdEncoding.EncodeToString(b)
		}, "another root"},
		{"a record that is none", func(_ *minionLog, o *minion.LogOut, _ *call.Result) { o.Records[0] = "/w==" }, "record 0"},
		{"records left out", func(_ *minionLog, o *minion.LogOut, _ *call.Result) { o.Records = nil }, "under a signed head"},
		{"a gap", func(l *minionLog, _ *minion.LogOut, _ *call.Result) { l.started, l.next = true, 2 }, "lost records"},
		{"an error", func(_ *minionLog, _ *minion.LogOut, r *call.Result) { r.Code = call.Timeout }, "time-out"},
		{"cut", func(_ *minionLog, _ *minion.LogOut, r *call.Result) { r.Cut = 1 }, "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key, outs := pages(t, 3)
			l := &minionLog{name: "web1", key: &key.PublicKey}
			var cut call.Result
			out := outs[0]
			tt.spoil(l, &out, &cut)
			r := answer(t, out)
			r.Code, r.Cut = cut.Code, cut.Cut
			if err := l.take(r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("take = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func FuzzMinionLog(f *testing.F) {
	key, outs := pages(f, 3)
	f.Add(answer(f, outs[0]).Output)
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &minionLog{name: "web1", key: &key.PublicKey}
		if err := l.take(call.Result{Machine: "web1", Output: b}); err == nil && (!l.done || len(l.records) != 3) {
			t.Fatalf("accepted %q as a log of %d records", b, len(l.records))
		}
	})
}

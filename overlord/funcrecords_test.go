package overlord_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/fleettest"
	"dominion/session"
)

// funcLeaf encodes a record of a call on a machine's Func face.
func funcLeaf(t *testing.T, change func(*auditpb.MinionRecord)) []byte {
	t.Helper()
	id := call.NewJobID(time.Now())
	m := &auditpb.MinionRecord{TimeMs: 1_800_000_000_000, Job: id[:], Method: "test.ping", Caller: "operator/alice", Address: "192.0.2.7:1", Stage: 1}
	if change != nil {
		change(m)
	}
	b, err := audit.EncodeMinion(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func leaves(from int64, all ...[]byte) (out []session.RecordLeaf) {
	for i, l := range all {
		out = append(out, session.RecordLeaf{Index: from + int64(i), Leaf: l})
	}
	return out
}

// What machines tell of calls on their Func faces is on the log once, in order, as
// their word; what does not hold is refused whole.
func TestRecordsOfMachines(t *testing.T) {
	f := fleettest.Start(t, fleettest.Config())
	m := &stolen{}
	m.connect(t, f, "m01")
	send := func(a session.RecordsArgs) (int64, error) {
		t.Helper()
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.session.Call(t.Context(), session.MethodRecords, b)
		var r session.RecordsResult
		if err == nil {
			err = json.Unmarshal(out, &r)
		}
		return r.Next, err
	}
	want := func(what string, a session.RecordsArgs, next int64) {
		t.Helper()
		if got, err := send(a); err != nil || got != next {
			t.Errorf("%s: next %d, %v; want %d", what, got, err, next)
		}
	}
	logged := func() string {
		t.Helper()
		stream, err := f.Conn.Audit.List(t.Context(), connect.NewRequest(&apipb.AuditListRequest{Actor: "minion/m01"}))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		var out []string
		for stream.Receive() {
			if r, err := audit.Decode(stream.Msg().GetBody()); err == nil && strings.HasPrefix(r.Action, "func.") {
				out = append(out, fmt.Sprintf("%s %d %s", r.Action, r.MinionIndex, r.Detail))
			}
		}
		return strings.Join(out, "\n")
	}
	begun := funcLeaf(t, nil)
	ended := funcLeaf(t, func(m *auditpb.MinionRecord) {
		m.Stage, m.Code, m.Detail = 2, uint32(call.Failed), "no disk"
	})
	denied := funcLeaf(t, func(m *auditpb.MinionRecord) { m.Stage, m.Code = 0, uint32(call.Denied) })
	want("nothing is known", session.RecordsArgs{Log: "one"}, 0)
	want("two", session.RecordsArgs{Log: "one", Leaves: leaves(3, begun, ended), Next: 10}, 10)
	want("the answer was lost", session.RecordsArgs{Log: "one", Leaves: leaves(3, begun, ended), Next: 10}, 10)
	want("asked again", session.RecordsArgs{Log: "one"}, 10)
	want("some are old", session.RecordsArgs{Log: "one", Leaves: append(leaves(3, begun), leaves(12, denied)...), Next: 13}, 13)
	want("none among many", session.RecordsArgs{Log: "one", Next: 20_000}, 20_000)
	want("another log", session.RecordsArgs{Log: "two"}, 0)
	want("some were lost", session.RecordsArgs{Log: "two", Leaves: leaves(7, begun), Next: 8, Lost: 7}, 8)
	all := logged()
	const at = ", at 2027-01-15T08:00:00Z"
	if wanted := "func.call 3 operator/alice from 192.0.2.7:1 called test.ping" + at +
		"\nfunc.result 4 operator/alice called test.ping: failed: no disk" + at +
		"\nfunc.denied 12 operator/alice from 192.0.2.7:1 called test.ping: denied" + at +
		"\nfunc.lost 0 7 records of its own log were removed there before those of its Func face among them could come here" +
		"\nfunc.call 7 operator/alice from 192.0.2.7:1 called test.ping" + at; all != wanted {
		t.Errorf("the log has\n%s\nwant\n%s", all, wanted)
	}
	order := funcLeaf(t, func(m *auditpb.MinionRecord) { m.Caller = "" })
	for name, a := range map[string]session.RecordsArgs{
		"no log":          {Leaves: leaves(20, begun), Next: 21},
		"no face":         {Log: "two", Leaves: leaves(20, begun, order), Next: 22},
		"no record":       {Log: "two", Leaves: leaves(20, []byte("x")), Next: 21},
		"behind its end":  {Log: "two", Leaves: leaves(20, begun), Next: 20},
		"out of order":    {Log: "two", Leaves: append(leaves(21, begun), leaves(20, begun)...), Next: 30},
		"a large record":  {Log: "two", Leaves: leaves(20, funcLeaf(t, func(m *auditpb.MinionRecord) { m.Detail = strings.Repeat("x", session.MaxRecordLeaf) })), Next: 21},
		"too many":        {Log: "two", Leaves: leaves(20, make([][]byte, session.MaxRecords+1)...), Next: 1000},
		"a negative end":  {Log: "two", Next: -1},
		"a negative loss": {Log: "two", Next: 30, Lost: -1},
	} {
		if next, err := send(a); call.CodeOf(err) != call.Invalid {
			t.Errorf("%s: next %d, %v; want invalid", name, next, err)
		}
	}
	if got := logged(); got != all {
		t.Errorf("what was refused is on the log:\n%s", got)
	}
}

package overlord

import (
	"encoding/json"
	"testing"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/session"
)

// FuzzFuncRecords: whatever a machine sends becomes records that the log takes, or
// is refused.
func FuzzFuncRecords(f *testing.F) {
	leaf, err := audit.EncodeMinion(&auditpb.MinionRecord{Job: make([]byte, 16), Method: "test.ping", Caller: "operator/alice", Stage: 2, Code: 5})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := json.Marshal(session.RecordsArgs{Log: "x", Leaves: []session.RecordLeaf{{Index: 3, Leaf: leaf}}, Next: 4})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, leaf)
	f.Fuzz(func(t *testing.T, raw, leaf []byte) {
		var in session.RecordsArgs
		if json.Unmarshal(raw, &in) != nil {
			return
		}
		if len(in.Leaves) > 0 {
			in.Leaves[0].Leaf = leaf
		}
		records, err := funcRecords("m01", in)
		if err != nil && call.CodeOf(err) != call.Invalid {
			t.Fatalf("error %v is not invalid", err)
		}
		for _, r := range records {
			if _, err := audit.Encode(r); err != nil {
				t.Fatalf("record %v: %v", r, err)
			}
		}
	})
}

package overlord

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/audit"
	"dominion/call"
	"dominion/pki"
)

// opened is an overlord that does not serve.
func opened(t *testing.T) *Overlord {
	t.Helper()
	cfg, err := Config{State: filepath.Join(t.TempDir(), "state"), Name: "overlord"}.settle()
	if err != nil {
		t.Fatal(err)
	}
	o, err := open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// An operator who leaves at once is on the log all the same.
func TestDenialIsRecordedWithoutItsCaller(t *testing.T) {
	o := opened(t)
	before := o.keep.logSize()
	ctx, leave := context.WithCancel(t.Context())
	leave()
	for range 20 { // without the fix each has an even chance
		o.auditDenied(ctx, caller{Identity: pki.Identity{Role: pki.Operator, Name: "eve"}}, "operator.add", "mallory", "policy")
	}
	if n := o.keep.logSize() - before; n != 20 {
		t.Errorf("%d denials on the log; want 20", n)
	}
}

// Who is denied chooses how much he asks for, and neither fills the disk nor
// stays off the log by it.
func TestDenialOfALargeRequest(t *testing.T) {
	o := opened(t)
	before := o.keep.logSize()
	eve := caller{Identity: pki.Identity{Role: pki.Operator, Name: "eve"}}
	for _, size := range []int{1 << 20, audit.MaxRecord} { // the latter fits into no record
		long := strings.Repeat("x", size)
		o.auditDenied(t.Context(), eve, "cert.sign", long, "policy")
		o.auditDenied(t.Context(), eve, "test.ping", "job", "policy, for "+long)
	}
	n := 0
	for row, err := range o.keep.db.LogRows(t.Context(), before, o.keep.logSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; len(row.Leaf) > 5000 {
			t.Errorf("a record of %d bytes", len(row.Leaf))
		}
	}
	if n != 4 {
		t.Errorf("%d denials on the log; want 4", n)
	}
}

// A policy that disappears does not open everything while the overlord runs.
func TestPolicyThatIsGone(t *testing.T) {
	o := opened(t)
	file := filepath.Join(o.dir.Path(), filePolicy)
	if err := os.WriteFile(file, []byte("[]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.loadPolicy(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := o.loadPolicy(); err == nil || o.currentPolicy().Allow("eve", "test.ping", "m01") {
		t.Errorf("loadPolicy = %v, and everything is allowed", err)
	}
}

// A verification reads the whole store, so they are few at a time.
func TestVerificationsAreFew(t *testing.T) {
	o := opened(t)
	if !o.verifying.TryAcquire(maxVerifying) {
		t.Fatal("one is running")
	}
	err := auditAPI{o}.Verify(t.Context(), connect.NewRequest(&apipb.AuditVerifyRequest{}), nil)
	if call.CodeOf(err) != call.Busy {
		t.Errorf("Verify = %v; want busy", err)
	}
}

// A minion that takes no revocation list is heard: after a restore its list may
// be newer than ours.
func TestListNotTaken(t *testing.T) {
	encode := func(r *fleetpb.Result) []byte {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if why := notTaken(encode(&fleetpb.Result{Output: []byte("{}")})); why != "" {
		t.Errorf("taken: %q", why)
	}
	if why := notTaken(encode(&fleetpb.Result{Code: uint32(call.Conflict), Detail: "an older revocation list"})); !strings.Contains(why, "older") {
		t.Errorf("an older one: %q", why)
	}
	if why := notTaken([]byte("x")); why == "" {
		t.Error("noise counts as taken")
	}
}

// What a store put back from a back-up does not know is not said to be stored.
func TestResultsOfAnOlderStoreAreKept(t *testing.T) {
	cfg, err := Config{State: filepath.Join(t.TempDir(), "state"), Name: "overlord"}.settle()
	if err != nil {
		t.Fatal(err)
	}
	o, err := open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer o.close() //nolint:errcheck // the test is over
	if !o.unwanted(nil, "m1") {
		t.Error("of a job that is not open any more")
	}
	o.keep.seen["m2"] = []byte("a checkpoint ahead of the log")
	if o.unwanted(nil, "m1") {
		t.Error("with a log that was rolled back")
	}
}

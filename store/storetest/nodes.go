package storetest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/store"
)

// testNodesAt covers finding nodes by their address, and counting them.
func testNodesAt(t *testing.T, db *store.DB, full, bare store.Node) {
	t.Helper()
	ctx := t.Context()
	if got, err := db.NodeCounts(ctx); err != nil || got != (store.NodeCounts{All: 2, Held: 1, Claimed: 1}) {
		t.Errorf("NodeCounts() = %+v, %v", got, err)
	}
	later, older := full, full
	later.Name, later.HWAddr, later.Contact = "n8", "52:54:00:00:00:08", full.Contact.Add(time.Second)
	older.Name, older.HWAddr, older.Contact = "n9", "52:54:00:00:00:09", full.Contact.Add(-time.Second)
	bare.Address, bare.Contact = full.Address, full.Contact.Add(time.Hour)
	Update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.SaveNode(ctx, later), tx.SaveNode(ctx, older), tx.SaveNode(ctx, bare))
	})
	if got, err := db.NodeAt(ctx, full.Address); err != nil || !cmp.Equal(got, later) {
		t.Errorf("NodeAt(%s): %v\n%s", full.Address, err, cmp.Diff(later, got))
	}
	if _, err := db.NodeAt(ctx, full.Source); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("NodeAt() of an address that nobody has: %v", err)
	}
	bare.Address, bare.Contact = "", full.Created
	Update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.DeleteNode(ctx, "n8"), tx.DeleteNode(ctx, "n9"), tx.SaveNode(ctx, bare))
	})
}

// testNodes covers nodes and the nonces of their boots.
func testNodes(t *testing.T, p Place) {
	db := open(t, p, Options(t, new(Keeper)))
	ctx, at := t.Context(), time.UnixMilli(1_800_000_000_123)
	full := store.Node{
		Name: "n1", HWAddr: "52:54:00:00:00:01", Group: "web", VNFS: "debian", Enabled: true, Debug: 3, Boot: "provision", Description: "dé",
		Created: at, Source: "192.0.2.1", Approved: at.Add(1e9), ApprovedBy: "operator/alice", Address: "192.0.2.2", State: "ready", Contact: at.Add(2e9),
		Script: []byte{1, 2}, Failure: "why", Claim: "192.0.2.3", ClaimAt: at.Add(3e9),
		Ended: store.NodeRun{State: "init", At: at.Add(4e9), Exit: 7, Took: 1500 * time.Millisecond, Detail: "so"},
	}
	bare := store.Node{Name: "n2", HWAddr: "52:54:00:00:00:02", Boot: "hold", Group: "web", Source: "192.0.2.1", Contact: at}
	Update(t, db, func(tx *store.Tx) error { return errors.Join(tx.SaveNode(ctx, full), tx.SaveNode(ctx, bare)) })
	for _, want := range []store.Node{full, bare} {
		if got, err := db.Node(ctx, want.Name); err != nil || !cmp.Equal(got, want) {
			t.Errorf("Node(%s): %v\n%s", want.Name, err, cmp.Diff(want, got))
		}
		if got, err := db.NodeOf(ctx, want.HWAddr); err != nil || got.Name != want.Name {
			t.Errorf("NodeOf(%s) = %s, %v", want.HWAddr, got.Name, err)
		}
	}
	if got, err := db.Nodes(ctx); err != nil || len(got) != 2 || got[0].Name != "n1" {
		t.Errorf("Nodes() = %v, %v", got, err)
	}
	if got, err := db.CountNodes(ctx); err != nil || got != 2 {
		t.Errorf("CountNodes() = %d, %v", got, err)
	}
	if got, err := db.NodeNames(ctx); err != nil || !slices.Equal(got, []string{"n1", "n2"}) {
		t.Errorf("NodeNames() = %q, %v", got, err)
	}
	if err := db.Update(ctx, func(tx *store.Tx) error {
		return tx.SaveNode(ctx, store.Node{Name: "n3", HWAddr: full.HWAddr})
	}); err == nil {
		t.Error("two nodes have one hardware address")
	}
	testNodesAt(t, db, full, bare)
	for source, want := range map[string]int{"": 1, "192.0.2.1": 1, "192.0.2.9": 0} {
		if got, err := db.HeldNodes(ctx, source); err != nil || got != want {
			t.Errorf("HeldNodes(%q) = %d, %v; want %d", source, got, err, want)
		}
	}
	if got, err := db.StaleNodes(ctx, at.Add(time.Hour)); err != nil || !slices.Equal(got, []string{"n2"}) {
		t.Errorf("StaleNodes() = %q, %v", got, err)
	}
	if got, err := db.StaleNodes(ctx, at); err != nil || len(got) != 0 {
		t.Errorf("StaleNodes() of before = %q, %v", got, err)
	}
	Update(t, db, func(tx *store.Tx) error {
		return tx.DropPrimary(ctx, "web", func(name string) bool { return name == "n1" })
	})
	for name, want := range map[string]string{"n1": "web", "n2": ""} {
		if got, err := db.Node(ctx, name); err != nil || got.Group != want {
			t.Errorf("group of %s is %q, %v; want %q", name, got.Group, err, want)
		}
	}
	testNonces(t, db)
}

func testNonces(t *testing.T, db *store.DB) {
	ctx, at := t.Context(), time.UnixMilli(1_800_000_000_123)
	first := store.Nonce{Node: "n1", Hash: []byte("one"), Source: "192.0.2.1", Created: at, Expires: at.Add(time.Hour)}
	second := first
	second.Hash, second.Claimed, second.Token = []byte("two"), at.Add(1e9), "0123abcd"
	Update(t, db, func(tx *store.Tx) error { return errors.Join(tx.PutNonce(ctx, first), tx.PutNonce(ctx, second)) })
	if _, err := db.Nonce(ctx, first.Hash); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a newer nonce leaves the older: %v", err)
	}
	if got, err := db.Nonce(ctx, second.Hash); err != nil || !cmp.Equal(got, second) {
		t.Errorf("Nonce: %v\n%s", err, cmp.Diff(second, got))
	}
	if got, err := db.Nonces(ctx); err != nil || !cmp.Equal(got, []store.Nonce{second}) {
		t.Errorf("Nonces() = %v, %v", got, err)
	}
	Update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.UseNonce(ctx, "other", at), tx.UseNonce(ctx, second.Token, at.Add(2e9)), tx.UseNonce(ctx, second.Token, at.Add(3e9)))
	})
	if got, err := db.NonceOf(ctx, "n1"); err != nil || !got.Used.Equal(at.Add(2e9)) {
		t.Errorf("the nonce was used at %v, %v", got.Used, err)
	}
	Update(t, db, func(tx *store.Tx) error { return tx.DeleteNode(ctx, "n1") })
	if _, err := db.NonceOf(ctx, "n1"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the nonce of a node that is gone: %v", err)
	}
	if taken, err := db.NameTaken(ctx, "n1"); err != nil || taken {
		t.Errorf("NameTaken = %t, %v", taken, err)
	}
	for _, role := range []string{"operator", "minion"} { // in this order
		Update(t, db, func(tx *store.Tx) error { return tx.PutCert(ctx, store.Cert{Serial: role, Role: role, Name: "n1"}) })
		if taken, err := db.NameTaken(ctx, "n1"); err != nil || taken != (role == "minion") {
			t.Errorf("NameTaken with a certificate of role %s = %t, %v", role, taken, err)
		}
	}
}

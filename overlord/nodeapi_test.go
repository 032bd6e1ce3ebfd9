package overlord

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/pki"
	"dominion/store"
)

// Changing nodes takes the right to; letting a machine in takes that of making
// tokens too, and the log says who was denied.
func TestNodesAndPolicy(t *testing.T) {
	cfg, err := Config{State: filepath.Join(t.TempDir(), "state"), Name: "overlord", Provision: ProvisionConfig{Enabled: true}}.settle()
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
	policy := `- {operators: all, methods: "*", targets: "*"}
- {operators: nodes, methods: "node.*", targets: "*"}
- {operators: both, methods: "node.*,token.create", targets: "*"}
`
	if err := os.WriteFile(filepath.Join(o.dir.Path(), filePolicy), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.loadPolicy(); err != nil {
		t.Fatal(err)
	}
	api := nodeAPI{o}
	as := func(name string) context.Context {
		return context.WithValue(t.Context(), callerKey{}, caller{Identity: pki.Identity{Role: pki.Operator, Name: name}})
	}
	add := func(ctx context.Context) error {
		_, err := api.AddNode(ctx, connect.NewRequest(&apipb.AddNodeRequest{Hwaddr: "52:54:00:00:00:01", Name: "web1"}))
		return err
	}
	other := map[string]func(context.Context) error{
		"set": func(ctx context.Context) error {
			_, err := api.SetNodes(ctx, connect.NewRequest(&apipb.SetNodesRequest{Target: "web1", Debug: new(uint32(1))}))
			return err
		},
		"approve": func(ctx context.Context) error {
			_, err := api.ApproveNodes(ctx, connect.NewRequest(&apipb.ApproveNodesRequest{Target: "web1"}))
			return err
		},
		"replace": func(ctx context.Context) error {
			_, err := api.ReplaceNode(ctx, connect.NewRequest(&apipb.ReplaceNodeRequest{Name: "web1", By: "52:54:00:00:00:02"}))
			return err
		},
	}
	for name, want := range map[string]call.Code{"nobody": call.Denied, "nodes": call.Denied, "all": call.Denied} {
		if err := add(as(name)); call.CodeOf(err) != want {
			t.Errorf("%s adds a node: %v", name, err)
		}
	}
	if err := add(as("both")); err != nil {
		t.Fatal(err)
	}
	for action, may := range map[string]map[string]bool{
		"set": {"nobody": false, "nodes": true, "all": true, "both": true}, "approve": {"nobody": false, "nodes": false, "all": false, "both": true},
		"replace": {"nobody": false, "nodes": false, "all": false},
	} {
		for name, may := range may {
			if err := other[action](as(name)); (err == nil) != may || err != nil && call.CodeOf(err) != call.Denied {
				t.Errorf("%s: %s: %v", name, action, err)
			}
		}
	}
	if _, err := api.DeleteNodes(as("nobody"), connect.NewRequest(&apipb.DeleteNodesRequest{Target: "*"})); call.CodeOf(err) != call.Denied {
		t.Errorf("nobody deletes: %v", err)
	}
	if r, err := api.Nodes(as("nobody"), connect.NewRequest(&apipb.NodesRequest{})); err != nil || len(r.Msg.Nodes) != 1 {
		t.Errorf("an operator reads: %v, %v", r, err)
	}
}

// A new node never gets the name of a machine, or of an overlord, that has or had
// a certificate.
func TestNodeNamesAreNobodysElse(t *testing.T) {
	cfg, err := Config{State: filepath.Join(t.TempDir(), "state"), Name: "n0001", Provision: ProvisionConfig{Enabled: true}}.settle()
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
	err = o.keep.db.Update(t.Context(), func(tx *store.Tx) error {
		return tx.PutCert(t.Context(), store.Cert{Serial: "1", Role: "minion", Name: "n0000"})
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(t.Context(), callerKey{}, caller{local: true})
	r, err := nodeAPI{o}.AddNode(ctx, connect.NewRequest(&apipb.AddNodeRequest{Hwaddr: "52:54:00:00:00:01"}))
	if err != nil || r.Msg.Node.Name != "n0002" {
		t.Errorf("the first node is %v, %v", r, err)
	}
}

package overlord_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
	"dominion/minion"
)

func shown(t *testing.T, f *fleettest.Fleet) *apipb.ClusterShowResponse {
	t.Helper()
	r, err := f.Conn.Cluster.Show(t.Context(), connect.NewRequest(&apipb.ClusterShowRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg
}

func nodesOf(t *testing.T, f *fleettest.Fleet) (out []string) {
	t.Helper()
	for _, n := range shown(t, f).Nodes {
		out = append(out, n.Name+" "+n.Role)
	}
	return out
}

// The nodes are the machines: without a cluster nothing is compiled; machines that
// come together make one version, those that come back none, those that are revoked
// leave.
func TestClusterFollowsTheInventory(t *testing.T) {
	t.Parallel()
	f := fleettest.New(t, 2)
	if s := shown(t, f); s.Exists {
		t.Fatalf("nobody asked for a cluster, and there is version %d", s.Serial)
	}
	if _, err := f.Conn.Cluster.SetMaster(t.Context(), connect.NewRequest(&apipb.ClusterSetMasterRequest{Node: "m01"})); err != nil {
		t.Fatal(err)
	}
	names := []string{"m11", "m12", "m13"}
	var came []*fleettest.Minion
	for _, n := range names {
		came = append(came, f.Enrol(n, minion.Config{}))
	}
	f.Await(5)
	f.Until("they are nodes", func() bool { return len(shown(t, f).Nodes) == 5 })
	if s := shown(t, f); s.Serial > 4 {
		t.Errorf("serial %d after three machines came", s.Serial)
	}
	if got := nodesOf(t, f); !slices.Equal(got, []string{"m01 master", "m02 regular", "m11 regular", "m12 regular", "m13 regular"}) {
		t.Errorf("nodes %v", got)
	}
	if _, err := f.Conn.Cluster.SetCandidates(t.Context(), connect.NewRequest(&apipb.ClusterSetCandidatesRequest{Nodes: []string{"m12"}})); err != nil {
		t.Fatal(err)
	}
	before := shown(t, f).Serial
	if err := came[0].Stop(); err != nil {
		t.Fatal(err)
	}
	f.Until("m11 is away", func() bool {
		for _, n := range shown(t, f).Nodes {
			if n.Name == "m11" {
				return n.Enrolled && !n.Connected
			}
		}
		return false
	})
	f.Down()
	f.Up()
	f.Await(4)
	f.Enrol("m14", minion.Config{})
	f.Until("m14 is a node", func() bool { return len(shown(t, f).Nodes) == 6 })
	if s := shown(t, f); s.Serial != before+1 {
		t.Errorf("serial %d after a restart and one machine more; before %d", s.Serial, before)
	}
	if _, err := f.Conn.Admin.RevokeCert(t.Context(), connect.NewRequest(&apipb.RevokeCertRequest{Name: "m12"})); err != nil {
		t.Fatal(err)
	}
	f.Until("m12 is no node", func() bool { return len(shown(t, f).Nodes) == 5 })
	s := shown(t, f)
	if len(s.Candidates) != 1 || s.Serial != before+2 {
		t.Errorf("serial %d, candidates %v after one was revoked; before %d", s.Serial, s.Candidates, before)
	}
	var synced []string
	for _, r := range records(t, f.Conn) {
		if r.Action == "cluster.sync" {
			synced = append(synced, r.Actor+" "+r.Detail)
		}
	}
	last := synced[len(synced)-1]
	if last != "overlord/overlord serial "+strconv.FormatUint(before+2, 10)+": the inventory changed; gone: m12" || !strings.Contains(strings.Join(synced, " "), "; new: m") {
		t.Errorf("records %q", synced)
	}
	if got := verify(t, f.Conn); !got.Ok {
		t.Errorf("verify finds %v", got.Problem)
	}
}

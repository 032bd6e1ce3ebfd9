package cluster_test

import (
	"os"
	"testing"
	"time"

	"dominion/cluster"
)

func lab(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../confd/testdata/config.data")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func at(seconds int64) time.Time { return time.Unix(1_790_000_000+seconds, 250_000_000) }

func apply(t testing.TB, d *cluster.Document, changes ...cluster.Change) *cluster.Document {
	t.Helper()
	n, err := d.Apply(at(int64(d.Serial())), changes...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFirst(t *testing.T) {
	d := cluster.New("fleet.example", at(0))
	d = apply(t, d, cluster.Sync([]cluster.Machine{{"web1", "192.0.2.1"}, {"web2", "192.0.2.2"}, {"web3", ""}}), cluster.AddCandidates("web1"))
	d = apply(t, d, cluster.SetMaster("web2"))
	t.Logf("%s", d.Bytes())
	again, err := cluster.Parse(d.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if string(again.Bytes()) != string(d.Bytes()) || d.Serial() != 2 {
		t.Error("x")
	}
	l, err := cluster.Parse(lab(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(l.Nodes(), l.Instances(), l.Candidates(), l.Master(), l.Changed())
}

package overlord

import (
	"bytes"
	"context"
	"strconv"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/cluster"
)

// served decodes a request as the API does and carries it out.
func served[R any, P interface {
	*R
	proto.Message
}, A any](t *testing.T, f func(context.Context, *connect.Request[R]) (*connect.Response[A], error), b []byte) {
	t.Helper()
	var r R
	if proto.Unmarshal(b, P(&r)) != nil {
		return
	}
	_, err := f(root(t), connect.NewRequest(&r))
	switch call.CodeOf(err) {
	case call.OK, call.Invalid, call.NotFound, call.Conflict, call.TooMany:
	default:
		t.Fatalf("%T: %v", &r, err)
	}
}

// Whatever a request of the API holds, it is refused with a code, or makes a
// version that is signed and reads back.
func FuzzClusterAPI(f *testing.F) {
	add := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(&apipb.ClusterSetMasterRequest{Node: "web1"})
	add(&apipb.ClusterSetCandidatesRequest{Nodes: []string{"web1", "web2"}, Remove: true})
	add(&apipb.ClusterSetNodeRequest{Node: "web2", Primary: new("192.0.2.9"), Role: new("offline")})
	add(&apipb.ClusterInstanceRequest{Name: "i", Primary: new("web1"), Secondary: new("web2"), SetNics: true, Nics: []*apipb.ClusterNIC{{Ip: "203.0.113.1", Link: "br0"}}, SetDisks: true, Disks: []uint64{1, 2}})
	add(&apipb.ClusterImportRequest{Data: zipped(f, labData(f)), Replace: true, Key: []byte("k")})
	add(&apipb.ClusterImportRequest{Data: zipped(f, []byte("{}")), Replace: true})
	add(&apipb.ClusterRotateKeyRequest{Key: []byte("k")})
	l := newLedger(f, "web1", "web2")
	f.Fuzz(func(t *testing.T, b []byte) {
		served(t, l.api.SetMaster, b)
		served(t, l.api.SetCandidates, b)
		served(t, l.api.SetNode, b)
		served(t, l.api.RemoveNode, b)
		served(t, l.api.AddInstance, b)
		served(t, l.api.SetInstance, b)
		served(t, l.api.RemoveInstance, b)
		served(t, l.api.Instances, b)
		served(t, l.api.Import, b)
		served(t, l.api.RotateKey, b)
		if v := l.clusterNow(); v != nil {
			l.verified(t)
			shown, err := l.api.Show(root(t), connect.NewRequest(&apipb.ClusterShowRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := proto.Marshal(shown.Msg); err != nil {
				t.Fatal(err)
			}
			listed, err := l.api.Instances(root(t), connect.NewRequest(&apipb.ClusterInstancesRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := proto.Marshal(listed.Msg); err != nil {
				t.Fatal(err)
			}
			again, err := cluster.Parse(v.doc.Bytes())
			if err != nil || !bytes.Equal(again.Bytes(), v.doc.Bytes()) {
				t.Fatalf("version %d reads back as another: %v", v.serial, err)
			}
		}
	})
}

// FuzzUnzip: what a client sends as a file is read in bounded memory.
func FuzzUnzip(f *testing.F) {
	f.Add(zipped(f, labData(f)))
	f.Add([]byte{})
	f.Add(append(zipped(f, []byte("a")), zipped(f, []byte("b"))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := unzip(b)
		if err != nil {
			if call.CodeOf(err) != call.Invalid {
				t.Fatal(err)
			}
			return
		}
		if len(out) > 1<<20 {
			return
		}
		if again, err := unzip(zipped(t, out)); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%d bytes come back as %d, %v", len(out), len(again), err)
		}
	})
}

// BenchmarkClusterChange is one change of an operator, from the request to the
// version that is durable, on the log, signed and in force.
func BenchmarkClusterChange(b *testing.B) {
	for _, nodes := range []int{5, 5000} {
		b.Run(strconv.Itoa(nodes), func(b *testing.B) {
			l := newLedger(b)
			l.enrol(manyNames(nodes)...)
			l.candidate(b, "n1", "n2")
			names := []string{"n1", "n2"}
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				done(b, l.api.SetMaster, &apipb.ClusterSetMasterRequest{Node: names[i%2]})
			}
			b.ReportMetric(float64(len(l.clusterNow().data)), "packed-bytes")
		})
	}
}

func manyNames(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = "n" + strconv.Itoa(i+1)
	}
	return out
}

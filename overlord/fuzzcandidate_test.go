package overlord

import (
	"crypto/ecdsa"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/cluster"
	"dominion/pki"
	"dominion/session"
)

// versionOf makes an overlord without anything but cluster data, with the candidate
// m01.
func versionOf(f *testing.F) (*Overlord, *clusterVersion) {
	f.Helper()
	must := func(err error) {
		f.Helper()
		if err != nil {
			f.Fatal(err)
		}
	}
	now := time.Now()
	root, err := pki.NewRoot(now)
	must(err)
	o := &Overlord{log: slog.New(slog.DiscardHandler), cfg: Config{Name: "main"}}
	o.candidates.init(o)
	o.trust, err = pki.NewTrust(root.Cert)
	must(err)
	var key *ecdsa.PrivateKey
	key, err = pki.NewKey()
	must(err)
	leaf, err := root.Sign(pki.Template{Identity: pki.Identity{Role: pki.Overlord, Name: "main"}, PublicKey: key.Public()}, now)
	must(err)
	v := &clusterVersion{made: now, key: []byte("key\n"), candidates: []string{"m01"}}
	v.doc, err = cluster.New("main", now).Apply(now, cluster.Sync([]cluster.Machine{{Name: "m01", Address: "192.0.2.1"}}), cluster.SetMaster("m01"))
	must(err)
	v.serial = v.doc.Serial()
	v.data, err = cluster.Pack(v.doc.Bytes())
	must(err)
	h := cluster.Header{Cluster: v.doc.UUID(), Serial: v.serial, Made: now, KeyDigest: cluster.KeyDigest(v.key), Candidates: v.candidates}
	h.SetData(v.doc.Bytes(), v.data)
	v.header, err = cluster.Sign(h, key, leaf)
	must(err)
	return o, v
}

// What a candidate answers: only our own header counts as one.
func FuzzClusterAnswer(f *testing.F) {
	o, v := versionOf(f)
	good, err := json.Marshal(session.ClusterResult{Header: v.header, Serving: true, Listen: "192.0.2.1:1814"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}"))
	f.Add([]byte(`{"header":"AAAA","error":"` + strings.Repeat("x", 2000) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r session.ClusterResult
		if json.Unmarshal(b, &r) != nil {
			return
		}
		seen, reason := o.candidates.judge(v, &r, "m01")
		if len(reason) > 1000 {
			t.Fatalf("a reason of %d bytes", len(reason))
		}
		if seen != nil && (seen.Serial != v.serial || !v.mine(seen, "main")) {
			t.Fatalf("taken for a header of ours: %x", r.Header)
		}
	})
}

// What a candidate asks for: pieces of the data, or an error with a code.
func FuzzClusterPiece(f *testing.F) {
	o, v := versionOf(f)
	o.cluster.now.Store(v)
	good, err := json.Marshal(session.ClusterDataArgs{Digest: make([]byte, 32), Offset: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"offset":-1}`))
	f.Add([]byte(`{"offset":9223372036854775807}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := o.candidates.piece("m01", b)
		if err == nil && len(out.Data) == 0 || err != nil && call.CodeOf(err) == call.Internal {
			t.Fatalf("%q: %v, %v", b, out, err)
		}
	})
}

package cluster_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/cluster"
	"dominion/confd"
	"dominion/pki"
)

// site is a root with an overlord and a machine under it.
type site struct {
	root     *pki.Authority
	issuing  *pki.Authority
	trust    *pki.Trust
	key      *ecdsa.PrivateKey // the overlord's, the machine's and the operator's
	overlord *x509.Certificate
	machine  *x509.Certificate
	operator *x509.Certificate
}

func newSite(tb testing.TB, now time.Time) *site {
	tb.Helper()
	must := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	root, err := pki.NewRoot(now)
	must(err)
	s := &site{root: root}
	s.trust, err = pki.NewTrust(root.Cert)
	must(err)
	s.key, err = pki.NewKey()
	must(err)
	ca, err := pki.NewKey()
	must(err)
	cert, err := root.NewIssuing("main", ca.Public(), now)
	must(err)
	s.issuing = &pki.Authority{Cert: cert, Key: ca}
	leaf := func(a *pki.Authority, role pki.Role, name string) *x509.Certificate {
		c, err := a.Sign(pki.Template{Identity: pki.Identity{Role: role, Name: name}, PublicKey: s.key.Public()}, now)
		must(err)
		return c
	}
	s.overlord, s.operator = leaf(root, pki.Overlord, "main"), leaf(root, pki.Operator, "alice")
	s.machine = leaf(s.issuing, pki.Minion, "web1")
	return s
}

// header is a valid one of a document, with what Pack made of it.
func header(tb testing.TB, document []byte) (cluster.Header, []byte) {
	tb.Helper()
	packed, err := cluster.Pack(document)
	if err != nil {
		tb.Fatal(err)
	}
	h := cluster.Header{
		Cluster: "8f3b1a52-0000-4000-8000-00000000c1c1", Serial: 7, Made: time.UnixMilli(1_700_000_000_123),
		KeyDigest: cluster.KeyDigest([]byte("key\n")), Candidates: []string{"n1", "n2", "n3.example.org"},
	}
	h.SetData(document, packed)
	return h, packed
}

func (s *site) sign(tb testing.TB, h cluster.Header) []byte {
	tb.Helper()
	b, err := cluster.Sign(h, s.key, s.overlord)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestSignVerify(t *testing.T) {
	now := time.Now()
	s := newSite(t, now)
	h, packed := header(t, []byte(`{"serial_no": 7}`))
	for _, when := range []time.Time{now, {}} {
		got, err := cluster.Verify(s.trust, s.sign(t, h), when)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Same(&h) || !got.Made.Equal(h.Made) || got.Signer != "main" || !got.Leaf.Equal(s.overlord) {
			t.Errorf("Verify = %+v; want %+v", got, h)
		}
		doc, err := got.Unpack(packed)
		if err != nil || string(doc) != `{"serial_no": 7}` {
			t.Errorf("Unpack = %q, %v", doc, err)
		}
	}
	if !h.Candidate("n2") || h.Candidate("n") || h.Candidate("n4") {
		t.Error("Candidate does not tell the names of the header from others")
	}
	// Sign sorts, and takes doubles for one.
	mixed := h
	mixed.Candidates = []string{"n3.example.org", "n1", "n2", "n1"}
	if got, err := cluster.Verify(s.trust, s.sign(t, mixed), now); err != nil || !got.Same(&h) {
		t.Errorf("Verify of unsorted candidates = %+v, %v; want %+v", got, err, h)
	}
}

func TestVerifyRefuses(t *testing.T) {
	now := time.Now()
	s, other := newSite(t, now), newSite(t, now)
	h, _ := header(t, []byte("{}"))
	with := func(change func(*fleetpb.ClusterSigned, *fleetpb.ClusterHeader)) []byte {
		var p fleetpb.ClusterSigned
		var in fleetpb.ClusterHeader
		if err := errors.Join(proto.Unmarshal(s.sign(t, h), &p), proto.Unmarshal(p.Header, &in)); err != nil {
			t.Fatal(err)
		}
		p.Header = nil
		change(&p, &in)
		if p.Header == nil {
			p.Header, _ = proto.MarshalOptions{Deterministic: true}.Marshal(&in)
			p.Signature = signHeader(t, s.key, p.Header)
		}
		b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&p)
		return b
	}
	by := func(cert *x509.Certificate) []byte {
		return with(func(p *fleetpb.ClusterSigned, _ *fleetpb.ClusterHeader) { p.Cert = cert.Raw })
	}
	good := with(func(*fleetpb.ClusterSigned, *fleetpb.ClusterHeader) {})
	if _, err := cluster.Verify(s.trust, good, now); err != nil {
		t.Fatalf("what is changed below does not hold unchanged: %v", err)
	}
	type in = fleetpb.ClusterHeader
	field := func(change func(*in)) []byte {
		return with(func(_ *fleetpb.ClusterSigned, h *in) { change(h) })
	}
	for _, tt := range []struct {
		name   string
		signed []byte
		when   time.Time
		want   string
	}{
		{"nothing", nil, now, "the signer"},
		{"another fleet", other.sign(t, h), now, "the signer"},
		{"a machine's certificate", by(s.machine), now, "the signer"},
		{"an operator's certificate", by(s.operator), now, "no overlord"},
		{"the root itself", by(s.root.Cert), now, "the signer"},
		{"the issuing CA", by(s.issuing.Cert), now, "the signer"},
		{"another overlord's signature", with(func(p *fleetpb.ClusterSigned, _ *in) { p.Cert = leafOf(t, s, now).Raw }), now, "the signature is not that"},
		{"a certificate that expired", good, now.Add(pki.OverlordLife + 2*time.Hour), "expired"},
		{"before its certificate", good, now.Add(-2 * pki.Backdate), "valid from"},
		{"no cluster", field(func(h *in) { h.Cluster = "" }), now, "cluster"},
		{"a cluster with a slash", field(func(h *in) { h.Cluster = "../x" }), now, "cluster"},
		{"a long cluster", field(func(h *in) { h.Cluster = strings.Repeat("a", 65) }), now, "cluster"},
		{"serial zero", field(func(h *in) { h.Serial = 0 }), now, "serial"},
		{"a serial at the end of all", field(func(h *in) { h.Serial = 1 << 63 }), now, "serial"},
		{"no time", field(func(h *in) { h.MadeMs = 0 }), now, "when it was made"},
		{"a short digest", field(func(h *in) { h.Digest = h.Digest[1:] }), now, "digests of 31"},
		{"no key digest", field(func(h *in) { h.KeyDigest = nil }), now, "digests of"},
		{"no data", field(func(h *in) { h.Packed = 0 }), now, "compressed"},
		{"negative size", field(func(h *in) { h.Size = -1 }), now, "bytes are not from"},
		{"too large compressed", field(func(h *in) { h.Packed = cluster.MaxPacked + 1 }), now, "compressed"},
		{"too large", field(func(h *in) { h.Size = confd.MaxConfig + 1 }), now, "bytes are not from"},
		{"a candidate that is no name", field(func(h *in) { h.Candidates[0] = "../n1" }), now, "candidate 0"},
		{"a candidate in upper case", field(func(h *in) { h.Candidates[0] = "N1" }), now, "lower case"},
		{"candidates out of order", field(func(h *in) { slices.Reverse(h.Candidates) }), now, "out of order"},
		{"a candidate twice", field(func(h *in) { h.Candidates[0] = h.Candidates[1] }), now, "out of order"},
		{"too many candidates", field(func(h *in) { h.Candidates = manyNames(cluster.MaxCandidates + 1) }), now, "candidates are more"},
		{"an unknown field", append(slices.Clone(good), protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)...), now, "canonical"},
		{"too long", make([]byte, cluster.MaxSigned+1), now, "bytes are more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := cluster.Verify(s.trust, tt.signed, tt.when)
			if !errors.Is(err, cluster.ErrSnapshot) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Verify: %v; want one that wraps ErrSnapshot and says %q", err, tt.want)
			}
		})
	}
	t.Run("a machine's certificate that is known", func(t *testing.T) {
		if _, err := s.trust.Verify([]*x509.Certificate{s.machine, s.issuing.Cert}, now); err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Verify(s.trust, by(s.machine), now); !errors.Is(err, cluster.ErrSnapshot) || !strings.Contains(err.Error(), "no overlord") {
			t.Errorf("Verify: %v; want no overlord", err)
		}
	})
	t.Run("any changed byte", func(t *testing.T) {
		for i := range good {
			b := slices.Clone(good)
			b[i] ^= 0x20
			if got, err := cluster.Verify(s.trust, b, now); err == nil {
				t.Fatalf("a header with byte %d changed is accepted: %+v", i, got)
			} else if !errors.Is(err, cluster.ErrSnapshot) {
				t.Fatalf("byte %d: %v does not wrap ErrSnapshot", i, err)
			}
		}
	})
	t.Run("any beginning", func(t *testing.T) {
		for i := range good {
			if _, err := cluster.Verify(s.trust, good[:i], now); !errors.Is(err, cluster.ErrSnapshot) {
				t.Fatalf("the first %d bytes: %v", i, err)
			}
		}
	})
}

func TestSignRefuses(t *testing.T) {
	s := newSite(t, time.Now())
	h, _ := header(t, []byte("{}"))
	h.Serial = 0
	if _, err := cluster.Sign(h, s.key, s.overlord); !errors.Is(err, cluster.ErrSnapshot) {
		t.Errorf("a header without a serial: %v", err)
	}
}

// The largest header that may be is one that can be sent.
func TestLargestHeader(t *testing.T) {
	now := time.Now()
	s := newSite(t, now)
	h, _ := header(t, []byte("{}"))
	h.Candidates = manyNames(cluster.MaxCandidates)
	b := s.sign(t, h)
	if len(b) > cluster.MaxSigned {
		t.Errorf("%d bytes", len(b))
	}
	if _, err := cluster.Verify(s.trust, b, now); err != nil {
		t.Error(err)
	}
	t.Logf("%d candidates with names of %d bytes: %d bytes", len(h.Candidates), len(h.Candidates[0]), len(b))
}

func TestUnpackRefuses(t *testing.T) {
	document := bytes.Repeat([]byte("0123456789"), 100)
	h, packed := header(t, document)
	zip := func(b []byte, tail ...byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
		return append(out.Bytes(), tail...)
	}
	crc := slices.Clone(packed)
	crc[len(crc)-8] ^= 1
	of := func(packed []byte, size int64) (cluster.Header, []byte) {
		h := h
		h.Digest, h.Packed, h.Size = sha256.Sum256(packed), int64(len(packed)), size
		return h, packed
	}
	n := int64(len(document))
	for _, tt := range []struct {
		name string
		h    func() (cluster.Header, []byte)
	}{
		{"another digest", func() (cluster.Header, []byte) { return h, crc }},
		{"cut", func() (cluster.Header, []byte) { return h, packed[:len(packed)-1] }},
		{"longer", func() (cluster.Header, []byte) { return h, append(slices.Clone(packed), 0) }},
		{"nothing", func() (cluster.Header, []byte) { return h, nil }},
		{"no gzip", func() (cluster.Header, []byte) { return of([]byte("plain"), 5) }},
		{"checksum", func() (cluster.Header, []byte) { return of(crc, n) }},
		{"less than the header says", func() (cluster.Header, []byte) { return of(packed, n+1) }},
		{"more than the header says", func() (cluster.Header, []byte) { return of(packed, n-1) }},
		{"ends in the middle, signed so", func() (cluster.Header, []byte) { return of(packed[:len(packed)/2], n) }},
		{"rubbish behind it", func() (cluster.Header, []byte) { return of(zip(document, 1, 2, 3), n) }},
		{"a second part", func() (cluster.Header, []byte) { return of(zip(document, zip([]byte("x"))...), n) }},
		{"a bomb", func() (cluster.Header, []byte) { return of(zip(make([]byte, 8<<20)), 100) }},
		{"a size that cannot be", func() (cluster.Header, []byte) { return of(zip([]byte("x")), confd.MaxConfig) }},
		{"a negative size", func() (cluster.Header, []byte) { return of(packed, -1) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, b := tt.h()
			if _, err := h.Unpack(b); !errors.Is(err, cluster.ErrSnapshot) {
				t.Errorf("Unpack: %v; want one that wraps ErrSnapshot", err)
			}
		})
	}
}

func TestPackRefuses(t *testing.T) {
	if _, err := cluster.Pack(nil); !errors.Is(err, cluster.ErrSnapshot) {
		t.Errorf("Pack of nothing: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	now := time.Now()
	s := newSite(f, now)
	h, _ := header(f, []byte("{}"))
	good := s.sign(f, h)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := cluster.Verify(s.trust, b, now)
		if err != nil {
			if !errors.Is(err, cluster.ErrSnapshot) {
				t.Fatalf("error %v does not wrap ErrSnapshot", err)
			}
			return
		}
		if !got.Same(&h) {
			t.Fatalf("accepted %x, which the overlord never signed", b)
		}
	})
}

// What is in a header is read by a decoder of its own, which signatures keep
// foreign bytes from; here they do not.
func FuzzHeader(f *testing.F) {
	now := time.Now()
	s := newSite(f, now)
	h, _ := header(f, []byte("{}"))
	var p fleetpb.ClusterSigned
	if err := proto.Unmarshal(s.sign(f, h), &p); err != nil {
		f.Fatal(err)
	}
	f.Add(p.Header)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		signed := &fleetpb.ClusterSigned{Header: body, Signature: signHeader(t, s.key, body), Cert: p.Cert}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(signed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := cluster.Verify(s.trust, b, now)
		if err != nil {
			if !errors.Is(err, cluster.ErrSnapshot) {
				t.Fatalf("error %v does not wrap ErrSnapshot", err)
			}
			return
		}
		again, err := cluster.Sign(got.Header, s.key, s.overlord)
		if err != nil {
			t.Fatalf("accepted %+v and will not sign it: %v", got.Header, err)
		}
		var q fleetpb.ClusterSigned
		if err := proto.Unmarshal(again, &q); err != nil || !bytes.Equal(q.Header, body) {
			t.Fatalf("accepted %x but encodes back to %x", body, q.Header)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	document := []byte(`{"serial_no": 7}`)
	h, packed := header(f, document)
	f.Add(packed, h.Size)
	f.Add([]byte{0x1f, 0x8b}, int64(1))
	f.Fuzz(func(t *testing.T, packed []byte, size int64) {
		h := h
		h.Digest, h.Packed, h.Size = sha256.Sum256(packed), int64(len(packed)), size
		doc, err := h.Unpack(packed)
		if err != nil {
			if !errors.Is(err, cluster.ErrSnapshot) {
				t.Fatalf("error %v does not wrap ErrSnapshot", err)
			}
			return
		}
		if int64(len(doc)) != size {
			t.Fatalf("%d bytes instead of %d", len(doc), size)
		}
	})
}

package call_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

func order(t testing.TB, names ...string) (*call.Order, *call.Names) {
	t.Helper()
	tree, err := call.NewNames(names)
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1_790_000_000_000)
	return &call.Order{
		Job: call.NewJobID(now), Method: "test.ping", ArgsDigest: call.Digest([]byte("salt"), []byte("{}")),
		IssuedAt: now, NotBefore: now, Expiry: now.Add(time.Hour), Count: tree.Len(), Root: tree.Root(),
	}, tree
}

func TestOrderRoundTrip(t *testing.T) {
	o, _ := order(t, "web1", "web2")
	got, err := call.ParseOrder(o.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if *got != *o {
		t.Errorf("ParseOrder(Marshal(o)) = %+v; want %+v", got, o)
	}
}

func TestOrderRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*call.Order)
	}{
		{"no method", func(o *call.Order) { o.Method = "" }},
		{"method without module", func(o *call.Order) { o.Method = "ping" }},
		{"method with a path", func(o *call.Order) { o.Method = "../x.ping" }},
		{"nobody", func(o *call.Order) { o.Count = 0 }},
		{"more than the limit", func(o *call.Order) { o.Count = call.MaxMachines + 1 }},
		{"never valid", func(o *call.Order) { o.Expiry = o.NotBefore }},
		{"valid for too long", func(o *call.Order) { o.Expiry = o.IssuedAt.Add(call.MaxLife + time.Second) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, _ := order(t, "web1")
			tt.change(o)
			if _, err := call.ParseOrder(o.Marshal()); !errors.Is(err, call.ErrOrder) {
				t.Errorf("ParseOrder = %v; want ErrOrder", err)
			}
		})
	}
}

func TestSignature(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := order(t, "web1")
	s, err := call.Sign(o, key, []byte("cert"))
	if err != nil {
		t.Fatal(err)
	}
	if err := call.VerifySignature(&key.PublicKey, s.Order, s.Signature); err != nil {
		t.Errorf("own signature: %v", err)
	}
	for i := range s.Order {
		changed := bytes.Clone(s.Order)
		changed[i] ^= 1
		if err := call.VerifySignature(&key.PublicKey, changed, s.Signature); !errors.Is(err, call.ErrOrder) {
			t.Fatalf("byte %d changed: %v; want ErrOrder", i, err)
		}
	}
}

func TestCheckTime(t *testing.T) {
	o, _ := order(t, "web1")
	for _, tt := range []struct {
		name  string
		now   time.Time
		want  call.Code
		words string
	}{
		{"at once", o.IssuedAt, call.OK, ""},
		{"clock 4 min behind", o.IssuedAt.Add(-4 * time.Minute), call.OK, ""},
		{"clock an hour behind", o.IssuedAt.Add(-time.Hour), call.ClockSkew, "1h0m0s behind"},
		{"just over", o.Expiry.Add(4 * time.Minute), call.OK, ""},
		{"over", o.Expiry.Add(6 * time.Minute), call.Expired, "6m0s later"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := o.CheckTime(tt.now)
			if got := call.CodeOf(err); got != tt.want {
				t.Fatalf("CheckTime = %v (%v); want %v", got, err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("CheckTime = %v; want it to say %q", err, tt.words)
			}
		})
	}
}

// storedHashes is tlog's own form of a tree.
type storedHashes []tlog.Hash

func (s storedHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = s[x]
	}
	return out, nil
}

// The tree and its proofs are those of RFC 6962, as tlog makes them.
func TestNamesAgainstTlog(t *testing.T) {
	var names []string
	for n := 1; n <= 130; n++ {
		names = append(names, fmt.Sprintf("web%03d", n))
		tree, err := call.NewNames(names)
		if err != nil {
			t.Fatal(err)
		}
		var stored storedHashes
		for i, name := range names {
			h, err := tlog.StoredHashes(int64(i), []byte(name), stored)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, h...)
		}
		root, err := tlog.TreeHash(int64(n), stored)
		if err != nil {
			t.Fatal(err)
		}
		if tree.Root() != root {
			t.Fatalf("root of %d names differs", n)
		}
		for i := range names {
			want, err := tlog.ProveRecord(int64(n), int64(i), stored)
			if err != nil {
				t.Fatal(err)
			}
			got := tree.Proof(nil, i)
			if !slices.EqualFunc(got, want, func(a []byte, b tlog.Hash) bool { return string(a) == string(b[:]) }) {
				t.Fatalf("proof %d of %d: %x; want %x", i, n, got, want)
			}
		}
	}
}

func TestNamesProofs(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 8, 100} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("web%d", i))
		}
		_, tree := order(t, names...)
		for i, name := range tree.All() {
			p := tree.Proof(nil, i)
			if err := call.VerifyName(name, i, n, tree.Root(), p); err != nil {
				t.Errorf("%d of %d: %v", i, n, err)
			}
			if err := call.VerifyName("other", i, n, tree.Root(), p); !errors.Is(err, call.ErrOrder) {
				t.Errorf("%d of %d, another name: %v; want ErrOrder", i, n, err)
			}
			if err := call.VerifyName(name, i, n+1, tree.Root(), p); n > 1 && err == nil && n&(n-1) == 0 {
				t.Errorf("%d of %d, another count: accepted", i, n)
			}
		}
	}
	if _, err := call.NewNames([]string{"a", "b", "a"}); !errors.Is(err, call.ErrOrder) {
		t.Errorf("a name twice: %v; want ErrOrder", err)
	}
	if _, err := call.NewNames(nil); !errors.Is(err, call.ErrOrder) {
		t.Errorf("no name: %v; want ErrOrder", err)
	}
}

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{"Web1": "web1", "a.b-c.D": "a.b-c.d", "1": "1"} {
		if got, err := call.ParseName(in); err != nil || got != want {
			t.Errorf("ParseName(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ".", "a.", ".a", "a..b", "-a", "a-", "a/b", "../a", "a b", "a\x00", "ä", "a*", "a_b",
		strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a",
	} {
		if got, err := call.ParseName(in); !errors.Is(err, call.ErrName) {
			t.Errorf("ParseName(%q) = %q, %v; want ErrName", in, got, err)
		}
	}
}

func TestJobID(t *testing.T) {
	now := time.UnixMilli(1_790_000_000_000)
	id := call.NewJobID(now)
	if got, err := call.ParseJobID(id.String()); err != nil || got != id {
		t.Errorf("ParseJobID(%s) = %v, %v", id, got, err)
	}
	if got := slog.AnyValue(id).Resolve(); got.String() != id.String() {
		t.Errorf("in a log it is %s; want %s", got, id)
	}
	if later := call.NewJobID(now.Add(time.Millisecond)); later.String() <= id.String() {
		t.Errorf("%s, made later, sorts before %s", later, id)
	}
	for _, s := range []string{"", "x", id.String()[1:], id.String() + "0", strings.ReplaceAll(id.String(), "-", "") + "----"} {
		if _, err := call.ParseJobID(s); err == nil {
			t.Errorf("ParseJobID(%q) accepted", s)
		}
	}
}

func TestCodes(t *testing.T) {
	for c := call.OK; c <= call.NoMatch; c++ {
		if got, ok := call.ParseCode(c.String()); !ok || got != c {
			t.Errorf("ParseCode(%q) = %v, %v; want %d", c, got, ok, c)
		}
	}
	wrapped := fmt.Errorf("ask web1: %w", &call.Error{Code: call.Denied, Node: "web1", Detail: "no"})
	if got := call.CodeOf(wrapped); got != call.Denied {
		t.Errorf("CodeOf(wrapped) = %v; want denied", got)
	}
	if got := call.CodeOf(errors.New("x")); got != call.Internal {
		t.Errorf("CodeOf(plain) = %v; want internal", got)
	}
}

func FuzzParseOrder(f *testing.F) {
	o, _ := order(f, "web1", "web2")
	f.Add(o.Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := call.ParseOrder(b)
		if err != nil {
			if !errors.Is(err, call.ErrOrder) {
				t.Fatalf("error %v does not wrap ErrOrder", err)
			}
			return
		}
		if got := o.Marshal(); !bytes.Equal(got, b) {
			t.Fatalf("accepted %x but encodes back to %x", b, got)
		}
	})
}

// plainParseOrder is ParseOrder by way of the protobuf library: what it reads,
// and writes again as the same bytes, is in canonical form.
func plainParseOrder(b []byte) (*call.Order, bool) {
	var p fleetpb.Order
	if len(b) > call.MaxOrder || proto.Unmarshal(b, &p) != nil {
		return nil, false
	}
	o := &call.Order{
		Method: p.Method, IssuedAt: time.UnixMilli(p.IssuedAtMs), NotBefore: time.UnixMilli(p.NotBeforeMs),
		Expiry: time.UnixMilli(p.ExpiryMs), Count: int(p.Count), Confirmed: int(p.Confirmed),
	}
	if copy(o.Job[:], p.Job) != len(o.Job) || copy(o.ArgsDigest[:], p.ArgsDigest) != len(o.ArgsDigest) || copy(o.Root[:], p.Root) != len(o.Root) {
		return nil, false
	}
	return o, bytes.Equal(o.Marshal(), b) && call.CheckMethod(o.Method) == nil && o.Count >= 1 && o.Count <= call.MaxMachines &&
		(o.Confirmed == 0 || o.Confirmed == o.Count) && o.Expiry.After(o.NotBefore) && o.Expiry.Sub(o.IssuedAt) <= call.MaxLife
}

func FuzzParseOrderAgainstProtobuf(f *testing.F) {
	o, _ := order(f, "web1", "web2")
	b := o.Marshal()
	f.Add(b)
	o.Confirmed, o.IssuedAt = o.Count, time.UnixMilli(-1)
	f.Add(o.Marshal())
	for _, more := range [][]byte{{0x48, 0}, {0x48, 2}, {0x48, 0x82, 0}, {0x38, 2}, {0xf8, 1, 1}, {0x4a, 0}} {
		f.Add(append(bytes.Clone(b), more...))
	}
	f.Add(append([]byte{0x8a, 0}, b[1:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		want, ok := plainParseOrder(b)
		got, err := call.ParseOrder(b)
		if ok != (err == nil) || ok && *got != *want {
			t.Fatalf("ParseOrder(%x) = %+v, %v; by protobuf %+v, %t", b, got, err, want, ok)
		}
	})
}

func BenchmarkParseOrder(b *testing.B) {
	o, _ := order(b, "web1", "web2")
	bytes := o.Marshal()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := call.ParseOrder(bytes); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("web1.example.org")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := call.ParseName(s)
		if err != nil {
			if !errors.Is(err, call.ErrName) {
				t.Fatalf("error %v does not wrap ErrName", err)
			}
			return
		}
		if again, err := call.ParseName(n); err != nil || again != n {
			t.Fatalf("ParseName(%q) = %q, %v", n, again, err)
		}
	})
}

func BenchmarkProofs(b *testing.B) {
	var names []string
	for i := range 5000 {
		names = append(names, fmt.Sprintf("web%04d", i))
	}
	b.Run("tree/5000", func(b *testing.B) {
		for b.Loop() {
			if _, err := call.NewNames(names); err != nil {
				b.Fatal(err)
			}
		}
	})
	tree, err := call.NewNames(names)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("proof/5000", func(b *testing.B) {
		i, proof := 0, [][]byte(nil)
		for b.Loop() {
			proof = tree.Proof(proof[:0], i%5000)
			i++
		}
	})
}

package session

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
)

func sampleCall() *fleetpb.Call {
	c := &fleetpb.Call{
		Method: "service.status", Args: []byte(`{"name":"chronyd"}`), TimeoutMs: 60_000, Salt: make([]byte, 16), Order: make([]byte, 160),
		Signature: make([]byte, 71), OperatorCert: make([]byte, 500), LeafIndex: 4711, Stream: true,
	}
	for range 13 {
		c.Proof = append(c.Proof, make([]byte, 32))
	}
	return c
}

// What protobuf reads of a CALL, decodeCall reads too, and nothing else.
func FuzzDecodeCall(f *testing.F) {
	whole := encode(sampleCall())
	f.Add(whole)
	f.Add(append(bytes.Clone(whole), encode(&fleetpb.Call{Method: "a.b", Proof: [][]byte{nil}})...))
	f.Add(protowire.AppendTag(nil, 1, protowire.VarintType))
	f.Add([]byte{0x08, 1, 0x12, 0, 0x1b, 0x1c, 0x0a, 1, 0xff})
	f.Add([]byte{0x50, 2, 0xa3, 6, 8, 1, 0xa4, 6})
	f.Fuzz(func(t *testing.T, b []byte) {
		want := new(fleetpb.Call)
		wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, want)
		got, err := decodeCall(b)
		if wantErr == nil && len(want.Proof) > maxProof {
			wantErr = ErrProtocol
		}
		if err != nil && !errors.Is(err, ErrProtocol) {
			t.Fatalf("error %v does not wrap ErrProtocol", err)
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("decodeCall(%x) = %v; protobuf says %v", b, err, wantErr)
		}
		if err == nil && !proto.Equal(got, want) {
			t.Fatalf("decodeCall(%x) = %v; want %v", b, got, want)
		}
	})
}

// A call that waits holds what is in it, and nothing that its peer put beside it.
func TestCallHoldsNoPadding(t *testing.T) {
	padding := protowire.AppendBytes(protowire.AppendTag(nil, 2000, protowire.BytesType), make([]byte, 1<<20-1000))
	small := encode(&fleetpb.Call{Method: "session.job", Args: []byte("{}")})
	for _, tc := range []struct {
		name  string
		body  []byte
		holds bool
	}{
		{"unknown field", append(bytes.Clone(small), padding...), false},
		{"replaced arguments", append(encode(&fleetpb.Call{Args: make([]byte, 1<<19)}), small...), false},
		{"large arguments", encode(&fleetpb.Call{Method: "a.b", Args: make([]byte, 1<<19)}), true},
		{"usual", encode(sampleCall()), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := decodeCall(tc.body)
			if err != nil {
				t.Fatal(err)
			}
			before := bytes.Clone(c.Args)
			for i := range tc.body {
				tc.body[i] ^= 0xff
			}
			if holds := !bytes.Equal(c.Args, before); holds != tc.holds {
				t.Errorf("the call holds a body of %d bytes for %d of arguments: %v; want %v", len(tc.body), len(c.Args), holds, tc.holds)
			}
		})
	}
	if _, err := decodeCall(bytes.Repeat([]byte{9<<3 | 2, 0}, 1<<19)); !errors.Is(err, ErrProtocol) {
		t.Errorf("a proof of %d empty nodes: %v; want a breach", 1<<19, err)
	}
}

func BenchmarkDecodeCall(b *testing.B) {
	body := encode(sampleCall())
	b.Run("hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := decodeCall(bytes.Clone(body)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := decode(TypeCall, body, new(fleetpb.Call)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

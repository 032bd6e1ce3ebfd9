package pki_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/pki"
)

func recovery() *fleetpb.Recovery {
	return &fleetpb.Recovery{
		LogId: "0123", Epoch: 1, AbandonedSize: 9, AbandonedRoot: bytes.Repeat([]byte{1}, 32), RestoredSize: 4, RestoredRoot: bytes.Repeat([]byte{2}, 32), TimeMs: 7,
	}
}

func TestRecoverRequest(t *testing.T) {
	key, other := newKey(t), newKey(t)
	for name, tt := range map[string]struct {
		what   func(*fleetpb.Recovery)   // before it is signed
		after  func(*pki.RecoverRequest) // after it
		refuse bool
	}{
		"as it is":             {},
		"no log":               {what: func(r *fleetpb.Recovery) { r.LogId = "" }, refuse: true},
		"a long log id":        {what: func(r *fleetpb.Recovery) { r.LogId = strings.Repeat("a", 65) }, refuse: true},
		"epoch 0":              {what: func(r *fleetpb.Recovery) { r.Epoch = 0 }, refuse: true},
		"a large epoch":        {what: func(r *fleetpb.Recovery) { r.Epoch = 1 << 63 }, refuse: true},
		"a large log":          {what: func(r *fleetpb.Recovery) { r.RestoredSize = 1 << 63 }, refuse: true},
		"a short root":         {what: func(r *fleetpb.Recovery) { r.AbandonedRoot = r.AbandonedRoot[1:] }, refuse: true},
		"another overlord":     {after: func(r *pki.RecoverRequest) { r.Overlord = "top" }, refuse: true},
		"another actor":        {after: func(r *pki.RecoverRequest) { r.Actor += "!" }, refuse: true},
		"a long actor":         {after: func(r *pki.RecoverRequest) { r.Actor = strings.Repeat("a", 300) }, refuse: true},
		"another token":        {after: func(r *pki.RecoverRequest) { r.Token = "" }, refuse: true},
		"moved between fields": {after: func(r *pki.RecoverRequest) { r.Actor, r.Token = r.Actor[:1], r.Actor[1:]+r.Token }, refuse: true},
		"a large recovery":     {after: func(r *pki.RecoverRequest) { r.Recovery = make([]byte, 2000) }, refuse: true},
		"no signature":         {after: func(r *pki.RecoverRequest) { r.Signature = nil }, refuse: true},
		"a large signature":    {after: func(r *pki.RecoverRequest) { r.Signature = make([]byte, 1000) }, refuse: true},
	} {
		r := recovery()
		if tt.what != nil {
			tt.what(r)
		}
		req, err := pki.NewRecoverRequest("low", r, "local/root", "token", key)
		if err != nil {
			t.Fatal(err)
		}
		if tt.after != nil {
			tt.after(&req)
		}
		got, err := req.Check(key.Public())
		if tt.refuse {
			if !errors.Is(err, pki.ErrRequest) {
				t.Errorf("%s: %v; want it refused", name, err)
			}
			continue
		}
		want := recovery()
		want.TimeMs = 0
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if _, err := req.Check(other.Public()); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("%s, by another's key: %v", name, err)
		}
	}
}

// What is accepted reads as what was signed, and writes the same bytes again.
func FuzzRecoverRequest(f *testing.F) {
	key := newKey(f)
	req, err := pki.NewRecoverRequest("low", recovery(), "local/root", "", key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(req.Recovery)
	f.Add([]byte("\x0a\x01a\x10\x01"))
	f.Fuzz(func(t *testing.T, body []byte) {
		req := pki.RecoverRequest{Recovery: body}
		if err := req.Sign(key); err != nil {
			t.Fatal(err)
		}
		r, err := req.Check(key.Public())
		if err != nil {
			if !errors.Is(err, pki.ErrRequest) {
				t.Fatalf("error %v does not wrap ErrRequest", err)
			}
			return
		}
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil || !bytes.Equal(again, body) {
			t.Errorf("%x was accepted and reads as %x", body, again)
		}
	})
}

package minion

import (
	"errors"
	"strings"
	"testing"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/config"
	"dominion/session"
)

// Whatever an overlord calls without an order, the answer is a result or a
// *call.Error, and nothing that was not signed by the root is taken.
func FuzzSessionMethods(f *testing.F) {
	fl := newFleet(f)
	a := newAgent(f, fl, func(opt *Options) { opt.Log = nil })
	methods := []string{session.MethodFacts, session.MethodRevocations, session.MethodCheckpoint, session.MethodJob, session.MethodRenew, "session."}
	for i := range methods {
		f.Add(uint8(i), []byte(`{}`))
		f.Add(uint8(i), []byte(`{"list":"AAAA","head":"CgA="}`))
		f.Add(uint8(i), []byte(`{"head":"AAAA"}`))
		f.Add(uint8(i), []byte(`[`))
	}
	f.Fuzz(func(t *testing.T, method uint8, args []byte) {
		l := &link{agent: a, peer: "dc1"}
		_, err := l.answer(&fleetpb.Call{Method: methods[int(method)%len(methods)], Args: args})
		if err != nil {
			if _, ok := errors.AsType[*call.Error](err); !ok {
				t.Fatalf("error %v has no code", err)
			}
		}
		if a.verifier.revocations() != nil || len(a.notes()) != 0 {
			t.Fatalf("something unsigned was taken: %s", args)
		}
	})
}

// What a machine says its log is, a verifier reads without harm.
func FuzzLogOut(f *testing.F) {
	for _, s := range []string{`{}`, `{"from":1,"before":"AAAA","records":["AA=="],"head":"x","signature":"AA=="}`, `[`, `{"records":[""]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseLogOut(b)
		if err == nil {
			_, err = o.Page()
		}
		if err == nil {
			_, err = o.SignedHead()
		}
		if err != nil && call.CodeOf(err) != call.Invalid {
			t.Fatalf("error %v is not invalid", err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("name: web1\noverlords: [dc1, 'dc2:1']\nlisten: ':1'\n"))
	f.Add([]byte("pinn: x"))
	f.Add([]byte("name: &a [*a]"))
	f.Add([]byte("max_running: -1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := config.Parse[Config]("minion.yaml", b)
		if err != nil {
			return
		}
		if s, err := c.check(); err == nil {
			if s.name != strings.ToLower(s.name) || s.running < 1 || s.queued < 1 {
				t.Fatalf("accepted %+v", s)
			}
		}
	})
}

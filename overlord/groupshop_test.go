package overlord_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/fleettest"
	"dominion/session"
)

// hop is a sub-overlord in the wrong hands, or one that is slow.
type hop struct {
	stolen
	answer func(s *session.Session, id uint64, c *fleetpb.Call)
}

func (h *hop) Call(s *session.Session, id uint64, c *fleetpb.Call) { h.answer(s, id, c) }

// What a sub-overlord answers late, or wrongly, costs its own subtree.
func TestGroupsOfABadHop(t *testing.T) {
	f := fleettest.New(t, 0)
	sub := subOf(t, f, "mid")
	sub.Down()
	if err := os.WriteFile(filepath.Join(f.State, "map"), []byte("mid:\n    web1: {}\n    web2: {}\nmail1: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Conn.Fleet.SetGroup(t.Context(), connect.NewRequest(&apipb.SetGroupRequest{Name: "web", Members: "mail1"})); err != nil {
		t.Fatal(err)
	}
	asked := make(chan *fleetpb.Call, 1)
	h := &hop{}
	says := func(r *fleetpb.Result) func(*session.Session, uint64, *fleetpb.Call) {
		return func(s *session.Session, id uint64, c *fleetpb.Call) {
			if c.Method != session.MethodGroups {
				_ = s.Reply(id, &fleetpb.Result{Output: []byte("{}")})
				return
			}
			select {
			case asked <- c:
			default:
			}
			if r != nil {
				_ = s.Reply(id, r)
			}
		}
	}
	current := make(chan func(*session.Session, uint64, *fleetpb.Call), 1)
	h.answer = func(s *session.Session, id uint64, c *fleetpb.Call) {
		answer := <-current
		current <- answer
		answer(s, id, c)
	}
	current <- says(nil)
	poseAs(t, f, sub, h)
	f.Await(1)
	for _, tt := range []struct {
		name          string
		says          *fleetpb.Result // nil: nothing
		names, silent string
	}{
		{"an answer", &fleetpb.Result{Output: []byte(`{"groups":{"web":"web[1,2]"}}`)}, "mail1,web[1,2]", ""},
		{"others' machines", &fleetpb.Result{Output: []byte(`{"groups":{"web":"mail1,mid,web1,x"}}`)}, "mail1,web1", ""},
		{"no answer", nil, "mail1", "mid"},
		{"a refusal", &fleetpb.Result{Code: 3, Detail: "no such method"}, "mail1", "mid"},
		{"no JSON", &fleetpb.Result{Output: []byte("web1")}, "mail1", "mid"},
		{"names that are none", &fleetpb.Result{Output: []byte(`{"groups":{"web":"web1,@x"}}`)}, "mail1", "mid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			<-current
			current <- says(tt.says)
			ctx, cancel := context.WithTimeout(t.Context(), fleettest.Patience)
			if tt.says == nil {
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			}
			defer cancel()
			got, err := f.Conn.Fleet.Resolve(ctx, connect.NewRequest(&apipb.ResolveRequest{Target: "@web", Delegate: true}))
			if err != nil || got.Msg.Names != tt.names || got.Msg.Silent != tt.silent {
				t.Fatalf("Resolve = %v, %v; want %s, silent %q", got, err, tt.names, tt.silent)
			}
			if c := <-asked; c.TimeoutMs == 0 || c.TimeoutMs > 4980 || tt.says == nil && c.TimeoutMs > 980 {
				t.Errorf("asked with %d ms left; want at least 20 ms less than there were", c.TimeoutMs)
			}
		})
	}
}

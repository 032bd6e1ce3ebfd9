package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/module"
)

func TestGuards(t *testing.T) {
	three := client.Resolved{Names: []string{"a", "b", "c"}, Guard: 3}
	two := client.Resolved{Names: three.Names, Guard: 2}
	for _, tt := range []struct {
		name   string
		r      client.Resolved
		effect module.Effect
		want   bool
	}{
		{"reads", two, module.Read, false},
		{"changes as many", three, module.Change, false},
		{"changes more", two, module.Change, true},
		{"destroys few", three, module.Destroy, true},
		{"has an effect of a later version", three, "melt", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.r.Guards(tt.effect); got != tt.want {
				t.Errorf("Guards(%q) = %v; want %v", tt.effect, got, tt.want)
			}
		})
	}
}

// What the guard holds back is sent with the confirmed number or not at all.
func TestConfirmed(t *testing.T) {
	mine := errors.New("mine")
	says := func(n int, err error) func(context.Context, client.Guarded) (int, error) {
		return func(_ context.Context, g client.Guarded) (int, error) {
			if len(g.Names) != 2 || g.Method != "fake.break" || g.Effect != module.Destroy || g.Guard != client.DefaultGuard {
				t.Errorf("asked %+v", g)
			}
			return n, err
		}
	}
	for _, tt := range []struct {
		name  string
		opt   client.Options
		code  call.Code
		words string
		sent  int // the confirmed number; negative: nothing is sent
	}{
		{"nobody is asked", client.Options{}, call.Unconfirmed, "fake.break (destroy) on 2 machines needs that number confirmed", -1},
		{"another number is known", client.Options{Confirmed: 3}, call.Unconfirmed, "3 machines were confirmed and the target names 2 now", -1},
		{"it is known", client.Options{Confirmed: 2}, call.OK, "", 2},
		{"it is said", client.Options{Confirm: says(2, nil)}, call.OK, "", 2},
		{"another is said", client.Options{Confirm: says(20, nil)}, call.Unconfirmed, "20 machines were confirmed", -1},
		{"it is denied", client.Options{Confirm: says(0, mine)}, call.Internal, "mine", -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, "web1", "web2")
			f.methods = []module.Module{{Name: "fake", Doc: "For tests.", Methods: []module.Method{
				module.Func("break", "Breaks.", module.Destroy, func(context.Context, *module.Env, struct{}) (struct{}, error) { return struct{}{}, nil }, module.MethodOptions{}),
			}}}
			c := newClient(t, f, "web*", tt.opt)
			job, err := c.Call(t.Context(), "fake.break", nil)
			if call.CodeOf(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Fatalf("Call = %v; want code %v and %q", err, tt.code, tt.words)
			}
			if err == nil {
				defer job.Close()
			}
			if tt.sent < 0 {
				if len(f.calls) != 0 {
					t.Errorf("%d orders were sent", len(f.calls))
				}
				return
			}
			o, err := call.ParseOrder(f.calls[0].GetOrder())
			if err != nil || o.Confirmed != tt.sent {
				t.Errorf("confirmed %+v, %v; want %d", o, err, tt.sent)
			}
		})
	}
}

// The overlord's own guard counts; one of a number that makes no sense does not.
func TestGuardOfTheOverlord(t *testing.T) {
	for guard, want := range map[uint64]int{0: client.DefaultGuard, 7: 7, 1 << 40: client.DefaultGuard} {
		f := newFake(t)
		f.resolve = func(*apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
			return &apipb.ResolveResponse{Names: "web1", Guard: guard}, nil
		}
		r, err := newClient(t, f, "web1", client.Options{}).Resolve(t.Context())
		if err != nil || r.Guard != want {
			t.Errorf("guard %d is taken as %d, %v; want %d", guard, r.Guard, err, want)
		}
	}
}

package confd

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// answer asks and gives the answer, which must have that serial.
func answer[A any](t testing.TB, ctx context.Context, c *Client, ask Ask[A], serial int64) A {
	t.Helper()
	res, err := c.Query(ctx, ask.Request)
	if err != nil {
		t.Fatalf("type %d: %v", ask.Type, err)
	}
	if res.Reply.Serial != serial {
		t.Errorf("type %d: serial %d; want %d", ask.Type, res.Reply.Serial, serial)
	}
	a, err := ask.Answer(&res.Reply)
	if err != nil {
		t.Fatalf("type %d: %v", ask.Type, err)
	}
	return a
}

func check[A, W any](t testing.TB, ctx context.Context, c *Client, ask Ask[A], serial int64, want W) {
	t.Helper()
	got := any(answer(t, ctx, c, ask, serial))
	if raw, ok := got.(json.RawMessage); ok {
		got = []byte(raw)
	}
	if d := cmp.Diff(any(want), got); d != "" {
		t.Errorf("type %d: answer differs (-want +got):\n%s", ask.Type, d)
	}
}

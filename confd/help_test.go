package confd

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
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

// freePort gives a UDP port that nobody has, and that the system gives to nobody
// who asks for any: a socket that sends to its own port hears itself.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(20000)
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err == nil {
			_ = conn.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

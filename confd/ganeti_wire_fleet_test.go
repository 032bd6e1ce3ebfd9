//go:build fleet

package confd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// wireCase is a datagram and what our server says to it.
type wireCase struct {
	name     string
	datagram []byte
	ours     []byte
}

// localhost is where these tests ask from.
var localhost = netip.MustParseAddr("127.0.0.1")

// wireCases signs every inner case, and adds what is wrong already outside.
func wireCases(t testing.TB, s *Server) []wireCase {
	t.Helper()
	var cases []wireCase
	now := time.Now()
	for i, c := range innerCases() {
		rsalt := fmt.Sprintf("case-%d", i)
		msg := []byte(fmt.Sprintf(c, `"`+rsalt+`"`))
		cases = append(cases, wireCase{name: string(msg[:min(len(msg), 200)]), datagram: newSigner([]byte(testKey)).sealRequest(nil, msg, now)})
	}
	for i := range datagramCases("", now) {
		b := datagramCases(fmt.Sprintf("outer-%d", i), now)[i]
		cases = append(cases, wireCase{name: fmt.Sprintf("%.300q", b), datagram: b})
	}
	w := s.newWorker()
	for i := range cases {
		cases[i].ours = bytes.Clone(w.answer(nil, cases[i].datagram, localhost))
	}
	return cases
}

// saltOf gives the salt of a reply, without believing it.
func saltOf(t testing.TB, reply []byte) string {
	t.Helper()
	var e struct{ Salt string }
	if err := json.Unmarshal(reply[len(Magic):], &e); err != nil {
		t.Fatalf("reply %q: %v", reply, err)
	}
	return e.Salt
}

// Every datagram that we can think of gets the same bytes from the genuine
// daemon and from ours, or silence from both.
func TestFleetGanetiSameReplies(t *testing.T) {
	d := startGaneti(t, labConfig(t))
	compareReplies(t, d, wireCases(t, labServer(t)))
}

func compareReplies(t *testing.T, d *daemon, cases []wireCase) {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	theirs := make(map[string][]byte)
	in := make([]byte, 1<<16)
	receive := func(wait time.Duration) bool {
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(in)
		if err == nil {
			theirs[saltOf(t, in[:n])] = bytes.Clone(in[:n])
		}
		return err == nil
	}
	for _, c := range cases {
		if _, err := conn.Write(c.datagram); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if len(c.ours) == 0 {
			continue // whether it is silent, too, is seen at the end
		}
		salt := saltOf(t, c.ours)
		for deadline := time.Now().Add(5 * time.Second); theirs[salt] == nil && time.Now().Before(deadline); {
			receive(200 * time.Millisecond)
		}
		if !bytes.Equal(c.ours, theirs[salt]) {
			t.Errorf("%s\nours   %.600q\ntheirs %.600q", c.name, c.ours, theirs[salt])
		}
		delete(theirs, salt)
	}
	for receive(500 * time.Millisecond) {
	}
	for _, r := range theirs {
		t.Errorf("ours is silent where theirs says %.300q", r)
	}
	t.Logf("%d datagrams compared", len(cases))
}

// Our client asks the genuine daemon everything.
func TestFleetGanetiDaemonOurClient(t *testing.T) {
	d := startGaneti(t, labConfig(t))
	c := newTestClient(t, ClientConfig{Peers: []string{"127.0.0.1"}, Port: d.port})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	askLab(t, ctx, c)
}

// The genuine client asks our server everything, and the genuine daemon: what it
// makes of the replies is the same, field by field.
func TestFleetGanetiClientOurServer(t *testing.T) {
	d := startGaneti(t, labConfig(t))
	ours := startDriver(t, serve(t, "127.0.0.1", 0, labServer(t)), "127.0.0.1")
	theirs := startDriver(t, d.port, "127.0.0.1")
	type line struct {
		Type  int `json:"type"`
		Query any `json:"query"`
	}
	lines := []line{
		{0, nil},
		{1, "alpha.lab.example"},
		{1, "alpha"},
		{1, "gamma"},
		{1, "delta"},
		{1, "epsilon"},
		{1, alpha},
		{1, "nope"},
		{1, "twin"},
		{1, nil},
		{2, map[string]any{"1": "203.0.113.10"}},
		{2, map[string]any{"1": "203.0.113.11", "0": "br1"}},
		{2, map[string]any{"1": "x"}},
		{2, map[string]any{"2": []string{"203.0.113.10", "x"}}},
		{2, "x"},
		{3, nil},
		{3, map[string]any{"3": []int{0, 1, 2}}},
		{3, "x"},
		{4, nil},
		{5, nil},
		{6, nil},
		{6, "br1"},
		{6, "nolink"},
		{7, "alpha"},
		{7, "beta"},
		{7, "nope"},
		{8, "beta"},
		{9, "web"},
		{9, "lost"},
		{9, "nope"},
		{10, "/cluster"},
		{10, "/nodes"},
		{10, "/instances"},
		{10, "/disks"},
		{10, "/mtime"},
		{10, "/nope"},
		{11, nil},
		{12, nil},
	}
	for _, l := range lines {
		a, b := string(ours.do(l)), string(theirs.do(l))
		if a != b || a == "" {
			t.Errorf("%+v:\nours   %s\ntheirs %s", l, a, b)
		}
	}
}

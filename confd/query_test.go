package confd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// stub is a candidate that a test tells what to say: reply makes the datagrams
// that answer the n-th request (from 1) with that rsalt.
type stub func(n int, rsalt string) [][]byte

// candidates starts stubs at 127.0.0.1, 127.0.0.2 … and gives their port.
func candidates(t testing.TB, stubs ...stub) int {
	t.Helper()
	port := 0
	for i, s := range stubs {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, byte(i+1)), Port: port})
		if err != nil {
			t.Fatal(err)
		}
		port = conn.LocalAddr().(*net.UDPAddr).Port
		done := make(chan struct{})
		t.Cleanup(func() { _ = conn.Close(); <-done })
		go func() {
			defer close(done)
			b := make([]byte, 1<<16)
			for n := 1; ; n++ {
				k, from, err := conn.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				r, err := ParseRequest(b[:k], []byte(testKey), time.Now())
				if err != nil {
					t.Errorf("request %q: %v", b[:k], err)
					continue
				}
				for _, out := range s(n, r.Rsalt) {
					_, _ = conn.WriteToUDPAddrPort(out, from)
				}
			}
		}()
	}
	return port
}

// says is a candidate with one answer.
func says(answer string, serial int64) stub {
	return func(_ int, rsalt string) [][]byte { return [][]byte{replyTo(rsalt, answer, serial)} }
}

// errs is a candidate with an error for an answer.
func errs(answer string) stub {
	return func(_ int, rsalt string) [][]byte {
		r := Reply{Protocol: 1, Status: StatusError, Answer: []byte(answer)}
		return [][]byte{r.Append(nil, rsalt, []byte(testKey))}
	}
}

func silent(int, string) [][]byte { return nil }

// liar answers with a high serial and a signature that is not the cluster's.
func liar(_ int, rsalt string) [][]byte {
	r := Reply{Protocol: 1, Answer: []byte(`"liar"`), Serial: 999999}
	return [][]byte{r.Append(nil, rsalt, []byte("another key"))}
}

// twice answers twice, the second time otherwise.
func twice(a string, as int64, b string, bs int64) stub {
	return func(_ int, rsalt string) [][]byte { return [][]byte{replyTo(rsalt, a, as), replyTo(rsalt, b, bs)} }
}

// deaf hears only the second request.
func deaf(s stub) stub {
	return func(n int, rsalt string) [][]byte {
		if n < 2 {
			return nil
		}
		return s(n, rsalt)
	}
}

// parrot sends what it once said to another request, and garbage.
func parrot(_ int, rsalt string) [][]byte {
	return [][]byte{replyTo("00000000-0000-4000-8000-000000000000", `"parrot"`, 99), []byte("plj0{"), []byte(Magic), {}, append(replyTo(rsalt, `"x"`, 1), 'x')}
}

func TestQueryQuorum(t *testing.T) {
	const a, b = `"a"`, `"b"`
	for name, tt := range map[string]struct {
		stubs    []stub
		coverage int
		answer   string // empty: no quorum
		serial   int64
		agreed   int
		said     string // of the error
	}{
		"one":                                {stubs: []stub{says(a, 5)}, answer: a, serial: 5, agreed: 1},
		"two agree":                          {stubs: []stub{says(a, 5), says(a, 5)}, answer: a, serial: 5, agreed: 2},
		"two disagree":                       {stubs: []stub{says(a, 5), says(b, 5)}, said: `no quorum: 1 of 2 peers gave the same answer, 2 are needed (127.0.0.1: "a", serial 5; 127.0.0.2: "b", serial 5)`},
		"two, one silent":                    {stubs: []stub{says(a, 5), silent}, said: `1 of 2 peers gave the same answer, 2 are needed (127.0.0.1: "a", serial 5; 127.0.0.2: no answer)`},
		"none answers":                       {stubs: []stub{silent, silent}, said: "0 of 2 peers"},
		"three, one silent":                  {stubs: []stub{says(a, 5), silent, says(a, 5)}, answer: a, serial: 5, agreed: 2},
		"three, one lies with a high serial": {stubs: []stub{liar, says(a, 5), says(a, 5)}, answer: a, serial: 5, agreed: 2},
		"three, one stale":                   {stubs: []stub{says(a, 5), says(b, 4), says(a, 5)}, answer: a, serial: 5, agreed: 2},
		"three, one ahead":                   {stubs: []stub{says(a, 5), says(b, 6), says(a, 5)}, answer: a, serial: 5, agreed: 2},
		"three, all different":               {stubs: []stub{says(a, 5), says(b, 6), says(`"c"`, 7)}, said: "1 of 3 peers"},
		"equal answers, other serials":       {stubs: []stub{says(a, 4), says(a, 6), says(a, 5)}, coverage: -1, answer: a, serial: -1, agreed: -1},
		"one answers twice":                  {stubs: []stub{twice(a, 5, a, 5), says(b, 5)}, said: "1 of 2 peers"},
		"one contradicts itself":             {stubs: []stub{twice(b, 5, a, 5), says(b, 5)}, answer: b, serial: 5, agreed: 2},
		"one corrects itself":                {stubs: []stub{twice(b, 4, a, 5), deaf(says(a, 5)), silent}, answer: a, serial: 5, agreed: 2},
		"one repeats what it said before":    {stubs: []stub{parrot, says(a, 5), says(a, 5)}, answer: a, serial: 5, agreed: 2},
		"the request is lost once":           {stubs: []stub{deaf(says(a, 5)), deaf(says(a, 5))}, answer: a, serial: 5, agreed: 2},
		"others are asked":                   {stubs: []stub{silent, silent, says(a, 5), says(a, 5), says(a, 5)}, coverage: 2, answer: a, serial: 5, agreed: 2},
		"others decide":                      {stubs: []stub{says(a, 5), says(b, 5), says(b, 5), says(b, 5)}, coverage: 2, answer: b, serial: 5, agreed: -1},
		"six, three and three":               {stubs: []stub{says(a, 5), says(a, 5), says(a, 5), says(b, 6), says(b, 6), says(b, 6)}, said: "3 of 6 peers gave the same answer, 4 are needed"},
		"six, two silent":                    {stubs: []stub{says(a, 5), silent, says(a, 5), says(a, 5), silent, says(a, 5)}, answer: a, serial: 5, agreed: 4},
		"an error is an answer":              {stubs: []stub{errs("0"), errs("0")}, answer: "0", serial: 0, agreed: 2},
		"an error and an answer":             {stubs: []stub{errs("0"), says(a, 5)}, said: `127.0.0.1: error 0; 127.0.0.2: "a", serial 5`},
		"one has no data":                    {stubs: []stub{errs(`"Cannot load"`), says(a, 5), says(a, 5)}, answer: a, serial: 5, agreed: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestClient(t, ClientConfig{Peers: peers(len(tt.stubs)), Port: candidates(t, tt.stubs...), Coverage: tt.coverage})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			if tt.answer == "" {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), 700*time.Millisecond)
			}
			defer cancel()
			res, err := c.Query(ctx, Master().Request)
			if tt.answer == "" {
				none, ok := errors.AsType[*NoQuorumError](err)
				if !ok || !strings.Contains(err.Error(), tt.said) || none.Result.Agreed != res.Agreed || none.Result.Agreed >= none.Result.Needed {
					t.Errorf("%v; want %s", err, tt.said)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if string(res.Reply.Answer) != tt.answer || tt.serial >= 0 && res.Reply.Serial != tt.serial || tt.agreed >= 0 && res.Agreed != tt.agreed || res.Agreed < res.Needed {
				t.Errorf("%s, serial %d, %d agreed, %d needed; want %s, %d, %d", res.Reply.Answer, res.Reply.Serial, res.Agreed, res.Needed, tt.answer, tt.serial, tt.agreed)
			}
			checkOutstanding(t, c)
		})
	}
}

// checkOutstanding: a query leaves nothing behind.
func checkOutstanding(t *testing.T, c *Client) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) > 0 {
		t.Errorf("%d requests are left outstanding", len(c.requests))
	}
}

// What the callbacks see of the same candidates: all signed replies, one lie
// fewer; the filter passes on the first answer and what is newer.
func TestCallbacksOfLiars(t *testing.T) {
	port := candidates(t, says(`"a"`, 5), liar, says(`"b"`, 4), twice(`"a"`, 5, `"c"`, 6), silent, says(`"d"`, 5))
	rec, passed := &recorder{}, &recorder{}
	f, err := NewFilter(passed.upcall, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, ClientConfig{Peers: peers(6), Port: port, Callback: func(u *Upcall) { rec.upcall(u); f.Upcall(u) }})
	r := Master().Request
	r.Rsalt = NewRsalt()
	if err := c.SendRequest(&r, nil, -1, false); err != nil {
		t.Fatal(err)
	}
	late, sent, received := c.WaitForReply(r.Rsalt, 5*time.Second)
	if late || sent != 6 || received != 4 {
		t.Errorf("WaitForReply = %v, %d, %d; want false, 6, 4: the liar and the silent one do not count", late, sent, received)
	}
	for c.ReceiveReply(200 * time.Millisecond) {
	}
	all := rec.take()
	if len(all) != 5 {
		t.Errorf("%d upcalls; want 5: four peers and one of them twice", len(all))
	}
	ups := passed.take()
	if !slices.IsSortedFunc(ups, func(a, b *Upcall) int { return int(a.Reply.Serial - b.Reply.Serial) }) || string(ups[len(ups)-1].Reply.Answer) != `"c"` {
		t.Errorf("the filter passed %d; the last is serial %d", len(ups), ups[len(ups)-1].Reply.Serial)
	}
}

// Ctx ends a query at once.
func TestQueryCancelled(t *testing.T) {
	c := newTestClient(t, ClientConfig{Peers: peers(1), Port: silentPort(t)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	if _, err := c.Query(ctx, Ping().Request); err == nil || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// 100,000 datagrams of garbage beside 1,000 good queries: all good ones are
// answered, the garbage never.
func TestGarbage(t *testing.T) {
	s := labServer(t)
	port := serve(t, "127.0.0.1", 0, s)
	done := make(chan int, 1)
	go func() { done <- throwGarbage(t, port, 100_000) }()
	c := newTestClient(t, ClientConfig{Peers: peers(1), Port: port})
	for i := range 1000 {
		res, err := c.Query(t.Context(), NodeRole("alpha.lab.example").Request)
		if err != nil || string(res.Reply.Answer) != "0" {
			t.Fatalf("query %d: %s, %v", i, res.Reply.Answer, err)
		}
	}
	thrown := <-done
	st := s.Stats()
	t.Logf("%d thrown; %+v", thrown, st)
	if thrown != 100_000 || st.Answered < 1000 || st.Answered+st.Refused != st.Received || st.Refused < 1000 {
		t.Errorf("%d thrown; %+v", thrown, st)
	}
}

// throwGarbage sends n datagrams, and fails when one is answered.
func throwGarbage(t *testing.T, port, n int) int {
	conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Error(err)
		return 0
	}
	defer conn.Close()
	good := NodeRole("alpha.lab.example").Request
	good.Rsalt = "x"
	b, err := good.Append(nil, []byte("another key"), time.Now())
	if err != nil {
		t.Error(err)
	}
	kinds := [][]byte{{}, []byte("plj"), []byte(strings.Repeat("\x00", 64)), []byte(Magic + strings.Repeat("[", 4000)), b, b[:len(b)/2], []byte(strings.Repeat("x", 1400)), []byte(Magic + "{" + strings.Repeat(`"msg":"",`, 100))}
	sent := 0
	for ; sent < n; sent++ {
		if _, err := conn.Write(kinds[sent%len(kinds)]); err != nil {
			t.Error(err)
			break
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if k, err := conn.Read(make([]byte, 1<<16)); err == nil {
		t.Errorf("garbage was answered with %d bytes", k)
	}
	return sent
}

func needIPv6(t *testing.T) {
	t.Helper()
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Skip("SKIPPED: there is no ::1 on this machine")
	}
	_ = conn.Close()
}

// The same over IPv6, and on a socket for both families.
func TestIPv6(t *testing.T) {
	needIPv6(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	six := newTestClient(t, ClientConfig{Peers: []string{"::1"}, Port: serve(t, "::1", 0, labServer(t))})
	askLab(t, ctx, six)
	both := serve(t, "::", 0, labServer(t))
	for _, peer := range []string{"::1", "127.0.0.1", "::ffff:127.0.0.1"} {
		c := newTestClient(t, ClientConfig{Peers: []string{peer}, Port: both})
		if res, err := c.Query(ctx, Ping().Request); err != nil || res.Agreed != 1 {
			t.Errorf("%s: %v", peer, err)
		}
	}
}

// A server on all addresses replies from the one that was asked.
func TestServeAllAddresses(t *testing.T) {
	four, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := four.SyscallConn(); err != nil || askInfo(raw) != nil { // as Listen does
		t.Fatal(err)
	}
	for name, port := range map[string]int{"IPv4": serveOn(t, four, labServer(t)), "both": serve(t, "", 0, labServer(t))} {
		rec := &recorder{}
		c := newTestClient(t, ClientConfig{Peers: peers(3), Port: port, Callback: rec.upcall})
		r := Ping().Request
		r.Rsalt = NewRsalt()
		if err := c.SendRequest(&r, nil, -1, false); err != nil {
			t.Fatal(err)
		}
		from := make(map[string]bool)
		for range 3 {
			c.ReceiveReply(5 * time.Second)
		}
		for _, u := range rec.take() {
			from[u.ServerIP.String()] = true
		}
		if len(from) != 3 {
			t.Errorf("%s: replies came from %v; want 127.0.0.1 to 127.0.0.3", name, from)
		}
	}
}

// A candidate that replies from another of its addresses counts as the one that
// was asked.
func TestQueryReplyFromElsewhere(t *testing.T) {
	asked, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	other, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		b := make([]byte, 1<<16)
		n, from, err := asked.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		r, err := ParseRequest(b[:n], []byte(testKey), time.Now())
		if err == nil {
			_, _ = other.WriteToUDPAddrPort(replyTo(r.Rsalt, "1", 5), from)
		}
	}()
	c := newTestClient(t, ClientConfig{Peers: peers(1), Port: asked.LocalAddr().(*net.UDPAddr).Port})
	if res, err := c.Query(t.Context(), Ping().Request); err != nil || res.Agreed != 1 || res.Peers[0].Peer.String() != "127.0.0.1" {
		t.Errorf("%+v, %v", res, err)
	}
}

func ExampleClient_Query() {
	c, err := NewClient(ClientConfig{Key: []byte("the key file's bytes\n"), Peers: []string{"127.0.0.1"}, Port: 9})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	ask := NodeRole("web1.example.org")
	res, err := c.Query(ctx, ask.Request)
	if err != nil {
		fmt.Println("nobody listens there:", res.Agreed, "of", res.Needed)
		return
	}
	role, err := ask.Answer(&res.Reply)
	fmt.Println(role, err)
	// Output: nobody listens there: 0 of 1
}

package confd

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewClientErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		peers []string
		want  error
	}{
		"none":           {nil, ErrNoPeers},
		"empty":          {[]string{}, ErrNoPeers},
		"host name":      {[]string{"localhost"}, ErrPeerAddress},
		"later":          {[]string{"192.0.2.1", "192.0.2.256"}, ErrPeerAddress},
		"families":       {[]string{"192.0.2.1", "2001:db8::1"}, ErrMixedFamilies},
		"families again": {[]string{"::1", "127.0.0.1"}, ErrMixedFamilies},
		"address, port":  {[]string{"127.0.0.1:1814"}, ErrPeerAddress},
	} {
		c, err := NewClient(ClientConfig{Peers: tt.peers})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v; want %v", name, err, tt.want)
		}
		if err == nil {
			_ = c.Close()
		}
	}
}

func TestNeededReplies(t *testing.T) {
	want := []int{0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6}
	for n, w := range want {
		if got := NeededReplies(n); got != w {
			t.Errorf("NeededReplies(%d) = %d; want %d", n, got, w)
		}
	}
	if got := NeededReplies(-1); got != 0 {
		t.Errorf("NeededReplies(-1) = %d; want 0", got)
	}
}

// clock is a clock that a test sets.
type clock struct{ now atomic.Int64 }

func (c *clock) time() time.Time         { return time.Unix(0, c.now.Load()) }
func (c *clock) advance(d time.Duration) { c.now.Add(int64(d)) }

func newClock() *clock {
	c := &clock{}
	c.now.Store(workedTime.UnixNano())
	return c
}

func peers(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}).String()
	}
	return out
}

// recorder keeps upcalls.
type recorder struct {
	mu  sync.Mutex
	ups []*Upcall
}

func (r *recorder) upcall(up *Upcall) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ups = append(r.ups, up)
}

func (r *recorder) take() []*Upcall {
	r.mu.Lock()
	defer r.mu.Unlock()
	ups := r.ups
	r.ups = nil
	return ups
}

func TestSendRequestErrors(t *testing.T) {
	rec := &recorder{}
	c := newTestClient(t, ClientConfig{Peers: peers(9), Callback: rec.upcall, Port: freePort(t)})
	good := Ping().Request
	good.Rsalt = "known"
	if err := c.SendRequest(&good, nil, 0, true); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		r        Request
		coverage int
		want     error
	}{
		"more than there are":       {Request{}, 10, ErrCoverage},
		"negative":                  {Request{}, -2, ErrCoverage},
		"no rsalt":                  {Request{Type: 99}, 0, ErrNoRsalt},
		"known rsalt before type":   {Request{Type: 99, Rsalt: "known"}, 0, ErrDuplicateRsalt},
		"type 12":                   {Request{Type: 12, Rsalt: "a"}, 0, ErrType},
		"type -33":                  {Request{Type: -33, Rsalt: "a"}, 0, ErrType},
		"too big":                   {Request{Type: 1, Rsalt: "a", Query: Text(strings.Repeat("n", MaxRequest))}, 0, ErrTooBig},
		"too big is not remembered": {Request{Type: 1, Rsalt: "a", Query: Text(strings.Repeat("n", MaxRequest))}, -1, ErrTooBig},
	} {
		if err := c.SendRequest(&tt.r, nil, tt.coverage, true); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v; want %v", name, err, tt.want)
		}
	}
	nobody := newTestClient(t, ClientConfig{Peers: peers(1)})
	if err := nobody.SendRequest(&good, nil, 0, true); !errors.Is(err, ErrCallback) {
		t.Errorf("without a callback: %v", err)
	}
	if err := nobody.Close(); err != nil {
		t.Error(err)
	}
	if _, err := nobody.Query(t.Context(), good); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Who is sent a request: distinct peers, as many as asked for, all of them in time.
func TestCoverage(t *testing.T) {
	c := newTestClient(t, ClientConfig{Peers: peers(9), Callback: func(*Upcall) {}, Port: freePort(t)})
	targets := func(coverage int) []netip.Addr {
		r := Ping().Request
		r.Rsalt = NewRsalt()
		if err := c.SendRequest(&r, nil, coverage, true); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		var list []netip.Addr
		for a := range c.requests[r.Rsalt].sent {
			list = append(list, a)
		}
		return list
	}
	for coverage, want := range map[int]int{0: 6, -1: 9, 1: 1, 5: 5, 9: 9} {
		if got := len(targets(coverage)); got != want {
			t.Errorf("coverage %d: %d peers; want %d", coverage, got, want)
		}
	}
	hit := make(map[netip.Addr]bool)
	for range 300 {
		hit[targets(1)[0]] = true
	}
	if len(hit) != 9 {
		t.Errorf("300 requests to one peer went to %d of 9", len(hit))
	}
	if err := c.UpdatePeerList(peers(2)); err != nil || len(targets(0)) != 2 {
		t.Errorf("after UpdatePeerList: %v", err)
	}
	if err := c.UpdatePeerList([]string{"::1"}); !errors.Is(err, ErrMixedFamilies) {
		t.Errorf("another family: %v", err)
	}
	if err := c.UpdatePeerList(nil); !errors.Is(err, ErrNoPeers) {
		t.Errorf("no peers: %v", err)
	}
}

// replyTo makes the datagram that answers a request.
func replyTo(rsalt, answer string, serial int64) []byte {
	r := Reply{Protocol: 1, Answer: []byte(answer), Serial: serial}
	return r.Append(nil, rsalt, []byte(testKey))
}

func TestHandleResponse(t *testing.T) {
	rec, now := &recorder{}, newClock()
	c := newTestClient(t, ClientConfig{Peers: peers(3), Callback: rec.upcall, Port: freePort(t), Now: now.time})
	r := NodeRole("x").Request
	r.Rsalt = "salt"
	if err := c.SendRequest(&r, "args", -1, true); err != nil {
		t.Fatal(err)
	}
	first, second := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	good := replyTo("salt", "4", 7)
	for name, b := range map[string][]byte{
		"nothing": nil, "short": []byte("plj"), "magic": []byte("xxxx{}"), "no JSON": []byte("plj0{"), "not UTF-8": []byte("plj0\xff\xfe"), "altered": []byte(strings.Replace(string(good), "7", "8", 1)),
		"unknown salt": replyTo("other", "4", 7),
	} {
		c.HandleResponse(b, first, 1)
		if ups := rec.take(); len(ups) != 0 {
			t.Errorf("%s: callback called with %+v", name, ups[0])
		}
	}
	c.HandleResponse(good, netip.MustParseAddr("127.0.0.9"), 1)
	if ups := rec.take(); len(ups) != 0 {
		t.Errorf("a stranger's reply counts: %+v", ups[0])
	}
	received := func() int {
		_, _, n := c.WaitForReply("salt", 0)
		return n
	}
	c.HandleResponse(good, first, 1814)
	want := &Upcall{Salt: "salt", Kind: Replied, Request: r, Reply: Reply{Protocol: 1, Answer: []byte("4"), Serial: 7}, ServerIP: first, ServerPort: 1814, Args: "args", Client: c}
	ups := rec.take()
	if len(ups) != 1 || received() != 1 {
		t.Fatalf("%d upcalls, %d received", len(ups), received())
	}
	if d := cmp.Diff(*want, *ups[0], cmp.AllowUnexported(Query{}), cmp.Comparer(func(a, b *Client) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("upcall differs (-want +got):\n%s", d)
	}
	c.HandleResponse(good, first, 1814)
	if n := len(rec.take()); n != 1 || received() != 1 {
		t.Errorf("a peer's second reply: %d upcalls, %d received; want 1 and 1", n, received())
	}
	if late, sent, n := c.WaitForReply("salt", 0); !late || sent != 3 || n != 1 {
		t.Errorf("WaitForReply = %v, %d, %d; want true, 3, 1", late, sent, n)
	}
	c.HandleResponse(good, second, 1814)
	if late, sent, n := c.WaitForReply("salt", time.Hour); late || sent != 3 || n != 2 {
		t.Errorf("WaitForReply = %v, %d, %d; want false, 3, 2", late, sent, n)
	}
	if late, sent, n := c.WaitForReply("unknown", time.Hour); !late || sent != 0 || n != 0 {
		t.Errorf("WaitForReply of an unknown request = %v, %d, %d; want true, 0, 0", late, sent, n)
	}
	// The wait of an hour has put the expiry off.
	rec.take()
	now.advance(time.Hour + 9*time.Second)
	if c.ExpireRequests(); len(rec.take()) != 0 {
		t.Error("expired too early")
	}
	now.advance(time.Second)
	c.HandleResponse([]byte("rubbish"), first, 1)
	ups = rec.take()
	if len(ups) != 1 || ups[0].Kind != Expired || ups[0].Args != "args" || ups[0].ServerIP.IsValid() {
		t.Fatalf("expiry: %+v", ups)
	}
	if err := c.SendRequest(&r, nil, 0, true); err != nil {
		t.Errorf("the rsalt is not free again: %v", err)
	}
}

// The synchronous way: send, wait, read the stored answer. Async sends nothing
// before the flush.
func TestSendAndWait(t *testing.T) {
	var store Store
	counter, err := NewCounter(store.Upcall)
	if err != nil {
		t.Fatal(err)
	}
	port := serve(t, "127.0.0.1", 0, labServer(t))
	serve(t, "127.0.0.2", port, labServer(t))
	c := newTestClient(t, ClientConfig{Peers: peers(2), Callback: counter.Upcall, Port: port})
	r := Master().Request
	r.Rsalt = NewRsalt()
	if err := counter.Register(r.Rsalt); err != nil || counter.AllAnswered() {
		t.Fatal(err)
	}
	if err := counter.Register(r.Rsalt); !errors.Is(err, ErrDuplicateRsalt) {
		t.Errorf("registered twice: %v", err)
	}
	if err := c.SendRequest(&r, nil, 0, true); err != nil {
		t.Fatal(err)
	}
	if c.ReceiveReply(50 * time.Millisecond) {
		t.Error("a reply before anything was sent")
	}
	if err := c.FlushSendQueue(); err != nil {
		t.Fatal(err)
	}
	if late, sent, got := c.WaitForReply(r.Rsalt, 5*time.Second); late || sent != 2 || got != 2 {
		t.Errorf("WaitForReply = %v, %d, %d; want false, 2, 2", late, sent, got)
	}
	up, ok := store.Response(r.Rsalt)
	if !ok || string(up.Reply.Answer) != `"alpha.lab.example"` || up.Reply.Serial != 42 || !counter.AllAnswered() {
		t.Errorf("stored: %+v, all answered %v", up, counter.AllAnswered())
	}
	store.Forget(r.Rsalt)
	if _, ok := store.Response(r.Rsalt); ok {
		t.Error("not forgotten")
	}
}

// Many goroutines share a client; each gets its answer, whoever receives it.
func TestClientConcurrent(t *testing.T) {
	var store Store
	port := serve(t, "127.0.0.1", 0, labServer(t))
	serve(t, "127.0.0.2", port, labServer(t))
	serve(t, "127.0.0.3", port, labServer(t))
	c := newTestClient(t, ClientConfig{Peers: peers(3), Callback: store.Upcall, Port: port})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				r := Master().Request
				r.Rsalt = NewRsalt()
				if err := c.SendRequest(&r, nil, 0, false); err != nil {
					t.Error(err)
				}
				if late, _, got := c.WaitForReply(r.Rsalt, 5*time.Second); late || got < 2 {
					t.Errorf("WaitForReply: late %v, %d replies", late, got)
				}
				if _, ok := store.Response(r.Rsalt); !ok {
					t.Error("no answer stored")
				}
			}
		})
		wg.Go(func() {
			for range 5 {
				if _, err := c.Query(t.Context(), Ping().Request); err != nil {
					t.Error(err)
				}
				if err := c.UpdatePeerList(peers(3)); err != nil {
					t.Error(err)
				}
				c.ExpireRequests()
			}
		})
	}
	wg.Wait()
}

// Close ends who waits.
func TestCloseEndsWaiting(t *testing.T) {
	c := newTestClient(t, ClientConfig{Peers: peers(1), Callback: func(*Upcall) {}, Port: silentPort(t)})
	r := Ping().Request
	r.Rsalt = "x"
	if err := c.SendRequest(&r, nil, 0, false); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool, 2)
	go func() { late, _, _ := c.WaitForReply("x", time.Hour); done <- late }()
	go func() { _, err := c.Query(t.Context(), r); done <- errors.Is(err, ErrClosed) }()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if !<-done {
			t.Error("a closed client gives an answer")
		}
	}
}

// silentPort is a port on 127.0.0.1 that takes everything and says nothing.
func silentPort(t testing.TB) int {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().(*net.UDPAddr).Port
}

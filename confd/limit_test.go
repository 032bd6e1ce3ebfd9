package confd

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := workedTime
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	l := newLimiter(1000)
	for i := range 3 { // the last one goes beyond
		if !l.allow(a, 400, now) {
			t.Errorf("reply %d is withheld", i)
		}
	}
	if l.allow(a, 400, now) || l.allow(netip.MustParseAddr("::ffff:192.0.2.1"), 400, now) {
		t.Error("more than the limit is allowed")
	}
	if !l.allow(a, 0, now) || !l.allow(a, -50, now) {
		t.Error("what is no more than was sent is withheld")
	}
	if !l.allow(b, 400, now) {
		t.Error("another source is withheld")
	}
	if !l.allow(a, 400, now.Add(300*time.Millisecond)) {
		t.Error("nothing is forgiven with time")
	}
	six := newLimiter(10)
	six.allow(netip.MustParseAddr("2001:db8::1"), 20, now)
	if six.allow(netip.MustParseAddr("2001:db8::2"), 20, now) || !six.allow(netip.MustParseAddr("2001:db8:0:1::1"), 20, now) {
		t.Error("a source of IPv6 is not its /64")
	}
}

func TestLimiterOfLoopback(t *testing.T) {
	for limit, want := range map[int]bool{0: true, 10: false, -1: true} {
		for _, s := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
			l := newLimiter(limit)
			ok := true
			for range 100 {
				ok = l.allow(netip.MustParseAddr(s), 1<<20, workedTime)
			}
			if ok != want {
				t.Errorf("limit %d, %s: allowed %v; want %v", limit, s, ok, want)
			}
		}
	}
	def := newLimiter(0)
	def.allow(netip.MustParseAddr("192.0.2.1"), DefaultLimit, workedTime)
	if def.allow(netip.MustParseAddr("192.0.2.1"), 1, workedTime) {
		t.Error("the default limit is none")
	}
}

// Whoever forges sources makes the limiter neither grow nor forget.
func TestLimiterBounded(t *testing.T) {
	l := newLimiter(1000)
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range maxSources + 1000 {
		l.allow(at(i), 5000, workedTime)
	}
	if len(l.debts) > maxSources {
		t.Errorf("%d sources are kept; want at most %d", len(l.debts), maxSources)
	}
	if l.allow(at(0), 1, workedTime) {
		t.Error("a debt was forgotten")
	}
	if l.allow(at(1<<20), 1, workedTime) {
		t.Error("a new source is allowed more than it sent while the table is full")
	}
	if !l.allow(at(1<<20), 0, workedTime) {
		t.Error("a new source gets nothing at all")
	}
	if later := workedTime.Add(time.Minute); !l.allow(at(1<<20), 5000, later) || len(l.debts) > 1 {
		t.Errorf("after a minute %d sources are kept", len(l.debts))
	}
}

// A server withholds large answers from a source over its limit, and goes on
// with small ones.
func TestServerLimits(t *testing.T) {
	s := NewServer(ServerConfig{Key: []byte(testKey), Limit: 20000, Now: func() time.Time { return workedTime }})
	s.SetData(lab(t))
	w := s.newWorker()
	ask := func(msg, from string) int {
		return len(w.answer(nil, newSigner([]byte(testKey)).sealRequest(nil, []byte(msg), workedTime), netip.MustParseAddr(from)))
	}
	const large, small = `{"protocol":1,"type":10,"query":"/cluster","rsalt":"x"}`, `{"protocol":1,"type":1,"query":"alpha.lab.example","rsalt":"x"}`
	sum := 0
	for range 100 {
		sum += ask(large, "192.0.2.1")
		if ask(small, "192.0.2.1") == 0 {
			t.Fatal("a small answer is withheld")
		}
	}
	if one := ask(large, "192.0.2.2"); one == 0 || sum > 20000+2*one {
		t.Errorf("%d bytes were sent, %d to another source", sum, one)
	}
	if st := s.Stats(); st.Limited == 0 || st.Answered+st.Limited != st.Received {
		t.Errorf("%+v", st)
	}
}

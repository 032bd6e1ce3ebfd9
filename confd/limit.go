package confd

import (
	"net/netip"
	"time"
)

// maxSources is how many sources a limiter keeps apart. A source that owes
// nothing is forgotten when room is needed.
const maxSources = 1 << 16

// limiter keeps each source from being sent much more than it sent. It belongs
// to one goroutine.
type limiter struct {
	rate     float64 // bytes per second; 0: no limit
	loopback bool    // limited, too
	debts    map[netip.Addr]debt
	swept    time.Time
}

// debt is how many bytes too many a source had been sent at a time.
type debt struct {
	bytes float64
	at    time.Time
}

func newLimiter(limit int) limiter {
	l := limiter{rate: float64(limit), loopback: limit != 0, debts: make(map[netip.Addr]debt)}
	switch {
	case limit == 0:
		l.rate = DefaultLimit
	case limit < 0:
		l.rate = 0
	}
	return l
}

// allow says whether a source may be sent that many bytes more than came from
// it, and notes them. What is not more is always allowed, and costs nothing.
func (l *limiter) allow(from netip.Addr, extra int, now time.Time) bool {
	from = from.Unmap().WithZone("")
	if extra <= 0 || l.rate == 0 || !l.loopback && from.IsLoopback() {
		return true
	}
	if from.Is6() {
		p, _ := from.Prefix(64) // 64 is a length that there is
		from = p.Addr()
	}
	d, known := l.debts[from]
	if !known && len(l.debts) >= maxSources && !l.sweep(now) {
		return false
	}
	d.bytes = max(0, d.bytes-l.rate*now.Sub(d.at).Seconds())
	if d.bytes >= l.rate {
		return false
	}
	l.debts[from] = debt{d.bytes + float64(extra), now}
	return true
}

// sweep forgets who owes nothing any more, at most once a second.
func (l *limiter) sweep(now time.Time) bool {
	if d := now.Sub(l.swept); d >= 0 && d < time.Second {
		return len(l.debts) < maxSources
	}
	l.swept = now
	for from, d := range l.debts {
		if d.bytes <= l.rate*now.Sub(d.at).Seconds() {
			delete(l.debts, from)
		}
	}
	return len(l.debts) < maxSources
}

package audit

import (
	"sync"
	"time"
)

// refusalsPerMinute bounds what those who are refused can write into a log.
const refusalsPerMinute = 60

// Meter lets 60 records through in each minute and counts the rest, so that
// who is refused again and again cannot fill a disk.
type Meter struct {
	now func() time.Time

	mu     sync.Mutex
	minute time.Time
	passed int
	kept   int // not let through since the last that was
}

// NewMeter makes a meter that reads the time from now.
func NewMeter(now func() time.Time) *Meter { return &Meter{now: now} }

// Take says whether one more may pass, and how many did not before it.
func (m *Meter) Take() (suppressed int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if minute := m.now().Truncate(time.Minute); !minute.Equal(m.minute) {
		m.minute, m.passed = minute, 0
	}
	if m.passed >= refusalsPerMinute {
		m.kept++
		return 0, false
	}
	m.passed++
	suppressed, m.kept = m.kept, 0
	return suppressed, true
}

package enrol

import (
	"sync"
	"time"
)

// recordsPerMinute bounds what callers without a certificate can write into
// the audit log.
const recordsPerMinute = 60

// meter lets recordsPerMinute through in each minute and counts the rest.
type meter struct {
	now func() time.Time

	mu     sync.Mutex
	minute time.Time
	passed int
	kept   int // not let through since the last that was
}

func newMeter(now func() time.Time) *meter { return &meter{now: now} }

// take says whether one more may pass, and how many did not before it.
func (m *meter) take() (suppressed int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if minute := m.now().Truncate(time.Minute); !minute.Equal(m.minute) {
		m.minute, m.passed = minute, 0
	}
	if m.passed >= recordsPerMinute {
		m.kept++
		return 0, false
	}
	m.passed++
	suppressed, m.kept = m.kept, 0
	return suppressed, true
}

package overlord

import (
	"maps"
	"slices"
	"sync"
	"time"

	"dominion/call"
	"dominion/session"
)

// fleet knows the minions: which exist, and which have a session.
type fleet struct {
	mu    sync.RWMutex
	known map[string]*minionState
	names []string // sorted keys of known; replaced, never changed
	up    int
}

// minionState is what the overlord knows of one minion. fleet.mu covers it.
type minionState struct {
	session *session.Session // nil: not connected
	since   time.Time        // of the session, or when it was lost
	birth   time.Time        // of the journal that the session's HELLO showed
	reason  string           // why there is no session
	dial    string           // address we dial; empty: it dials us
	sub     bool             // the agent of a sub-overlord
	notes   [][]byte         // checkpoints that it remembers, as far as we know; nil: as in its HELLO
	asked   float64          // requests of its own that count at the time of asking
	asking  time.Time        // when it asked last
	arrive  chan struct{}    // closed when it has a session; nil: nobody waits
}

// What a minion may ask for on its own account, over all its sessions: facts and
// renewals are hours apart, and each costs a transaction that others wait for.
const (
	askBurst = 20              // at once
	askEvery = 3 * time.Second // and then one in that time
)

// mayAsk says whether a minion may ask for something now, and counts it.
func (f *fleet) mayAsk(name string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.known[name]
	if m == nil {
		return false
	}
	m.asked = max(0, m.asked-float64(now.Sub(m.asking))/float64(askEvery))
	m.asking = now
	if m.asked > askBurst-1 {
		return false
	}
	m.asked++
	return true
}

// load makes the minions of the store known.
func (f *fleet) load(names []string, dial map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = make(map[string]*minionState, len(names))
	for _, n := range names {
		f.known[n] = &minionState{reason: "not connected since the overlord started", dial: dial[n]}
	}
	f.names = slices.Sorted(maps.Keys(f.known))
}

// enrolled makes the name of a machine known. A sub-overlord that had it before has
// it no more.
func (f *fleet) enrolled(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addLocked(name).sub = false
}

// enrolledSub makes the name of a sub-overlord known.
func (f *fleet) enrolledSub(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addLocked(name).sub = true
}

// isSub says whether a name is that of a sub-overlord of ours.
func (f *fleet) isSub(name string) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	m := f.known[name]
	return m != nil && m.sub
}

// subs gives the sorted names of the sub-overlords of ours.
func (f *fleet) subs() []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []string
	for _, n := range f.names {
		if f.known[n].sub {
			out = append(out, n)
		}
	}
	return out
}

func (f *fleet) addLocked(name string) *minionState {
	m := f.known[name]
	if m == nil {
		m = &minionState{reason: "not connected since it enrolled"}
		if f.known == nil {
			f.known = make(map[string]*minionState)
		}
		f.known[name] = m
		i, _ := slices.BinarySearch(f.names, name)
		f.names = slices.Insert(slices.Clone(f.names), i, name)
	}
	return m
}

// forget removes a name whose certificates are all revoked, and gives its
// session, if it has one.
func (f *fleet) forget(name string) (left *session.Session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.known[name]; m != nil {
		if left = m.session; left != nil {
			f.up--
		}
		delete(f.known, name)
		f.names = slices.Sorted(maps.Keys(f.known))
	}
	return left
}

// join registers a session and gives the one it replaces, if any.
func (f *fleet) join(s *session.Session, now time.Time) (old *session.Session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.addLocked(s.Peer().Name)
	if old = m.session; old == nil {
		f.up++
	}
	m.session, m.since, m.reason, m.notes = s, now, "", nil
	if m.arrive != nil {
		close(m.arrive)
		m.arrive = nil
	}
	m.birth = birthOf(s.PeerHello(), now)
	return old
}

// leave notes that a session ended; false when another has taken its place.
func (f *fleet) leave(s *session.Session, now time.Time, reason string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.known[s.Peer().Name]
	if m == nil || m.session != s {
		return false
	}
	f.up--
	m.session, m.since, m.reason = nil, now, reason
	return true
}

// get gives the session of a minion, or nil.
func (f *fleet) get(name string) *session.Session {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if m := f.known[name]; m != nil {
		return m.session
	}
	return nil
}

// here is a channel that is closed.
var here = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// arrival gives a channel that is closed when a machine has a session. Of one
// that is not enrolled it never is.
func (f *fleet) arrival(name string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.known[name]
	switch {
	case m == nil:
		return nil
	case m.session != nil:
		return here
	case m.arrive == nil:
		m.arrive = make(chan struct{})
	}
	return m.arrive
}

// journal gives the session of a minion, or nil, and when its journal began.
func (f *fleet) journal(name string) (*session.Session, time.Time) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if m := f.known[name]; m != nil {
		return m.session, m.birth
	}
	return nil, time.Time{}
}

// of gives the sessions of those names that have one.
func (f *fleet) of(names []string) []*session.Session {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := make([]*session.Session, 0, len(names))
	for _, n := range names {
		if m := f.known[n]; m != nil && m.session != nil {
			out = append(out, m.session)
		}
	}
	return out
}

// all gives every session.
func (f *fleet) all() []*session.Session {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := make([]*session.Session, 0, f.up)
	for _, m := range f.known {
		if m.session != nil {
			out = append(out, m.session)
		}
	}
	return out
}

// list gives the sorted names of all minions; the caller must not change it.
func (f *fleet) list() []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.names
}

// count gives how many minions are known and how many are connected.
func (f *fleet) count() (known, up int) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.known), f.up
}

// look gives a copy of what is known of one minion.
func (f *fleet) look(name string) (minionState, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if m := f.known[name]; m != nil {
		return *m, true
	}
	return minionState{}, false
}

// why says for people why a minion has no session.
func (f *fleet) why(name string) string {
	m, ok := f.look(name)
	switch {
	case !ok:
		return "it is not enrolled any more"
	case m.reason == "":
		return "its connection just ended"
	default:
		return m.reason
	}
}

// setDial sets the address at which the overlord dials a minion.
func (f *fleet) setDial(name, address string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.known[name]
	if m == nil {
		return call.Errorf(call.NotFound, "no minion %q; dominion minions lists them", name)
	}
	m.dial = address
	return nil
}

// dialled gives the minions that the overlord dials, with their addresses.
func (f *fleet) dialled() map[string]string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := make(map[string]string)
	for n, m := range f.known {
		if m.dial != "" {
			out[n] = m.dial
		}
	}
	return out
}

// unreached notes why a minion that is dialled has no session.
func (f *fleet) unreached(name, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.known[name]; m != nil && m.session == nil {
		m.reason = reason
	}
}

// remember notes that a minion accepted a checkpoint.
func (f *fleet) remember(s *session.Session, note []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.known[s.Peer().Name]; m != nil && m.session == s {
		m.notes = [][]byte{note}
	}
}

// remembered gives the checkpoints that a minion is known to remember.
func (f *fleet) remembered(s *session.Session) [][]byte {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if m := f.known[s.Peer().Name]; m != nil && m.session == s && m.notes != nil {
		return m.notes
	}
	return s.PeerHello().Checkpoints
}

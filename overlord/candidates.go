package overlord

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"dominion/call"
	"dominion/cluster"
	"dominion/pki"
	"dominion/session"
)

// Limits and times of announcing cluster data.
const (
	announceWidth = 32              // machines that are told at a time
	announceSlot  = 2 * time.Second // and then those that have not answered count no more
	announceTime  = 2 * time.Minute // for a machine to get and serve a version
	announceFirst = time.Second     // before a machine that did not take it is told again; then twice as long
	announceMost  = 15 * time.Second
	maxRaise      = cluster.MaxSerial / 2 // a serial beyond it is no accident
)

// The states of a candidate.
const (
	candidateCurrent = "current" // serves the version in force
	candidateBehind  = "behind"  // has an older one, or none, and is being told
	candidateAway    = "away"    // has no session
	candidateRefuses = "refuses" // says why it does not take or serve it
)

// candidates is what the overlord knows of the machines that serve its cluster
// data. Each of them that has to be told something has a goroutine until it has
// taken it, or its session is over.
type candidates struct {
	o *Overlord

	slots   chan struct{} // of announceWidth
	raising sync.Mutex    // held while the serial is raised

	mu      sync.Mutex // covers what follows
	holders map[string]*holder
	version *clusterVersion // whose digest is at hand
	digest  [sha256.Size]byte
}

// holder is a machine that serves the data, is to serve them, or has served them.
type holder struct {
	busy   bool          // a goroutine tells it
	again  chan struct{} // of one: there is news for it
	pieces pieceMeter

	heard   time.Time // when it answered last; zero: never
	serial  uint64    // of the header it showed; 0: none
	made    time.Time
	serving bool
	listen  string
	reason  string           // why it did not take what it was told, or does not serve
	done    *session.Session // on which it has heard that it is no candidate
}

// candidateState is what a candidate last said.
type candidateState struct {
	state  string    // current, behind, away, refuses
	serial uint64    // of the data it holds; 0: none known
	made   time.Time // of the data it holds
	heard  time.Time // zero: never
	reason string    // of away and refuses, and why it does not serve
	listen string    // where it answers; empty: nowhere, or not known
}

func (c *candidates) init(o *Overlord) {
	c.o, c.slots, c.holders = o, make(chan struct{}, announceWidth), make(map[string]*holder)
}

// announce tells the candidates of a new version, and those that were candidates. It
// does not block.
func (c *candidates) announce(v *clusterVersion) {
	names := slices.Clone(v.candidates)
	for _, s := range c.o.fleet.all() {
		if s.PeerHello().Cluster {
			names = append(names, s.Peer().Name)
		}
	}
	c.mu.Lock()
	for name := range c.holders {
		if _, known := c.o.fleet.look(name); !known && !slices.Contains(v.candidates, name) {
			delete(c.holders, name)
			continue
		}
		names = append(names, name)
	}
	c.mu.Unlock()
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if s := c.o.fleet.get(name); s != nil {
			c.poke(v, name, s)
		}
	}
}

// arrived tells a machine whose session has begun.
func (c *candidates) arrived(s *session.Session) {
	v := c.o.clusterNow()
	if v != nil && (s.PeerHello().Cluster || slices.Contains(v.candidates, s.Peer().Name)) {
		c.poke(v, s.Peer().Name, s)
	}
}

// poke has a machine told what is in force.
func (c *candidates) poke(v *clusterVersion, name string, s *session.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.holders[name]
	if h == nil {
		h = &holder{again: make(chan struct{}, 1)}
		c.holders[name] = h
	}
	if h.done == s && !slices.Contains(v.candidates, name) {
		return
	}
	select {
	case h.again <- struct{}{}:
	default:
	}
	if !h.busy {
		h.busy = true
		c.o.background.Go(func() { c.attend(name, h) })
	}
}

// states gives what each candidate of a version last said, by name.
func (c *candidates) states(v *clusterVersion) map[string]candidateState {
	out := make(map[string]candidateState, len(v.candidates))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range v.candidates {
		h := c.holders[name]
		if h == nil {
			h = new(holder)
		}
		s := candidateState{state: candidateBehind, serial: h.serial, made: h.made, heard: h.heard, reason: h.reason, listen: h.listen}
		switch {
		case c.o.fleet.get(name) == nil:
			s.state, s.reason, s.listen = candidateAway, "", ""
		case h.reason != "":
			s.state = candidateRefuses
		case h.serial == v.serial && h.serving:
			s.state = candidateCurrent
		}
		out[name] = s
	}
	return out
}

// attend tells a machine what is in force until it has taken it, or has no session.
func (c *candidates) attend(name string, h *holder) {
	wait := announceFirst
	for {
		select {
		case <-h.again: // what follows sees the news
			wait = announceFirst
		default:
		}
		v, s := c.o.clusterNow(), c.o.fleet.get(name)
		done := v == nil || s == nil || c.tell(v, s, name, h)
		if done && c.rest(h) {
			return
		}
		if done {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			wait = min(2*wait, announceMost)
		case <-h.again:
			wait = announceFirst
		case <-s.Done():
		case <-c.o.life.Done():
		}
		timer.Stop()
		if c.o.life.Err() != nil {
			return
		}
	}
}

// rest ends the attendance of a machine, unless there is news for it.
func (c *candidates) rest(h *holder) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(h.again) > 0 && c.o.life.Err() == nil {
		return false
	}
	h.busy = false
	return true
}

// tell announces a version to one machine and takes the answer. It says whether there
// is nothing more to tell it.
func (c *candidates) tell(v *clusterVersion, s *session.Session, name string, h *holder) (done bool) {
	select {
	case c.slots <- struct{}{}:
		release := sync.OnceFunc(func() { <-c.slots })
		defer release()
		defer time.AfterFunc(announceSlot, release).Stop()
	case <-s.Done():
		return true
	case <-c.o.life.Done():
		return true
	}
	args := session.ClusterArgs{Header: v.header}
	serves := slices.Contains(v.candidates, name)
	if serves {
		args.Key = v.key
	}
	b, err := json.Marshal(args)
	if err != nil {
		c.o.log.Error("encode an announcement of cluster data", "error", err)
		return true
	}
	ctx, cancel := context.WithTimeoutCause(c.o.life, announceTime, fmt.Errorf("no answer within %s", announceTime))
	defer cancel()
	began := time.Now()
	b, err = s.Call(ctx, session.MethodCluster, b)
	var r session.ClusterResult
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return c.unheard(s, name, h, err)
	}
	seen, reason := c.judge(v, &r, name)
	switch {
	case seen == nil:
	case serves:
		done = seen.Serial == v.serial && reason == "" && r.Serving
	default: // it has dropped ours, or never had any
		done = seen.Serial == v.serial && reason == "" || !v.mine(seen, c.o.cfg.Name)
	}
	c.mu.Lock()
	was := h.reason
	h.heard, h.serving, h.listen, h.reason = time.Now(), r.Serving, cutText(r.Listen, 300), reason
	h.serial, h.made = 0, time.Time{}
	if seen != nil {
		h.serial, h.made = seen.Serial, seen.Made
	}
	if done && !serves {
		h.done = s
	}
	c.mu.Unlock()
	switch {
	case reason != "" && reason != was && serves:
		c.o.log.Warn("a candidate does not serve the cluster data in force; it is told again", "machine", name, "serial", v.serial, "why", reason)
	case done && serves:
		c.o.log.Info("cluster data served", "machine", name, "serial", v.serial, "listen", r.Listen, "took", time.Since(began).String())
	}
	return done
}

// unheard notes that a machine gave no answer that can be read.
func (c *candidates) unheard(s *session.Session, name string, h *holder, err error) (done bool) {
	select {
	case <-s.Done(): // it is told when it is back
		return true
	default:
	}
	reason := cutText(err.Error(), 1000)
	if done = call.CodeOf(err) == call.NotFound; done {
		reason = "its agent keeps no cluster data: a newer one is needed"
	}
	c.mu.Lock()
	h.reason, h.serving = reason, false
	c.mu.Unlock()
	c.o.log.Warn("cluster data not announced", "machine", name, "error", err)
	return done
}

// judge reads what a machine has: the header, if it holds, and why it does not serve
// what it was told; empty: it does, or will. A header with a higher serial than
// there is here, or another version of the same, was signed before this store was
// restored from a back-up: a version above it is made.
func (c *candidates) judge(v *clusterVersion, r *session.ClusterResult, name string) (seen *cluster.Signed, reason string) {
	reason = cutText(r.Error, 1000)
	if len(r.Header) == 0 {
		return nil, reason
	}
	seen, err := cluster.Verify(c.o.trust, r.Header, time.Time{})
	if err != nil {
		return nil, cutText("it shows a header that does not hold: "+err.Error(), 1000)
	}
	mine, err := cluster.Verify(c.o.trust, v.header, time.Time{})
	if err != nil {
		return seen, cutText("our own header does not hold: "+err.Error(), 1000)
	}
	switch {
	case !v.mine(seen, mine.Signer):
		if reason == "" {
			reason = fmt.Sprintf("it has data of cluster %s signed by overlord/%s", seen.Cluster, seen.Signer)
		}
	case seen.Serial > mine.Serial:
		return seen, c.raise(name, seen, "")
	case seen.Serial == mine.Serial && !seen.Same(&mine.Header):
		c.o.log.Error("two versions of the cluster data have one serial: the store is an older copy; a newer version takes the place of both", "machine", name, "serial", seen.Serial)
		return seen, c.raise(name, seen, "with other content ")
	}
	return seen, reason
}

// mine says whether a header is of the same cluster as the version, and of its
// overlord.
func (v *clusterVersion) mine(h *cluster.Signed, overlord string) bool {
	return h.Cluster == v.doc.UUID() && h.Signer == overlord
}

// raise has a version made above one that a machine has; the text is why there is none.
func (c *candidates) raise(name string, seen *cluster.Signed, how string) string {
	if seen.Serial > maxRaise {
		return fmt.Sprintf("it holds serial %d, signed by overlord/%s: no version is made above that; stop its agent, remove cluster/header from its state directory and start it again", seen.Serial, seen.Signer)
	}
	c.raising.Lock()
	defer c.raising.Unlock()
	ctx, cancel := context.WithTimeout(c.o.life, minionCall)
	defer cancel()
	if err := c.o.clusterRaise(ctx, seen.Serial, fmt.Sprintf("%s holds it %ssigned by %s", name, how, pki.Identity{Role: pki.Overlord, Name: seen.Signer})); err != nil {
		c.o.log.Error("no version of the cluster data above that of a candidate", "machine", name, "serial", seen.Serial, "error", err)
		return cutText(fmt.Sprintf("it holds serial %d, and no version above it could be made: %v", seen.Serial, err), 1000)
	}
	return "" // the new version is announced
}

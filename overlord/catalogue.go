package overlord

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/session"
	"dominion/target"
)

// Limits and times of what machines offer.
const (
	maxOffers   = 64 << 20        // bytes of all offers that are kept
	offerTime   = 5 * time.Second // for a machine to send one
	offerPulls  = 16              // machines that are asked at a time
	belowGather = time.Second     // after a change, before the parent is told
)

type offerDigest [sha256.Size]byte

// catalogue knows what machines offer beside the methods of their agents. Many
// offer the same, so an offer is known by its digest, and asked for once. It is not
// stored: after a restart machines that are connected tell it.
type catalogue struct {
	o     *Overlord
	pulls chan struct{} // of offerPulls

	mu       sync.Mutex // covers what follows
	offers   map[offerDigest]*offer
	machines map[string]offerDigest // those that offer something
	size     int                    // bytes of all offers
	asking   map[offerDigest]chan struct{}
	last     map[string]string // by machine: the digest that it told last, if it is not known yet
	made     *offered          // of the above; nil: not yet
	telling  bool              // a goroutine is about to tell the parent
}

type offer struct {
	module.Offer
	size, machines int
}

// siteMethod is a method of a site's own, as machines offer it. It does not change.
type siteMethod struct {
	// versions are those that machines have, the ones that most have first.
	versions []methodVersion
}

type methodVersion struct {
	schema   module.Schema
	text     string // its JSON
	names    string // folded; of machines directly below
	machines int    // all that have it, those below sub-overlords included
}

// disabledModule is a module that machines have and cannot use.
type disabledModule struct {
	module.Disabled
	names    string // folded
	machines int
}

// offered is what the fleet offers. It does not change.
type offered struct {
	methods  map[string]*siteMethod
	disabled []disabledModule // sorted
}

func (c *catalogue) init(o *Overlord) {
	c.o, c.pulls = o, make(chan struct{}, offerPulls)
	c.offers, c.machines = make(map[offerDigest]*offer), make(map[string]offerDigest)
	c.asking, c.last = make(map[offerDigest]chan struct{}), make(map[string]string)
}

// arrived takes what a machine told of its offer in HELLO.
func (c *catalogue) arrived(s *session.Session) {
	digest := s.PeerHello().Offer
	if c.told(s.Peer().Name, digest) {
		return
	}
	c.o.background.Go(func() {
		if err := c.find(c.o.life, s, digest); err != nil {
			c.o.log.Warn("what a machine offers is not known", "machine", s.Peer().Name, "error", err)
		}
	})
}

// learn takes what a machine told of its offer later.
func (c *catalogue) learn(ctx context.Context, s *session.Session, digest []byte) error {
	if c.told(s.Peer().Name, digest) {
		return nil
	}
	return c.find(ctx, s, digest)
}

// told notes what a machine offers, and says whether that is known.
func (c *catalogue) told(machine string, digest []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(digest) == 0 {
		delete(c.last, machine)
		c.set(machine, offerDigest{}, nil)
		return true
	}
	c.last[machine] = string(digest)
	return c.settled(machine, digest)
}

// settled notes what a machine offers if that is known. It is true also when the
// machine has told of another since. c.mu is held.
func (c *catalogue) settled(machine string, digest []byte) bool {
	if c.last[machine] != string(digest) {
		return true
	}
	if len(digest) != len(offerDigest{}) {
		return false
	}
	d := offerDigest(digest)
	known := c.offers[d]
	if known == nil {
		return false
	}
	delete(c.last, machine)
	c.set(machine, d, known)
	return true
}

// find asks a machine what it offers, unless another one that offers the same is
// being asked.
func (c *catalogue) find(ctx context.Context, s *session.Session, digest []byte) error {
	if len(digest) != len(offerDigest{}) {
		return call.Errorf(call.Invalid, "a digest of %d bytes", len(digest))
	}
	d := offerDigest(digest)
	for {
		c.mu.Lock()
		if c.settled(s.Peer().Name, digest) {
			c.mu.Unlock()
			return nil
		}
		other := c.asking[d]
		mine := make(chan struct{})
		if other == nil {
			c.asking[d] = mine
		}
		c.mu.Unlock()
		if other == nil {
			err := c.ask(ctx, s, d)
			c.mu.Lock()
			delete(c.asking, d)
			c.mu.Unlock()
			close(mine)
			return err
		}
		select { // then it is known, or this machine is asked
		case <-other:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ask gets an offer of a machine.
func (c *catalogue) ask(ctx context.Context, s *session.Session, d offerDigest) error {
	select {
	case c.pulls <- struct{}{}:
		defer func() { <-c.pulls }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ctx, stop := context.WithTimeoutCause(ctx, offerTime, fmt.Errorf("no answer within %s", offerTime))
	defer stop()
	out, err := s.Call(ctx, session.MethodOffer, nil)
	if err != nil {
		return err
	}
	var r session.OfferResult
	if err := json.Unmarshal(out, &r); err != nil {
		return call.Errorf(call.Invalid, "its offer cannot be read: %v", err)
	}
	if sha256.Sum256(r.Offer) != d {
		return call.Errorf(call.Invalid, "its offer is not the one that it told of")
	}
	parsed, err := module.ParseOffer(r.Offer)
	if err != nil {
		return call.Errorf(call.Invalid, "its offer: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+len(r.Offer) > maxOffers {
		return call.Errorf(call.Busy, "machines offer more than %d bytes of methods", maxOffers)
	}
	if name := s.Peer().Name; c.last[name] == string(d[:]) { // else it offers another by now
		known := &offer{Offer: parsed, size: len(r.Offer)}
		c.offers[d] = known
		c.size += known.size
		c.settled(name, d[:])
	}
	return nil
}

// forget drops a machine that is not enrolled any more.
func (c *catalogue) forget(machine string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.last, machine)
	c.set(machine, offerDigest{}, nil)
}

// set changes what a machine offers; nil: nothing. c.mu is held.
func (c *catalogue) set(machine string, d offerDigest, now *offer) {
	before, had := c.machines[machine]
	if had && now != nil && before == d || !had && now == nil {
		return
	}
	if now != nil {
		now.machines++
		c.machines[machine] = d
	} else {
		delete(c.machines, machine)
	}
	if had {
		old := c.offers[before]
		if old.machines--; old.machines == 0 {
			delete(c.offers, before)
			c.size -= old.size
		}
	}
	c.made = nil
	c.tellParent()
}

// ours says whether a method's name is one that comes with agents, or could be
// taken for something else: of these a machine's word does not count.
func (c *catalogue) ours(name string) bool {
	mod, _, _ := strings.Cut(name, ".")
	return module.Reserved(mod) || c.o.builtin[mod]
}

// now gives what the fleet offers. Nobody changes it.
func (c *catalogue) now() *offered {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made = c.compose()
	}
	return c.made
}

// compose unites what the machines offer; c.mu is held. Its cost is that of the
// different offers, and of folding the names of those that have them once.
func (c *catalogue) compose() *offered {
	by := make(map[offerDigest][]string, len(c.offers))
	for machine, d := range c.machines {
		by[d] = append(by[d], machine)
	}
	methods, faults := make(map[string]map[string]*gathering), make(map[module.Disabled]*gathering)
	for d, names := range by {
		o := c.offers[d]
		for i := range o.Methods {
			c.version(methods, &o.Methods[i]).add(d, len(names))
		}
		for i := range o.Below {
			c.version(methods, &o.Below[i].Schema).machines += min(o.Below[i].Machines, call.MaxMachines) * len(names)
		}
		for _, x := range o.Disabled {
			if faults[x] == nil {
				faults[x] = new(gathering)
			}
			faults[x].add(d, len(names))
		}
	}
	fold := folder(by)
	out := &offered{methods: make(map[string]*siteMethod, len(methods))}
	for name, versions := range methods {
		m := &siteMethod{}
		for text, g := range versions {
			m.versions = append(m.versions, methodVersion{schema: g.schema, text: text, names: fold(g.digests), machines: g.machines})
		}
		slices.SortFunc(m.versions, func(a, b methodVersion) int {
			return cmp.Or(cmp.Compare(b.machines, a.machines), cmp.Compare(a.text, b.text))
		})
		out.methods[name] = m
	}
	for x, g := range faults {
		out.disabled = append(out.disabled, disabledModule{Disabled: x, names: fold(g.digests), machines: g.machines})
	}
	slices.SortFunc(out.disabled, func(a, b disabledModule) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// gathering is one thing that machines offer, while it is gathered.
type gathering struct {
	schema   module.Schema
	digests  []offerDigest // of the offers that it is in
	machines int
}

// add counts the machines of an offer; a hostile one may name a thing twice.
func (g *gathering) add(d offerDigest, machines int) {
	if n := len(g.digests); n == 0 || g.digests[n-1] != d {
		g.digests = append(g.digests, d)
		g.machines += machines
	}
}

// version gives where a version of a method is gathered.
func (c *catalogue) version(methods map[string]map[string]*gathering, s *module.Schema) *gathering {
	text, err := json.Marshal(s)
	if err != nil || c.ours(s.Name) {
		return new(gathering) // of which nobody hears
	}
	if methods[s.Name] == nil {
		methods[s.Name] = make(map[string]*gathering)
	}
	g := methods[s.Name][string(text)]
	if g == nil {
		g = &gathering{schema: *s}
		methods[s.Name][string(text)] = g
	}
	return g
}

// folder gives a function that folds the names of the machines with some offers. The
// same offers are folded once.
func folder(by map[offerDigest][]string) func([]offerDigest) string {
	done := make(map[string]string)
	return func(digests []offerDigest) string {
		slices.SortFunc(digests, func(a, b offerDigest) int { return bytes.Compare(a[:], b[:]) })
		var key []byte
		for _, d := range digests {
			key = append(key, d[:]...)
		}
		folded, ok := done[string(key)]
		if !ok {
			var names []string
			for _, d := range digests {
				names = append(names, by[d]...)
			}
			folded = target.Fold(names)
			done[string(key)] = folded
		}
		return folded
	}
}

// tellParent has the overlord above told of what is offered here, soon; c.mu is held.
func (c *catalogue) tellParent() {
	if c.telling || c.o.parent == nil || c.o.parent.agent == nil {
		return
	}
	c.telling = true
	c.o.background.Go(func() {
		late := time.NewTimer(belowGather)
		defer late.Stop()
		select {
		case <-late.C:
		case <-c.o.life.Done():
			return
		}
		c.mu.Lock()
		c.telling = false
		c.mu.Unlock()
		c.o.parent.agent.OfferBelow(c.o.life, c.below())
	})
}

// below gives what is offered here as the parent is told of it.
func (c *catalogue) below() []module.Below {
	var out []module.Below
	for _, m := range c.now().methods {
		for _, v := range m.versions {
			out = append(out, module.Below{Schema: v.schema, Machines: v.machines})
		}
	}
	slices.SortFunc(out, func(a, b module.Below) int {
		return cmp.Or(cmp.Compare(b.Machines, a.Machines), cmp.Compare(a.Schema.Name, b.Schema.Name), compareSchemas(a.Schema, b.Schema))
	})
	return out
}

func compareSchemas(a, b module.Schema) int {
	x, _ := json.Marshal(a) // it was marshalled before
	y, _ := json.Marshal(b)
	return bytes.Compare(x, y)
}

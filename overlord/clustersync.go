package overlord

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"dominion/cluster"
	"dominion/target"
)

// Times of what changes by itself.
const (
	gatherFor   = time.Second // changes of the inventory make one version
	addressHold = time.Minute // an address that changed does not change again within
	lookAgain   = time.Minute
)

// inventor gives the inventory in the words of package cluster. A machine that
// changes its address again and again does not make a version each time.
type inventor struct {
	mu   sync.Mutex
	from map[string]whence // where a machine's sessions came from
}

type whence struct {
	address string
	changed time.Time // zero: it has not since the start
}

// seen gives where a machine is said to be after a look at its session.
func (w whence) seen(address string, now time.Time) whence {
	switch {
	case address == "" || address == w.address:
	case w.address == "":
		w.address = address
	case now.Sub(w.changed) >= addressHold:
		w = whence{address, now}
	}
	return w
}

// load remembers where machines were at their last session.
func (i *inventor) load(ctx context.Context, o *Overlord) error {
	rows, err := o.keep.db.Minions(ctx, false)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.from = make(map[string]whence, len(rows))
	for _, r := range rows {
		if a := addressOf(r.Address); a != "" {
			i.from[r.Name] = whence{address: a}
		}
	}
	return nil
}

// addressOf gives the address of a machine out of that of its connection; empty:
// none that a node can have.
func addressOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return ""
	}
	a, err := cluster.ParseAddress(host)
	if err != nil {
		return ""
	}
	return a
}

// machines gives the inventory as it is at a time.
func (i *inventor) machines(f *fleet, now time.Time) []cluster.Machine {
	i.mu.Lock()
	defer i.mu.Unlock()
	names := f.list()
	out, known := make([]cluster.Machine, 0, len(names)), make(map[string]whence, len(names))
	for _, n := range names {
		w := i.from[n]
		if s := f.get(n); s != nil {
			w = w.seen(addressOf(s.RemoteAddr().String()), now)
		}
		known[n] = w
		out = append(out, cluster.Machine{Name: n, Address: w.address})
	}
	i.from = known // what is not enrolled is forgotten
	return out
}

// look says that the inventory may have changed.
func (k *clusterKeeper) look() {
	select {
	case k.kick <- struct{}{}:
	default: // it is known
	}
}

// run keeps the nodes those of the inventory until ctx ends.
func (k *clusterKeeper) run(ctx context.Context) {
	k.renewed(ctx) // it may have been while nothing ran
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	gather := time.NewTimer(gatherFor)
	defer gather.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			k.renewed(ctx)
			k.sync(ctx)
		case <-gather.C:
			k.sync(ctx)
		case <-k.kick:
			select {
			case <-gather.C:
			default:
			}
			gather.Reset(gatherFor)
			select { // what changes until then is gathered
			case <-ctx.Done():
				return
			case <-gather.C:
			}
			k.sync(ctx)
		}
	}
}

// sync makes a version if the inventory has changed.
func (k *clusterKeeper) sync(ctx context.Context) {
	if k.now.Load() == nil {
		return
	}
	_, _, err := k.change(ctx, clusterChange{
		actor: k.o.actor(), action: "cluster.sync", subject: "nodes", detail: "the inventory changed", tell: nodesChanged,
		make: func(v *clusterVersion) (*cluster.Document, error) {
			return v.doc.Apply(time.Now(), k.inventory())
		},
	})
	if err != nil && ctx.Err() == nil {
		k.o.log.Warn("cluster data not brought to the inventory; it is tried again", "error", err)
	}
}

// inventory makes the nodes those of the inventory.
func (k *clusterKeeper) inventory() cluster.Change {
	return cluster.Sync(k.inventor.machines(&k.o.fleet, time.Now()))
}

// nodesChanged says which nodes came, went or moved between two versions.
func nodesChanged(before, after *cluster.Document) string {
	was := make(map[string]string)
	for _, n := range before.Nodes() {
		was[n.Name] = n.Primary
	}
	var came, moved, gone []string
	for _, n := range after.Nodes() {
		switch ip, ok := was[n.Name]; {
		case !ok:
			came = append(came, n.Name)
		case ip != n.Primary:
			moved = append(moved, n.Name)
		}
		delete(was, n.Name)
	}
	for n := range was {
		gone = append(gone, n)
	}
	var b strings.Builder
	for _, c := range []struct {
		what  string
		names []string
	}{{"new", came}, {"other address", moved}, {"gone", gone}} {
		if len(c.names) > 0 {
			fmt.Fprintf(&b, "; %s: %s", c.what, cutText(target.Fold(c.names), 1000))
		}
	}
	return b.String()
}

// renewed signs the version in force again when the overlord has a fresh
// certificate: a candidate that comes later would refuse one that has ended.
func (k *clusterKeeper) renewed(ctx context.Context) {
	if k.take(ctx) != nil {
		return
	}
	defer k.give()
	v := k.now.Load()
	if v == nil || k.signer == nil || k.signer.Equal(k.o.keys.server.Load().Leaf) {
		return
	}
	next := *v
	next.made = time.UnixMilli(time.Now().UnixMilli())
	signer, err := k.signHeader(&next)
	if err == nil {
		err = k.o.keep.clusterHeader(ctx, next.serial, next.header)
	}
	if err != nil {
		k.o.log.Warn("cluster data not signed again with the fresh certificate; it is tried again", "error", err)
		return
	}
	k.signer = signer
	k.now.Store(&next)
	k.o.candidates.announce(&next)
}

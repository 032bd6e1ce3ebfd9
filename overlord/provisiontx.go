package overlord

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"dominion/api/auditpb"
	"dominion/provision"
	"dominion/store"
	"dominion/target"
)

// provStore gives a provision.Service the store in its own words.
type provStore struct{ o *Overlord }

// Update implements provision.Store. Groups that changed are read again.
func (s provStore) Update(ctx context.Context, fn func(provision.Tx) error) error {
	regrouped := false
	err := s.o.keep.db.Update(ctx, func(tx *store.Tx) error {
		regrouped = false
		return fn(provTx{provView{ctx, tx}, tx, s.o, &regrouped})
	})
	if err == nil && regrouped {
		err = s.o.keep.loadGroups(context.WithoutCancel(ctx)) // they are changed, whether or not the caller stays
	}
	return err
}

// View implements provision.Store.
func (s provStore) View(ctx context.Context, fn func(provision.View) error) error {
	return fn(provView{ctx, s.o.keep.db})
}

// nodeReader is what reads in the store: its readers, or a transaction.
type nodeReader interface {
	Node(ctx context.Context, name string) (store.Node, error)
	NodeOf(ctx context.Context, hwaddr string) (store.Node, error)
	NodeAt(ctx context.Context, address string) (store.Node, error)
	Nodes(ctx context.Context) ([]store.Node, error)
	Nonce(ctx context.Context, hash []byte) (store.Nonce, error)
	NonceOf(ctx context.Context, node string) (store.Nonce, error)
	Nonces(ctx context.Context) ([]store.Nonce, error)
}

// provView lives as long as the function that got it, so it may hold the
// context that its methods need.
type provView struct {
	ctx context.Context //nolint:containedctx // see above
	r   nodeReader
}

// found makes of a missing row what is not ok.
func found[T, R any](row R, err error, from func(R) T) (T, bool, error) {
	var none T
	if errors.Is(err, store.ErrNotFound) {
		return none, false, nil
	}
	if err != nil {
		return none, false, err
	}
	return from(row), true, nil
}

// Node implements provision.NodeView.
func (v provView) Node(name string) (provision.Node, bool, error) {
	row, err := v.r.Node(v.ctx, name)
	return found(row, err, fromNode)
}

// NodeOf implements provision.NodeView.
func (v provView) NodeOf(hwaddr string) (provision.Node, bool, error) {
	row, err := v.r.NodeOf(v.ctx, hwaddr)
	return found(row, err, fromNode)
}

// NodeAt implements provision.NodeView.
func (v provView) NodeAt(addr netip.Addr) (provision.Node, bool, error) {
	row, err := v.r.NodeAt(v.ctx, addr.String())
	return found(row, err, fromNode)
}

// Nodes implements provision.NodeView.
func (v provView) Nodes() ([]provision.Node, error) {
	rows, err := v.r.Nodes(v.ctx)
	out := make([]provision.Node, len(rows))
	for i, r := range rows {
		out[i] = fromNode(r)
	}
	return out, err
}

// Nonce implements provision.NonceView.
func (v provView) Nonce(hash [32]byte) (provision.Nonce, bool, error) {
	row, err := v.r.Nonce(v.ctx, hash[:])
	return found(row, err, fromNonce)
}

// NonceOf implements provision.NonceView.
func (v provView) NonceOf(node string) (provision.Nonce, bool, error) {
	row, err := v.r.NonceOf(v.ctx, node)
	return found(row, err, fromNonce)
}

// Nonces implements provision.NonceView.
func (v provView) Nonces() ([]provision.Nonce, error) {
	rows, err := v.r.Nonces(v.ctx)
	out := make([]provision.Nonce, len(rows))
	for i, r := range rows {
		out[i] = fromNonce(r)
	}
	return out, err
}

func parseAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s) // what was not known is kept as ""
	return a
}

func fromNode(r store.Node) provision.Node {
	return provision.Node{
		Name: r.Name, HWAddr: r.HWAddr, Group: r.Group, VNFS: r.VNFS, Enabled: r.Enabled, Debug: r.Debug, Boot: provision.Boot(r.Boot),
		Description: r.Description, Created: r.Created, Source: parseAddr(r.Source), Approved: r.Approved, ApprovedBy: r.ApprovedBy,
		Addr: parseAddr(r.Address), State: r.State, Contact: r.Contact, Script: r.Script, Failure: r.Failure,
		Claim: parseAddr(r.Claim), ClaimAt: r.ClaimAt, Ended: provision.Run(r.Ended),
	}
}

func fromNonce(r store.Nonce) provision.Nonce {
	n := provision.Nonce{
		Node: r.Node, Source: parseAddr(r.Source), Created: r.Created, Expires: r.Expires, Claimed: r.Claimed, Token: r.Token, Used: r.Used,
	}
	copy(n.Hash[:], r.Hash)
	return n
}

// provTx is one transaction.
type provTx struct {
	provView
	tx        *store.Tx
	o         *Overlord
	regrouped *bool
}

// PutNode implements provision.NodeTx.
func (t provTx) PutNode(n provision.Node) error {
	return t.tx.SaveNode(t.ctx, store.Node{
		Name: n.Name, HWAddr: n.HWAddr, Group: n.Group, VNFS: n.VNFS, Enabled: n.Enabled, Debug: n.Debug, Boot: string(n.Boot),
		Description: n.Description, Created: n.Created, Source: addrText(n.Source), Approved: n.Approved, ApprovedBy: n.ApprovedBy,
		Address: addrText(n.Addr), State: n.State, Contact: n.Contact, Script: n.Script, Failure: n.Failure,
		Claim: addrText(n.Claim), ClaimAt: n.ClaimAt, Ended: store.NodeRun(n.Ended),
	})
}

// DeleteNode implements provision.NodeTx.
func (t provTx) DeleteNode(name string) error {
	if err := t.DeleteNonce(name); err != nil {
		return err
	}
	return t.tx.DeleteNode(t.ctx, name)
}

// Join implements provision.NodeTx.
func (t provTx) Join(group string, nodes ...string) error {
	return t.regroup(group, func(members []string) []string { return append(members, nodes...) })
}

// Leave implements provision.NodeTx.
func (t provTx) Leave(group string, nodes ...string) error {
	return t.regroup(group, func(members []string) []string { return without(members, nodes) })
}

// LeaveAll implements provision.NodeTx.
func (t provTx) LeaveAll(nodes ...string) error {
	groups, err := t.tx.Groups(t.ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		members, err := expand(g.Members)
		if err != nil {
			return err
		}
		if n := len(members); len(without(members, nodes)) == n {
			continue
		}
		if err := t.Leave(g.Name, nodes...); err != nil {
			return err
		}
	}
	return nil
}

// without takes names out of others. Both may be many, and the store's one writer waits.
func without(names, gone []string) []string {
	is := make(map[string]struct{}, len(gone))
	for _, n := range gone {
		is[n] = struct{}{}
	}
	return slices.DeleteFunc(names, func(n string) bool { _, yes := is[n]; return yes })
}

func (t provTx) regroup(name string, change func([]string) []string) error {
	g, err := t.tx.Group(t.ctx, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	members, err := expand(g.Members)
	if err != nil {
		return err
	}
	members = change(members)
	slices.Sort(members)
	*t.regrouped = true
	return t.tx.PutGroup(t.ctx, store.Group{Name: name, Members: target.Fold(slices.Compact(members))})
}

// PutNonce implements provision.NonceTx.
func (t provTx) PutNonce(n provision.Nonce) error {
	return t.tx.PutNonce(t.ctx, store.Nonce{
		Node: n.Node, Hash: n.Hash[:], Source: addrText(n.Source), Created: n.Created, Expires: n.Expires, Claimed: n.Claimed, Token: n.Token, Used: n.Used,
	})
}

// DeleteNonce implements provision.NonceTx.
func (t provTx) DeleteNonce(node string) error {
	n, ok, err := t.NonceOf(node)
	if err != nil || !ok {
		return err
	}
	if n.Token != "" && n.Used.IsZero() {
		if err := t.tx.DeleteToken(t.ctx, n.Token); err != nil {
			return err
		}
	}
	return t.tx.DeleteNonce(t.ctx, node)
}

// Held implements provision.RoomTx.
func (t provTx) Held(source netip.Addr) (all, ofSource int, err error) {
	if all, err = t.tx.HeldNodes(t.ctx, ""); err != nil || !source.IsValid() {
		return all, 0, err
	}
	ofSource, err = t.tx.HeldNodes(t.ctx, source.String())
	return all, ofSource, err
}

// Stale implements provision.RoomTx.
func (t provTx) Stale(since time.Time) ([]string, error) { return t.tx.StaleNodes(t.ctx, since) }

// Count implements provision.RoomTx.
func (t provTx) Count() (int, error) { return t.tx.CountNodes(t.ctx) }

// Names implements provision.RoomTx.
func (t provTx) Names() ([]string, error) { return t.tx.NodeNames(t.ctx) }

// Taken implements provision.RoomTx. The top's own certificate is not in the store,
// nor are those of the overlords that a sub-overlord let in.
func (t provTx) Taken(name string) (bool, error) {
	if _, is := t.o.fleet.look(name); is || name == t.o.cfg.Name {
		return true, nil
	}
	return t.tx.NameTaken(t.ctx, name)
}

// Audit implements provision.Tx.
func (t provTx) Audit(r *auditpb.Record) error {
	_, err := t.tx.Audit(r)
	return err
}

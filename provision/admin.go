package provision

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/target"
)

// Spec is a node that an operator adds. It is approved.
type Spec struct {
	HWAddr  string
	Name    string // empty: the next free one
	Group   string // empty: none
	VNFS    string // empty: none
	Enabled bool
	Debug   int
}

// Change is what an operator changes of nodes; nil: nothing.
type Change struct {
	Group       *string // empty: none
	VNFS        *string // empty: none
	Enabled     *bool
	Debug       *int
	Boot        *Boot
	Description *string
}

// maxDescription is how long a description may be, in bytes.
const maxDescription = 1000

// check brings the fields to their form.
func (c *Change) check() error {
	if c.Group != nil && *c.Group != "" {
		g, err := target.GroupName(*c.Group)
		if err != nil {
			return call.Errorf(call.Invalid, "%v", err)
		}
		c.Group = &g
	}
	if c.VNFS != nil {
		if _, err := ParseVNFS(*c.VNFS); err != nil {
			return call.Errorf(call.Invalid, "%v", err)
		}
	}
	if c.Debug != nil && (*c.Debug < 0 || *c.Debug > 9) {
		return call.Errorf(call.Invalid, "debug level %d is not 0 to 9", *c.Debug)
	}
	if c.Boot != nil && !c.Boot.Valid() {
		return call.Errorf(call.Invalid, "boot %.40q is not provision, local or hold", string(*c.Boot))
	}
	if c.Description != nil && len(*c.Description) > maxDescription {
		return call.Errorf(call.Invalid, "a description of %d bytes is longer than %d", len(*c.Description), maxDescription)
	}
	return nil
}

// String says what is changed, for people.
func (c *Change) String() string {
	var b []string
	add := func(key, value string) { b = append(b, key+"="+value) }
	if c.Group != nil {
		add("group", *c.Group)
	}
	if c.VNFS != nil {
		add("vnfs", *c.VNFS)
	}
	if c.Enabled != nil {
		add("enabled", fmt.Sprint(*c.Enabled))
	}
	if c.Debug != nil {
		add("debug", fmt.Sprint(*c.Debug))
	}
	if c.Boot != nil {
		add("boot", string(*c.Boot))
	}
	if c.Description != nil {
		add("description", *c.Description)
	}
	return strings.Join(b, " ")
}

// Nodes gives all nodes, sorted by name, and the boots that are under way.
func (s *Service) Nodes(ctx context.Context) (nodes []Node, boots map[string]Nonce, err error) {
	boots = make(map[string]Nonce)
	err = s.cfg.Store.View(ctx, func(v View) error {
		if nodes, err = v.Nodes(); err != nil {
			return err
		}
		nonces, err := v.Nonces()
		for _, nonce := range nonces {
			if nonce.open(s.cfg.Now()) {
				boots[nonce.Node] = nonce
			}
		}
		return err
	})
	return nodes, boots, err
}

// Add makes a node that is approved. Codes: Invalid, Conflict, Busy.
func (s *Service) Add(ctx context.Context, actor string, spec Spec) (Node, error) {
	hw, err := ParseHWAddr(spec.HWAddr)
	if err != nil {
		return Node{}, call.Errorf(call.Invalid, "%v", err)
	}
	if spec.Name != "" {
		if spec.Name, err = call.ParseName(spec.Name); err != nil {
			return Node{}, call.Errorf(call.Invalid, "%v", err)
		}
	}
	c := Change{Group: &spec.Group, VNFS: &spec.VNFS, Debug: &spec.Debug}
	if err := c.check(); err != nil {
		return Node{}, err
	}
	now := s.cfg.Now()
	n := Node{
		Name: spec.Name, HWAddr: hw, Group: *c.Group, VNFS: spec.VNFS, Enabled: spec.Enabled, Debug: spec.Debug, Boot: BootProvision,
		Created: now, Approved: now, ApprovedBy: actor,
	}
	err = s.cfg.Store.Update(ctx, func(tx Tx) error { return s.add(tx, actor, &n) })
	return n, err
}

func (s *Service) add(tx Tx, actor string, n *Node) error {
	other, ok, err := tx.NodeOf(n.HWAddr)
	if err == nil && ok {
		err = call.Errorf(call.Conflict, "node %q has the hardware address %s already", other.Name, n.HWAddr)
	}
	if err != nil {
		return err
	}
	if n.Name == "" {
		if n.Name, err = s.cfg.Names.next(tx); err != nil {
			return err
		}
	}
	if _, ok, err = tx.Node(n.Name); err == nil && ok {
		err = call.Errorf(call.Conflict, "there is a node %q already; put it on other hardware with: dominion node replace", n.Name)
	}
	if err != nil {
		return err
	}
	if err := s.room(tx, *n); err != nil {
		return err
	}
	if err := tx.PutNode(*n); err != nil {
		return err
	}
	if n.Group != "" {
		if err := tx.Join(n.Group, n.Name); err != nil {
			return err
		}
	}
	return tx.Audit(&auditpb.Record{
		TimeMs: n.Created.UnixMilli(), Actor: actor, Action: "node.add", Subject: n.Name,
		Detail: fmt.Sprintf("%s group=%s vnfs=%s enabled=%t debug=%d", n.HWAddr, n.Group, n.VNFS, n.Enabled, n.Debug),
	})
}

// of changes each of the named nodes, in one transaction with one record, and
// gives those that it changed. What is done once for all of them goes into g. Code: NotFound.
func (s *Service) of(ctx context.Context, actor, action, detail string, names []string, change func(tx Tx, n *Node, g *regrouping) (bool, error)) (out []Node, err error) {
	err = s.cfg.Store.Update(ctx, func(tx Tx) error {
		out = out[:0]
		var changed []string
		var g regrouping
		for _, name := range names {
			n, ok, err := tx.Node(name)
			if err == nil && !ok {
				err = call.Errorf(call.NotFound, "no node %q; dominion node list shows them", name)
			}
			if err != nil {
				return err
			}
			yes, err := change(tx, &n, &g)
			if err != nil {
				return err
			}
			if yes {
				out, changed = append(out, n), append(changed, n.Name)
			}
		}
		if err := g.do(tx); err != nil || len(changed) == 0 {
			return err
		}
		return tx.Audit(&auditpb.Record{
			TimeMs: s.cfg.Now().UnixMilli(), Actor: actor, Action: action, Subject: cut(target.Fold(changed), 1000), Detail: cut(detail, 3000),
		})
	})
	return out, err
}

// Set changes nodes. One that is not set to provision any more ends its boot.
// Codes: Invalid, NotFound.
func (s *Service) Set(ctx context.Context, actor string, names []string, c Change) ([]Node, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return s.of(ctx, actor, "node.set", c.String(), names, func(tx Tx, n *Node, g *regrouping) (bool, error) {
		if c.Group != nil && *c.Group != n.Group {
			g.move(n, *c.Group)
		}
		set(&n.VNFS, c.VNFS)
		set(&n.Enabled, c.Enabled)
		set(&n.Debug, c.Debug)
		set(&n.Boot, c.Boot)
		set(&n.Description, c.Description)
		if n.Boot != BootProvision {
			if err := tx.DeleteNonce(n.Name); err != nil {
				return false, err
			}
		}
		return true, tx.PutNode(*n)
	})
}

func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

// regrouping is what becomes of groups when nodes change. A group is read and written
// as a whole, so it is done once for all nodes.
type regrouping struct {
	leave, join map[string][]string // by group
	gone        []string
}

// move makes a node a member of its new primary group in the place of the old.
func (g *regrouping) move(n *Node, to string) {
	if g.leave == nil {
		g.leave, g.join = make(map[string][]string), make(map[string][]string)
	}
	if n.Group != "" {
		g.leave[n.Group] = append(g.leave[n.Group], n.Name)
	}
	if n.Group = to; to != "" {
		g.join[to] = append(g.join[to], n.Name)
	}
}

// forget takes a node that is deleted out of its groups, unless it is a machine
// of that name as well, which stays what it is.
func (g *regrouping) forget(tx Tx, name string) error {
	taken, err := tx.Taken(name)
	if err == nil && !taken {
		g.gone = append(g.gone, name)
	}
	return err
}

func (g *regrouping) do(tx Tx) error {
	for group, names := range g.leave {
		if err := tx.Leave(group, names...); err != nil {
			return err
		}
	}
	for group, names := range g.join {
		if err := tx.Join(group, names...); err != nil {
			return err
		}
	}
	if len(g.gone) == 0 {
		return nil
	}
	return tx.LeaveAll(g.gone...)
}

// Approve lets nodes in that are held, and gives those whose boot somebody else
// claimed to the next who asks. Code: NotFound.
func (s *Service) Approve(ctx context.Context, actor string, names []string) ([]Node, error) {
	return s.of(ctx, actor, "node.approve", "", names, func(tx Tx, n *Node, _ *regrouping) (bool, error) {
		if !n.held() && !n.Claim.IsValid() {
			return false, nil
		}
		if n.held() {
			n.Approved, n.ApprovedBy = s.cfg.Now(), actor
		}
		if n.Claim.IsValid() {
			n.Claim, n.ClaimAt = netip.Addr{}, time.Time{}
			if err := tx.DeleteNonce(n.Name); err != nil {
				return false, err
			}
		}
		return true, tx.PutNode(*n)
	})
}

// Delete forgets nodes, in groups too. Machines that have enrolled under their names
// stay what they are, members of groups among it. Code: NotFound.
func (s *Service) Delete(ctx context.Context, actor string, names []string) ([]Node, error) {
	return s.of(ctx, actor, "node.delete", "", names, func(tx Tx, n *Node, g *regrouping) (bool, error) {
		if err := g.forget(tx, n.Name); err != nil {
			return false, err
		}
		return true, tx.DeleteNode(n.Name)
	})
}

// Replace puts a node on other hardware: that of another node, which is
// forgotten, or of a hardware address that no node has. Codes: Invalid,
// NotFound, Conflict.
func (s *Service) Replace(ctx context.Context, actor, name, by string) (n Node, err error) {
	hw, hwErr := ParseHWAddr(by)
	err = s.cfg.Store.Update(ctx, func(tx Tx) error {
		var ok bool
		if n, ok, err = tx.Node(name); err == nil && !ok {
			err = call.Errorf(call.NotFound, "no node %q; dominion node list shows them", name)
		}
		if err != nil {
			return err
		}
		if hwErr != nil {
			hw, err = yield(tx, name, by)
		} else if other, ok, oerr := tx.NodeOf(hw); oerr == nil && ok {
			err = call.Errorf(call.Conflict, "%s is the hardware of node %q; name that", hw, other.Name)
		} else {
			err = oerr
		}
		if err != nil {
			return err
		}
		if err := tx.DeleteNonce(name); err != nil {
			return err
		}
		old := n.HWAddr
		n.HWAddr, n.Claim, n.ClaimAt = hw, netip.Addr{}, time.Time{}
		if n.held() {
			n.Approved, n.ApprovedBy = s.cfg.Now(), actor
		}
		if err := tx.PutNode(n); err != nil {
			return err
		}
		return tx.Audit(&auditpb.Record{
			TimeMs: s.cfg.Now().UnixMilli(), Actor: actor, Action: "node.replace", Subject: name, Detail: fmt.Sprintf("%s by %s (%s)", old, hw, cut(by, 260)),
		})
	})
	return n, err
}

// yield forgets a node and gives its hardware address.
func yield(tx Tx, name, by string) (string, error) {
	other, ok, err := tx.Node(strings.ToLower(by))
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", call.Errorf(call.NotFound, "%.80q is neither a node nor a hardware address", by)
	case other.Name == name:
		return "", call.Errorf(call.Invalid, "node %q cannot replace itself", name)
	}
	var g regrouping
	if err := g.forget(tx, other.Name); err != nil {
		return "", err
	}
	if err := g.do(tx); err != nil {
		return "", err
	}
	return other.HWAddr, tx.DeleteNode(other.Name)
}

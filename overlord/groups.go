package overlord

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/call"
	"dominion/store"
	"dominion/target"
)

// group gives the members of a group. It reads memory: targets and policy ask
// it for every order.
func (k *keep) group(name string) ([]string, bool) {
	members, ok := (*k.groups.Load())[name]
	return members, ok
}

// loadGroups reads the groups again, after a change.
func (k *keep) loadGroups(ctx context.Context) error {
	k.reading.Lock()
	defer k.reading.Unlock()
	rows, err := k.db.Groups(ctx)
	if err != nil {
		return err
	}
	out := make(map[string][]string, len(rows))
	for _, r := range rows {
		if out[r.Name], err = expand(r.Members); err != nil {
			return fmt.Errorf("group %s: %w", r.Name, err)
		}
	}
	k.groups.Store(&out)
	return nil
}

// machinesAndNodes gives all names that a group may have: those of enrolled machines,
// and of nodes that have not enrolled yet.
func (o *Overlord) machinesAndNodes(ctx context.Context) ([]string, error) {
	known := o.fleet.list()
	if o.prov == nil {
		return known, nil
	}
	nodes, err := o.keep.db.NodeNames(ctx)
	if err != nil {
		return nil, err
	}
	known = slices.Concat(known, nodes)
	slices.Sort(known)
	return slices.Compact(known), nil
}

// setGroup changes the members of a group and gives them as they are then.
func (k *keep) setGroup(ctx context.Context, c caller, name string, members []string, mode apipb.SetGroupRequest_Mode) ([]string, error) {
	err := k.db.Update(ctx, func(tx *store.Tx) error {
		var old []string
		g, err := tx.Group(ctx, name)
		if err == nil {
			old, err = expand(g.Members)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		switch mode {
		case apipb.SetGroupRequest_ADD:
			members = append(members, old...)
		case apipb.SetGroupRequest_REMOVE:
			members = without(old, members)
		}
		slices.Sort(members)
		members = slices.Compact(members)
		if err := tx.PutGroup(ctx, store.Group{Name: name, Members: target.Fold(members)}); err != nil {
			return err
		}
		// A node that is a member no more has no primary group.
		if err := tx.DropPrimary(ctx, name, func(n string) bool { _, is := slices.BinarySearch(members, n); return is }); err != nil {
			return err
		}
		_, err = tx.Audit(&auditpb.Record{Actor: c.actor(), Action: "groups.set", Subject: name, Detail: cutText(target.Fold(members), 4000)})
		return err
	})
	if err != nil {
		return nil, err
	}
	return members, k.loadGroups(context.WithoutCancel(ctx)) // it is changed, whether or not the caller stays
}

func (k *keep) deleteGroup(ctx context.Context, c caller, name string) error {
	err := k.db.Update(ctx, func(tx *store.Tx) error {
		err := tx.DeleteGroup(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			return call.Errorf(call.NotFound, "no group %q; dominion group list shows them", name)
		}
		if err != nil {
			return err
		}
		if err := tx.DropPrimary(ctx, name, func(string) bool { return false }); err != nil {
			return err
		}
		_, err = tx.Audit(&auditpb.Record{Actor: c.actor(), Action: "groups.delete", Subject: name})
		return err
	})
	if err != nil {
		return err
	}
	return k.loadGroups(context.WithoutCancel(ctx)) // as above
}

package overlord

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/target"
)

// Groups implements FleetServiceHandler.
func (a fleetAPI) Groups(ctx context.Context, r *connect.Request[apipb.GroupsRequest]) (*connect.Response[apipb.GroupsResponse], error) {
	out := &apipb.GroupsResponse{}
	if _, _, ok := target.Source(r.Msg.Name); ok {
		name, err := target.GroupRef(r.Msg.Name)
		if err != nil {
			return nil, call.Errorf(call.Invalid, "%v", err)
		}
		groups, err := a.o.groups(ctx, []string{name})
		if err != nil {
			return nil, err
		}
		members, _ := groups.get(name)
		out.Groups = append(out.Groups, groupOf(name, members))
		return connect.NewResponse(out), nil
	}
	for name, members := range *a.o.keep.groups.Load() {
		if r.Msg.Name == "" || r.Msg.Name == name {
			out.Groups = append(out.Groups, groupOf(name, members))
		}
	}
	if r.Msg.Name != "" && len(out.Groups) == 0 {
		return nil, call.Errorf(call.NotFound, "no group %q; dominion group list shows them", r.Msg.Name)
	}
	slices.SortFunc(out.Groups, func(a, b *apipb.Group) int { return strings.Compare(a.Name, b.Name) })
	if r.Msg.Sources && r.Msg.Name == "" {
		list, err := a.o.sources.List(ctx)
		if err != nil {
			return nil, call.Errorf(call.Failed, "%v", err)
		}
		for _, s := range list {
			src := &apipb.GroupSource{Name: s.Name, File: s.File, Groups: s.Groups}
			if s.Err != nil {
				src.Problem = s.Err.Error()
			}
			out.Sources = append(out.Sources, src)
		}
	}
	return connect.NewResponse(out), nil
}

func groupOf(name string, members []string) *apipb.Group {
	return &apipb.Group{Name: name, Members: target.Fold(members), Count: uint64(len(members))}
}

// SetGroup implements FleetServiceHandler.
func (a fleetAPI) SetGroup(ctx context.Context, r *connect.Request[apipb.SetGroupRequest]) (*connect.Response[apipb.SetGroupResponse], error) {
	name, err := target.GroupName(r.Msg.Name)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	e, err := target.Parse(r.Msg.Members)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	if e.UsesGroups() {
		return nil, call.Errorf(call.Invalid, "a group's members are names, ranges and globs; %q names a group", r.Msg.Members)
	}
	known, err := a.o.machinesAndNodes(ctx)
	if err != nil {
		return nil, err
	}
	res, err := e.Resolve(target.Env{Known: known})
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	c, err := a.o.admit(ctx, "groups.set", name)
	if err != nil {
		return nil, err
	}
	members, err := a.o.keep.setGroup(ctx, c, name, slices.Concat(res.Names, res.Unknown), r.Msg.Mode)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.SetGroupResponse{Group: groupOf(name, members)}), nil
}

// DeleteGroup implements FleetServiceHandler.
func (a fleetAPI) DeleteGroup(ctx context.Context, r *connect.Request[apipb.DeleteGroupRequest]) (*connect.Response[apipb.DeleteGroupResponse], error) {
	c, err := a.o.admit(ctx, "groups.delete", r.Msg.Name)
	if err != nil {
		return nil, err
	}
	if err := a.o.keep.deleteGroup(ctx, c, r.Msg.Name); err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.DeleteGroupResponse{}), nil
}

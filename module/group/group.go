// Package group looks after the groups of a machine and their members.
package group

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"

	"dominion/call"
	"dominion/module"
	"dominion/module/account"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "group",
	Doc:  "Groups of the machine's own, those of /etc/group, changed with the programs of the shadow suite. Groups of a directory service are not shown.",
	Methods: []module.Method{
		module.Func("list", "Lists groups, by number.", module.Read, here.list, module.MethodOptions{}),
		module.Func("add", "Makes a group if it is not there.", module.Change, here.add, module.MethodOptions{}),
		module.Func("remove", "Removes a group; not one that is the primary group of a user.", module.Destroy, here.remove, module.MethodOptions{}),
		module.Func("join", "Makes users members of a group.", module.Change, here.join, module.MethodOptions{}),
		module.Func("leave", "Ends that users are members of a group.", module.Change, here.leave, module.MethodOptions{}),
	},
}

const maxGroups = 5000 // in one list

type machine struct{ account.Machine }

var here machine

// ListIn is the input of list.
type ListIn struct {
	Pattern string `json:"pattern" doc:"glob that the names match" default:"*" max:"64"`
}

// Groups is the answer of list.
type Groups struct {
	Groups []Group `json:"groups" doc:"the groups, by number; 5000 at most"`
	Cut    int     `json:"cut,omitempty" doc:"groups that were left out"`
}

// Group is a group.
type Group struct {
	Name    string   `json:"name" doc:"its name"`
	GID     uint32   `json:"gid" doc:"its number"`
	Members []string `json:"members,omitempty" doc:"users for whom it is not the primary group"`
	Primary []string `json:"primary,omitempty" doc:"users for whom it is"`
}

func (m machine) list(_ context.Context, _ *module.Env, in ListIn) (Groups, error) {
	if _, err := path.Match(in.Pattern, ""); err != nil {
		return Groups{}, call.Errorf(call.Invalid, "pattern %q: %v", in.Pattern, err)
	}
	groups, err := m.Machine.Groups()
	if err != nil {
		return Groups{}, fmt.Errorf("read groups: %w", err)
	}
	users, err := m.Users()
	if err != nil {
		return Groups{}, fmt.Errorf("read users: %w", err)
	}
	primary := map[uint32][]string{}
	for _, u := range users {
		primary[u.GID] = append(primary[u.GID], u.Name)
	}
	slices.SortStableFunc(groups, func(a, b account.Group) int { return int(int64(a.GID) - int64(b.GID)) })
	out := Groups{Groups: []Group{}}
	for _, g := range groups {
		if ok, _ := path.Match(in.Pattern, g.Name); !ok {
			continue
		}
		if len(out.Groups) == maxGroups {
			out.Cut++
			continue
		}
		out.Groups = append(out.Groups, Group{Name: g.Name, GID: g.GID, Members: g.Members, Primary: primary[g.GID]})
	}
	return out, nil
}

// AddIn is the input of add.
type AddIn struct {
	Name   string `json:"name" doc:"the group" required:"true" max:"32" pattern:"[A-Za-z_][A-Za-z0-9_.-]*[$]?"`
	GID    int64  `json:"gid" doc:"its number; -1: the next free one" default:"-1" min:"-1" max:"4294967294"`
	System bool   `json:"system" doc:"take a number from the range of the system's own"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

// Changed is the answer of methods that change a group.
type Changed struct {
	Name    string   `json:"name" doc:"the group"`
	Changed bool     `json:"changed" doc:"whether anything was done, or would be"`
	GID     *uint32  `json:"gid,omitempty" doc:"its number; missing when it is not known yet"`
	Users   []string `json:"users,omitempty" doc:"users who became members, or are no members any more"`
}

func (m machine) add(ctx context.Context, env *module.Env, in AddIn) (Changed, error) {
	g, ok, err := m.FindGroup(in.Name)
	if err != nil {
		return Changed{}, err
	}
	if ok {
		if in.GID >= 0 && int64(g.GID) != in.GID {
			return Changed{}, call.Errorf(call.Failed, "group %s is there and has number %d", in.Name, g.GID)
		}
		return Changed{Name: in.Name, GID: new(g.GID)}, nil
	}
	if err := m.Taken(ctx, env, "group", in.Name); err != nil {
		return Changed{}, err
	}
	var args []string
	if in.GID >= 0 {
		groups, err := m.Machine.Groups()
		if err != nil {
			return Changed{}, fmt.Errorf("read groups: %w", err)
		}
		if i := slices.IndexFunc(groups, func(g account.Group) bool { return int64(g.GID) == in.GID }); i >= 0 {
			return Changed{}, call.Errorf(call.Failed, "number %d is that of group %s", in.GID, groups[i].Name)
		}
		args = append(args, "--gid", strconv.FormatInt(in.GID, 10))
	}
	if in.System {
		args = append(args, "--system")
	}
	if !in.DryRun {
		if err := m.Tool(ctx, env, "", "groupadd", append(args, "--", in.Name)...); err != nil {
			return Changed{}, err
		}
		if g, ok, err = m.FindGroup(in.Name); err != nil || !ok {
			return Changed{Name: in.Name, Changed: true}, err
		}
		return Changed{Name: in.Name, Changed: true, GID: new(g.GID)}, nil
	}
	out := Changed{Name: in.Name, Changed: true}
	if in.GID >= 0 {
		out.GID = new(uint32(in.GID))
	}
	return out, nil
}

// RemoveIn is the input of remove.
type RemoveIn struct {
	Name   string `json:"name" doc:"the group" required:"true" max:"32" pattern:"[A-Za-z_][A-Za-z0-9_.-]*[$]?"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

func (m machine) remove(ctx context.Context, env *module.Env, in RemoveIn) (Changed, error) {
	g, ok, err := m.FindGroup(in.Name)
	if err != nil || !ok {
		return Changed{Name: in.Name}, err
	}
	users, err := m.Users()
	if err != nil {
		return Changed{}, fmt.Errorf("read users: %w", err)
	}
	if i := slices.IndexFunc(users, func(u account.User) bool { return u.GID == g.GID }); i >= 0 {
		return Changed{}, call.Errorf(call.Failed, "group %s is the primary group of user %s", in.Name, users[i].Name)
	}
	if !in.DryRun {
		if err := m.Tool(ctx, env, "", "groupdel", "--", in.Name); err != nil {
			return Changed{}, err
		}
	}
	return Changed{Name: in.Name, Changed: true, GID: new(g.GID)}, nil
}

// MembersIn is the input of join and leave.
type MembersIn struct {
	Name   string   `json:"name" doc:"the group" required:"true" max:"32" pattern:"[A-Za-z_][A-Za-z0-9_.-]*[$]?"`
	Users  []string `json:"users" doc:"the users" required:"true" min:"1" max:"1000" pattern:"[A-Za-z_][A-Za-z0-9_.-]*[$]?"`
	DryRun bool     `json:"dry_run" doc:"only say what would change"`
}

func (m machine) join(ctx context.Context, env *module.Env, in MembersIn) (Changed, error) {
	return m.members(ctx, env, in, "--add", false)
}

func (m machine) leave(ctx context.Context, env *module.Env, in MembersIn) (Changed, error) {
	return m.members(ctx, env, in, "--delete", true)
}

// members changes those whose membership is now as given.
func (m machine) members(ctx context.Context, env *module.Env, in MembersIn, option string, now bool) (Changed, error) {
	g, err := m.NeedGroup(in.Name)
	if err != nil {
		return Changed{}, err
	}
	out := Changed{Name: in.Name, GID: new(g.GID)}
	var todo []string
	for _, name := range in.Users {
		if !now {
			if _, err := m.NeedUser(name); err != nil {
				return Changed{}, err
			}
		}
		if slices.Contains(g.Members, name) == now && !slices.Contains(todo, name) {
			todo = append(todo, name)
		}
	}
	for _, name := range todo {
		if !in.DryRun {
			if err := m.Tool(ctx, env, "", "gpasswd", option, name, in.Name); err != nil {
				return out, err
			}
		}
		out.Changed, out.Users = true, append(out.Users, name)
	}
	return out, nil
}

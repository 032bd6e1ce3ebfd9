package user

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dominion/call"
	"dominion/module"
	"dominion/module/account"
)

// AddIn is the input of add.
type AddIn struct {
	Which
	UID     int64    `json:"uid" doc:"its number; -1: the next free one" default:"-1" min:"-1" max:"4294967294"`
	Group   string   `json:"group" doc:"its primary group; when left out one of its own, or what the machine does" max:"32" pattern:"[A-Za-z_][A-Za-z0-9_.-]*[$]?"`
	Groups  []string `json:"groups" doc:"other groups" max:"1000" pattern:"[A-Za-z_][A-Za-z0-9_.-]*[$]?"`
	Comment string   `json:"comment" doc:"full name and other remarks" max:"255" pattern:"[^:\\n]*"`
	Home    string   `json:"home" doc:"home directory; when left out the machine's choice" max:"1024" pattern:"/[^:\\n]*"`
	Shell   string   `json:"shell" doc:"login shell; when left out the machine's choice" max:"1024" pattern:"/[^:\\n]*"`
	System  bool     `json:"system" doc:"an account of the system's own, without a home"`
	NoHome  bool     `json:"no_home" doc:"do not make the home directory"`
	Hash    string   `json:"hash" doc:"hash of its password; without one nobody can log in by a password" secret:"true" max:"512" pattern:"([$](5|6|7|2[abxy]|y|gy)[$][!-9;-~]{8,})?"`
	DryRun  bool     `json:"dry_run" doc:"only say what would change"`
}

func (m machine) add(ctx context.Context, env *module.Env, in AddIn) (Changed, error) {
	u, ok, err := m.FindUser(in.Name)
	if err != nil {
		return Changed{}, err
	}
	out := Changed{Name: in.Name}
	if ok {
		out.UID = new(u.UID)
		return out, m.same(u, in)
	}
	if err := m.mayAdd(ctx, env, in); err != nil {
		return out, err
	}
	out.Changed = true
	if in.UID >= 0 {
		out.UID = new(uint32(in.UID))
	}
	if in.DryRun {
		return out, nil
	}
	if err := m.Tool(ctx, env, "", "useradd", append(in.options(), "--", in.Name)...); err != nil {
		out.Changed = false
		return out, err
	}
	if in.Hash != "" {
		if err := m.setHash(ctx, env, in.Name, in.Hash); err != nil {
			return out, fmt.Errorf("the account is made, and has no password: %w", err)
		}
	}
	if u, ok, err = m.FindUser(in.Name); err == nil && ok {
		out.UID = new(u.UID)
	}
	return out, err
}

// options are the arguments of useradd(8).
func (in AddIn) options() []string {
	var args []string
	option := func(name, value string) {
		if value != "" {
			args = append(args, name, value)
		}
	}
	if in.UID >= 0 {
		option("--uid", strconv.FormatInt(in.UID, 10))
	}
	option("--gid", in.Group)
	option("--groups", strings.Join(in.Groups, ","))
	option("--comment", in.Comment)
	option("--home-dir", in.Home)
	option("--shell", in.Shell)
	if in.System {
		args = append(args, "--system")
	}
	if in.System || in.NoHome {
		return append(args, "--no-create-home")
	}
	return append(args, "--create-home")
}

// mayAdd names what useradd would refuse, before a dry run promises it.
func (m machine) mayAdd(ctx context.Context, env *module.Env, in AddIn) error {
	if err := m.Taken(ctx, env, "passwd", in.Name); err != nil {
		return err
	}
	users, err := m.Machine.Users()
	if err != nil {
		return fmt.Errorf("read users: %w", err)
	}
	if i := slices.IndexFunc(users, func(u account.User) bool { return int64(u.UID) == in.UID }); i >= 0 {
		return call.Errorf(call.Failed, "number %d is that of user %s", in.UID, users[i].Name)
	}
	groups := in.Groups
	if in.Group != "" {
		groups = append(slices.Clone(groups), in.Group)
	}
	for _, g := range groups {
		if _, err := m.NeedGroup(g); err != nil {
			return err
		}
	}
	return nil
}

// same says whether an account that is there is the one that was asked for.
// Its password is not looked at: its owner may have changed it.
func (m machine) same(u account.User, in AddIn) error {
	differs := func(what, is string) error {
		return call.Errorf(call.Failed, "user %s is there with another %s: %s", u.Name, what, is)
	}
	switch {
	case in.UID >= 0 && int64(u.UID) != in.UID:
		return differs("number", strconv.FormatUint(uint64(u.UID), 10))
	case in.Home != "" && in.Home != u.Home:
		return differs("home", u.Home)
	case in.Shell != "" && in.Shell != u.Shell:
		return differs("shell", u.Shell)
	case in.Comment != "" && in.Comment != u.Comment:
		return differs("comment", u.Comment)
	}
	groups, err := m.Groups()
	if err != nil {
		return fmt.Errorf("read groups: %w", err)
	}
	for _, g := range groups {
		if g.GID == u.GID && in.Group != "" && g.Name != in.Group {
			return differs("primary group", g.Name)
		}
	}
	for _, name := range in.Groups {
		i := slices.IndexFunc(groups, func(g account.Group) bool { return g.Name == name })
		if i < 0 || groups[i].GID != u.GID && !slices.Contains(groups[i].Members, u.Name) {
			return call.Errorf(call.Failed, "user %s is there and not a member of %s; group.join makes it one", u.Name, name)
		}
	}
	return nil
}

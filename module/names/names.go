// Package names turns names of users and groups into numbers and back, for the
// methods that show or take them. What /etc/passwd and /etc/group do not have
// is asked of getent, which knows directory services too (nsswitch.conf(5)).
package names

import (
	"bufio"
	"bytes"
	"context"
	"os/user"
	"strconv"
	"strings"

	"dominion/call"
	"dominion/module"
	"dominion/module/run"
)

// maxID is the largest number of a user or group; the one above it means none.
const maxID = 1<<32 - 2

// UID gives the number of a user named by name or number. A number needs no
// entry. The error is a *call.Error with code Failed.
func UID(ctx context.Context, env *module.Env, name string) (int, error) {
	if u, err := user.Lookup(name); err == nil {
		return number(u.Uid)
	}
	return lookup(ctx, env, "passwd", "user", name)
}

// GID is UID for a group.
func GID(ctx context.Context, env *module.Env, name string) (int, error) {
	if g, err := user.LookupGroup(name); err == nil {
		return number(g.Gid)
	}
	return lookup(ctx, env, "group", "group", name)
}

func number(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > maxID {
		return 0, call.Errorf(call.Failed, "%.40q is no number of a user or group", text)
	}
	return int(n), nil
}

func lookup(ctx context.Context, env *module.Env, database, what, name string) (int, error) {
	if n, err := number(name); err == nil {
		return n, nil
	}
	for id, n := range ask(ctx, env, database, name) {
		if n == name {
			return int(id), nil
		}
	}
	return 0, call.Errorf(call.Failed, "no %s %q on this machine", what, name)
}

// ask gives the entries of a database that getent finds.
func ask(ctx context.Context, env *module.Env, database string, keys ...string) map[uint32]string {
	file, err := run.Find("getent")
	if err != nil {
		return nil
	}
	// A status other than 0 says that some were not found; the others are there.
	out, _ := run.Output(ctx, env, file, append([]string{database, "--"}, keys...)...)
	return parse(out)
}

// parse reads lines of passwd(5) or group(5).
func parse(b []byte) map[uint32]string {
	found := map[uint32]string{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), ":", 4)
		if len(f) < 4 || f[0] == "" {
			continue
		}
		if n, err := number(f[2]); err == nil {
			found[uint32(n)] = f[0]
		}
	}
	return found
}

// Names knows names by number. Learn once, then ask.
type Names struct {
	users, groups map[uint32]string
}

// maxKeys is how many numbers getent is asked for in one call of Learn, of
// users and of groups.
const maxKeys = 256

// Learn finds the names of these users and groups. Who is not found keeps its
// number as name.
func Learn(ctx context.Context, env *module.Env, uids, gids []uint32) *Names {
	n := &Names{users: map[uint32]string{}, groups: map[uint32]string{}}
	learn(ctx, env, "passwd", n.users, uids, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
	learn(ctx, env, "group", n.groups, gids, func(id string) (string, error) {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
	return n
}

func learn(ctx context.Context, env *module.Env, database string, known map[uint32]string, ids []uint32, local func(id string) (string, error)) {
	var missing []string
	for _, id := range ids {
		if _, ok := known[id]; ok {
			continue
		}
		text := strconv.FormatUint(uint64(id), 10)
		name, err := local(text)
		if err != nil {
			name = text
			if len(missing) < maxKeys {
				missing = append(missing, text)
			}
		}
		known[id] = name
	}
	if len(missing) == 0 {
		return
	}
	for id, name := range ask(ctx, env, database, missing...) {
		if _, wanted := known[id]; wanted {
			known[id] = name
		}
	}
}

// User is the name of a user, or its number.
func (n *Names) User(uid uint32) string { return name(n.users, uid) }

// Group is the name of a group, or its number.
func (n *Names) Group(gid uint32) string { return name(n.groups, gid) }

func name(known map[uint32]string, id uint32) string {
	if s, ok := known[id]; ok {
		return s
	}
	return strconv.FormatUint(uint64(id), 10)
}

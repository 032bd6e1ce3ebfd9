// Package user looks after the accounts of a machine: who there is, making and
// removing them, passwords by their hashes, and the keys that open them by ssh.
package user

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/account"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "user",
	Doc: "Accounts of the machine's own, those of /etc/passwd, changed with the programs of the shadow suite. Accounts of a directory service are not shown. " +
		"Passwords are given as hashes, such as `openssl passwd -6` prints, and are never among the arguments of a program.",
	Methods: []module.Method{
		module.Func("list", "Lists accounts, by number.", module.Read, here.list, module.MethodOptions{}),
		module.Func("add", "Makes an account if it is not there.", module.Change, here.add, module.MethodOptions{}),
		module.Func("remove", "Removes an account, and its home if that is wanted.", module.Destroy, here.remove, module.MethodOptions{}),
		module.Func("lock", "Locks the password of an account.", module.Change, here.lock, module.MethodOptions{}),
		module.Func("unlock", "Unlocks the password of an account.", module.Change, here.unlock, module.MethodOptions{}),
		module.Func("password", "Sets the password of an account by its hash.", module.Change, here.password, module.MethodOptions{}),
		module.Func("keys", "Lists the ssh keys that open an account, those of ~/.ssh/authorized_keys.", module.Read, here.keys, module.MethodOptions{}),
		module.Func("key_add", "Adds an ssh key to those that open an account.", module.Change, here.keyAdd, module.MethodOptions{}),
		module.Func("key_remove", "Takes an ssh key away from those that open an account.", module.Change, here.keyRemove, module.MethodOptions{}),
	},
}

const (
	maxUsers = 2500         // in one list, which leaves some 400 bytes for each
	dayOne   = "1970-01-02" // an expiry that is over; shadow(5) says not to use 0
)

type machine struct{ account.Machine }

var here machine

// ListIn is the input of list.
type ListIn struct {
	Pattern string `json:"pattern" doc:"glob that the names match" default:"*" max:"64"`
	People  bool   `json:"people" doc:"only accounts with a number from 1000 to 60000"`
}

// Users is the answer of list.
type Users struct {
	Users []User `json:"users" doc:"the accounts, by number; 2500 at most"`
	Cut   int    `json:"cut,omitempty" doc:"accounts that were left out"`
}

// User is an account.
type User struct {
	Name     string     `json:"name" doc:"its name"`
	UID      uint32     `json:"uid" doc:"its number"`
	GID      uint32     `json:"gid" doc:"number of its primary group"`
	Group    string     `json:"group,omitempty" doc:"name of its primary group"`
	Groups   []string   `json:"groups,omitempty" doc:"the other groups that it is a member of"`
	Comment  string     `json:"comment,omitempty" doc:"full name and other remarks"`
	Home     string     `json:"home" doc:"home directory"`
	Shell    string     `json:"shell" doc:"login shell"`
	Password string     `json:"password" doc:"set, none (nobody can log in by one), empty (none is asked for) or unknown"`
	Locked   bool       `json:"locked" doc:"whether the password is locked"`
	Expires  *time.Time `json:"expires,omitempty" doc:"when the account expires, or did"`
}

func (m machine) list(_ context.Context, _ *module.Env, in ListIn) (Users, error) {
	if _, err := path.Match(in.Pattern, ""); err != nil {
		return Users{}, call.Errorf(call.Invalid, "pattern %q: %v", in.Pattern, err)
	}
	users, err := m.Machine.Users()
	if err != nil {
		return Users{}, fmt.Errorf("read users: %w", err)
	}
	groups, err := m.Groups()
	if err != nil {
		return Users{}, fmt.Errorf("read groups: %w", err)
	}
	secrets, secretErr := m.Secrets() // an agent that is not root cannot
	names, member := map[uint32]string{}, map[string][]string{}
	for _, g := range groups {
		names[g.GID] = g.Name
		for _, u := range g.Members {
			member[u] = append(member[u], g.Name)
		}
	}
	slices.SortStableFunc(users, func(a, b account.User) int { return int(int64(a.UID) - int64(b.UID)) })
	out := Users{Users: []User{}}
	for _, a := range users {
		if ok, _ := path.Match(in.Pattern, a.Name); !ok || in.People && (a.UID < 1000 || a.UID > 60000) {
			continue
		}
		if len(out.Users) == maxUsers {
			out.Cut++
			continue
		}
		u := User{
			Name: a.Name, UID: a.UID, GID: a.GID, Group: names[a.GID], Groups: member[a.Name],
			Comment: a.Comment, Home: a.Home, Shell: a.Shell, Password: "unknown",
		}
		if s, ok := secrets[a.Name]; ok && secretErr == nil {
			u.Password, u.Locked = s.Password, s.Locked
			if !s.Expires.IsZero() {
				u.Expires = &s.Expires
			}
		}
		out.Users = append(out.Users, u)
	}
	return out, nil
}

// Which is an account that is there.
type Which struct {
	Name string `json:"name" doc:"the account" required:"true" max:"32" pattern:"[A-Za-z_][A-Za-z0-9_.-]*[$]?"`
}

// Changed is the answer of methods that change an account.
type Changed struct {
	Name    string  `json:"name" doc:"the account"`
	Changed bool    `json:"changed" doc:"whether anything was done, or would be"`
	UID     *uint32 `json:"uid,omitempty" doc:"its number; missing when it is not known yet"`
}

// RemoveIn is the input of remove.
type RemoveIn struct {
	Which
	Home   bool `json:"home" doc:"remove its home directory and mail too"`
	DryRun bool `json:"dry_run" doc:"only say what would change"`
}

func (m machine) remove(ctx context.Context, env *module.Env, in RemoveIn) (Changed, error) {
	u, ok, err := m.FindUser(in.Name)
	if err != nil || !ok {
		return Changed{Name: in.Name}, err
	}
	out := Changed{Name: u.Name, UID: new(u.UID)}
	if u.UID == 0 {
		return out, call.Errorf(call.Failed, "user %s has number 0, and is not removed", u.Name)
	}
	if !in.DryRun {
		var args []string
		if in.Home {
			args = append(args, "--remove")
		}
		if err := m.Tool(ctx, env, "", "userdel", append(args, "--", u.Name)...); err != nil {
			return out, err
		}
	}
	out.Changed = true
	return out, nil
}

// LockIn is the input of lock and unlock.
type LockIn struct {
	Which
	Account bool `json:"account" doc:"the whole account, by its date of expiry: a locked password does not keep out who has a key"`
	DryRun  bool `json:"dry_run" doc:"only say what would change"`
}

func (m machine) lock(ctx context.Context, env *module.Env, in LockIn) (Changed, error) {
	return m.setLock(ctx, env, in, true)
}

func (m machine) unlock(ctx context.Context, env *module.Env, in LockIn) (Changed, error) {
	return m.setLock(ctx, env, in, false)
}

func (m machine) setLock(ctx context.Context, env *module.Env, in LockIn, lock bool) (Changed, error) {
	u, s, err := m.secret(in.Name)
	if err != nil {
		return Changed{}, err
	}
	out := Changed{Name: u.Name, UID: new(u.UID)}
	var args []string
	if s.Locked != lock {
		if !lock && (s.Hash == "!" || s.Hash == "!!") {
			return out, call.Errorf(call.Failed, "user %s has no password that could be unlocked; set one", u.Name)
		}
		args = append(args, map[bool]string{true: "--lock", false: "--unlock"}[lock])
	}
	if expired := !s.Expires.IsZero() && s.Expires.Before(time.Now()); in.Account && expired != lock {
		args = append(args, "--expiredate", map[bool]string{true: dayOne, false: ""}[lock])
	}
	if len(args) > 0 && !in.DryRun {
		if err := m.Tool(ctx, env, "", "usermod", append(args, "--", u.Name)...); err != nil {
			return out, err
		}
	}
	out.Changed = len(args) > 0
	return out, nil
}

// secret finds an account and its line of shadow(5).
func (m machine) secret(name string) (account.User, account.Secret, error) {
	u, err := m.NeedUser(name)
	if err != nil {
		return u, account.Secret{}, err
	}
	secrets, err := m.Secrets()
	if err != nil {
		return u, account.Secret{}, fmt.Errorf("read passwords: %w", err)
	}
	s, ok := secrets[name]
	if !ok {
		return u, s, call.Errorf(call.Failed, "user %s has no line in /etc/shadow", name)
	}
	return u, s, nil
}

// PasswordIn is the input of password.
type PasswordIn struct {
	Which
	Hash   string `json:"hash" doc:"the hash (crypt(5)) of methods SHA-256, SHA-512, bcrypt, scrypt or yescrypt" required:"true" secret:"true" max:"512" pattern:"[$](5|6|7|2[abxy]|y|gy)[$][!-9;-~]{8,}"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

func (m machine) password(ctx context.Context, env *module.Env, in PasswordIn) (Changed, error) {
	u, s, err := m.secret(in.Name)
	if err != nil {
		return Changed{}, err
	}
	out := Changed{Name: u.Name, UID: new(u.UID), Changed: s.Hash != in.Hash}
	if out.Changed && !in.DryRun {
		if err := m.setHash(ctx, env, u.Name, in.Hash); err != nil {
			out.Changed = false
			return out, err
		}
	}
	return out, nil
}

// setHash gives the hash to chpasswd as input: everybody can see arguments.
func (m machine) setHash(ctx context.Context, env *module.Env, name, hash string) error {
	return m.Tool(ctx, env, name+":"+hash+"\n", "chpasswd", "--encrypted")
}

// Package account reads a machine's own users and groups from the files of
// passwd(5), shadow(5) and group(5), and changes them with the programs of the
// shadow suite, which lock these files. Users of a directory service are not
// in the files.
package account

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/run"
)

// NamePattern is what the programs take as the name of a new account, with
// the dots and capitals that directory services and other systems allow.
const NamePattern = `[A-Za-z_][A-Za-z0-9_.-]*[$]?`

const maxFile = 32 << 20 // bytes of one of the files

// Machine is the machine, or for tests a directory that looks like one.
type Machine struct {
	Root string // empty: the machine itself
}

// User is a line of passwd(5).
type User struct {
	Name, Comment, Home, Shell string
	UID, GID                   uint32
}

// Group is a line of group(5).
type Group struct {
	Name    string
	GID     uint32
	Members []string
}

// Secret is what a line of shadow(5) says, but not the hash itself.
type Secret struct {
	Password string    // "none": nobody can log in by one; "empty": none is asked for; "set"
	Locked   bool      // the password was locked
	Hash     string    // as in the file
	Expires  time.Time // of the account; zero: never
}

// read gives a file below the root; nothing when it is not there.
func (m Machine) read(name string) (string, error) {
	f, err := os.Open(filepath.Join("/", m.Root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return string(b), err
}

// Users gives the users, in the order of the file. Lines that are no users
// are left out.
func (m Machine) Users() ([]User, error) {
	text, err := m.read("etc/passwd")
	return parseUsers(text), err
}

func parseUsers(text string) []User {
	var users []User
	for f := range lines(text, 7) {
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			users = append(users, User{Name: f[0], UID: uint32(uid), GID: uint32(gid), Comment: f[4], Home: f[5], Shell: f[6]})
		}
	}
	return users
}

// Groups gives the groups, in the order of the file.
func (m Machine) Groups() ([]Group, error) {
	text, err := m.read("etc/group")
	return parseGroups(text), err
}

func parseGroups(text string) []Group {
	var groups []Group
	for f := range lines(text, 4) {
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			g := Group{Name: f[0], GID: uint32(gid)}
			for name := range strings.SplitSeq(f[3], ",") {
				if name != "" {
					g.Members = append(g.Members, name)
				}
			}
			groups = append(groups, g)
		}
	}
	return groups
}

// Secrets gives what is known about passwords, by user.
func (m Machine) Secrets() (map[string]Secret, error) {
	text, err := m.read("etc/shadow")
	return parseSecrets(text), err
}

func parseSecrets(text string) map[string]Secret {
	secrets := map[string]Secret{}
	for f := range lines(text, 9) {
		s := Secret{Hash: f[1], Password: "set"}
		plain := strings.TrimLeft(f[1], "!")
		s.Locked = plain != f[1]
		switch {
		case f[1] == "":
			s.Password = "empty"
		case plain == "" || plain[0] == '*':
			s.Password = "none"
		}
		if days, err := strconv.ParseInt(f[7], 10, 32); err == nil && days >= 0 {
			s.Expires = time.Unix(days*24*60*60, 0).UTC()
		}
		secrets[f[0]] = s
	}
	return secrets
}

// lines gives the fields of the lines that have n of them and a name.
func lines(text string, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(text) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
			if len(f) == n && f[0] != "" && f[0][0] != '#' && f[0][0] != '+' && f[0][0] != '-' && !yield(f) {
				return
			}
		}
	}
}

// FindUser gives one user; ok is false when there is none of the name.
func (m Machine) FindUser(name string) (u User, ok bool, err error) {
	users, err := m.Users()
	if err != nil {
		return User{}, false, fmt.Errorf("read users: %w", err)
	}
	if i := slices.IndexFunc(users, func(u User) bool { return u.Name == name }); i >= 0 {
		return users[i], true, nil
	}
	return User{}, false, nil
}

// NeedUser gives one user, who must be there.
func (m Machine) NeedUser(name string) (User, error) {
	u, ok, err := m.FindUser(name)
	if err == nil && !ok {
		err = call.Errorf(call.Failed, "there is no user %q in the files of this machine", name)
	}
	return u, err
}

// FindGroup gives one group; ok is false when there is none of the name.
func (m Machine) FindGroup(name string) (g Group, ok bool, err error) {
	groups, err := m.Groups()
	if err != nil {
		return Group{}, false, fmt.Errorf("read groups: %w", err)
	}
	if i := slices.IndexFunc(groups, func(g Group) bool { return g.Name == name }); i >= 0 {
		return groups[i], true, nil
	}
	return Group{}, false, nil
}

// NeedGroup gives one group, which must be there.
func (m Machine) NeedGroup(name string) (Group, error) {
	g, ok, err := m.FindGroup(name)
	if err == nil && !ok {
		err = call.Errorf(call.Failed, "there is no group %q in the files of this machine", name)
	}
	return g, err
}

// Tool runs a program of the shadow suite on the machine's files. What it
// reads as input is not shown in its arguments: it is the place of secrets.
func (m Machine) Tool(ctx context.Context, env *module.Env, stdin, name string, args ...string) error {
	file, err := run.Find(name)
	if err != nil {
		return err
	}
	if m.Root != "" {
		args = append([]string{"--root", m.Root}, args...)
	}
	c := run.Tool(env, file, args...)
	c.Stdin = []byte(stdin)
	_, err = run.System.Output(ctx, c)
	return err
}

// Taken says that somebody has a name whom the files do not know: a user or
// group of a directory service. database is passwd or group.
func (m Machine) Taken(ctx context.Context, env *module.Env, database, name string) error {
	file, err := run.Find("getent")
	if err != nil || m.Root != "" {
		return nil // a machine without the C library's tools has no directory service
	}
	out, err := run.Output(ctx, env, file, database, "--", name)
	if _, ok := run.Status(err); ok || err == nil && len(out) == 0 {
		return nil // status 2: nobody has it
	}
	if err != nil {
		return fmt.Errorf("look for %q in the directory service: %w", name, err)
	}
	return call.Errorf(call.Failed, "the name %q is taken in a directory service", name)
}

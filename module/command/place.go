package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"dominion/call"
	"dominion/module/run"
)

const defaultPath = run.Path

// account is whom a program runs as.
type account struct {
	name, home string
	credential *syscall.Credential // nil: the agent's own
}

// findAccount looks a user up; an empty name is the agent's own user.
func findAccount(ctx context.Context, name string) (account, error) {
	own := os.Getuid()
	if name == "" {
		u, err := user.LookupId(strconv.Itoa(own))
		if err != nil {
			return account{name: strconv.Itoa(own), home: "/"}, nil // a user without an entry can still run programs
		}
		return account{name: u.Username, home: u.HomeDir}, nil
	}
	u, err := lookUser(ctx, name)
	if err != nil {
		return account{}, err
	}
	a := account{name: u.Username, home: u.HomeDir}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("user %q has uid %q", name, u.Uid)
	}
	if int(uid) == own {
		return a, nil
	}
	if own != 0 {
		return account{}, call.Errorf(call.Failed, "the agent runs as uid %d and cannot become %s", own, u.Username)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("user %q has gid %q", name, u.Gid)
	}
	ids, err := groupsOf(ctx, u)
	if err != nil {
		return account{}, fmt.Errorf("look up groups of %s: %w", u.Username, err)
	}
	a.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, id := range ids {
		g, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("user %q is in group %q", name, id)
		}
		a.credential.Groups = append(a.credential.Groups, uint32(g))
	}
	return a, nil
}

// environment is a clean one with the caller's variables over it, sorted.
func environment(a account, machine string, more map[string]string) (list []string, path string, err error) {
	vars := map[string]string{
		"PATH": defaultPath, "HOME": a.home, "USER": a.name, "LOGNAME": a.name, "LANG": "C.UTF-8", "DOMINION_MACHINE": machine,
	}
	for k, v := range more {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return nil, "", call.Errorf(call.Invalid, "environment variable %q: a name needs a character and no =, and neither takes a zero byte", k)
		}
		vars[k] = v
	}
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		list = append(list, k+"="+vars[k])
	}
	return list, vars["PATH"], nil
}

// lookPath finds the file of a program: in dir when its name holds a slash,
// otherwise in the absolute directories of path.
func lookPath(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if err := executable(name); err != nil {
			return "", call.Errorf(call.Failed, "%s: %v", name, err)
		}
		return name, nil
	}
	found := fmt.Errorf("not found in %s", path)
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			continue // a relative directory, or none, would be whatever dir holds
		}
		file := filepath.Join(d, name)
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			found = fmt.Errorf("%s: %w", file, err)
		}
	}
	return "", call.Errorf(call.Failed, "%q: %v", name, found)
}

func executable(file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			return pe.Err
		}
		return err
	case info.IsDir():
		return errors.New("is a directory")
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return errors.New("is not an executable file")
	}
	return nil
}

// directory checks the working directory, whose absence the kernel would
// report as that of the program.
func directory(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return call.Errorf(call.Failed, "working directory: %v", err)
	}
	if !info.IsDir() {
		return call.Errorf(call.Failed, "working directory: %s is not a directory", dir)
	}
	return nil
}

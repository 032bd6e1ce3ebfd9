package command

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strings"
	"time"

	"dominion/call"
)

// This program is static, so what it finds by itself is in /etc/passwd and
// /etc/group. Users of a directory service (LDAP, SSSD, systemd-homed) are known
// to the C library's name service switch, which its own tools ask for us.
const (
	getent  = "/usr/bin/getent"
	idTool  = "/usr/bin/id"
	nssTime = 10 * time.Second // for a directory service to answer
)

// lookUser finds a user by name or number.
func lookUser(ctx context.Context, name string) (*user.User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err == nil {
		return u, nil
	}
	out, err := ask(ctx, getent, "passwd", "--", name)
	if err != nil {
		return nil, call.Errorf(call.Failed, "no user %q on this machine", name)
	}
	return parsePasswd(out)
}

// parsePasswd reads one line of passwd(5).
func parsePasswd(line string) (*user.User, error) {
	line = strings.TrimSuffix(line, "\n")
	f := strings.Split(line, ":")
	if len(f) != 7 || strings.Contains(line, "\n") {
		return nil, fmt.Errorf("getent answers %.80q", line)
	}
	return &user.User{Username: f[0], Uid: f[2], Gid: f[3], HomeDir: f[5]}, nil
}

// groupsOf gives the ids of a user's groups.
func groupsOf(ctx context.Context, u *user.User) ([]string, error) {
	if _, err := os.Stat(idTool); err != nil {
		return u.GroupIds()
	}
	out, err := ask(ctx, idTool, "-G", "--", u.Username)
	if err != nil {
		return nil, err
	}
	return strings.Fields(out), nil
}

// ask runs one of the C library's tools.
func ask(ctx context.Context, tool string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, nssTime)
	defer stop()
	cmd := exec.CommandContext(ctx, tool, args...) //nolint:gosec // the tool is one of the two above, and what follows "--" is no option
	cmd.Env = []string{"LANG=C"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", tool, args[0], err)
	}
	return string(out), nil
}

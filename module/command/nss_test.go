package command

import (
	"os/user"
	"strings"
	"testing"
)

func TestParsePasswd(t *testing.T) {
	u, err := parsePasswd("alice:*:70001:70000:Alice A.:/home/alice:/bin/bash\n")
	if err != nil || u.Username != "alice" || u.Uid != "70001" || u.Gid != "70000" || u.HomeDir != "/home/alice" {
		t.Errorf("%+v, %v", u, err)
	}
	for _, line := range []string{"", "\n", "alice:*:70001", "a:b:c:d:e:f:g:h", "alice:*:70001:70000::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n"} {
		if u, err := parsePasswd(line); err == nil {
			t.Errorf("%q: %+v", line, u)
		}
	}
}

// What the C library's tools say of a user of this machine is what we find.
func TestNameService(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	out, err := ask(t.Context(), getent, "passwd", "--", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	u, err := parsePasswd(out)
	if err != nil || u.Uid != nobody.Uid || u.Gid != nobody.Gid || u.HomeDir != nobody.HomeDir {
		t.Errorf("%+v, %v; want %+v", u, err, nobody)
	}
	groups, err := groupsOf(t.Context(), nobody)
	if err != nil || len(groups) == 0 || groups[0] != nobody.Gid {
		t.Errorf("groups %q, %v; want the first to be %s", groups, err, nobody.Gid)
	}
	for _, name := range []string{"no such user", "-s", "--help", "nobody:x"} {
		if _, err := lookUser(t.Context(), name); err == nil || !strings.Contains(err.Error(), "no user") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

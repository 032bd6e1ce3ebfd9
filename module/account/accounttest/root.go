// Package accounttest gives tests a machine of their own, as far as accounts
// go: a directory with the files of passwd(5), into which the programs of the
// shadow suite change their root.
package accounttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"dominion/module/account"
)

// Root makes it. Without root or the programs the test is skipped, and says so.
func Root(t testing.TB) account.Machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skipf("SKIPPED %s: it needs root, to change the root of useradd", t.Name())
	}
	for _, tool := range []string{"useradd", "gpasswd", "chpasswd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED %s: %v (Debian: passwd)", t.Name(), err)
		}
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n",
		"etc/group":         "root:x:0:\ndaemon:x:1:\ntape:x:26:\nstaff:x:50:\n",
		"etc/shadow":        "root:*:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\n",
		"etc/gshadow":       "root:*::\ndaemon:*::\ntape:!::\nstaff:!::\n",
		"etc/login.defs":    "UID_MIN 1000\nUID_MAX 60000\nGID_MIN 1000\nGID_MAX 60000\nUSERGROUPS_ENAB yes\nUMASK 022\nENCRYPT_METHOD SHA512\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\n",
		"etc/skel/.profile": "",
		"home/.keep":        "",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return account.Machine{Root: dir}
}

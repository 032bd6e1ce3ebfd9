//go:build fleet

package command

import (
	"os"
	"os/user"
	"strings"
	"testing"

	"dominion/module"
)

// TestUser needs root: it becomes another user.
func TestFleetUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: it needs root")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	for _, name := range []string{"nobody", nobody.Uid} {
		r, err := system.run(t.Context(), &module.Env{}, []string{"sh", "-c", `id -u; id -G; echo "$HOME $USER"; cat /etc/shadow`}, Options{Dir: "/", User: name})
		groups, _ := nobody.GroupIds()
		want := nobody.Uid + "\n" + strings.Join(groups, " ") + "\n" + nobody.HomeDir + " nobody\n"
		if *r.Stdout != want || err == nil || !strings.Contains(*r.Stderr, "denied") {
			t.Errorf("as %s: %q, %q, %v; want %q and a refusal", name, *r.Stdout, *r.Stderr, err, want)
		}
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := system.run(t.Context(), &module.Env{}, []string{"true"}, Options{Dir: dir, User: "nobody"}); err == nil {
		t.Error("nobody started in a directory of root's")
	}
}

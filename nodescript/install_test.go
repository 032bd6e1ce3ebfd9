package nodescript_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/nodescript"
)

// shells are those that nodes have, as far as they are here.
func shells(t *testing.T) [][]string {
	t.Helper()
	var found [][]string
	for _, words := range [][]string{{"dash"}, {"busybox", "sh"}, {"bash"}} {
		if _, err := exec.LookPath(words[0]); err == nil {
			found = append(found, words)
		}
	}
	if len(found) == 0 {
		t.Skip("SKIPPED: no shell is there")
	}
	return found
}

// TestBusybox says when the shell of an initramfs is not among those that
// scripts are tested with.
func TestBusybox(t *testing.T) {
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("SKIPPED: busybox is not there, with whose shell node scripts run in an initramfs")
	}
}

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "perceus")
	want := func(replace bool, begin, finish nodescript.Did) {
		t.Helper()
		got, err := nodescript.Install(dir, replace)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]nodescript.Installed{{Path: "init/all/00-init", Did: begin}, {Path: "init/all/90-finish", Did: finish}}, got); d != "" {
			t.Error(d)
		}
		entries, err := os.ReadDir(dir + "/nodescripts/init/all")
		if err != nil || len(entries) != 2 {
			t.Errorf("%v, %v; want two files", entries, err)
		}
	}
	want(false, nodescript.Wrote, nodescript.Wrote)
	want(true, nodescript.Unchanged, nodescript.Unchanged)
	if err := os.WriteFile(dir+"/nodescripts/init/all/00-init", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/nodescripts/init/all/90-finish", 0o644); err != nil {
		t.Fatal(err)
	}
	want(false, nodescript.Kept, nodescript.Kept)
	want(true, nodescript.Replaced, nodescript.Replaced)
	want(false, nodescript.Unchanged, nodescript.Unchanged)

	if err := os.RemoveAll(dir + "/nodescripts"); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, dir+"/nodescripts"); err != nil {
		t.Fatal(err)
	}
	if _, err := nodescript.Install(dir, true); err == nil {
		t.Error("it wrote through a link that leaves the directory")
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("it wrote %v, %v", left, err)
	}
}

// siteScript uses what 00-init promises.
const siteScript = `#!/bin/sh
cat <<'EOF'
echo "$DESTDIR" "$DIFFROOT" script
if mounted /proc; then printf 'yes '; fi
mounted /no/such || echo no
retry 3 false || echo again
case $STARTTIME in [0-9]*) ;; *) fail "no STARTTIME" ;; esac
mounts
EOF
`

// stubs stand in for what would change the machine, or wait: functions come
// before programs.
const stubs = `all=
mount() { for at in "$@"; do :; done; all="$all $at"; }
umount() { echo umount; }
sync() { echo sync; }
getfile() { :; }
sleep() { [ "$1" = 1 ] || echo "sleep $1"; }
mounts() { for at in $all; do case $at in /sys | /dev | /run) ;; *) echo "also $at" ;; esac; done; }
`

// TestOwnScripts runs what our own scripts print, in each shell.
func TestOwnScripts(t *testing.T) {
	const begun = "dominion: n1 in state init, VNFS %s, group %s\nROOT\nscript\nyes no\nagain\ndominion: finished after N s\n"
	const noVNFS = "dominion: no VNFS is set: nothing starts by itself from here\n"
	for _, test := range []struct {
		name   string
		node   nodescript.Node
		method string
		status int
		want   string // of standard output and error
	}{
		{
			name: "enabled", node: nodescript.Node{VNFS: "deb'12", Group: "web", Enabled: true, Master: "192.0.2.1"},
			want: fmt.Sprintf(begun, "deb'12", "web") + "sync\nend\n",
		},
		{
			name: "not enabled", node: nodescript.Node{VNFS: "v", Master: "192.0.2.1"}, status: 1,
			want: "dominion: n1 is not enabled: nothing is provisioned\n",
		},
		{name: "no VNFS", node: nodescript.Node{Enabled: true}, want: fmt.Sprintf(begun, "none", "none") + noVNFS + "sync\nend\n"},
		{
			name: "no master", node: nodescript.Node{VNFS: "v", Enabled: true}, status: 1,
			want: "dominion: n1 has a VNFS, and no master is known to get it from\n",
		},
		{
			name: "another method", node: nodescript.Node{VNFS: "v", Enabled: true, Master: "192.0.2.1"}, method: "x'c $(touch harm)", status: 1,
			want: "dominion: n1 has a VNFS, and the method to get it is neither http nor nfs: x'c $(touch harm)\n",
		},
		{
			name: "nfs", node: nodescript.Node{VNFS: "v", Enabled: true, Master: "192.0.2.1"}, method: "nfs",
			want: fmt.Sprintf(begun, "v", "none") + "sync\nend\n",
		},
		{
			name: "debugging", node: nodescript.Node{Enabled: true, Debug: 1},
			want: fmt.Sprintf(begun, "none", "none") + noVNFS + "sync\ndominion: 10 s for you to look around\nsleep 10\nend\n",
		},
	} {
		test.node.Name = "n1"
		if test.method == "" {
			test.method = "http"
		}
		dir := t.TempDir()
		if _, err := nodescript.Install(dir, false); err != nil {
			t.Fatal(err)
		}
		putIn(t, dir, x("init/all/50-site", siteScript), x("init/all/99-end", "#!/bin/sh\necho echo end\n"))
		a, err := nodescript.New(nodescript.Config{Statedir: dir, Transfer: nodescript.Transfer{Method: test.method}})
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Assemble(t.Context(), test.node, "init")
		if err != nil || s.Failure != "" {
			t.Fatal(s, err)
		}
		for _, shell := range shells(t) {
			t.Run(fmt.Sprint(test.name, " ", shell), func(t *testing.T) {
				root := filepath.Join(t.TempDir(), "newroot")
				cmd := exec.CommandContext(t.Context(), shell[0], shell[1:]...)
				cmd.Stdin, cmd.Dir = strings.NewReader(stubs+string(s.Text)), t.TempDir()
				cmd.Env = []string{"PATH=/bin:/usr/bin", "DESTDIR=" + root}
				out, err := cmd.CombinedOutput()
				got := strings.ReplaceAll(string(out), root+" "+root+" ", "ROOT\n")
				for _, n := range []string{"0", "1", "2", "3", "4"} {
					got = strings.ReplaceAll(got, "finished after "+n+" s", "finished after N s")
				}
				if status := cmd.ProcessState.ExitCode(); got != test.want || status != test.status {
					t.Errorf("status %d, %v; want %d; %s", status, err, test.status, cmp.Diff(test.want, got))
				}
				if _, err := os.Stat(root); (err == nil) != (test.status == 0) {
					t.Errorf("the new root: %v", err)
				}
				if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) > 0 {
					t.Errorf("it made %v, %v", left, err)
				}
			})
		}
	}
}

// TestOwnScriptsAreClean: our own scripts have no traps.
func TestOwnScriptsAreClean(t *testing.T) {
	dir := t.TempDir()
	if _, err := nodescript.Install(dir, false); err != nil {
		t.Fatal(err)
	}
	tree, err := nodescript.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for _, rules := range []nodescript.Rules{nodescript.Documented, nodescript.Perceus193} {
		if found, err := tree.Lint(rules, ""); err != nil || len(found) > 0 {
			t.Errorf("%v: %v, %v", rules, found, err)
		}
	}
}

// TestOwnScriptsUnderPerceus: our own scripts give the same under the old rules.
func TestOwnScriptsUnderPerceus(t *testing.T) {
	dir := t.TempDir()
	if _, err := nodescript.Install(dir, false); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, rules := range []nodescript.Rules{nodescript.Documented, nodescript.Perceus193} {
		a, err := nodescript.New(nodescript.Config{Statedir: dir, Rules: rules, Transfer: nodescript.Transfer{Method: "http"}})
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Assemble(t.Context(), n1, "init")
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(bytes.TrimSuffix(bytes.TrimPrefix(s.Text, []byte("# NODESCRIPT START\n")), []byte("# NODESCRIPT END\n"))))
	}
	if d := cmp.Diff(texts[0], texts[1]); d != "" {
		t.Error(d)
	}
}

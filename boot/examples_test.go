package boot_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dominion/minion"
	"dominion/nodescript"
)

// The example node scripts have no traps, and what they print puts a system
// together whose minion knows where to enrol, under every shell of ours.
func TestExamples(t *testing.T) {
	files := t.TempDir()
	if err := os.CopyFS(filepath.Join(files, "nodescripts/init"), os.DirFS("../examples/nodescripts/init")); err != nil {
		t.Fatal(err)
	}
	tree, err := nodescript.Open(files)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	found, err := tree.Lint(nodescript.Documented, "")
	if err != nil || len(found) != 0 {
		t.Errorf("lint: %v, %v", found, err)
	}
	a, err := nodescript.New(nodescript.Config{Statedir: files})
	if err != nil {
		t.Fatal(err)
	}
	made, err := a.Assemble(t.Context(), nodescript.Node{Name: "n1", VNFS: "deb", Enabled: true}, "init")
	if err != nil || made.Failure != "" {
		t.Fatalf("%v, %s", err, made.Failure)
	}
	for _, shell := range [][]string{{"sh"}, {"bash"}, {"busybox", "sh"}} {
		t.Run(strings.Join(shell, " "), func(t *testing.T) { putTogether(t, shell, made.Text) })
	}
}

func putTogether(t *testing.T, shell []string, script []byte) {
	t.Helper()
	if _, err := exec.LookPath(shell[0]); err != nil {
		t.Skipf("SKIPPED %s is missing; tools/setup.sh installs it", shell[0])
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	pin := "sha256:" + strings.Repeat("ab", 32)
	put("join", "DOMINION_NAME=n1\nDOMINION_PIN="+pin+"\nDOMINION_OVERLORDS=192.0.2.1:51235,[2001:db8::1]:51235\nDOMINION_TOKEN=secret\n", 0o600)
	put("getfile", "#!/bin/sh\n[ \"$1\" = vnfs/deb/rootfs.tar.gz ] || exit 1\nmkdir -p \"$BUILD/usr/bin\" && tar -czf rootfs.tar.gz -C \"$BUILD\" usr\n", 0o755)
	// 00-init's part of it, but for what needs root.
	head := "fail() { echo \"$*\" >&2; exit 1; }\nsay() { :; }\n"
	cmd := exec.CommandContext(t.Context(), shell[0], shell[1:]...)
	cmd.Stdin = bytes.NewReader(append([]byte(head), bytes.ReplaceAll(script, []byte("cd /tmp "), []byte("cd "+dir+" "))...))
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "DESTDIR=" + root, "DOMINION_JOIN=" + filepath.Join(dir, "join"), "BUILD=" + filepath.Join(dir, "build")}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cfg, err := minion.LoadConfig(filepath.Join(root, "etc/dominion/minion.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "n1" || cfg.Pin != pin || cfg.TokenFile != "/etc/dominion/token" || !slices.Equal(cfg.Overlords, []string{"192.0.2.1:51235", "[2001:db8::1]:51235"}) {
		t.Errorf("the minion's configuration is %+v", cfg)
	}
	if err := cfg.Check(); err != nil {
		t.Error(err)
	}
	token := filepath.Join(root, "etc/dominion/token")
	if b, err := os.ReadFile(token); err != nil || string(b) != "secret\n" {
		t.Errorf("the token is %q, %v", b, err)
	}
	if info, err := os.Stat(token); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token has mode %v, %v", info.Mode(), err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "etc/hostname")); err != nil || string(b) != "n1\n" {
		t.Errorf("the name is %q, %v", b, err)
	}
}

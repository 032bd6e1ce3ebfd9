package provisiond

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
)

// With a real overlord, from firmware's request to state ready: the kernel's words
// are those of its iPXE script, the minion enrols with what the script got, and
// asks for its script in state ready with its certificate.
func TestOverlord(t *testing.T) {
	files := t.TempDir()
	w := &world{t: t, dir: t.TempDir(), macs: []string{"02:00:00:00:00:01"}}
	put := func(name, content string, mode os.FileMode) {
		t.Helper()
		name = filepath.Join(files, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	put("nodescripts/init/all/10-a", "#!/bin/sh\necho 'cp \"$DOMINION_JOIN\" $DIR/join; cd $DIR; getfile vnfs/x/rootfs || exit 8'\n", 0o755)
	put("nodescripts/ready/all/10-a", "#!/bin/sh\necho 'cd $DIR; rm -f rootfs; getfile vnfs/x/rootfs ../secret'\necho 'echo \"status $?\"; exit 5'\n", 0o755)
	put("vnfs/x/rootfs", strings.Repeat("content ", 100_000), 0o644)
	f := fleettest.Start(t, overlord.Config{Provision: overlord.ProvisionConfig{
		Enabled: true, Statedir: files, Listen: "127.0.0.1:0", Approve: overlord.ApproveRules{{MAC: "52:54:*"}}, Names: "n#",
	}})
	boot, err := os.ReadFile(filepath.Join(f.State, "boot_address"))
	if err != nil {
		t.Fatal(err)
	}
	cmdline := firmware(t, "http://"+strings.TrimSpace(string(boot))+"/boot/ipxe?mac="+testMAC)

	// Words of another machine, or without the nonce, get nothing.
	for name, change := range map[string][2]string{
		"without a nonce": {"dominion.nonce=", "x="}, "another nonce": {"dominion.nonce=", "dominion.nonce=00"}, "another machine": {"dominion.mac=52:54", "dominion.mac=52:55"},
	} {
		words := strings.Replace(cmdline, change[0], change[1], 1)
		p := w.boot(words, "-v", "-", "init")
		if p.exit != exitNoScript || w.exists("join") {
			t.Errorf("%s: exit %d, %s", name, p.exit, p.errors)
		}
	}

	if o := w.boot(cmdline, "-v", "-", "init"); o.exit != 0 || !w.exists("rootfs") {
		t.Fatalf("exit %d, %s", o.exit, o.errors)
	}
	join := map[string]string{}
	for line := range strings.Lines(w.read(filepath.Join(w.dir, "join"))) {
		name, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		join[name] = v
	}
	if join["DOMINION_NAME"] != "n0" || join["DOMINION_PIN"] != f.Pin || join["DOMINION_OVERLORDS"] != f.Address {
		t.Fatalf("the join file says %v", join)
	}
	state := f.Enrol(join["DOMINION_NAME"], minion.Config{Token: join["DOMINION_TOKEN"]}).State
	f.Await(1)

	o := w.boot("", "-v", "--state", state, f.Address, "ready")
	if o.exit != 5 || !strings.Contains(o.out, "status 1") || !strings.Contains(o.errors, "../secret: refused with status 403") || !w.exists("rootfs") {
		t.Errorf("in ready: exit %d, %q, %s", o.exit, o.out, o.errors)
	}
	// The nonce has gone with the token.
	if o := w.boot(cmdline, "-v", "-", "init"); o.exit != exitNoScript {
		t.Errorf("with the old nonce: exit %d", o.exit)
	}
}

// firmware fetches a script of iPXE and gives the words for the kernel.
func firmware(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^kernel \S+ (.*) \|\| goto again$`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no kernel in %s", b)
	}
	return string(m[1])
}

//go:build fleet

package main_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/fleettest"
)

// Machines that boot with the old program's initramfs are provisioned by an
// overlord in their old master's place.
func testOldProtocol(t *testing.T, binary string) {
	s := newSite(t, binary)
	files := filepath.Join(s.dir, "perceus")
	config := func(listen, approve string) string {
		return s.write("overlord.yaml", fmt.Sprintf("provision:\n  enabled: true\n  statedir: %s\n  listen: 127.0.0.1:0\n  legacy_listen: %s\n  approve: %s\n", files, listen, approve))
	}
	s.up("--config", config("127.0.0.1:0", "[]"))
	capsule := make([]byte, 5<<20)
	rand.Read(capsule)
	for name, text := range map[string]string{
		"vnfs/v/image":                 string(capsule),
		"nodescripts/init/all/10-slow": "#!/bin/sh\nif [ ! -e $STATEDIR/fast ]; then sleep 12; fi\necho \"node=$NODENAME\"\n",
		"nodescripts/init/all/20-file": "#!/bin/sh\ncat <<'EOT'\ngetfile vnfs/v/image || exit 3\nEOT\n",
		"nodescripts/init/all/90-end":  "#!/bin/sh\ncat <<'EOT'\necho \"$node is done\"\nexit 5\nEOT\n",
		"nodescripts/ready/all/10-r":   "#!/bin/sh\necho echo $NODENAME is ready\n",
	} {
		path := filepath.Join(files, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const mac1, mac2 = "52:54:00:00:00:01", "52:54:00:00:00:02"
	address := func(file string) string {
		b, err := os.ReadFile(filepath.Join(s.state, file))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	server := address("legacy_address")
	// Everything here comes from 127.0.0.1, also what getfile asks.
	old := func(dir, shell string, words ...string) fleettest.OldReply {
		t.Helper()
		r, err := fleettest.OldClient{Server: server, Dir: dir, Shell: shell}.Run(t.Context(), words...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}

	if r := old("", "", "init", "nodeid="+mac1); !r.Silent || r.Exit != 0 || len(r.Output) != 0 {
		t.Fatalf("before it is approved: %q, silent %v, exit %d", r.Wire, r.Silent, r.Exit)
	}
	s.root.run("status").exits(0).prints("nodes", "1, 1 held: dominion node status")
	s.root.run("node", "approve", "n0000").exits(0)
	s.root.run("status", "-o", "json").exits(0).prints(`"held": 0`)

	for i, shell := range []string{"dash", "busybox sh"} {
		if _, err := exec.LookPath(strings.Fields(shell)[0]); err != nil {
			t.Logf("SKIPPED %s is missing", shell)
			continue
		}
		dir := t.TempDir()
		r := old(dir, shell, "init", "nodeid="+mac1)
		if got, err := os.ReadFile(filepath.Join(dir, "image")); string(r.Output) != "n0000 is done\n" || r.Exit != 5 || r.Silent || err != nil || !bytes.Equal(got, capsule) {
			t.Errorf("%s: it prints %q, silent %v, exit %d; %d bytes of the capsule, %v", shell, r.Output, r.Silent, r.Exit, len(got), err)
		}
		if i == 0 && (r.Gap > 4*time.Second || r.Took < 12*time.Second) {
			t.Errorf("%s: the longest silence was %v of %v", shell, r.Gap, r.Took)
		}
		if err := os.WriteFile(filepath.Join(files, "fast"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.root.run("audit", "list", "--action", "node.script").exits(0).prints("init to 127.0.0.1 over the old protocol as "+mac1, "init/all/10-slow ")
	s.root.run("audit", "list", "--action", "node.file").exits(0).prints("vnfs/v/image to 127.0.0.1, 5242880 bytes over plain HTTP")
	s.root.run("audit", "list", "--action", "denied").exits(0).prints("node.script over the old protocol: the node is not approved")
	elsewhere := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).DialContext}}
	defer elsewhere.CloseIdleConnections()
	if resp, err := elsewhere.Get("http://" + address("boot_address") + "/legacy/vnfs/v/image"); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("from an address that is no node's: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}

	config(server, "all")
	s.overlord.signal(syscall.SIGHUP)
	s.overlord.awaitSaid("configuration read again")
	if r := old(t.TempDir(), "", "init", "nodeid="+mac2); string(r.Output) != "n0001 is done\n" {
		t.Errorf("approved by a rule: %q, %q", r.Wire, r.Output)
	}
	s.overlord.kill()
	s.up()
	if r := old("", "", "ready", "nodeid="+mac2); string(r.Output) != "n0001 is ready\n" || r.Exit != 0 {
		t.Errorf("after the overlord was killed: %q, %q", r.Wire, r.Output)
	}
	s.root.run("audit", "verify").exits(0)
}

//go:build fleet

package main_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
)

// provisioning is an overlord.yaml.
const provisioning = "provision: {enabled: true, approve: all, listen: '127.0.0.1:0'}\n"

// bootNode makes a node of an overlord boot, and gives the environment of its getfile.
func bootNode(t *testing.T, n *fleettest.TreeNode, pin, hwaddr string) (env string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.State, "boot_address"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + strings.TrimSpace(string(b)) + "/boot/ipxe?mac=" + hwaddr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	nonce := regexp.MustCompile(`dominion\.nonce=([0-9a-f]{64})`).FindSubmatch(text)
	if nonce == nil {
		t.Fatalf("no nonce: %s", text)
	}
	session, err := json.Marshal(map[string]any{"hwaddr": []string{hwaddr}, "state": "init", "nonce": string(nonce[1]), "pin": pin, "servers": []string{n.Address}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "session")
	if err := os.WriteFile(file, session, 0o600); err != nil {
		t.Fatal(err)
	}
	return "DOMINION_SESSION=" + file
}

// blobsSent is how many bytes of files an overlord that runs has sent down.
func blobsSent(t *testing.T, n *fleettest.TreeNode) int64 {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.State, "overlord.sock"))
	}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://overlord/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^dominion_blob_sent_bytes_total (\S+)$`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("status %d, no metric: %.300s", resp.StatusCode, b)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int64(v)
}

// putImage writes a file of so many bytes below the directory of files of an overlord.
func putImage(t *testing.T, n *fleettest.TreeNode, name string, seed byte, size int) [sha256.Size]byte {
	t.Helper()
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	path := filepath.Join(n.State, "perceus", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// A rack below a sub-overlord is switched on: the capsule leaves the top once, also
// when the sub-overlord is killed in the middle; and if the top's bytes are others
// than it says, nobody takes them.
func testFilesFromAbove(t *testing.T, binary string) {
	const clients, size, slack = 20, 50 << 20, 1 << 20
	tr := fleettest.NewTree(t, fleettest.TreeConfig{Binary: binary, Levels: []int{1}, Machines: 1, Config: provisioning})
	dc := tr.Node("dc1")
	getfile := filepath.Join(t.TempDir(), "getfile")
	if err := os.Symlink(binary, getfile); err != nil {
		t.Fatal(err)
	}
	var envs [clients]string
	for i := range envs {
		envs[i] = bootNode(t, dc, tr.Pin, fmt.Sprintf("52:54:00:00:00:%02x", i))
	}
	// storm makes all nodes fetch a file, and gives how many have it whole.
	storm := func(name string, sum [sha256.Size]byte, meanwhile func()) (whole int) {
		t.Helper()
		var wg sync.WaitGroup
		dirs := make([]string, clients)
		for i := range dirs {
			dirs[i] = t.TempDir()
			wg.Go(func() {
				cmd := exec.CommandContext(t.Context(), getfile, name)
				cmd.Dir, cmd.Env = dirs[i], []string{envs[i]}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Logf("node %d: %v: %s", i, err, out)
				}
			})
		}
		if meanwhile != nil {
			meanwhile()
		}
		wg.Wait()
		for _, dir := range dirs {
			b, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
			if err == nil && sha256.Sum256(b) == sum {
				whole++
			} else if err == nil {
				t.Errorf("a node has %d other bytes under the name", len(b))
			}
		}
		return whole
	}

	sum := putImage(t, tr.Top, "vnfs/debian/vnfs.img", 1, size)
	began := time.Now()
	if n := storm("vnfs/debian/vnfs.img", sum, nil); n != clients {
		t.Errorf("%d of %d nodes have the capsule", n, clients)
	}
	t.Logf("figure: 50 MB from above to %d nodes of a sub-overlord in %v", clients, time.Since(began).Round(10*time.Millisecond))
	if n := blobsSent(t, tr.Top); n != size {
		t.Errorf("the top sent %d bytes; want %d", n, size)
	}
	if list := tr.Top.Audit("dc1"); len(list) == 0 || !strings.Contains(list[len(list)-1].Detail, "vnfs/debian/vnfs.img") {
		t.Errorf("the top's log does not say who had it: %v", list)
	}

	before := blobsSent(t, tr.Top)
	sum = putImage(t, tr.Top, "vnfs/alma/vnfs.img", 2, size)
	if n := storm("vnfs/alma/vnfs.img", sum, func() {
		part := ""
		fleettest.Until(t, "some of it is there", func() bool {
			list, err := filepath.Glob(filepath.Join(dc.State, "blobs", "*.part"))
			if err != nil || len(list) != 1 {
				return false
			}
			part = list[0]
			st, err := os.Stat(part)
			return err == nil && st.Size() > size/10
		})
		dc.Kill()
		if st, err := os.Stat(part); err != nil || st.Size() == size {
			t.Errorf("it was not killed in the middle: %v", err)
		}
		dc.Up()
	}); n != clients {
		t.Errorf("after the sub-overlord was killed %d of %d nodes have the capsule", n, clients)
	}
	if n := blobsSent(t, tr.Top) - before; n < size || n > size+slack {
		t.Errorf("the top sent %d bytes for a file of %d, though the sub-overlord had a part", n, size)
	}

	// The digest that the top says is that of bytes which it does not have any more.
	sum = putImage(t, tr.Top, "lies", 3, 1<<20)
	path, old := filepath.Join(tr.Top.State, "perceus", "lies"), time.Now().Add(-time.Hour)
	lie := func(what string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(what), 1<<19); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	env := bootNode(t, tr.Top, tr.Pin, "52:54:00:00:01:00")
	cmd := exec.CommandContext(t.Context(), getfile, "lies") // so that the top knows the digest
	cmd.Dir, cmd.Env = t.TempDir(), []string{env}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("getfile: %v: %s", err, out)
	}
	lie("lies, lies")
	cmd = exec.CommandContext(t.Context(), getfile, "lies")
	cmd.Dir, cmd.Env = t.TempDir(), []string{envs[0]}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	if out, err := cmd.CombinedOutput(); err == nil || fleettest.Exists(filepath.Join(cmd.Dir, "lies")) {
		t.Errorf("a node took other bytes for the digest: %s", out)
	}
	if said := dc.Said(); !strings.Contains(said, "not those of the digest") {
		t.Error("the sub-overlord's log does not say it")
	}
	if list, err := filepath.Glob(filepath.Join(dc.State, "blobs", fmt.Sprintf("%x*", sum))); err != nil || len(list) > 0 {
		t.Errorf("it keeps %v, %v", list, err)
	}
	if _, err := dc.Conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{})); err != nil {
		t.Error(err)
	}
}

//go:build bench

package fleettest_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"dominion/client"
	"dominion/fleettest"
	"dominion/module/copy"
)

// TestBudgetsCopy: a file to one machine beside what its reading costs and beside scp,
// and a file to 50 machines behind two hops beside what may leave the top.
func TestBudgetsCopy(t *testing.T) {
	binary := os.Getenv("DOMINION_BINARY")
	if binary == "" {
		t.Fatal("DOMINION_BINARY is not set; run make bench")
	}
	size := int64(100 << 20)
	const machines, hops = 50, 2
	tr := fleettest.NewTree(t, fleettest.TreeConfig{Binary: binary, Levels: []int{1, 1}, Machines: machines, Rooms: true})
	if _, err := tr.Top.Conn.BuildMap(t.Context(), client.MapOptions{}); err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(t.TempDir(), "src")
	sum := randomFile(t, src, size)
	reading := timed(t, func() { run(t, "sh", "-c", `cat "$1" | sha256sum`, "sh", src) })

	took, err := copyTo(t, tr.Top.Conn, "m*", src, client.Options{Delegate: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range tr.Machines() {
		if out := run(t, "sha256sum", filepath.Join(m.State+".room", "big")); !strings.HasPrefix(out, sum) {
			t.Errorf("%s has another file", m.Name)
		}
	}
	top, below := sentBy(t, tr.Top), sentBy(t, tr.Top.Below[0])
	fmt.Printf("budget: copy of %d MiB to %d machines behind %d hops: %.1f s; sent by the top %d bytes, by the overlord below it %d\n", size>>20, machines, hops, took.Seconds(), top, below)
	budget(t, fmt.Sprintf("%% of a file x hops that is sent for it, %d machines behind %d hops", machines, hops), float64(top+below)/float64(size*hops)*100, 105, "%")

	// One machine, once more, of the lowest overlord: nothing is in between.
	one := tr.Machines()[0].Name
	again := filepath.Join(t.TempDir(), "again")
	randomFile(t, again, size)
	direct, err := copyTo(t, tr.Lowest()[0].Conn, one, again, client.Options{})
	if err != nil { // orders on a sub-overlord need an operator's context
		flat := fleettest.NewTree(t, fleettest.TreeConfig{Binary: binary, Machines: 1, Rooms: true})
		if direct, err = copyTo(t, flat.Top.Conn, "m*", again, client.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	mbs := func(d time.Duration) float64 { return float64(size) / 1e6 / d.Seconds() }
	fmt.Printf("budget: copy of %d MiB to one machine, with its sending to the overlord: %.0f MB/s; cat | sha256sum: %.0f MB/s%s\n", size>>20, mbs(direct), mbs(reading), scp(t, again, mbs))
}

// copyTo copies a file to /proc/self/cwd/big of machines, and says how long all took.
func copyTo(t *testing.T, conn *client.Conn, target, src string, opt client.Options) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	sent, err := conn.Send(t.Context(), src, client.SendOptions{})
	if err != nil {
		return 0, err
	}
	opt.Timeout = -1
	c, err := conn.Target(target, opt)
	if err != nil {
		return 0, err
	}
	j, err := c.Call(t.Context(), copy.MethodPut, copy.PutIn{Path: "/proc/self/cwd/big", Manifest: sent.Manifest.String(), ManifestSize: sent.ManifestSize})
	if err != nil {
		return 0, err
	}
	defer j.Close()
	for e, err := range j.Events() {
		if err != nil {
			return 0, err
		}
		if g, ok := e.(*client.Group); ok && g.Code != 0 {
			return 0, fmt.Errorf("%v: %v: %s", g.Names, g.Code, g.Detail)
		}
	}
	return time.Since(began), nil
}

func timed(t *testing.T, f func()) time.Duration {
	t.Helper()
	began := time.Now()
	f()
	return time.Since(began)
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}

// randomFile gives its digest in hexadecimal.
func randomFile(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, h), rand.NewChaCha8([32]byte{byte(len(path))}), size); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// sentBy is how many bytes of files an overlord has sent down.
func sentBy(t *testing.T, n *fleettest.TreeNode) int64 {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.State, client.Socket))
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
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "dominion_blob_sent_bytes_total "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int64(v)
		}
	}
	t.Fatal("no metric")
	return 0
}

// scp says how fast scp is on this host, with a server and keys of the test's own.
func scp(t *testing.T, src string, mbs func(time.Duration) float64) string {
	t.Helper()
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err == nil {
		_, err = exec.LookPath("scp")
	}
	if err != nil {
		return "; scp is not installed"
	}
	dir := t.TempDir()
	for _, k := range []string{"host", "user"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, k))
	}
	run(t, "cp", filepath.Join(dir, "user.pub"), filepath.Join(dir, "authorized"))
	_, port, err := net.SplitHostPort(fleettest.FreePort(t))
	if err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("ListenAddress 127.0.0.1\nPort %s\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nPidFile none\nStrictModes no\nUsePAM no\nSubsystem sftp internal-sftp\n", port, dir, dir)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // it wants that, as root
		return "; sshd does not start: " + err.Error()
	}
	cmd := exec.CommandContext(t.Context(), sshd, "-D", "-e", "-f", filepath.Join(dir, "conf"))
	if err := cmd.Start(); err != nil {
		return "; sshd does not start: " + err.Error()
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	fleettest.Until(t, "sshd listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	began := time.Now()
	out, err := exec.CommandContext(t.Context(), "scp", "-q", "-F", "none", "-P", port, "-i", filepath.Join(dir, "user"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		src, "127.0.0.1:"+filepath.Join(dir, "got")).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("; scp does not work here: %v %.200s", err, out)
	}
	return fmt.Sprintf("; scp: %.0f MB/s", mbs(time.Since(began)))
}

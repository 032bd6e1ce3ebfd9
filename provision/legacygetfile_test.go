package provision

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"dominion/nodescript"
)

// newOldBench is a bench that speaks the old protocol, with a node n0000 that is
// approved and was heard of from 127.0.0.1.
func newOldBench(t testing.TB, change func(*Config)) *bench {
	t.Helper()
	b := newBench(t, func(c *Config) {
		c.Legacy = &Legacy{
			Neighbour: func(netip.Addr) (string, bool) { return "", false },
			Enrolled:  func(string) bool { return false },
		}
		if change != nil {
			change(c)
		}
	})
	if _, err := b.Add(t.Context(), "operator/alice", Spec{HWAddr: macA, Enabled: true}); err != nil {
		t.Fatal(err)
	}
	n := b.node("n0000")
	n.Addr, n.Contact = netip.MustParseAddr("127.0.0.1"), b.now
	b.m.nodes["n0000"] = n
	return b
}

// put writes a file below the directory of files.
func (b *bench) put(name string, text []byte) {
	b.t.Helper()
	path := filepath.Join(b.cfg.Statedir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func noise(n int) []byte {
	r, out := rand.NewChaCha8([32]byte{1}), make([]byte, n)
	_, _ = r.Read(out)
	return out
}

// cutter serves what a handler does, and breaks off some answers in the middle.
type cutter struct {
	http.Handler
	after int // bytes of one answer; 0: all

	mu     sync.Mutex
	ranges []string // that were asked for
	sent   int
}

type cutWriter struct {
	http.ResponseWriter
	c    *cutter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.c.after > 0 && len(p) > w.left {
		n, _ := w.ResponseWriter.Write(p[:w.left])
		w.c.count(n)
		panic(http.ErrAbortHandler)
	}
	n, err := w.ResponseWriter.Write(p)
	w.left -= n
	w.c.count(n)
	return n, err
}

func (c *cutter) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += n
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	if v := r.Header.Get("Range"); v != "" {
		c.ranges = append(c.ranges, v)
	}
	c.mu.Unlock()
	c.Handler.ServeHTTP(&cutWriter{w, c, c.after}, r)
}

// tools makes a directory of programs: those that every node has, and one that
// fetches. busybox stands for all of them in an initramfs.
func tools(t *testing.T, fetcher string) string {
	t.Helper()
	dir := t.TempDir()
	link := func(name, program string) {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Skipf("SKIPPED %s is missing", program)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	applets := []string{"sed", "rm", "mv", "wc", "sleep", "sha256sum"}
	if strings.HasPrefix(fetcher, "busybox") {
		for _, a := range append(applets, "wget") {
			link(a, "busybox")
		}
		return dir
	}
	for _, a := range applets {
		link(a, a)
	}
	if fetcher != "none" {
		link(fetcher, fetcher)
	}
	return dir
}

// shells that nodes run scripts with.
func shells(t *testing.T) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	for name, words := range map[string][]string{"dash": {"dash"}, "ash": {"busybox", "sh"}, "bash": {"bash"}} {
		path, err := exec.LookPath(words[0])
		if err != nil {
			t.Skipf("SKIPPED %s is missing", words[0])
		}
		out[name] = append([]string{path}, words[1:]...)
	}
	return out
}

// run gives the script of a node to a shell, as the old client does.
func runScript(t *testing.T, shell []string, path, dir, boot, script string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), shell[0], shell[1:]...)
	cmd.Stdin = bytes.NewReader(legacyReply(nodescript.Documented, []byte(script), boot))
	cmd.Env, cmd.Dir = []string{"PATH=" + path}, dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The shell function fetches files whole, with whatever a node has to fetch with,
// and goes on where a connection was cut.
func TestLegacyGetfile(t *testing.T) {
	b := newOldBench(t, nil)
	big, odd := noise(3<<20), noise(100)
	b.put("vnfs/v/rootfs.tar.gz", big)
	b.put("vnfs/v/a b#c?d%41[x] é", odd)
	b.put("vnfs/v/empty", nil)
	for _, fetcher := range []string{"curl", "wget", "busybox wget"} {
		for name, shell := range shells(t) {
			t.Run(fetcher+" under "+name, func(t *testing.T) {
				t.Parallel()
				whole := &cutter{Handler: b.BootHandler()}
				cuts := &cutter{Handler: b.BootHandler(), after: 1 << 20}
				path, dir := tools(t, fetcher), t.TempDir()
				fetch := func(h http.Handler, script string) string {
					t.Helper()
					srv := httptest.NewServer(h)
					defer srv.Close()
					out, err := runScript(t, shell, path, dir, strings.TrimPrefix(srv.URL, "http://"), script)
					if err != nil {
						t.Fatalf("%v: %s", err, out)
					}
					return out
				}
				const lines = "set -eu\ngetfile vnfs/v/rootfs.tar.gz 'vnfs/v/a b#c?d%41[x] é' vnfs/v/empty\necho \"here, ${name-} ${tries-}\"\n"
				if out := fetch(whole, lines); out != "here,  \n" {
					t.Errorf("it prints %q", out)
				}
				want := map[string][]byte{"rootfs.tar.gz": big, "a b#c?d%41[x] é": odd, "empty": {}}
				holds(t, dir, want)
				before := whole.sent
				if fetch(whole, "getfile vnfs/v/rootfs.tar.gz\n"); whole.sent-before > 1000 {
					t.Errorf("what is there already is fetched again: %d bytes", whole.sent-before)
				}

				dir = t.TempDir()
				fetch(cuts, "getfile vnfs/v/rootfs.tar.gz\n")
				holds(t, dir, map[string][]byte{"rootfs.tar.gz": big})
				if cuts.sent > len(big)+1000 || !slices.Contains(cuts.ranges, "bytes=1048576-") {
					t.Errorf("%d bytes were sent for %d; ranges %q", cuts.sent, len(big), cuts.ranges)
				}

				// What is left of another file with that name does not get into this one.
				dir = t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, ".rootfs.tar.gz.part"), noise(2 << 20)[1<<20:], 0o644); err != nil {
					t.Fatal(err)
				}
				fetch(whole, "getfile vnfs/v/rootfs.tar.gz\n")
				holds(t, dir, map[string][]byte{"rootfs.tar.gz": big})
			})
		}
	}
}

// holds fails unless a directory has just these files.
func holds(t *testing.T, dir string, want map[string][]byte) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		got, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if w, ok := want[e.Name()]; err != nil || !ok || sha256.Sum256(got) != sha256.Sum256(w) {
			t.Errorf("%q has %d bytes (%v); wanted is that: %v", e.Name(), len(got), err, ok)
		}
	}
	if len(list) != len(want) {
		t.Errorf("%d files; want %d", len(list), len(want))
	}
}

// A file that cannot be had ends getfile with 1, and the script may go on.
func TestLegacyGetfileFails(t *testing.T) {
	b := newOldBench(t, nil)
	b.put("vnfs/v/x", []byte("x"))
	srv := httptest.NewServer(b.BootHandler())
	t.Cleanup(srv.Close)
	boot := strings.TrimPrefix(srv.URL, "http://")
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failing(t, name, boot, shell)
		})
	}
}

func failing(t *testing.T, name, boot string, shell []string) {
	dir := t.TempDir()
	out, err := runScript(t, shell, tools(t, "busybox wget"), dir, boot, "getfile vnfs/v/none vnfs/v/x || echo status $?\n")
	if err != nil || !strings.HasSuffix(out, "getfile: vnfs/v/none cannot be fetched from "+boot+"\nstatus 1\n") {
		t.Errorf("%s: %v, %q", name, err, out)
	}
	holds(t, dir, nil)
	if name == "ash" {
		return // it has a wget of its own
	}
	out, err = runScript(t, shell, tools(t, "none"), dir, boot, "getfile vnfs/v/x || echo status $?\n")
	if err != nil || out != "getfile: there is neither curl nor wget here\nstatus 1\n" {
		t.Errorf("%s without a program that fetches: %v, %q", name, err, out)
	}
}

// Without sha256sum it is said that nothing is checked.
func TestLegacyGetfileUnchecked(t *testing.T) {
	b := newOldBench(t, nil)
	b.put("vnfs/v/x", []byte("x"))
	srv := httptest.NewServer(b.BootHandler())
	defer srv.Close()
	for name, shell := range shells(t) {
		if name == "ash" {
			continue // it has a sha256sum of its own
		}
		path, dir := tools(t, "wget"), t.TempDir()
		if err := os.Remove(filepath.Join(path, "sha256sum")); err != nil {
			t.Fatal(err)
		}
		out, err := runScript(t, shell, path, dir, strings.TrimPrefix(srv.URL, "http://"), "getfile vnfs/v/x\n")
		if err != nil || out != "getfile: there is no sha256sum here: what arrives is not checked\n" {
			t.Errorf("%s: %v, %q", name, err, out)
		}
		holds(t, dir, map[string][]byte{"x": []byte("x")})
	}
}

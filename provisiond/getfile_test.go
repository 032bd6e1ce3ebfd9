package provisiond

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serves gives one file; each request that is not HEAD is cut after limit bytes,
// when limit is not zero.
func serves(content []byte, limit int) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Digest", digestOf(content))
		rw.Header().Set("ETag", `"`+digestOf(content)[8:20]+`"`)
		to := rw
		if limit > 0 && r.Method != http.MethodHead {
			to = &cutter{ResponseWriter: rw, left: limit}
		}
		http.ServeContent(to, r, "f", time.Time{}, bytes.NewReader(content))
	}
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		_, _ = c.ResponseWriter.Write(b[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

func TestGetfile(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	const script = "cd $DIR\ngetfile vnfs/deb/rootfs.img || exit 9\n"
	w := newWorld(t)
	get := func(t *testing.T, want int) outcome {
		t.Helper()
		w.log = nil
		w.script = sends(script)
		o := w.provisiond("-v", "-", "init")
		if o.exit != want {
			t.Fatalf("exit %d, %s; want %d", o.exit, o.errors, want)
		}
		return o
	}
	fresh := func(t *testing.T) {
		t.Helper()
		w.dir = t.TempDir()
	}
	complete := func(t *testing.T) {
		t.Helper()
		if got := w.read(filepath.Join(w.dir, "rootfs.img")); got != string(content) {
			t.Errorf("the file has %d bytes, or other ones; want %d", len(got), len(content))
		}
		if left, _ := filepath.Glob(filepath.Join(w.dir, ".*")); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
	const path = "/provision/v1/files/vnfs/deb/rootfs.img"
	t.Run("whole", func(t *testing.T) {
		fresh(t)
		w.files = serves(content, 0)
		get(t, 0)
		complete(t)
		if auth, want := w.seen(path)[0].auth, "Dominion-Nonce "+base64.StdEncoding.EncodeToString([]byte(testMAC+"\x00"+testNonce)); auth != want {
			t.Errorf("authorization %q; want %q", auth, want)
		}
		get(t, 0)
		if n := len(w.seen(path)); n != 1 {
			t.Errorf("the second time there were %d requests; want one HEAD", n)
		}
	})
	t.Run("cut four times", func(t *testing.T) {
		fresh(t)
		w.files = serves(content, 300_000)
		get(t, 0)
		complete(t)
		var ranges []string
		for _, r := range w.seen(path) {
			if r.rng != "" {
				ranges = append(ranges, r.rng)
			}
		}
		if len(ranges) != 3 {
			t.Errorf("it was continued at %v; want 3 times", ranges)
		}
	})
	t.Run("continued by another call", func(t *testing.T) {
		fresh(t)
		d := digestOf(content)
		sum, _ := parseDigest(d)
		part := filepath.Join(w.dir, ".rootfs.img."+hexOf(sum[:8])+".part")
		w.write(part, content[:1000])
		w.files = serves(content, 0)
		get(t, 0)
		complete(t)
		if rng := w.seen(path)[1].rng; rng != "bytes=1000-" {
			t.Errorf("range %q; want the rest from 1000 on", rng)
		}
		// The same, but what is there is wrong: it is found out, and fetched anew.
		fresh(t)
		w.write(filepath.Join(w.dir, filepath.Base(part)), bytes.Repeat([]byte("x"), 1000))
		get(t, 0)
		complete(t)
	})
	t.Run("not what its digest says", func(t *testing.T) {
		fresh(t)
		w.files = func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Digest", digestOf([]byte("x")))
			http.ServeContent(rw, r, "f", time.Time{}, bytes.NewReader(content))
		}
		if o := get(t, 9); !strings.Contains(o.errors, "did not arrive whole") || w.exists("rootfs.img") {
			t.Errorf("told %q, the file is there: %v", o.errors, w.exists("rootfs.img"))
		}
	})
	t.Run("refused", func(t *testing.T) {
		fresh(t)
		w.files = nil
		if o := get(t, 9); !strings.Contains(o.errors, "there is no such file") || len(w.seen(path)) != 1 {
			t.Errorf("told %q after %d requests", o.errors, len(w.seen(path)))
		}
	})
	t.Run("a link in its place", func(t *testing.T) {
		fresh(t)
		sum, _ := parseDigest(digestOf(content))
		victim := filepath.Join(t.TempDir(), "victim")
		w.write(victim, []byte("v"))
		if err := os.Symlink(victim, filepath.Join(w.dir, ".rootfs.img."+hexOf(sum[:8])+".part")); err != nil {
			t.Fatal(err)
		}
		w.files = serves(content, 0)
		get(t, 9)
		if got := w.read(victim); got != "v" {
			t.Errorf("what the link led to holds %d bytes now", len(got))
		}
	})
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// In other states the certificate opens files, and no header does.
func TestGetfileReady(t *testing.T) {
	w := newWorld(t)
	w.files = serves([]byte("content"), 0)
	w.script = sends("cd $DIR; getfile a/b c; exit $?")
	if o := w.boot("", "-v", "--state", w.minion("web1"), w.addr, "ready"); o.exit != 0 || w.read(filepath.Join(w.dir, "c")) != "content" {
		t.Fatalf("exit %d, %s", o.exit, o.errors)
	}
	for _, r := range w.seen("/provision/v1/files/a/b") {
		if r.peer != "minion/web1" || r.auth != "" {
			t.Errorf("the server saw %+v", r)
		}
	}
}

// Without a session there is no getfile, and names that are none are refused.
func TestGetfileUsage(t *testing.T) {
	w := newWorld(t)
	w.files = func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "x") }
	w.script = sends("getfile .. || getfile / || getfile || DOMINION_SESSION= getfile x || echo none >$DIR/none")
	if o := w.provisiond("-", "init"); o.exit != 0 || !w.exists("none") {
		t.Errorf("exit %d, %s", o.exit, o.errors)
	}
	if n := len(w.seen("/provision/v1/files/..")); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
}

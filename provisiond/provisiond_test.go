package provisiond

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"dominion/pki"
)

// What a script finds in init, and what the server is told.
func TestInit(t *testing.T) {
	w := newWorld(t)
	w.script = sends(`
echo "$DOMINION_JOIN" >$DIR/join-path
stat -c %a "$DOMINION_JOIN" >$DIR/join-mode
cp "$DOMINION_JOIN" $DIR/join
command -v getfile >$DIR/getfile
A=1
echo "out $A"
exit 7
`)
	o := w.provisiond("-v", "-", "init", "word", "nodename=n9")
	if o.exit != 7 || o.out != "out 1\n" {
		t.Fatalf("exit %d, output %q, %s; want 7 and out 1", o.exit, o.out, o.errors)
	}
	want := fmt.Sprintf("DOMINION_NAME=n0001\nDOMINION_PIN=%s\nDOMINION_OVERLORDS=%s\nDOMINION_TOKEN=%s\n", pki.Pin(w.root.Cert), w.addr, testToken)
	if got := w.read(filepath.Join(w.dir, "join")); got != want {
		t.Errorf("the join file holds %q; want %q", got, want)
	}
	if got := w.read(filepath.Join(w.dir, "join-mode")); got != "600\n" {
		t.Errorf("the join file has mode %q; want 600", got)
	}
	for _, f := range []string{"join-path", "getfile"} {
		name := strings.TrimSpace(w.read(filepath.Join(w.dir, f)))
		if _, err := os.Lstat(name); name == "" || !os.IsNotExist(err) {
			t.Errorf("%q is still there after the script: %v", name, err)
		}
	}
	req := w.seen("/provision/v1/script")[0].body
	if fmt.Sprint(req["hwaddr"]) != "[52:54:00:12:34:56 02:00:00:00:00:01]" || req["state"] != "init" || req["nonce"] != testNonce || fmt.Sprint(req["args"]) != "[word nodename=n9]" {
		t.Errorf("the request was %v", req)
	}
	res := w.seen("/provision/v1/result")[0].body
	if res["exit"] != 7.0 || res["state"] != "init" || res["nonce"] != testNonce || !strings.HasPrefix(fmt.Sprint(res["digest"]), "sha-256=") || res["detail"] != "the script ended with status 7" {
		t.Errorf("the result was %v", res)
	}
}

// Nothing of a script runs that did not arrive whole.
func TestNotWhole(t *testing.T) {
	const text = "echo a >$DIR/ran\n# and more\necho b >>$DIR/ran\n"
	head := func(rw http.ResponseWriter, length, sum string) {
		if length != "" {
			rw.Header().Set("Content-Length", length)
		}
		if sum != "" {
			rw.Header().Set("Digest", sum)
		}
	}
	whole, sum := strconv.Itoa(len(text)), digestOf([]byte(text))
	tests := map[string]http.HandlerFunc{
		"cut in the middle": func(rw http.ResponseWriter, _ *http.Request) {
			head(rw, whole, sum)
			_, _ = rw.Write([]byte(text[:len(text)/2]))
			panic(http.ErrAbortHandler)
		},
		"cut at the end of the headers": func(rw http.ResponseWriter, _ *http.Request) {
			head(rw, whole, sum)
			rw.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"without a length": func(rw http.ResponseWriter, _ *http.Request) {
			head(rw, "", sum)
			rw.(http.Flusher).Flush()
			_, _ = rw.Write([]byte(text))
		},
		"shorter, with the digest of the whole": func(rw http.ResponseWriter, _ *http.Request) {
			head(rw, strconv.Itoa(len(text)/2), sum)
			_, _ = rw.Write([]byte(text[:len(text)/2]))
		},
		"another digest": func(rw http.ResponseWriter, _ *http.Request) {
			head(rw, whole, digestOf([]byte("x")))
			_, _ = rw.Write([]byte(text))
		},
		"without a digest": func(rw http.ResponseWriter, _ *http.Request) { head(rw, whole, ""); _, _ = rw.Write([]byte(text)) },
		"two digests": func(rw http.ResponseWriter, _ *http.Request) {
			head(rw, whole, sum+","+sum)
			_, _ = rw.Write([]byte(text))
		},
		"too long": func(rw http.ResponseWriter, _ *http.Request) {
			head(rw, strconv.Itoa(maxScript+1), sum)
			rw.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"a page that says it is moved": func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.script = h
			if o := w.provisiond("-v", "-", "init"); o.exit != exitNoScript || !strings.Contains(o.errors, "no script: ") {
				t.Errorf("exit %d, %q; want 255 and a reason", o.exit, o.errors)
			}
			if w.exists("ran") {
				t.Error("a line of it ran")
			}
			if n := len(w.seen("/provision/v1/result")); n != 0 {
				t.Errorf("%d results were told", n)
			}
		})
	}
}

// Who is not an overlord directly under the pinned root is told nothing.
func TestServers(t *testing.T) {
	tests := map[string]struct {
		cert func(w *world)
		pin  string
	}{
		"a minion": {cert: func(w *world) {
			ca := w.issuing()
			w.cert = w.leaf(ca, pki.Identity{Role: pki.Minion, Name: "web1"}, ca.Cert, w.root.Cert)
		}},
		"an operator": {cert: func(w *world) {
			w.cert = w.leaf(w.root, pki.Identity{Role: pki.Operator, Name: "alice"}, w.root.Cert)
		}},
		"an overlord of another root": {cert: func(w *world) {
			o := newWorld(w.t)
			w.cert = o.cert
		}},
		"another pin": {cert: func(*world) {}, pin: "sha256:" + strings.Repeat("0", 64)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.cert(w)
			args := []string{"-v", "-", "init"}
			if tt.pin != "" {
				args = append([]string{"--pin", tt.pin}, args...)
			}
			o := w.provisiond(args...)
			if o.exit != exitNoScript || !strings.Contains(o.errors, "no overlord of this fleet") {
				t.Errorf("exit %d, %q; want 255 and the reason", o.exit, o.errors)
			}
			if len(w.log) != 0 || w.exists("hello") {
				t.Errorf("the server was told %v", w.log)
			}
		})
	}
}

// In every state but init the minion's certificate is shown, and no nonce.
func TestReady(t *testing.T) {
	w := newWorld(t)
	dir := w.minion("web1")
	o := w.boot("dominion.nonce="+testNonce, "-v", "--state", dir, w.addr, "ready")
	if o.exit != 0 || !w.exists("hello") {
		t.Fatalf("exit %d, %s", o.exit, o.errors)
	}
	for _, r := range w.log {
		if r.peer != "minion/web1" || r.body["nonce"] != nil {
			t.Errorf("the server saw %+v", r)
		}
	}
	if n := len(w.seen("/provision/v1/join")); n != 0 {
		t.Errorf("%d join tokens were asked for", n)
	}
	if o := w.boot("", "-v", "--state", t.TempDir(), "--pin", pki.Pin(w.root.Cert), w.addr, "ready"); o.exit != exitNoScript || !strings.Contains(o.errors, "the minion's key") {
		t.Errorf("without a minion: exit %d, %q", o.exit, o.errors)
	}
}

func TestExitCodes(t *testing.T) {
	w := newWorld(t)
	dead := nobody(t)
	tests := []struct {
		name   string
		script http.HandlerFunc
		args   []string
		want   int
	}{
		{"success", nil, []string{"-", "init"}, 0},
		{"a large script", sends(strings.Repeat("# nothing happens in this line\n", 300_000) + "exit 42\n"), []string{"-", "init"}, 42},
		{"a status", sends("exit 200"), []string{"-", "init"}, 200},
		{"the script's shell is killed", sends("kill -9 $$"), []string{"-", "init"}, 137},
		{"another shell", sends("x\ny\n"), []string{"-s", "grep -c x >/dev/null", "-", "init"}, 0},
		{"a shell that is not there", sends("x\n"), []string{"-s", "/nonexistent/sh", "-", "init"}, 127},
		{"refused", refuses(403, "denied", "no"), []string{"-", "init"}, 255},
		{"nobody there", nil, []string{dead, "init"}, 255},
		{"the second server", nil, []string{dead + "," + w.addr, "init"}, 0},
		{"unknown host", nil, []string{"host.invalid", "init"}, 1},
		{"an unknown host and one that answers", nil, []string{"host.invalid," + w.addr, "init"}, 0},
		{"no state", nil, []string{w.addr}, 1},
		{"help", nil, []string{"-h"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.script = tt.script
			if o := w.provisiond(tt.args...); o.exit != tt.want {
				t.Errorf("exit %d; want %d (%s)", o.exit, tt.want, o.errors)
			}
		})
	}
}

// A refusal is final, being busy is not.
func TestRefusals(t *testing.T) {
	for status, want := range map[int]int{403: 1, 404: 1, 409: 1, 400: 1, 429: rounds, 503: rounds} {
		w := newWorld(t)
		w.script = refuses(status, "x", "because\x1b[31m")
		o := w.provisiond("-v", "-", "init")
		if got := len(w.seen("/provision/v1/script")); got != want || o.exit != exitNoScript {
			t.Errorf("status %d: asked %d times, exit %d; want %d and 255", status, got, o.exit, want)
		}
		if !strings.Contains(o.errors, "because?[31m") || strings.Contains(o.errors, "\x1b") {
			t.Errorf("status %d: told %q", status, o.errors)
		}
	}
}

// Without what the minion needs to enrol the script does not run.
func TestNoJoin(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"refused":  refuses(409, "conflict", "used up"),
		"not JSON": func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("hello")) },
		"a token to quote": func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(rw, `{"token":"a;b","pin":"sha256:%064d","overlords":["x:1"],"name":"n1"}`, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.join = h
			if o := w.provisiond("-v", "-", "init"); o.exit != exitNoScript || w.exists("hello") || !strings.Contains(o.errors, "join") {
				t.Errorf("exit %d, ran %v, %q; want 255, not, and a reason", o.exit, w.exists("hello"), o.errors)
			}
		})
	}
}

// A daemon tells the result of a script that fails, and carries on.
func TestInterval(t *testing.T) {
	w := newWorld(t)
	w.script = sends("echo x >>$DIR/runs; if [ $(wc -l <$DIR/runs) -ge 2 ]; then kill -TERM $PPID; fi; exit 3")
	o := w.provisiond("-i", "1", "--foreground", "-s", "exec /bin/sh", "-", "init")
	if o.exit != 3 {
		t.Errorf("exit %d; want 3 (%s)", o.exit, o.errors)
	}
	if got := w.read(filepath.Join(w.dir, "runs")); got != "x\nx\n" {
		t.Errorf("it ran %q; want twice", got)
	}
	if res := w.seen("/provision/v1/result"); len(res) != 2 || res[1].body["exit"] != 3.0 {
		t.Errorf("the results were %v", res)
	}
}

// SIGINT ends it at once, the script with it.
func TestInterrupt(t *testing.T) {
	w := newWorld(t)
	w.script = sends("kill -INT $PPID; sleep 20; echo late >$DIR/late")
	o := w.provisiond("-i", "1", "--foreground", "-s", "exec /bin/sh", "-", "init")
	if o.exit != exitNoScript || w.exists("late") {
		t.Errorf("exit %d, the script went on: %v (%s)", o.exit, w.exists("late"), o.errors)
	}
}

// With -i it starts itself once more, in a session of its own, and returns.
func TestBackground(t *testing.T) {
	dir := t.TempDir()
	self := filepath.Join(dir, "self")
	if err := os.WriteFile(self, []byte("#!/bin/sh\necho $$ $(cut -d' ' -f6 /proc/$$/stat) \"$@\" >"+dir+"/new && mv "+dir+"/new "+dir+"/args\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := &program{
		Invocation: Invocation{Args: []string{"-i", "300", "dc1", "ready"}, Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr},
		executable: func() (string, error) { return self, nil },
	}
	if code := p.main(t.Context()); code != 0 {
		t.Fatalf("exit %d", code)
	}
	var got []byte
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); got == nil && time.Now().Before(end); <-tick.C {
		if b, err := os.ReadFile(filepath.Join(dir, "args")); err == nil {
			got = b
		}
	}
	f := strings.Fields(string(got))
	if len(f) < 2 || f[0] != f[1] || strings.Join(f[2:], " ") != "--foreground -i 300 dc1 ready" {
		t.Errorf("it was started as %q: process, session, words", got)
	}
}

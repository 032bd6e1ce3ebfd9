package overlord_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/blob"
	"dominion/call"
	"dominion/fleettest"
	"dominion/overlord"
	"dominion/provision"
	"dominion/session"
)

// newSiteBelow starts an overlord below another one, that provisions as well; root
// has the root's key.
func newSiteBelow(t testing.TB, root, above *site, name string) *site {
	t.Helper()
	resp, err := root.Conn.Admin.CreateToken(t.Context(), connect.NewRequest(&apipb.CreateTokenRequest{Name: name, Role: "overlord"}))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{statedir: filepath.Join(t.TempDir(), name+".files")}
	cfg := fleettest.Config()
	cfg.Name, cfg.Parent, cfg.Pin, cfg.Token = name, above.Address, above.Pin, resp.Msg.Token
	cfg.State = filepath.Join(t.TempDir(), name)
	cfg.MetricsListen = fleettest.FreePort(t)
	cfg.Provision = overlord.ProvisionConfig{Enabled: true, Statedir: s.statedir, Listen: "127.0.0.1:0"}
	s.metrics = cfg.MetricsListen
	s.Fleet = fleettest.Start(t, cfg)
	above.Until(name+" is connected", func() bool {
		r, err := above.Conn.Fleet.Minions(t.Context(), connect.NewRequest(&apipb.MinionsRequest{Target: name}))
		return err == nil && len(r.Msg.Minions) == 1 && r.Msg.Minions[0].Connected
	})
	return s
}

// newTopSite is newSite whose metrics can be read.
func newTopSite(t testing.TB, enabled bool) *site {
	t.Helper()
	s := &site{statedir: filepath.Join(t.TempDir(), "top.files"), metrics: fleettest.FreePort(t)}
	cfg := fleettest.Config()
	cfg.MetricsListen = s.metrics
	cfg.Provision = overlord.ProvisionConfig{Enabled: enabled, Statedir: s.statedir, Listen: "127.0.0.1:0"}
	s.Fleet = fleettest.Start(t, cfg)
	return s
}

// blobsSent is how many bytes of files an overlord has sent down.
func (s *site) blobsSent() int64 {
	s.T.Helper()
	resp, err := http.Get("http://" + s.metrics + "/metrics")
	if err != nil {
		s.T.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.T.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^dominion_blob_sent_bytes_total (\S+)$`).FindSubmatch(b)
	if m == nil {
		s.T.Fatalf("no metric: %s", b)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		s.T.Fatal(err)
	}
	return int64(v)
}

func (s *site) putBytes(name string, data []byte) {
	s.T.Helper()
	s.put(name, string(data), 0o644)
}

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// Three overlords, one below the other: a file of the top is had by nodes of all,
// and each of them sends it once. What an overlord has itself wins.
func TestProvisionFilesFromAbove(t *testing.T) {
	top := newTopSite(t, true)
	mid := newSiteBelow(t, top, top, "mid")
	low := newSiteBelow(t, top, mid, "low")
	image := randomBytes(1, 3<<20+17)
	top.putBytes("vnfs/v/vnfs.img", image)
	top.putBytes("empty", nil)
	top.put("mine", "of the top", 0o644)
	mid.put("mine", "of mid", 0o644)
	top.put("nodescripts/init/all/10-x", "#!/bin/sh\necho password\n", 0o755)
	secret := filepath.Join(filepath.Dir(top.statedir), "secret")
	if err := os.WriteFile(secret, []byte("SECRET"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(top.statedir, "out")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	nodes := make([]*metal, 8)
	for i := range nodes {
		nodes[i] = low.booted(fmt.Sprintf("52:54:00:00:00:%02X", i), fmt.Sprintf("127.0.2.%d", i+1))
	}
	for _, m := range nodes {
		wg.Go(func() {
			a := m.file(http.MethodGet, "vnfs/v/vnfs.img", nil)
			if a.status != 200 || !bytes.Equal(a.body, image) || a.header.Get("Digest") != digestOf(image) || !strings.HasPrefix(a.header.Get("Etag"), `"sha256:`) {
				t.Errorf("%s: %d, %d bytes, %v", m.hwaddr, a.status, len(a.body), a.header)
			}
		})
	}
	wg.Wait()
	for name, s := range map[string]*site{"top": top, "mid": mid} {
		if n := s.blobsSent(); n != int64(len(image)) {
			t.Errorf("%s sent %d bytes; want %d", name, n, len(image))
		}
	}
	top.wantAudited("node.file", fmt.Sprintf("overlord/mid mid vnfs/v/vnfs.img, %d bytes", len(image)))
	mid.wantAudited("node.file", "overlord/low low vnfs/v/vnfs.img")
	low.wantAudited("node.file", "node/n0000 n0000 vnfs/v/vnfs.img to 127.0.2.1")
	m := nodes[0]
	part := m.file(http.MethodGet, "vnfs/v/vnfs.img", http.Header{"Range": {"bytes=1000000-1000099"}})
	if part.status != 206 || !bytes.Equal(part.body, image[1000000:1000100]) {
		t.Errorf("a part: %v", part)
	}
	if a := m.file(http.MethodHead, "vnfs/v/vnfs.img", nil); a.status != 200 || a.header.Get("Content-Length") != fmt.Sprint(len(image)) || a.header.Get("Digest") != digestOf(image) {
		t.Errorf("head: %v %v", a, a.header)
	}
	if a := m.file(http.MethodGet, "empty", nil); a.status != 200 || len(a.body) != 0 {
		t.Errorf("empty: %v", a)
	}
	if a := m.file(http.MethodGet, "mine", nil); a.status != 200 || string(a.body) != "of mid" {
		t.Errorf("what mid has itself: %v", a)
	}
	for path, want := range map[string]int{"nosuch": 404, "vnfs": 404, "nodescripts/init/all/10-x": 403, "../secret": 403, "out": 404, "out/x": 404} {
		a := m.file(http.MethodGet, path, nil)
		m.want(path, want, a)
		if bytes.Contains(a.body, []byte("SECRET")) {
			t.Errorf("%s: %v", path, a)
		}
	}
	// A kernel of a capsule that is not here, and one of a capsule that is.
	top.put("vnfs/v/kernel", "its kernel", 0o644)
	low.put("boot/kernel", "common kernel", 0o644)
	low.put("vnfs/w/vnfs.img", "x", 0o644)
	top.put("vnfs/w/kernel", "another", 0o644)
	for path, want := range map[string]string{"kernel/v": "its kernel", "kernel/w": "common kernel", "kernel/none": "common kernel"} {
		resp, err := m.plain.Get("http://" + low.bootAddress() + "/boot/" + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", path, b, err, want)
		}
	}
}

// The overlord above changes a file in a way that it does not notice, or wants to
// deceive: nobody gets other bytes for a digest as a whole file.
func TestProvisionLyingAbove(t *testing.T) {
	top := newTopSite(t, true)
	mid := newSiteBelow(t, top, top, "mid")
	image := randomBytes(2, 3<<20)
	top.putBytes("image", image)
	old := time.Now().Add(-time.Hour)
	path := filepath.Join(top.statedir, "image")
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	n := top.booted(mac1, "")
	if a := n.file(http.MethodGet, "image", nil); a.status != 200 || !bytes.Equal(a.body, image) { // it knows the digest now
		t.Fatal(a.status)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("lies"), 1<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	m := mid.booted(mac2, "127.0.3.1")
	for range 3 {
		status, b, err := m.tryFile("image")
		if err == nil || len(b) >= len(image) {
			t.Fatalf("status %d, %d of %d bytes, %v", status, len(b), len(image), err)
		}
	}
	left, err := os.ReadDir(filepath.Join(mid.State, "blobs"))
	if err != nil || len(left) != 0 {
		t.Errorf("it was kept: %v, %v", left, err)
	}
	// It tells the truth again.
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mid.Until("the file is had", func() bool {
		status, b, err := m.tryFile("image")
		return err == nil && status == 200 && bytes.Equal(b, want)
	})
}

// tryFile asks for a file; the answer may break off.
func (m *metal) tryFile(path string) (status int, body []byte, err error) {
	m.s.T.Helper()
	req, err := http.NewRequestWithContext(m.s.T.Context(), http.MethodGet, "https://"+m.s.Address+provision.Path+"files/"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", m.authorization())
	resp, err := m.secure.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// An overlord that does not provision gives nothing, and nobody gets what he may not.
func TestProvisionFilesDenied(t *testing.T) {
	top := newTopSite(t, false)
	if err := os.MkdirAll(top.statedir, 0o755); err != nil {
		t.Fatal(err)
	}
	top.put("image", "image", 0o644)
	mid := newSiteBelow(t, top, top, "mid")
	m := mid.booted(mac1, "")
	m.want("a top that does not provision", 404, m.file(http.MethodGet, "image", nil))

	f := newTopSite(t, true)
	f.put("image", "image", 0o644)
	f.put("other", "another", 0o644)
	sub := subOf(t, f.Fleet, "sub")
	sub.Down()
	s := pose(t, f.Fleet, sub)
	ask := func(s *session.Session, method, args string) error {
		if method == session.MethodBlob {
			p, err := s.Pull(t.Context(), method, []byte(args), session.BlobStream)
			if err == nil {
				_, err = io.ReadAll(p)
				p.Close()
			}
			return err
		}
		_, err := s.Call(t.Context(), method, []byte(args))
		return err
	}
	image, other := blob.Digest(sumOf("image")), blob.Digest(sumOf("another"))
	read := func(d blob.Digest, offset int) string { return fmt.Sprintf(`{"digest": %q, "offset": %d}`, d, offset) }
	for _, x := range []struct {
		what, method, args string
		want               call.Code
	}{
		{"bytes that nobody allowed", session.MethodBlob, read(image, 0), call.Denied},
		{"the file", session.MethodProvisionFile, `{"path": "image"}`, call.OK},
		{"its bytes", session.MethodBlob, read(image, 0), call.OK},
		{"the rest", session.MethodBlob, read(image, 3), call.OK},
		{"nothing of it", session.MethodBlob, read(image, 5), call.OK},
		{"beyond its end", session.MethodBlob, read(image, 6), call.Invalid},
		{"before it", session.MethodBlob, read(image, -1), call.Invalid},
		{"another one's", session.MethodBlob, read(other, 0), call.Denied},
		{"with a job", session.MethodBlob, fmt.Sprintf(`{"digest": %q, "job": "0190a1b2-0000-7000-8000-000000000000"}`, image), call.Denied},
		{"no digest", session.MethodBlob, `{"digest": "image"}`, call.Invalid},
		{"no JSON", session.MethodBlob, `{`, call.Invalid},
		{"no JSON of a file", session.MethodProvisionFile, `{`, call.Invalid},
		{"no path", session.MethodProvisionFile, `{}`, call.Denied},
		{"a path out", session.MethodProvisionFile, `{"path": "../secret"}`, call.Denied},
		{"a script", session.MethodProvisionFile, `{"path": "nodescripts/x"}`, call.Denied},
		{"a long path", session.MethodProvisionFile, `{"path": "` + strings.Repeat("x", 5000) + `"}`, call.Invalid},
		{"a circle", session.MethodProvisionFile, `{"path": "image", "hops": 16}`, call.Invalid},
		{"no file", session.MethodProvisionFile, `{"path": "nosuch"}`, call.NotFound},
	} {
		if err := ask(s, x.method, x.args); call.CodeOf(err) != x.want {
			t.Errorf("%s: %v; want code %v", x.what, err, x.want)
		}
	}
	f.put("image", "IMAGE", 0o644)
	if err := ask(s, session.MethodBlob, read(image, 0)); call.CodeOf(err) != call.NotFound {
		t.Errorf("what was replaced: %v", err)
	}
	web := new(stolen)
	web.connect(t, f.Fleet, "m01")
	if err := ask(web.session, session.MethodProvisionFile, `{"path": "image"}`); call.CodeOf(err) != call.NotFound {
		t.Errorf("a minion looks for a file: %v", err)
	}
	if err := ask(web.session, session.MethodBlob, read(image, 0)); call.CodeOf(err) != call.Denied {
		t.Errorf("a minion asks for bytes: %v", err)
	}
}

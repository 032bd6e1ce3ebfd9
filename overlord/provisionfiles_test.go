package overlord_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A file comes whole or in parts, with its digest, and is on the log once for a
// boot, however many parts were asked for.
func TestProvisionFiles(t *testing.T) {
	s := newSite(t, nil)
	image := make([]byte, 3<<20+17)
	rand.NewChaCha8([32]byte{1}).Read(image)
	s.put("vnfs/v/vnfs.img", string(image), 0o644)
	s.put("empty", "", 0o644)
	s.put("vnfs/v/wei\u00df er name", "x", 0o644)
	m := s.booted(mac1, "")
	whole := m.file(http.MethodGet, "vnfs/v/vnfs.img", nil)
	etag := whole.header.Get("Etag")
	if whole.status != 200 || !bytes.Equal(whole.body, image) || whole.header.Get("Digest") != digestOf(image) || !strings.HasPrefix(etag, `"sha256:`) ||
		whole.header.Get("Dominion-Node") != "n0000" || whole.header.Get("Content-Type") != "application/octet-stream" {
		t.Fatalf("whole: %d, %d bytes, %v", whole.status, len(whole.body), whole.header)
	}
	head := m.file(http.MethodHead, "vnfs/v/vnfs.img", nil)
	if head.status != 200 || len(head.body) > 0 || head.header.Get("Content-Length") != fmt.Sprint(len(image)) || head.header.Get("Digest") != digestOf(image) {
		t.Errorf("head: %v %v", head, head.header)
	}
	for name, x := range map[string]struct {
		header http.Header
		status int
		want   []byte
	}{
		"a part":                       {http.Header{"Range": {"bytes=1000000-1000099"}}, 206, image[1000000:1000100]},
		"the rest of the same":         {http.Header{"Range": {"bytes=3000000-"}, "If-Range": {etag}}, 206, image[3000000:]},
		"the rest of what has changed": {http.Header{"Range": {"bytes=3000000-"}, "If-Range": {`"sha256:00"`}}, 200, image},
		"beyond the end":               {http.Header{"Range": {fmt.Sprintf("bytes=%d-", len(image))}}, 416, nil},
		"the same as before":           {http.Header{"If-None-Match": {etag}}, 304, nil},
	} {
		a := m.file(http.MethodGet, "vnfs/v/vnfs.img", x.header)
		if a.status != x.status || x.want != nil && !bytes.Equal(a.body, x.want) || x.want != nil && a.header.Get("Digest") != digestOf(image) {
			t.Errorf("%s: status %d, %d bytes, %v", name, a.status, len(a.body), a.header)
		}
	}
	if got := len(s.audited("node.file")); got != 1 {
		t.Errorf("%d records of one file", got)
	}
	s.wantAudited("node.file", fmt.Sprintf("node/n0000 n0000 vnfs/v/vnfs.img to 127.0.0.1, %d bytes", len(image)))
	if a := m.file(http.MethodGet, "empty", nil); a.status != 200 || len(a.body) != 0 || a.header.Get("Digest") != digestOf(nil) {
		t.Errorf("empty: %v", a)
	}
	if a := m.file(http.MethodGet, "vnfs/v/wei%C3%9F%20er%20name", nil); a.status != 200 || string(a.body) != "x" {
		t.Errorf("a name with a blank: %v", a)
	}
	// What takes its place is another file.
	s.put("vnfs/v/new", "new", 0o644)
	if err := os.Rename(filepath.Join(s.statedir, "vnfs/v/new"), filepath.Join(s.statedir, "vnfs/v/vnfs.img")); err != nil {
		t.Fatal(err)
	}
	a := m.file(http.MethodGet, "vnfs/v/vnfs.img", http.Header{"Range": {"bytes=1000000-"}, "If-Range": {etag}})
	if a.status != 200 || string(a.body) != "new" || a.header.Get("Digest") != digestOf([]byte("new")) {
		t.Errorf("after it was replaced: %v", a)
	}
	if got := len(s.audited("node.file")); got != 4 {
		t.Errorf("%d records of four files", got)
	}
}

// Nothing outside of the directory, and nothing in it that is no file for
// nodes, is ever given.
func TestProvisionFilesNeverLeave(t *testing.T) {
	s := newSite(t, nil)
	m := s.booted(mac1, "")
	s.put("vnfs/v/image", "image", 0o644)
	s.put("nodescripts/init/all/10-x", "#!/bin/sh\necho password\n", 0o755)
	outside := filepath.Join(filepath.Dir(s.statedir), "outside")
	if err := os.WriteFile(outside, []byte("SECRET"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"out": outside, "up": "../outside", "deep": "vnfs/v/../../../outside", "dir": "..", "root": "/", "key": filepath.Join(s.State, "ca", "root.key"),
		"dead": "nowhere", "in": "vnfs/v/image", "loop": "loop", "chain": "out",
	} {
		if err := os.Symlink(to, filepath.Join(s.statedir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(s.statedir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if a := m.file(http.MethodGet, "in", nil); a.status != 200 || string(a.body) != "image" {
		t.Errorf("a link that stays inside: %v", a)
	}
	for path, want := range map[string]int{
		"../../etc/shadow": 403, "../ca/root.key": 403, "../outside": 403, "/etc/passwd": 403, "//etc/passwd": 403, "vnfs/../../outside": 403,
		"%2e%2e/outside": 403, "..%2foutside": 403, "%2e%2e%2f%2e%2e%2fetc%2fshadow": 403, "vnfs/./v/image": 403, "vnfs/v/../v/image": 403, "vnfs//v/image": 403,
		"": 403, ".": 403, "..": 403, "vnfs/v/image/": 403, "vnfs%5C..%5Coutside": 403, "vnfs/v/image%00": 403,
		"out": 403, "up": 403, "deep": 403, "dir/outside": 403, "root/etc/passwd": 403, "key": 403, "chain": 403, "loop": 403,
		"dead": 404, "nosuch": 404, "vnfs": 404, "vnfs/v": 404, "vnfs/v/image/x": 404, "pipe": 404, strings.Repeat("x", 300): 404,
		"nodescripts/init/all/10-x": 403, "nodescripts": 403,
	} {
		a := m.file(http.MethodGet, path, nil)
		m.want(path, want, a)
		if bytes.Contains(a.body, []byte("SECRET")) || bytes.Contains(a.body, []byte("PRIVATE")) || bytes.Contains(a.body, []byte("root:")) {
			t.Errorf("%s: %v", path, a)
		}
	}
	for _, text := range []string{
		"node.file: not a path of a file: ../../etc/shadow", "node.file: not a path of a file: ../ca/root.key", "n0000 node.file: out: ", "n0000 node.file: key: ",
		"node scripts are not for nodes: nodescripts/init/all/10-x",
	} {
		s.wantAudited("denied", text)
	}
}

// Kernels come by plain HTTP: the capsule's, or the one for all.
func TestProvisionKernels(t *testing.T) {
	s := newSite(t, nil)
	s.put("boot/kernel", "common kernel", 0o644)
	s.put("boot/initramfs", "common initramfs", 0o644)
	s.put("vnfs/debian/kernel", "its kernel", 0o644)
	if err := os.Symlink("/etc/passwd", filepath.Join(s.statedir, "vnfs/debian/initramfs")); err != nil {
		t.Fatal(err)
	}
	m := s.metal(mac1, "", nil)
	for path, want := range map[string]string{
		"kernel": "common kernel", "kernel/": "", "initramfs": "common initramfs", "kernel/debian": "its kernel", "kernel/other": "common kernel",
		"initramfs/other": "common initramfs", "initramfs/debian": "", "kernel/..": "", "kernel/%2e%2e": "", "kernel/..%2f..": "", "kernel/x%2fy": "",
		"passwd": "", "kernel/debian/x": "",
	} {
		resp, err := m.plain.Get("http://" + s.bootAddress() + "/boot/" + path)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		_, err = b.ReadFrom(resp.Body)
		resp.Body.Close()
		if err != nil || (resp.StatusCode == 200) != (want != "") || want != "" && b.String() != want || bytes.Contains(b.Bytes(), []byte("root:")) {
			t.Errorf("/boot/%s: %d %q, %v; want %q", path, resp.StatusCode, b.String(), err, want)
		}
	}
}

// One node may keep so many requests waiting, and no more: the others have room.
func TestProvisionOneNodeDoesNotTakeAllPlaces(t *testing.T) {
	s := newSite(t, nil)
	gate := filepath.Join(t.TempDir(), "gate")
	s.put("nodescripts/init/node/n0000/10-wait", "#!/bin/sh\nwhile [ ! -e "+gate+" ]; do sleep 0.05; done\necho echo open\n", 0o755)
	greedy, other := s.booted(mac1, "127.0.0.2"), s.booted(mac2, "127.0.0.3")
	const asked = 40
	got := make(chan answer, asked)
	for range asked {
		go func() { got <- greedy.script() }()
	}
	busy := 0
	for range asked - 16 {
		if a := <-got; a.status == 429 && a.header.Get("Retry-After") != "" {
			busy++
		}
	}
	if busy != asked-16 {
		t.Errorf("%d requests were told that there are too many; want %d", busy, asked-16)
	}
	if a := other.script(); a.status != 200 {
		t.Errorf("another node gets %v", a)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		if a := <-got; a.status != 200 || !strings.Contains(string(a.body), "echo open\n") {
			t.Errorf("a request that waited gets %v", a)
		}
	}
}

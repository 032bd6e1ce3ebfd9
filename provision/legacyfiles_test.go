package provision

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ask gives the answer of the boot port to a request as it stands.
func (b *bench) ask(from, head string) (int, string) {
	b.t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = from + ":1"
		b.BootHandler().ServeHTTP(w, r)
	}))
	srv.Start()
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, head+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		b.t.Fatal(err)
	}
	method, _, _ := strings.Cut(head, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// Only files below vnfs/ go out, by no way that leads elsewhere.
func TestLegacyFilesStayInTheCapsules(t *testing.T) {
	b := newOldBench(t, nil)
	out := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(out, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.put("vnfs/v/x", []byte("good"))
	b.put("vnfs/v/y%2fz", []byte("odd"))
	b.put("nodescripts/init/all/10-x", []byte("secret"))
	b.put("boot/kernel", []byte("secret"))
	b.put("top", []byte("secret"))
	dir := filepath.Join(b.cfg.Statedir, "vnfs", "v")
	for name, to := range map[string]string{
		"out": out, "up": "../../top", "scripts": "../../nodescripts", "abs": filepath.Join(b.cfg.Statedir, "vnfs/v/x"), "in": "x", "loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"vnfs/v/x": 200, "vnfs/v/in": 200, "vnfs/v/y%252fz": 200, "vnfs/v%2fx": 200, "vnfs/v/x?sha256": 200, "vnfs/v/x?other": 200,
		"top": 403, "boot/kernel": 403, "nodescripts/init/all/10-x": 403, "": 403, "vnfs": 403, "vnfs/": 403, "VNFS/v/x": 403,
		"vnfs/../top": 403, "vnfs/v/../../top": 403, "vnfs/%2e%2e/top": 403, "vnfs%2f..%2ftop": 403, "vnfs/..%2ftop": 403, "vnfs/v/%2e/x": 403, "../top": 403, "%2e%2e/top": 403,
		"vnfs//v/x": 403, "/vnfs/v/x": 403, "vnfs/v/x/": 403, "vnfs/v/..\\..\\top": 403, "vnfs/v/x%00": 403,
		"vnfs/v/out": 403, "vnfs/v/up": 403, "vnfs/v/scripts/init/all/10-x": 403, "vnfs/v/abs": 403, "vnfs/v/loop": 403,
		"vnfs/v/none": 404, "vnfs/v/folder": 404, "vnfs/v": 404, "vnfs/v/x/y": 404, "vnfs/" + strings.Repeat("x", 300): 404,
	} {
		for _, method := range []string{"GET ", "HEAD "} {
			got, text := b.ask("127.0.0.1", method+LegacyPath+path)
			if method == "HEAD " && text == "" && got == want {
				continue
			}
			if got != want || strings.Contains(text, "secret") || want == 200 && path != "vnfs/v/x?sha256" && text != "good" && text != "odd" {
				t.Errorf("%s%q: %d %q; want %d", method, path, got, text, want)
			}
		}
	}
	if b.logged("node/n0000 node.file n0000 vnfs/v/x to 127.0.0.1, 4 bytes over plain HTTP") != 1 {
		t.Errorf("log: %q", b.m.records())
	}
	if b.logged("denied n0000 node.file: not a path of a file: vnfs/../top") == 0 || b.logged("denied n0000 node.file: not a file of a capsule: /legacy/top") == 0 {
		t.Errorf("log: %q", b.m.records())
	}
	for _, method := range []string{"POST ", "PUT ", "DELETE "} {
		if got, _ := b.ask("127.0.0.1", method+LegacyPath+"vnfs/v/x"); got != 405 {
			t.Errorf("%s: %d", method, got)
		}
	}
}

// vnfs itself may be a link that stays in the directory of files, and no other.
func TestLegacyFilesFolderIsALink(t *testing.T) {
	b := newOldBench(t, nil)
	b.put("capsules/v/x", []byte("good"))
	if err := os.Symlink("capsules", filepath.Join(b.cfg.Statedir, "vnfs")); err != nil {
		t.Fatal(err)
	}
	if got, text := b.ask("127.0.0.1", "GET /legacy/vnfs/v/x"); got != 200 || text != "good" {
		t.Errorf("a link in the directory: %d %q", got, text)
	}
	other := t.TempDir()
	if err := os.Mkdir(filepath.Join(other, "v"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "v", "x"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(b.cfg.Statedir, "vnfs")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	if got, text := b.ask("127.0.0.1", "GET /legacy/vnfs/v/x"); got != 403 || strings.Contains(text, "secret") {
		t.Errorf("a link that leads out: %d %q", got, text)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if got, _ := b.ask("127.0.0.1", "GET /legacy/vnfs/v/x"); got != 404 {
		t.Errorf("no capsules: %d", got)
	}
}

// Only the address from which a node that is approved was heard of last gets files.
func TestLegacyFilesAreForApprovedNodes(t *testing.T) {
	b := newOldBench(t, nil)
	b.put("vnfs/v/x", []byte("good"))
	b.claim(macB, "192.0.2.9") // held
	set := func(change func(*Node)) {
		n := b.node("n0000")
		change(&n)
		b.m.nodes["n0000"] = n
	}
	get := func(from string) int { got, _ := b.ask(from, "GET /legacy/vnfs/v/x"); return got }
	if got := get("127.0.0.1"); got != 200 {
		t.Errorf("the node itself: %d", got)
	}
	for _, from := range []string{"127.0.0.2", "192.0.2.9"} {
		for range 3 {
			if got := get(from); got != 403 {
				t.Errorf("%s: %d", from, got)
			}
		}
		if b.logged("address/"+from+" denied  node.file: /legacy/vnfs/v/x: no node that is approved has this address") != 1 {
			t.Errorf("log: %q", b.m.records())
		}
	}
	set(func(n *Node) { n.Addr = netip.MustParseAddr("127.0.0.2") })
	if a, z := get("127.0.0.1"), get("127.0.0.2"); a != 403 || z != 200 {
		t.Errorf("after it moved: %d at the old address, %d at the new one", a, z)
	}
	set(func(n *Node) { n.Approved = time.Time{} })
	if got := get("127.0.0.2"); got != 403 {
		t.Errorf("no longer approved: %d", got)
	}
	set(func(n *Node) { n.Approved = b.now })
	if _, err := b.Delete(t.Context(), "operator/alice", []string{"n0000"}); err != nil {
		t.Fatal(err)
	}
	if got := get("127.0.0.2"); got != 403 {
		t.Errorf("deleted: %d", got)
	}
	busy := 0
	for i := range lookBurst + 10 {
		if get(fmt.Sprintf("192.0.2.%d", i%250)) == 429 {
			busy++
		}
	}
	if busy == 0 {
		t.Error("strangers are looked up without a bound")
	}
}

// Who asks in the name of a node that boots has its files, and does not take them
// from it.
func TestLegacyFilesOfANodeThatBoots(t *testing.T) {
	s := newOldSite(t, nil)
	s.put("vnfs/v/x", []byte("good"))
	get := func(from string) int { got, _ := s.ask(from, "GET /legacy/vnfs/v/x"); return got }
	s.want("127.0.0.2", "init nodeid="+macA, oldScript, 1, "init to 127.0.0.2")
	s.want("127.0.0.3", "ready nodeid="+macA, oldScript, 1, "ready to 127.0.0.3")
	if a, z := get("127.0.0.2"), get("127.0.0.3"); a != 200 || z != 200 {
		t.Errorf("while it boots: %d to the node, %d to the other", a, z)
	}
	s.pass(NonceLife)
	if a, z := get("127.0.0.2"), get("127.0.0.3"); a != 403 || z != 200 {
		t.Errorf("afterwards: %d to where it booted, %d to where it was last", a, z)
	}
	s.want("127.0.0.2", "init nodeid="+macA, oldScript, 2, "init to 127.0.0.2")
	s.set(Change{Boot: new(BootLocal)})
	s.want("127.0.0.3", "ready nodeid="+macA, oldScript, 2, "ready to 127.0.0.3")
	if a := get("127.0.0.2"); a != 403 {
		t.Errorf("its boot was ended: %d", a)
	}
}

// Without the old protocol there is nothing.
func TestLegacyFilesAreOff(t *testing.T) {
	b := newBench(t, nil)
	b.put("vnfs/v/x", []byte("good"))
	b.claim(macA, "127.0.0.1")
	if got, _ := b.ask("127.0.0.1", "GET /legacy/vnfs/v/x"); got != 404 {
		t.Errorf("status %d", got)
	}
}

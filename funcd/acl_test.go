package funcd

import (
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/pki"
)

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestParseACL(t *testing.T) {
	const text = "# a comment\n\n  \nWeb1-123 = test.add, command.*  service.status\r\noperator/* = *\n" +
		"no equals\na = b = c\n= x\na b = x\nc =\nü = x\nd = \x01\n * = *.info"
	got, err := ParseACL([]byte(text))
	want := []Entry{
		{"web1-123", []string{"test.add", "command.*", "service.status"}},
		{"operator/*", []string{"*"}},
		{"*", []string{"*.info"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ParseACL (-want +got):\n%s", d)
	}
	for n := 6; n <= 12; n++ {
		if !errors.Is(err, ErrACL) || !strings.Contains(err.Error(), fmt.Sprintf("line %d:", n)) {
			t.Errorf("ParseACL = %v; want line %d in it", err, n)
		}
	}
	if got, err := ParseACL(make([]byte, MaxACL+1)); len(got) > 0 || !errors.Is(err, ErrACL) {
		t.Errorf("ParseACL of a large file = %v, %v", got, err)
	}
	if got, err := ParseACL([]byte(strings.Repeat("a=b\n", maxLines+2))); len(got) != maxLines || !errors.Is(err, ErrACL) {
		t.Errorf("ParseACL of many lines = %d, %v", len(got), err)
	}
}

func FuzzParseACL(f *testing.F) {
	f.Add([]byte("a-1 = test.*, b\n#x\noperator/alice = *\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseACL(b)
		if err != nil && !errors.Is(err, ErrACL) {
			t.Fatalf("error %v does not wrap ErrACL", err)
		}
		var text strings.Builder
		for _, e := range got {
			text.WriteString(e.String() + "\n")
		}
		again, err := ParseACL([]byte(text.String()))
		if len(got) > 0 && got[0].Identity[0] == '#' { // a comment now
			return
		}
		if err != nil && text.Len() <= MaxACL {
			for _, e := range got {
				if e.Identity[0] == '#' {
					return
				}
			}
			t.Fatalf("%q cannot be read again: %v", text.String(), err)
		}
		if text.Len() <= MaxACL && !cmp.Equal(got, again) && len(got) == len(again) {
			t.Fatalf("%v became %v", got, again)
		}
	})
}

func TestAllow(t *testing.T) {
	w := newWorld(t, "", nil)
	peer := func(role pki.Role, name string) Peer {
		return NewPeer(must(w.trust.Verify(chainOf(t, w.certificate(pki.Identity{Role: role, Name: name})), time.Now()))(t), "")
	}
	minion, overlord, operator := peer(pki.Minion, "web1"), peer(pki.Overlord, "web1"), peer(pki.Operator, "web1")
	hash := minion.hash
	if hash == "" || overlord.hash != hash || operator.hash != "" {
		t.Fatalf("hashes %q, %q, %q", hash, overlord.hash, operator.hash)
	}
	for _, test := range []struct {
		acl, method                string
		minion, overlord, operator bool
	}{
		{"", "test.add", false, false, false},
		{hash + " = test.add", "test.add", true, true, false},
		{strings.ToUpper(hash) + " = test.add", "test.add", true, true, false},
		{hash + " = test.add", "test.addx", false, false, false},
		{hash + " = test.add", "TEST.add", false, false, false},
		{hash + "0 = *", "test.add", false, false, false},
		{"web1 = *", "test.add", false, false, false},
		{"web?-* = *.add", "test.add", true, true, false},
		{"operator/web1 = test.*", "test.add", false, false, true},
		{"*/web1 = test.*", "test.add", true, true, true},
		{"minion/w* = test.*", "test.add", true, false, false},
		{"overlord/* = *", "iptables.port.drop_from", false, true, false},
		{"* = system.*", "system.list_methods", true, true, true},
		{"** = *", "x.y", true, true, false}, // of machines
		{"* = system.*, test.[!a]*", "test.add", false, false, false},
		{"other-1 = *\n" + hash + " = a.b\n" + hash + " = c.d", "c.d", true, true, false},
	} {
		entries, err := ParseACL([]byte(test.acl))
		if err != nil {
			t.Fatal(err)
		}
		r := NewRules(entries...)
		got := [3]bool{r.Allow(minion, test.method), r.Allow(overlord, test.method), r.Allow(operator, test.method)}
		if want := [3]bool{test.minion, test.overlord, test.operator}; got != want {
			t.Errorf("%q: %s is allowed to minion, overlord, operator %v; want %v", test.acl, test.method, got, want)
		}
	}
}

// Only root, or who runs the agent, says who may call; a change counts at once.
func TestACLIsLive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "acl")
	var said strings.Builder
	a := OpenACL(dir, slog.New(slog.NewTextHandler(&said, nil)))
	me := Peer{Identity: pki.Identity{Role: pki.Operator, Name: "alice"}}
	want := func(what string, allowed bool) {
		t.Helper()
		if got := a.Rules().Allow(me, "test.add"); got != allowed {
			t.Errorf("%s: allowed %v; want %v\n%s", what, got, allowed, said.String())
		}
	}
	path := filepath.Join(dir, "a.acl")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want("no directory", false)
	ok(os.Mkdir(dir, 0o700))
	want("an empty directory", false)
	write("operator/alice = test.add\n")
	want("a line", true)
	for i := range 50 { // of equal length, within one tick of the file system's clock
		write(fmt.Sprintf("operator/%s = test.add\n", []string{"alice", "mallo"}[i%2]))
		want("rewritten", i%2 == 0)
	}
	write("operator/alice = test.add\nbroken\n")
	want("beside a broken line", true)
	if !strings.Contains(said.String(), "line 2") {
		t.Errorf("the log says %s", said.String())
	}
	ok(os.Chmod(path, 0o666))
	want("a file that others may write", false)
	ok(os.Chmod(path, 0o600))
	want("no more", true)
	ok(os.Chmod(dir, 0o777))
	want("a directory that others may write", false)
	ok(os.Chmod(dir, 0o755))
	want("no more", true)
	ok(os.Rename(path, filepath.Join(dir, "a.acl.bak")))
	want("another ending", false)
	outside := filepath.Join(t.TempDir(), "x")
	ok(os.WriteFile(outside, []byte("operator/alice = *"), 0o600))
	ok(os.Symlink(outside, path))
	want("a link out of the directory", false)
	ok(os.Remove(path))
	ok(syscall.Mkfifo(path, 0o600))
	want("a FIFO", false)
	ok(os.Remove(path))
	ok(os.Mkdir(path, 0o700))
	want("a directory of that name", false)
	ok(os.Remove(path))
	ok(os.Symlink("a.acl.bak", path))
	want("a link within", true)
	if os.Geteuid() == 0 {
		ok(os.Chown(filepath.Join(dir, "a.acl.bak"), 12345, 0))
		want("of another user", false)
		ok(os.Chown(filepath.Join(dir, "a.acl.bak"), 0, 0))
		want("of root", true)
	}
	ok(os.RemoveAll(dir))
	want("gone", false)
	a.Reload()
	want("gone", false)
}

// backwards says that a range may end before it begins.
func backwards(p string) bool {
	for i := 1; i+1 < len(p); i++ {
		if p[i] == '-' && p[i-1] > p[i+1] {
			return true
		}
	}
	return false
}

// Python's fnmatch is the oracle.
func TestMatchIsPythons(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is not installed")
	}
	r := rand.New(rand.NewPCG(1, 2))
	text := func(letters string, n int) string {
		b := make([]byte, r.IntN(n))
		for i := range b {
			b[i] = letters[r.IntN(len(letters))]
		}
		return string(b)
	}
	var in strings.Builder
	var mine []byte
	for range 20_000 {
		p, s := text("ab.-*?[]!", 9), text("ab.-]!", 7)
		if backwards(p) { // Python makes of [b-a!] any character; we take it for !
			continue
		}
		fmt.Fprintf(&in, "%s\t%s\n", p, s)
		c := byte('0')
		if match(p, s) {
			c = '1'
		}
		mine = append(mine, c)
	}
	cmd := exec.CommandContext(t.Context(), python, "-W", "ignore", "-c", `
import sys, fnmatch
for l in sys.stdin.read().splitlines():
    p, s = l.split("\t")
    sys.stdout.write("01"[fnmatch.fnmatchcase(s, p)])`)
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(in.String(), "\n")
	for i := range mine {
		if mine[i] != out[i] {
			t.Fatalf("match(%q) = %c; Python says %c", lines[i], mine[i], out[i])
		}
	}
	long := strings.Repeat("a", 5000)
	if match(strings.Repeat("*a", 2000)+"b", long) {
		t.Error("it matched")
	}
}

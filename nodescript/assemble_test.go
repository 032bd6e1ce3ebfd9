package nodescript_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/nodescript"
)

// file is what a test puts below nodescripts/; a link when it says where to.
type file struct {
	path string
	mode fs.FileMode
	text string
	link string
}

func x(path, text string) file     { return file{path: path, mode: 0o755, text: text} }
func plain(path, text string) file { return file{path: path, mode: 0o644, text: text} }
func link(path, to string) file    { return file{path: path, link: to} }

// put writes files below STATEDIR/nodescripts, and gives STATEDIR.
func put(t testing.TB, files ...file) string {
	t.Helper()
	dir := t.TempDir()
	putIn(t, dir, files...)
	return dir
}

func putIn(t testing.TB, dir string, files ...file) {
	t.Helper()
	for _, f := range files {
		path := filepath.Join(dir, "nodescripts", f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if f.link != "" {
			if err := os.Symlink(f.link, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil {
			t.Fatal(err)
		}
	}
}

// sh makes an executable script of lines.
func sh(path string, lines ...string) file {
	return x(path, "#!/bin/sh\n"+strings.Join(lines, "\n")+"\n")
}

var n1 = nodescript.Node{Name: "n1", ID: "aa:bb:cc:dd:ee:ff", Group: "g", VNFS: "v", Enabled: true, Addr: "192.0.2.7", Master: "192.0.2.1"}

// assemble makes the script of n1 for state ready.
func assemble(t testing.TB, cfg nodescript.Config) *nodescript.Script {
	t.Helper()
	a, err := nodescript.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Assemble(t.Context(), n1, "ready")
	if err != nil {
		t.Fatal(err)
	}
	if s.SHA256 != sha256.Sum256(s.Text) {
		t.Errorf("SHA256 is %x; it is not that of the text", s.SHA256)
	}
	return s
}

// example is the tree of section 11 of what is known of Perceus 1.9.3.
var example = []file{
	x("ready/vnfs/v/10-a", "#!/bin/sh\necho A-vnfs\n"),
	x("ready/all/10-a", "#!/bin/sh\necho A-all\n"),
	x("ready/all/9-z", "#!/bin/sh\nprintf 'Z=%s' $NODENAME\n"),
	plain("ready/all/90-l", "#!/bin/sh\necho on $NODENAME\n"),
	x("ready/group/g/20-b", "#!/bin/sh\necho 'echo $A'; exit 4\n"),
	x("ready/node/n1/20-b", "#!/bin/sh\necho B=node; echo oops >&2\n"),
	plain("ready/all/30-n", "hello\n"),
	x("ready/all/40-o~", "#!/bin/sh\necho backup\n"),
	x("ready/all/X", "#!/bin/sh\necho X\n"),
}

// TestWorkedExample: what Perceus 1.9.3 sent, byte for byte.
func TestWorkedExample(t *testing.T) {
	s := assemble(t, nodescript.Config{Statedir: put(t, example...), Rules: nodescript.Perceus193})
	const want = "# PERCEUSD START\n# NODESCRIPT START\nA-all\nB=node\nZ=n1#!/bin/sh\necho on $NODENAME\n\nX\n# NODESCRIPT END\n# PROVISIOND END\n"
	if got := nodescript.WireStart + string(s.Text) + nodescript.WireEnd; got != want {
		t.Errorf("%s", cmp.Diff(want, got))
	}
	if s.Failure != "" {
		t.Errorf("failure %q; want none", s.Failure)
	}
	var ran []string
	for _, r := range s.Ran {
		ran = append(ran, fmt.Sprintf("%s %d %q %q", r.Path, r.Bytes, r.Problem, r.Stderr))
	}
	wantRan := []string{
		`ready/all/10-a 6 "" ""`,
		`ready/node/n1/20-b 7 "" "oops\n"`,
		`ready/all/30-n 0 "it is not executable, and no line in it begins with #!/bin/sh: nothing to send" ""`,
		`ready/all/9-z 4 "" ""`,
		`ready/all/90-l 29 "" ""`,
		`ready/all/X 2 "" ""`,
	}
	if d := cmp.Diff(wantRan, ran); d != "" {
		t.Error(d)
	}
}

// The same tree under the documented rules.
func TestWorkedExampleDocumented(t *testing.T) {
	dir := put(t, example...)
	s := assemble(t, nodescript.Config{Statedir: dir, OnFailure: nodescript.Ignore})
	if got, want := string(s.Text), "A-all\nA-vnfs\necho $A\nB=node\nZ=n1X\n"; got != want {
		t.Errorf("%s", cmp.Diff(want, got))
	}
	s = assemble(t, nodescript.Config{Statedir: dir})
	if want := "ready/group/g/20-b: it ended with status 4"; s.Failure != want {
		t.Errorf("failure %q; want %q", s.Failure, want)
	}
}

var _ = []any{bytes.Equal, context.Cause, errors.Is, slog.New, time.Now}

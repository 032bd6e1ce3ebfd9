package nodescript_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
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

// suite is what both sets of rules are tested with: the text of the script, and
// the failure, where failures are not ignored.
var suite = []struct {
	name       string
	files      []file
	documented string // its text when failures are ignored
	failure    string // under the documented rules; empty: none
	perceus    string // between START and END
	problems   int    // of Perceus193
}{
	{name: "nothing is there"},
	{name: "folders without scripts", files: []file{plain("ready/all/.keep", ""), plain("ready/group/g/sub/10-x", "")}},
	{
		name:       "a tie in all four folders",
		files:      []file{sh("ready/node/n1/20-t", "echo node"), sh("ready/group/g/20-t", "echo group"), sh("ready/vnfs/v/20-t", "echo vnfs"), sh("ready/all/20-t", "echo all")},
		documented: "all\nvnfs\ngroup\nnode\n",
		perceus:    "node\n",
	},
	{
		name:       "folders of others",
		files:      []file{sh("ready/node/n10/20-t", "echo node"), sh("ready/group/gg/20-t", "echo group"), sh("ready/vnfs/w/20-t", "echo vnfs"), sh("init/all/20-t", "echo all"), sh("ready/all/20-t", "echo mine")},
		documented: "mine\n",
		perceus:    "mine\n",
	},
	{
		name: "byte by byte",
		files: []file{
			sh("ready/all/\u00e9", "echo 9"), sh("ready/all/z", "echo 8"), sh("ready/all/a", "echo 7"), sh("ready/all/Z", "echo 6"), sh("ready/all/9-x", "echo 5"), sh("ready/all/50", "echo 4"),
			sh("ready/all/5", "echo 3"), sh("ready/group/g/10-x", "echo 2"), sh("ready/all/10-X", "echo 1"), sh("ready/all/#", "echo 0"), sh("ready/all/20-tie.pl", "echo 2c"), sh("ready/node/n1/20-tie", "echo 2b"),
		},
		documented: "0\n1\n2\n2b\n2c\n3\n4\n5\n6\n7\n8\n9\n",
		perceus:    "0\n1\n2\n2b\n2c\n3\n4\n5\n6\n7\n8\n9\n",
	},
	{
		name:       "hidden, backups, folders",
		files:      []file{sh("ready/all/.10-h", "echo no"), sh("ready/all/10-b~", "echo no"), sh("ready/all/20-d/10-x", "echo no"), sh("ready/group/g/20-d", "echo d"), sh("ready/vnfs/v/30-s", "echo s"), sh("ready/node/n1/30-s~", "echo no")},
		documented: "d\ns\n",
		perceus:    "d\ns\n",
	},
	{
		name:       "not executable",
		files:      []file{plain("ready/all/10-x", "#!/bin/sh\necho $A `x`\n"), plain("ready/all/20-x", "echo no"), plain("ready/all/30-x", "one\n#!/bin/sh -e\ntwo"), plain("ready/all/40-x", "a #!/bin/sh\n"), plain("ready/all/50-x", "")},
		documented: "",
		perceus:    "#!/bin/sh\necho $A `x`\n\n#!/bin/sh -e\ntwo\n",
		problems:   3,
	},
	{
		name:       "not executable hides an executable one",
		files:      []file{sh("ready/all/10-x", "echo all"), plain("ready/group/g/10-x", "#!/bin/sh\n")},
		documented: "all\n",
		perceus:    "#!/bin/sh\n\n",
	},
	{
		name:       "a failing one",
		files:      []file{sh("ready/all/10-a", "echo a"), sh("ready/all/20-b", "echo b; exit 3; echo no"), sh("ready/all/30-c", "echo c")},
		documented: "a\nb\nc\n",
		failure:    "ready/all/20-b: it ended with status 3",
		perceus:    "a\nb\nc\n",
		problems:   1,
	},
	{
		name:       "a killed one",
		files:      []file{sh("ready/all/10-a", "echo a; kill -9 $$"), sh("ready/all/30-c", "echo c")},
		documented: "a\nc\n",
		failure:    "ready/all/10-a: it was killed by signal 9 (killed)",
		perceus:    "a\nc\n",
		problems:   1,
	},
	{
		name:       "a missing interpreter",
		files:      []file{x("ready/all/10-a", "#!/nosuch/interpreter -x\necho a\n"), sh("ready/all/30-c", "echo c")},
		documented: "c\n",
		failure:    `ready/all/10-a: its interpreter "/nosuch/interpreter" is missing`,
		perceus:    "c\n",
		problems:   1,
	},
	{
		name:       "an endless one",
		files:      []file{sh("ready/all/10-a", "echo a; while :; do sleep 60; done"), sh("ready/all/30-c", "echo c")},
		documented: "a\nc\n",
		failure:    "ready/all/10-a: after 1s its time is over",
		perceus:    "a\nc\n",
		problems:   1,
	},
	{
		name:       "endless output",
		files:      []file{sh("ready/all/10-a", "echo a"), sh("ready/all/20-b", "exec cat /dev/zero"), sh("ready/all/30-c", "echo c")},
		documented: "a\nc\n",
		failure:    "ready/all/20-b: the script of the node would have more than 12582912 bytes; nothing of this one is in it",
		perceus:    "a\nc\n",
		problems:   1,
	},
	{
		name:       "10 MB",
		files:      []file{sh("ready/all/10-a", "head -c 10485760 /dev/zero | tr '\\0' x"), sh("ready/all/30-c", "echo c")},
		documented: strings.Repeat("x", 10<<20) + "c\n",
		perceus:    strings.Repeat("x", 10<<20) + "c\n",
	},
	{
		name:       "endless standard error",
		files:      []file{sh("ready/all/10-a", "head -c 1000000 /dev/zero >&2", "echo a")},
		documented: "a\n",
		perceus:    "a\n",
	},
	{
		name:       "escapes, and bytes as they are",
		files:      []file{sh("ready/all/10-a", `echo 'echo $A \\ "q"'`, `printf '\000\377\033[1m\r\n'`, "printf 'A=1'"), sh("ready/all/20-b", `printf ';echo "$A"'`)},
		documented: "echo $A \\ \"q\"\n\x00\xff\x1b[1m\r\nA=1;echo \"$A\"",
		perceus:    "echo $A \\ \"q\"\n\x00\xff\x1b[1m\r\nA=1;echo \"$A\"",
	},
	{
		name:       "names with blanks and UTF-8",
		files:      []file{sh("ready/all/10-a b", "echo blank"), sh("ready/all/20-\u00fc\u4e2d", "echo utf8"), sh("ready/all/30-\xff", "echo latin"), sh("ready/all/-40", "echo minus")},
		documented: "minus\nblank\nutf8\nlatin\n",
		perceus:    "minus\nutf8\nlatin\n",
		problems:   1,
	},
	{
		name:       "names that a shell takes apart",
		files:      []file{sh("ready/all/10-$x", "echo dollar"), sh("ready/all/20-a;b", "echo semicolon"), sh("ready/all/30-(a)", "echo paren"), sh("ready/all/40-'", "echo quote"), sh("ready/all/50-a\nb", "echo line"), sh("ready/all/60-[a]{b}~c?*", "echo glob"), sh("ready/all/70-a~\n", "echo backup")},
		documented: "dollar\nsemicolon\nparen\nquote\nline\nglob\n",
		perceus:    "glob\n",
		problems:   5,
	},
	{
		name:       "the first word of a name with blanks is another script",
		files:      []file{sh("ready/all/10-a", `echo "$#:$1:$2"`), sh("ready/all/10-a b  c", "echo no"), plain("ready/all/20-t ", "#!/bin/sh trimmed"), plain("ready/all/20-t", "#!/bin/sh other")},
		documented: "0::\nno\n",
		perceus:    "0::\n2:b:c\n#!/bin/sh other\n#!/bin/sh other\n",
	},
	{
		name:       "without #!",
		files:      []file{x("ready/all/10-a", "echo sh $0\n"), x("ready/all/20-b", "")},
		documented: "sh @DIR@/nodescripts/ready/all/10-a\n",
		perceus:    "sh @DIR@//nodescripts/ready/all/10-a\n",
	},
	{
		name:       "no program at all",
		files:      []file{x("ready/all/10-a", "\x7fELF\x00\x01"), sh("ready/all/20-b", "echo b")},
		documented: "b\n",
		failure:    "ready/all/10-a: start it: exec format error",
		perceus:    "b\n",
		problems:   1,
	},
	{
		name:       "where it runs, and what it reads",
		files:      []file{sh("ready/all/10-a", "pwd; cat; echo $#")},
		documented: "/\n0\n",
		perceus:    "/\n0\n",
	},
	{
		name:       "the environment",
		files:      []file{x("ready/all/10-a", "#!/usr/bin/cat /proc/self/environ\n"), sh("ready/all/20-b", "A=1; export A"), sh("ready/all/30-c", `echo "$A"`)},
		documented: "PATH=/bin:/usr/bin:/sbin:/usr/sbin\x00STATE=ready\x00NODENAME=n1\x00VNFS=v\x00ENABLED=1\x00DEBUG=\x00GROUPNAME=g\x00NODEID=AA:BB:CC:DD:EE:FF\x00IPADDR=192.0.2.7\x00STATEDIR=@DIR@/\x00VNFSMETHOD=http\x00VNFSMASTER=192.0.2.1\x00VNFSPREFIX=\x00#!/usr/bin/cat /proc/self/environ\n\n",
		perceus:    "PATH=/bin:/usr/bin:/sbin:/usr/sbin\x00STATE=ready\x00NODENAME=n1\x00VNFS=v\x00ENABLED=1\x00DEBUG=\x00GROUPNAME=g\x00NODEID=AA:BB:CC:DD:EE:FF\x00IPADDR=\x00STATEDIR=@DIR@/\x00VNFSMETHOD=http\x00VNFSMASTER=192.0.2.1\x00VNFSPREFIX=\x00#!/usr/bin/cat /proc/self/environ\n\n",
	},
}

// TestAssembly: the suite under both sets of rules, and with failures that stop
// and that do not.
func TestAssembly(t *testing.T) {
	for _, test := range suite {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := put(t, test.files...)
			in := func(s string) string { return strings.ReplaceAll(s, "@DIR@", dir) }
			cfg := nodescript.Config{Statedir: dir, Output: 12 << 20, Transfer: nodescript.Transfer{Method: "http"}}

			if strings.HasSuffix(test.failure, "its time is over") {
				cfg.Time = time.Second
			}

			s := assemble(t, cfg)
			if s.Failure != test.failure {
				t.Errorf("documented: failure %q; want %q", s.Failure, test.failure)
			}
			if s.Failure == "" && string(s.Text) != in(test.documented) {
				t.Errorf("documented: %s", cmp.Diff(in(test.documented), short(s.Text)))
			}
			if s.Failure != "" && (!strings.Contains(string(s.Text), "exit 1\n") || strings.Contains(string(s.Text), "\na\n")) {
				t.Errorf("documented: the report is %q", short(s.Text))
			}

			cfg.OnFailure = nodescript.Ignore
			if s = assemble(t, cfg); s.Failure != "" || string(s.Text) != in(test.documented) {
				t.Errorf("ignoring failures: %q, %s", s.Failure, cmp.Diff(in(test.documented), short(s.Text)))
			}

			cfg.Rules, cfg.OnFailure = nodescript.Perceus193, nodescript.ByRules
			s = assemble(t, cfg)
			if want := "# NODESCRIPT START\n" + in(test.perceus) + "# NODESCRIPT END\n"; s.Failure != "" || string(s.Text) != want {
				t.Errorf("perceus-1.9.3: %q, %s", s.Failure, cmp.Diff(want, short(s.Text)))
			}
			problems := 0
			for _, r := range s.Ran {
				if r.Problem != "" {
					problems++
				}
			}
			if problems != test.problems {
				t.Errorf("perceus-1.9.3: %d problems in %+v; want %d", problems, s.Ran, test.problems)
			}
		})
	}
}

// short keeps what is compared readable.
func short(b []byte) string { return string(b[:min(len(b), 11<<20)]) }

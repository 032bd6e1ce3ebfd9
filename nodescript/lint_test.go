package nodescript

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTraps: what is found in one script.
func TestTraps(t *testing.T) {
	for _, test := range []struct {
		name, script string
		want         []string // line, trap and a part of the text
	}{
		{"nothing", "", nil},
		{"the documentation's example", "echo echo hello world", nil},
		{"the documentation's other example", `if [ "x$DEBUG" != "x" -a "x$DEBUG" != "x0" ]; then` + "\n   echo echo DEBUG: I will only print this when debugging\nfi", nil},
		{"an escaped variable", `echo echo MASTER_ARCH=\$MASTER_ARCH`, nil},
		{
			"the documentation's warning", "echo \"REBOOT=`which reboot`\"\nif [ -n \"$REBOOT\" ]; then\n   /sbin/reboot\nfi",
			[]string{"2 overlord `which reboot` runs on the overlord", "3 unset $REBOOT is set in what is printed", "4 overlord reboot runs on the overlord"},
		},
		{"a back-tick in output", "echo MASTER_ARCH=`uname -m`", []string{"2 overlord `uname -m` runs on the overlord"}},
		{"the other way to write it", `printf '%s\n' "$(uname -m)"`, []string{"2 overlord $(uname -m) runs"}},
		{"in single quotes", "echo '`uname` $(uname) $X ${Y}'", nil},
		{"escaped", "echo \"\\`uname\\` \\$(uname) \\${X} \\$Y\"", nil},
		{"not in output", "A=`uname`\nB=$(uname -m | tr a-z A-Z)\necho \"A=$A B=$B\"", nil},
		{"meant so", "echo `uname` # lint:ok, the overlord's", nil},
		{"a pipe away", "echo \"$(uname)\" | sed 's/^/x/'", nil},
		{"into a variable", "x=$(echo \"`uname`\")\necho $x", nil},
		{"to standard error", "echo `date` \"$(x)\" >&2\necho y 2>/dev/null", nil},
		{"a here-document", "cat <<EOF\n$NODENAME `date` $FOO\n\\$BAR\nEOF", []string{"3 overlord `date` runs", "3 unset $FOO is expanded on the overlord, where nothing sets it"}},
		{"a quoted here-document", "cat <<'EOF'\n$FOO `date` \"\nEOF\ncat <<\\E\n$BAR\nE\n", nil},
		{"a here-document with tabs", "if true; then\n\tcat <<-EOF\n\t$FOO\n\tEOF\n\techo $BAR\nfi", []string{"4 unset $FOO", "6 unset $BAR"}},
		{"two here-documents", "cat <<A <<B\n$ONE\nA\n$TWO\nB", []string{"3 unset $ONE", "5 unset $TWO"}},
		{"a here-document elsewhere", "cat <<EOF | tr a b\n`date`\nEOF", nil},
		{"what every script is given", "echo $STATE $NODENAME $VNFS $ENABLED $DEBUG $GROUPNAME $NODEID $IPADDR $STATEDIR $VNFSMETHOD $VNFSMASTER $VNFSPREFIX $PATH", nil},
		{"what is not", "cd $HOME\necho ${USER} \"${LANG%.*}\"", []string{"2 unset $HOME is set by nothing here", "3 unset $USER is expanded", "3 unset $LANG"}},
		{"with a default", "echo ${X:-1} ${Y-2} ${Z:+3} ${Q:?no}\n: ${A:=1}; echo $A", nil},
		{"set in many ways", "export A=1 B; read C D; for e in a $A; do echo $A$B$C$D$e; done\nf() { local g=1; echo $g $1; }; readonly h=2; echo $h", nil},
		{"read in from elsewhere", ". /etc/default/x\necho $ANY", nil},
		{"but not what is printed", ". /etc/default/x\necho ANY=1\necho \"$ANY\"", []string{"4 unset $ANY is set in what is printed"}},
		{"printed and set", "FOO=1\necho FOO=2\necho $FOO", nil},
		{"arguments", "echo $1 $$ \"$@\"", []string{"2 unset $1 is", "2 unset $$ is", "2 unset $@ is"}},
		{"arithmetic", "i=$((1 + (2 * 3)))\necho $i $((i + 1))", nil},
		{"a file of the overlord", "echo x > /etc/motd\ncat >>/etc/hosts <<E\nx\nE\necho y >/dev/null; echo z >/tmp/z; echo a 2>/etc/b", []string{"2 overlord > /etc/motd writes", "3 overlord > /etc/hosts writes"}},
		{"for the node only", "getfile vnfs/x\nmodprobe e1000 && kexec -l x\necho reboot", []string{"2 overlord getfile runs", "3 overlord modprobe runs", "3 overlord kexec runs"}},
		{"a pattern of case", "case $STATE in\nreboot|halt) echo a;;\n(kexec) echo b;;\n*) echo c;;\nesac", nil},
		{"words that are no commands", "for reboot in halt; do :; done\necho reboot; f=poweroff", nil},
		{"in a subshell", "(cd /; reboot)\nx=1", []string{"2 overlord reboot runs"}},
		{"the last command: &&", "echo a\n[ -n \"$DEBUG\" ] && echo b", []string{"3 status the last command runs after && only"}},
		{"the last command: && over two lines", "true &&\n\n  echo b", []string{"4 status the last command"}},
		{"the last command: ||", "[ -z \"$DEBUG\" ] || echo b", nil},
		{"the last command: && and ||", "[ -z \"$DEBUG\" ] && echo a || echo b", nil},
		{"the last command: test", "echo a\ntest -n \"$DEBUG\"\n\n# end", []string{"3 status the last command is test"}},
		{"the last command: grep", "cat /etc/hosts | grep x", []string{"2 status the last command is grep"}},
		{"the last command: exit", "exit 3", []string{"2 status it ends with exit 3"}},
		{"the last command: exit 0", "[ -n \"$DEBUG\" ] && echo b\nexit 0", nil},
		{"the last command: exit with what it was", "exit $?", nil},
		{"the last command: in if", "if true; then\n  [ -n \"$DEBUG\" ] && echo b\nfi", []string{"3 status the last command"}},
		{"the last command: a condition", "if [ -n \"$DEBUG\" ]; then echo a; fi", nil},
		{"the last command: a function", "f() {\n  [ -n \"$DEBUG\" ]\n}", nil},
		{"bash", "[ \"$STATE\" == init ]; [ a = b ]\nexit 0", []string{"2 shell [ with == is understood by bash"}},
		{"echo and backslashes", "echo 'a\\nb'\necho \"\\\\r\" \\$A '\\x'\necho \\\\\\$file\nprintf 'a\\n'", []string{`2 shell echo makes one character of \n in`, `3 shell echo makes one character of \r in`}},
		{"a quote", "echo 'it", []string{"0 shell not readable as a shell script: line 2: a quote ' is not closed"}},
		{"another quote", "echo \"it", []string{"0 shell not readable as a shell script: line 2: a quote \" is not closed"}},
		{"a substitution", "echo $(it", []string{"0 shell not readable as a shell script: line 2: $( is not closed"}},
		{"a parameter", "\necho ${it", []string{"0 shell not readable as a shell script: line 3: ${ is not closed"}},
		{"too deep", "echo " + strings.Repeat("\"$(", 100), []string{"0 shell not readable as a shell script: line 2: more than 64"}},
		{"line ends", "echo a\r\necho b\r\n", []string{"1 shell its lines end in CR LF"}},
		{"a line goes on", "echo a \\\n  `date`\n", []string{"3 overlord `date`"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := "#!/bin/sh\n" + test.script
			found := lintShell("x", text, parseHead([]byte(text)))
			var got []string
			for _, f := range found {
				got = append(got, fmt.Sprintf("%d %s %s", f.Line, f.Trap, f.Text))
			}
			if len(got) != len(test.want) {
				t.Fatal(cmp.Diff(test.want, got))
			}
			for i := range got {
				if !strings.HasPrefix(got[i], test.want[i]) {
					t.Errorf("%s; want %s…", got[i], test.want[i])
				}
			}
		})
	}
}

// TestLint: what is found in a tree.
func TestLint(t *testing.T) {
	dir := t.TempDir()
	write := func(path string, mode os.FileMode, text string) {
		t.Helper()
		path = filepath.Join(dir, "nodescripts", path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	const good = "#!/bin/sh\necho echo a\n"
	for _, path := range []string{
		"init/all/00-a", "init/all/09-a", "init/all/95-a", "init/vnfs/v/10-a", "init/vnfs/v/80-a", "init/vnfs/v/99-a", "init/group/g/05-a", "init/node/n/95-a", "init/all/20-a~", "init/all/.20-a",
		"init/all/5-a", "init/all/100-a", "init/all/a", "init/all/20a", "init/all/20-", "init/all/97-a", "init/group/g/04-a", "init/node/n/00-a", "init/vnfs/v/05-a", "init/all/30-a b",
		"init/al/10-a", "init/group/10-lost", "README", "in it/all/10-a", "ready/all/10-a",
	} {
		write(path, 0o755, good)
	}
	write("init/all/40-mode", 0o644, good)
	write("init/all/41-mode", 0o600, "echo echo a\n")
	write("init/all/42-mode", 0o777, good)
	write("init/all/43-perl", 0o755, "#!/usr/bin/perl\nprint `date`;\n")
	write("init/all/44-big", 0o755, "#!/bin/sh\n"+strings.Repeat("#", 1<<20))
	write("ready/all/50-trap", 0o755, "#!/usr/bin/env bash\necho `date`\n")
	for name, to := range map[string]string{"60-out": "/bin/true", "61-none": "nosuch", "62-loop": "62-loop", "63-in": "00-a"} {
		if err := os.Symlink(to, filepath.Join(dir, "nodescripts/init/all", name)); err != nil {
			t.Fatal(err)
		}
	}
	lint := func(r Rules, state string) string {
		t.Helper()
		tree, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.Close()
		found, err := tree.Lint(r, state)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, f := range found {
			fmt.Fprintf(&b, "%s (%s)\n", f, f.Trap)
		}
		return b.String()
	}
	const digits = "its name does not begin with two digits and a hyphen; names are compared byte by byte, so 9-x comes after 10-x (name)\n"
	want := "README: it is not the folder of a state: nothing of it runs (place)\n" +
		"in it: no state has this name: nothing below it runs (place)\n" +
		"init/al: it is not all/, vnfs/, group/ or node/: nothing of it runs (place)\n" +
		"init/all/100-a: " + digits + "init/all/20-: " + digits + "init/all/20a: " + digits +
		"init/all/40-mode: it is not executable, so it does not run (mode)\n" +
		"init/all/41-mode: it is not executable, so it does not run (mode)\n" +
		"init/all/42-mode: others than its owner may write to it (-rwxrwxrwx), and it runs on the overlord (mode)\n" +
		"init/all/44-big: it has more than 1048576 bytes, and is not read (shell)\n" +
		"init/all/5-a: " + digits +
		"init/all/60-out: its link leaves the state directory, and is not followed: /bin/true (link)\n" +
		"init/all/61-none: its link leads to nothing: nosuch (link)\n" +
		"init/all/62-loop: its link cannot be followed: more than 40 symbolic links (link)\n" +
		"init/all/97-a: 97 is for the last steps of a VNFS, kexec or reboot; other scripts have 05-95 (number)\n" +
		"init/all/a: " + digits +
		"init/group/10-lost: it lies beside the folders: no node runs it (place)\n" +
		"init/group/g/04-a: 04 is for initialisation, in all/; other scripts have 05-95 (number)\n" +
		"init/node/n/00-a: 00 is for initialisation, in all/; other scripts have 05-95 (number)\n" +
		"init/vnfs/v/05-a: 05 is for initialisation (00-09); a VNFS has 10-79, 80-89 for its clean-up, 90-99 for its last steps (number)\n" +
		"ready/all/50-trap:2: `date` runs on the overlord while the script is made; escape it to have it run on the node (overlord)\n"
	if d := cmp.Diff(want, lint(Documented, "")); d != "" {
		t.Error(d)
	}
	got := lint(Perceus193, "init")
	for _, want := range []string{
		"init/all/30-a b: Perceus takes its name apart, and it gives nothing (name)\n",
		"init/all/40-mode: it is not executable, so it is sent to the node as it is (mode)\n",
		"init/all/41-mode: it is not executable and has no line #!/bin/sh, so it gives nothing (mode)\n",
		"init/group/10-lost: it lies beside the folders: only nodes without that field run it (place)\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nis without %s", got, want)
		}
	}
	if strings.Contains(got, "ready/") || strings.Contains(got, "README") {
		t.Errorf("%s is of other states too", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "nodescripts")); err != nil {
		t.Fatal(err)
	}
	if got := lint(Documented, ""); got != "" {
		t.Errorf("%q of nothing", got)
	}
}

// FuzzLint: any script is read to its end or refused with one error; what is
// read is the script, byte for byte.
func FuzzLint(f *testing.F) {
	for _, s := range []string{
		"echo a", "cat <<E\n$x\nE\n", "a=`b`$(c \"${d:-'e}'}\")", "f() { g; }; (h) || i && j", "case x in a|b) c;; esac", "echo \\\n$((1+(2)))", "<<-\n", "<<A <<B\nA\nB", "2>&1 >x", "`\\``", "${#x} ${#} ${1}", "$", "\\", "\"$(\"`\"`\")\"",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		tokens, err := readShell(src)
		if err != nil {
			if !errors.Is(err, errShell) {
				t.Fatalf("error %v does not wrap errShell", err)
			}
			return
		}
		var b strings.Builder
		line := 1
		for _, tok := range tokens {
			if tok.raw == "" && tok.kind != tokHere || tok.line != line {
				t.Fatalf("token %+v on line %d", tok, line)
			}
			for _, e := range tok.uses {
				if e.line < tok.line || e.line > tok.line+strings.Count(tok.raw, "\n") {
					t.Fatalf("%+v is used outside of %+v", e, tok)
				}
			}
			b.WriteString(tok.raw)
			line += strings.Count(tok.raw, "\n")
		}
		if b.String() != src {
			t.Fatalf("read %q; want %q", b.String(), src)
		}
		for _, found := range lintShell("x", src, parseHead([]byte(src))) {
			if found.Line < 0 || found.Line > strings.Count(src, "\n")+1 || found.Text == "" {
				t.Errorf("%+v", found)
			}
		}
	})
}

// TestReaderIsNoStricter: what a shell takes, the reader takes too.
func TestReaderIsNoStricter(t *testing.T) {
	for _, script := range []string{
		"echo 'a'\"b\"c\\ d $'e' ${f} ${g:-\"h i\"} $(j) $((1 + 2)) `k \\`l\\``",
		"x() { y; }; { z; }; (a; b) | c || d && e &",
		"cat <<'A'; cat <<-B\n`$(\nA\n\t$x \\$y '\n\tB\n",
		"case $a in (b|c) d ;; *) e ;; esac",
		"while read -r a b; do echo \"$a\"; done <<E\n1\nE\n",
		"if ! a; then b; elif c; then d; else e; fi >/dev/null 2>&1",
		"a=$(cat <<E\nx\nE\n)",
		"echo ${a#*'}'} ${b%%\\}*} \"${c:-}}\"",
		"echo $(case x in x) echo y;; esac)",
		"for a\ndo\n:\ndone",
		"echo a#b # it's",
		"f() # it's\n{ :; }",
	} {
		if err := exec.CommandContext(t.Context(), "sh", "-n", "-c", script).Run(); err != nil {
			t.Errorf("the shell itself refuses %q: %v", script, err)
		}
		if _, err := readShell(script); err != nil {
			t.Errorf("%q: %v", script, err)
		}
	}
}

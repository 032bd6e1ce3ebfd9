package nodescript_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/module/run/runtest"
	"dominion/nodescript"
)

// TestNoneIsLeft: the whole process group of a script ends with it.
func TestNoneIsLeft(t *testing.T) {
	for _, test := range []struct {
		name, script, text string
		rules              nodescript.Rules
		problem            string
		left               int
	}{
		{name: "time", script: "echo a; sleep NAP & sleep NAP", text: "a\n", problem: "after 1.5s its time is over"},
		{name: "deaf", script: "trap '' TERM INT HUP; echo a; sleep NAP & wait", text: "a\n", problem: "after 1.5s its time is over"},
		{name: "stopped", script: "echo a; sleep NAP & kill -STOP $$; echo b", text: "a\n", problem: "after 1.5s its time is over"},
		{name: "too much", script: "sleep NAP & cat /dev/zero", problem: "the script of the node would have more than 1000 bytes; nothing of this one is in it"},
		{name: "too much, and then it ends", script: "head -c 1001 /dev/zero", problem: "the script of the node would have more than 1000 bytes; nothing of this one is in it"},
		{name: "in the background, holding the output", script: "echo a; sleep NAP &", text: "a\n", problem: "after 1.5s a process that it left in the background holds its output"},
		{name: "in the background", script: "sleep NAP >/dev/null 2>&1 & echo a", text: "a\n"},
		{name: "in the background, holding standard error", script: "sleep NAP >/dev/null & echo a", text: "a\n"},
		{name: "standard output closed early", script: "echo a; exec >&-; sleep NAP", text: "a\n", problem: "after 1.5s its time is over"},
		{name: "Perceus left it", script: "sleep NAP >/dev/null 2>&1 & echo a", rules: nodescript.Perceus193, text: "a\n", left: 1},
		{name: "Perceus left it, holding standard error", script: "sleep NAP >/dev/null & echo a", rules: nodescript.Perceus193, text: "a\n", left: 1},
		{name: "Perceus waited for it", script: "(sleep 0.1; echo b) & echo a", rules: nodescript.Perceus193, text: "a\nb\n"},
		{name: "it leaves its own group", script: `exec perl -e '$| = 1; my $c = fork; exec "sleep", "NAP" if !$c && setpgrp(0, 0); setpgrp($c, $c); setpgrp(0, $c) or die; print "a\n"; sleep 100'`, text: "a\n", problem: "after 1.5s its time is over", left: 1},
		{name: "a session of its own, which we cannot find", script: "setsid sleep NAP & echo a", text: "a\n", problem: "after 1.5s a process that it left in the background holds its output", left: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			seconds, sleeping := runtest.Nap(t)
			dir := put(t, sh("ready/all/10-a", strings.ReplaceAll(test.script, "NAP", seconds)))
			cfg := nodescript.Config{Statedir: dir, Rules: test.rules, OnFailure: nodescript.Ignore, Output: 1000}
			if strings.HasPrefix(test.problem, "after ") {
				cfg.Time = 1500 * time.Millisecond
			}
			s := assemble(t, cfg)
			text := strings.TrimSuffix(strings.TrimPrefix(string(s.Text), "# NODESCRIPT START\n"), "# NODESCRIPT END\n")
			if text != test.text || s.Ran[0].Problem != test.problem {
				t.Errorf("%q, %q; want %q, %q", text, s.Ran[0].Problem, test.text, test.problem)
			}
			runtest.Until(t, fmt.Sprintf("%d sleep", test.left), func() bool { return len(sleeping()) == test.left })
		})
	}
}

// TestCancel: who stops waiting ends the script, and gets no text.
func TestCancel(t *testing.T) {
	seconds, sleeping := runtest.Nap(t)
	dir := put(t, sh("ready/all/10-a", "echo a; sleep "+seconds+" & wait"))
	a, err := nodescript.New(nodescript.Config{Statedir: dir, OnFailure: nodescript.Ignore})
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("the node hung up")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() {
		s, err := a.Assemble(ctx, n1, "ready")
		if s != nil {
			t.Errorf("it gave %q", s.Text)
		}
		ended <- err
	}()
	runtest.Until(t, "it sleeps", func() bool { return len(sleeping()) == 1 })
	cancel(why)
	if err := <-ended; !errors.Is(err, why) {
		t.Errorf("%v; want %v", err, why)
	}
	runtest.Until(t, "nobody sleeps", func() bool { return len(sleeping()) == 0 })
	if _, err := a.Assemble(ctx, n1, "ready"); !errors.Is(err, why) {
		t.Errorf("%v; want %v", err, why)
	}
}

// TestDescriptors: a script has standard input, output and error, and none of
// this process's files, those that it inherited itself included.
func TestDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	inherited, err := syscall.Dup(int(w.Fd())) // as whoever started this process may have left it: open in programs it starts
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited)
	list := "#!/bin/sh\nls -l /proc/$$/fd\n"
	for _, rules := range []nodescript.Rules{nodescript.Documented, nodescript.Perceus193} {
		dir := put(t, x("ready/all/10-a", list))
		s := assemble(t, nodescript.Config{Statedir: dir, Rules: rules})
		var open []string
		for line := range strings.Lines(string(s.Text)) {
			// The shell keeps the script open under a number of its own.
			if before, to, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " -> "); ok && !strings.HasSuffix(to, "10-a") {
				kind, _, _ := strings.Cut(to, ":")
				open = append(open, before[strings.LastIndexByte(before, ' ')+1:]+" "+kind)
			}
		}
		if got, want := strings.Join(open, ", "), "0 /dev/null, 1 pipe, 2 pipe"; got != want {
			t.Errorf("%v: the open files are %s; want %s", rules, got, want)
		}
	}
}

// TestLog: what scripts complain about is in the log, with their names.
func TestLog(t *testing.T) {
	dir := put(t, sh("ready/all/10-a", "echo warn one >&2; printf 'and \\033two' >&2"), sh("ready/all/20-b", "head -c 20000 /dev/zero | tr '\\0' e >&2; exit 2"))
	var log bytes.Buffer
	s := assemble(t, nodescript.Config{Statedir: dir, OnFailure: nodescript.Ignore, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for _, want := range []string{
		`level=INFO msg="node script wrote to standard error" script=ready/all/10-a node=n1 text="warn one\nand \x1btwo" cut=0`,
		`script=ready/all/20-b node=n1 text=` + strings.Repeat("e", 16<<10) + ` cut=3616`,
		`level=WARN msg="node script failed" script=ready/all/20-b node=n1 err="it ended with status 2"`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log is %.3000s; want %.200s in it", log.String(), want)
		}
	}
	if got := s.Ran[0].Stderr; string(got) != "warn one\nand \x1btwo" || len(s.Ran[1].Stderr) != 16<<10 || s.Ran[1].Cut != 3616 {
		t.Errorf("kept %q, %d and %d", got, len(s.Ran[1].Stderr), s.Ran[1].Cut)
	}
}

// TestShell: scripts that say #!/bin/sh get the configured shell, and others
// what they say.
func TestShell(t *testing.T) {
	which := `[ -n "$BASH_VERSION" ] && echo bash $0 $- || echo sh $0 $-; exit 0` + "\n"
	dir := put(t,
		x("ready/all/10-a", "#!/bin/sh\n"+which), x("ready/all/11-a", "#! \t/bin/sh  -eu \n"+which), x("ready/all/12-a", "#!/usr/bin/sh\n"+which),
		x("ready/all/13-a", which), x("ready/all/14-a", "#!/bin/dash\n"+which), x("ready/all/15-a", "#!/bin/sh"),
	)
	if err := os.Symlink("/bin/bash", filepath.Join(dir, "sh")); err != nil {
		t.Fatal(err)
	}
	s := assemble(t, nodescript.Config{Statedir: dir, Shell: filepath.Join(dir, "sh")})
	var got []string
	for line := range strings.Lines(string(s.Text)) {
		words := strings.Fields(line)
		flags := ""
		if len(words) > 2 && strings.ContainsAny(words[2], "e") {
			flags = " -e"
		}
		got = append(got, words[0]+" "+filepath.Base(words[1])+flags)
	}
	if want := "bash 10-a,bash 11-a -e,sh 12-a,bash 13-a,sh 14-a"; strings.Join(got, ",") != want {
		t.Errorf("%s; want %s", strings.Join(got, ","), want)
	}
	s = assemble(t, nodescript.Config{Statedir: dir, Shell: "/nosuch/shell"})
	if want := `ready/all/10-a: the shell "/nosuch/shell" is missing`; s.Failure != want {
		t.Errorf("%q; want %q", s.Failure, want)
	}
}

// TestLinks: links are followed within STATEDIR only.
func TestLinks(t *testing.T) {
	const outside, nothing = "fails: its link leaves the state directory: ", "fails: its link leads to nothing: "
	for _, test := range []struct{ name, to, want string }{
		{"in the folder", "real", "runs"},
		{"to a module", "../../../modules/m/10-m", "runs"},
		{"absolute, within", "STATEDIR/modules/m/10-m", "runs"},
		{"by the other name of the directory", "OTHER/modules/m/10-m", "runs"},
		{"out and in again", "../../../../NAME/modules/m/10-m", outside},
		{"out", "../../../../secret", outside},
		{"absolute, out", "/bin/true", outside},
		{"through the process", "/proc/self/root/bin/true", outside},
		{"a name that begins alike", "STATEDIRx/10-m", outside},
		{"through a folder that leads out", "../../../away/true", outside},
		{"nothing", "nosuch", nothing},
		{"absolute, nothing", "STATEDIR/nosuch", nothing},
		{"itself", "10-x", "fails: more than 40 symbolic links"},
		{"a folder", "../all", "folder"},
		{"the directory itself", "STATEDIR", "folder"},
		{"a folder outside", "/tmp", outside},
		{"a pipe", "../../../modules/pipe", "fails: it is no regular file"},
		{"below a file", "real/x", "fails: "},
		{"back by dots", "../group/../all/real", "runs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			above := t.TempDir()
			dir := filepath.Join(above, "statedir")
			put := func(path, text string) {
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			put(dir+"/nodescripts/ready/all/real", "#!/bin/sh\necho real\n")
			put(dir+"/nodescripts/ready/group/x", "")
			put(dir+"/modules/m/10-m", "#!/bin/sh\necho real\n")
			put(above+"/secret", "#!/bin/sh\necho secret\n")
			put(above+"/statedirx/10-m", "#!/bin/sh\necho secret\n")
			other := filepath.Join(above, "other")
			to := strings.NewReplacer("STATEDIR", dir, "OTHER", other, "NAME", "statedir").Replace(test.to)
			for _, l := range [][2]string{{dir, other}, {"/bin", dir + "/away"}, {to, dir + "/nodescripts/ready/all/10-x"}} {
				if err := os.Symlink(l[0], l[1]); err != nil {
					t.Fatal(err)
				}
			}
			if err := syscall.Mkfifo(dir+"/modules/pipe", 0o755); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(test.to, "OTHER") {
				dir = other
			}
			for _, rules := range []nodescript.Rules{nodescript.Documented, nodescript.Perceus193} {
				tree, err := nodescript.Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				defer tree.Close()
				all, err := tree.Explain(rules, n1, "ready")
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range all {
					got := c.Does.String()
					if c.Note != "" {
						got += ": " + c.Note
					}
					if c.Name == "10-x" && !strings.HasPrefix(got, test.want) {
						t.Errorf("%v: %s; want %s", rules, got, test.want)
					}
				}
				s := assemble(t, nodescript.Config{Statedir: dir, Rules: rules})
				if bytes.Contains(s.Text, []byte("secret\n")) {
					t.Errorf("%v: it gave %q", rules, s.Text)
				}
				if runs := strings.Count(string(s.Text), "real\n"); rules == nodescript.Perceus193 && (runs == 2) != (test.want == "runs") || rules == nodescript.Documented && (s.Failure != "") != strings.HasPrefix(test.want, "fails") {
					t.Errorf("%v: it gave %q, %q", rules, s.Text, s.Failure)
				}
			}
		})
	}
}

// TestFoldersThatLead: a folder may be a link within STATEDIR, and fails
// outside.
func TestFoldersThatLead(t *testing.T) {
	dir := put(t, sh("base/10-a", "echo base"), link("ready/group/g", "../../base"), link("ready/vnfs/v", "/usr/bin"), plain("ready/node", "no folder"))
	s := assemble(t, nodescript.Config{Statedir: dir, OnFailure: nodescript.Ignore})
	if string(s.Text) != "base\n" || len(s.Ran) != 3 {
		t.Errorf("%q, %+v", s.Text, s.Ran)
	}
	s = assemble(t, nodescript.Config{Statedir: dir})
	if !strings.Contains(s.Failure, "the link leaves the state directory") {
		t.Errorf("failure %q", s.Failure)
	}
}

// TestChanged: a script that was changed while it ran is not what was hashed.
func TestChanged(t *testing.T) {
	dir := put(t, sh("ready/all/10-a", `echo a; echo '# more' >>"$0"`))
	if s := assemble(t, nodescript.Config{Statedir: dir}); s.Failure != "ready/all/10-a: it was changed while it ran" {
		t.Errorf("failure %q", s.Failure)
	}
	dir = put(t, sh("ready/all/10-a", `cp "$0" "$0.new~"; mv "$0.new~" "$0"; touch "$0"`)) // its content is the same
	if s := assemble(t, nodescript.Config{Statedir: dir}); s.Failure != "" {
		t.Errorf("failure %q", s.Failure)
	}
	dir = put(t, sh("ready/all/10-a", `rm "$0"`))
	if s := assemble(t, nodescript.Config{Statedir: dir}); s.Failure != "ready/all/10-a: it was changed while it ran" {
		t.Errorf("failure %q", s.Failure)
	}
}

// TestBusy: a script that somebody has open for writing is tried again.
func TestBusy(t *testing.T) {
	dir := put(t, sh("ready/all/10-a", "echo a"))
	w, err := os.OpenFile(filepath.Join(dir, "nodescripts/ready/all/10-a"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	closing := time.AfterFunc(50*time.Millisecond, func() { w.Close() })
	if s := assemble(t, nodescript.Config{Statedir: dir}); string(s.Text) != "a\n" {
		t.Errorf("%q", s.Text)
	}
	closing.Stop()
	w.Close()
}

// TestReport: the script of a failure says so on the node, whatever is in the
// names, and ends with status 1.
func TestReport(t *testing.T) {
	for _, rules := range []nodescript.Rules{nodescript.Documented, nodescript.Perceus193} {
		dir := put(t, sh("ready/all/10-a", "echo touch DIR/harm"), sh("ready/all/20-a'; touch 'harm\nexit 0 #\\n$(touch harm)", "echo half; exit 9"))
		if rules == nodescript.Perceus193 {
			dir = put(t, sh("ready/all/20-x", "echo half; exit 9"))
		}
		s := assemble(t, nodescript.Config{Statedir: dir, Rules: rules, OnFailure: nodescript.Stop})
		if s.Failure == "" || bytes.Contains(s.Text, []byte("half\n")) {
			t.Errorf("%v: %q, %q", rules, s.Failure, s.Text)
		}
		for _, shell := range shells(t) {
			cmd := exec.CommandContext(t.Context(), shell[0], shell[1:]...)
			cmd.Stdin, cmd.Dir = bytes.NewReader(s.Text), t.TempDir()
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			if ee, ok := errors.AsType[*exec.ExitError](err); !ok || ee.ExitCode() != 1 || out.Len() > 0 || strings.Count(errs.String(), "\n") != 1 ||
				!strings.HasPrefix(errs.String(), "dominion: no script for n1 in state ready: ready/all/20-") || !strings.HasSuffix(errs.String(), ": it ended with status 9\n") {
				t.Errorf("%v: %v, %q, %q from %q", shell, err, &out, &errs, s.Text)
			}
			if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) > 0 {
				t.Errorf("%v: it made %v, %v", shell, left, err)
			}
		}
	}
}

// TestRequests: what no folder could be meant by is refused, and nothing runs.
func TestRequests(t *testing.T) {
	dir := put(t, sh("ready/all/10-a", "echo a"))
	a, err := nodescript.New(nodescript.Config{Statedir: dir})
	if err != nil {
		t.Fatal(err)
	}
	with := func(f func(*nodescript.Node)) nodescript.Node { n := n1; f(&n); return n }
	for _, test := range []struct {
		name  string
		node  nodescript.Node
		state string
	}{
		{"no state", n1, ""},
		{"above", n1, ".."},
		{"here", n1, "."},
		{"two folders", n1, "ready/all"},
		{"a blank", n1, "ready x"},
		{"an option", n1, "-ready"},
		{"a long state", n1, strings.Repeat("a", 65)},
		{"a letter from elsewhere", n1, "r\u00e9ady"},
		{"no name", with(func(n *nodescript.Node) { n.Name = "" }), "ready"},
		{"a name above", with(func(n *nodescript.Node) { n.Name = ".." }), "ready"},
		{"a group above", with(func(n *nodescript.Node) { n.Group = ".. " }), "ready"},
		{"a group with a slash", with(func(n *nodescript.Node) { n.Group = "a/../.." }), "ready"},
		{"a VNFS with a line end", with(func(n *nodescript.Node) { n.VNFS = "a\nb" }), "ready"},
		{"a VNFS with a zero byte", with(func(n *nodescript.Node) { n.VNFS = "a\x00b" }), "ready"},
		{"a long VNFS", with(func(n *nodescript.Node) { n.VNFS = strings.Repeat("v", 256) }), "ready"},
		{"an address with a zero byte", with(func(n *nodescript.Node) { n.Addr = "\x00" }), "ready"},
		{"a long id", with(func(n *nodescript.Node) { n.ID = strings.Repeat("v", 5000) }), "ready"},
		{"too much debugging", with(func(n *nodescript.Node) { n.Debug = 10 }), "ready"},
		{"too little", with(func(n *nodescript.Node) { n.Debug = -1 }), "ready"},
	} {
		if s, err := a.Assemble(t.Context(), test.node, test.state); !errors.Is(err, nodescript.ErrRequest) || s != nil {
			t.Errorf("%s: %v, %v; want ErrRequest", test.name, s, err)
		}
	}
	for _, state := range []string{"init", "ready", "single-user", "A_1", "0"} {
		if got, err := nodescript.ParseState(state); got != state || err != nil {
			t.Errorf("ParseState(%q) = %q, %v", state, got, err)
		}
	}
}

// TestConfig: what a configuration cannot mean is refused.
func TestConfig(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  nodescript.Config
	}{
		{"no directory", nodescript.Config{}},
		{"shell", nodescript.Config{Statedir: "/", Shell: "bash"}},
		{"places", nodescript.Config{Statedir: "/", Places: -1}},
		{"time", nodescript.Config{Statedir: "/", Time: -1}},
		{"output", nodescript.Config{Statedir: "/", Output: -1}},
		{"rules", nodescript.Config{Statedir: "/", Rules: 7}},
		{"on failure", nodescript.Config{Statedir: "/", OnFailure: 7}},
		{"method", nodescript.Config{Statedir: "/", Transfer: nodescript.Transfer{Method: "\x00"}}},
	} {
		if _, err := nodescript.New(test.cfg); err == nil {
			t.Errorf("%s: it was taken", test.name)
		}
	}
	a, err := nodescript.New(nodescript.Config{Statedir: filepath.Join(t.TempDir(), "nosuch")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Assemble(t.Context(), n1, "ready"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v; want that the directory is missing", err)
	}
	for _, word := range []string{"documented", "perceus-1.9.3"} {
		if r, err := nodescript.ParseRules(word); err != nil || r.String() != word {
			t.Errorf("ParseRules(%q) = %v, %v", word, r, err)
		}
	}
	for _, word := range []string{"", "stop", "ignore"} {
		if o, err := nodescript.ParseOnFailure(word); err != nil || o.String() != word {
			t.Errorf("ParseOnFailure(%q) = %v, %v", word, o, err)
		}
	}
	if _, err := nodescript.ParseRules("perceus"); !errors.Is(err, nodescript.ErrWord) {
		t.Errorf("%v; want ErrWord", err)
	}
	if _, err := nodescript.ParseOnFailure("halt"); !errors.Is(err, nodescript.ErrWord) {
		t.Errorf("%v; want ErrWord", err)
	}
	if s := assemble(t, nodescript.Config{Statedir: put(t, sh("ready/all/10-a", "echo too long")), Rules: nodescript.Perceus193, Output: 1}); s.Ran[0].Problem == "" {
		t.Errorf("%q is longer than a byte", s.Text)
	}
}

// TestManyFiles: a folder with more entries than are read fails.
func TestManyFiles(t *testing.T) {
	dir := put(t, sh("ready/all/10-a", "echo a"))
	for i := range 4097 {
		if err := os.WriteFile(filepath.Join(dir, "nodescripts/ready/all", fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if s := assemble(t, nodescript.Config{Statedir: dir}); !strings.HasSuffix(s.Failure, "more than 4096 entries") {
		t.Errorf("failure %q", s.Failure)
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
)

// shellOf is how a shell is started for a test of completion.
type shellOf struct {
	name  string
	args  []string
	setup string
	needs string // a file that must be there, and the package that brings it
}

func shells() []shellOf {
	return []shellOf{
		{"bash", []string{"--noprofile", "--norc", "-i"}, `PS1='$ '; source <(dominion completion bash)`, "bash"},
		{"zsh", []string{"-f", "-i"}, `PS1='$ '; autoload -U compinit; compinit -u -D; source <(dominion completion zsh)`, "zsh"},
		{"fish", []string{"--no-config", "-i"}, `function fish_prompt; echo '$ '; end; dominion completion fish | source`, "fish"},
	}
}

// shellSession is a shell on a terminal.
type shellSession struct {
	t     *testing.T
	tty   *os.File
	mu    sync.Mutex
	shown bytes.Buffer
}

// screen gives what the shell has shown.
func (s *shellSession) screen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

func (s *shellSession) typed(text string) {
	s.t.Helper()
	if _, err := s.tty.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// wait waits until the shell has shown something that matches, behind what it had shown.
func (s *shellSession) wait(from int, what *regexp.Regexp) []string {
	s.t.Helper()
	var found []string
	fleettest.Until(s.t, fmt.Sprintf("the shell shows %s", what), func() bool {
		found = what.FindStringSubmatch(s.screen()[from:])
		return found != nil
	})
	return found
}

// startShell starts a shell on a pseudo-terminal.
func startShell(t *testing.T, sh shellOf, env []string) *shellSession {
	t.Helper()
	path, err := exec.LookPath(sh.name)
	if err != nil {
		t.Skipf("SKIPPED %s is not installed; completion is tried in it: apt-get install %s", sh.name, sh.needs)
	}
	ours, theirs := terminal(t)
	s := &shellSession{t: t, tty: ours}
	cmd := exec.CommandContext(t.Context(), path, sh.args...)
	cmd.Env, cmd.Dir = env, t.TempDir()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := ours.Read(buf)
			s.mu.Lock()
			s.shown.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return // EIO when the shell has ended
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		<-done
	})
	return s
}

// completionFleet starts an overlord, and puts a program "dominion" into a directory that asks it for completions and
// otherwise shows its arguments.
func completionFleet(t *testing.T) (bin string, f *fleettest.Fleet) {
	t.Helper()
	sources := t.TempDir()
	if err := os.WriteFile(filepath.Join(sources, "batch"), []byte("#!/bin/sh\n[ $1 = list ] && echo idle busy\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f = fleettest.Start(t, overlord.Config{Autosign: []overlord.AutosignRule{{Names: "*"}}, Groups: overlord.GroupsConfig{Dir: sources}})
	for _, n := range []string{"web1", "web12", "db1"} {
		f.Enrol(n, minion.Config{})
	}
	f.Await(3)
	for group, members := range map[string]string{"web": "web1,web12", "mixed": "web1,db1"} {
		if _, err := f.Conn.Fleet.SetGroup(t.Context(), connect.NewRequest(&apipb.SetGroupRequest{Name: group, Members: members})); err != nil {
			t.Fatal(err)
		}
	}
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	real, bin := t.TempDir(), t.TempDir()
	if err := os.Symlink(me, filepath.Join(real, "dominion")); err != nil {
		t.Fatal(err)
	}
	wrapper := fmt.Sprintf("#!/bin/sh\ncase $1 in __complete*|completion) exec %s/dominion \"$@\";; esac\nprintf 'ARGS'\nfor a in \"$@\"; do printf '<%%s>' \"$a\"; done\necho .\n", real)
	if err := os.WriteFile(filepath.Join(bin, "dominion"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	return bin, f
}

// What is typed with Tab in real shells becomes what is meant.
func TestCompletionInShells(t *testing.T) {
	bin, f := completionFleet(t)
	env := []string{
		"PATH=" + bin + ":/usr/bin:/bin", "HOME=" + t.TempDir(), "TERM=xterm", "LC_ALL=C.UTF-8", "DOMINION_STATE=" + f.State, "GORACE=atexit_sleep_ms=0",
	}
	cases := []struct {
		typed, want string
	}{
		{"dominion statu\t\r", "<status>"},
		{"dominion call d\t test.pi\t\r", "<call><db1><test.ping>"},
		{"dominion call web12\t test.ping\r", "<call><web12><test.ping>"},
		{"dominion call web1,d\t test.ping\r", "<call><web1,db1><test.ping>"},
		{"dominion ping @mi\t\r", "<ping><@mixed>"},
		{"dominion ping @batch/i\t\r", "<ping><@batch/idle>"},
		{"dominion ping @mixed:d\t\r", "<ping><@mixed:db1>"},
		{"dominion ping 'web*,@mi\t'\r", "<ping><web*,@mixed>"},
		{"dominion ping \"d\t\"\r", "<ping><db1>"},
		{"dominion ping '*!d\t'\r", "<ping><*!db1>"},
		{"dominion group sho\t mi\t\r", "<group><show><mixed>"},
		{"dominion call db1 test.add a=1 b\t2\r", "<call><db1><test.add><a=1><b=2>"},
		{"dominion minions --fields name,last\t\r", "<minions><--fields><name,last_seen>"},
		{"dominion minions --sort facts.memory_g\t\r", "<minions><--sort><facts.memory_gb>"},
		{"dominion ping web1 --where 'facts.memory_g\t'\r", "<ping><web1><--where><facts.memory_gb>"},
		{"dominion ping web1 -x d\t\r", "<ping><web1><-x><db1>"},
		{"dominion ping web1 --outp\t jsonl\r", "<ping><web1><--output><jsonl>"},
	}
	for _, sh := range shells() {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			s := startShell(t, sh, env)
			s.typed(sh.setup + "; echo READY''NOW\r")
			s.wait(0, regexp.MustCompile(`READYNOW`))
			for _, c := range cases {
				from := len(s.screen())
				typed := c.typed
				if sh.name != "zsh" { // they close the quote behind the only completion
					typed = strings.NewReplacer("\t'", "\t", "\t\"", "\t").Replace(typed)
				}
				s.typed(typed)
				got := s.wait(from, regexp.MustCompile(`ARGS((?:<[^>]*>?[^>]*>)*)\.`))
				if got[1] != c.want {
					t.Errorf("%q becomes %s; want %s", c.typed, got[1], c.want)
				}
			}
		})
	}
}

// The program answers quickly: a shell waits for it.
func TestCompletionIsQuick(t *testing.T) {
	bin, f := completionFleet(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "dominion"), "__complete", "call", "@web,d")
	cmd.Env = append(os.Environ(), "DOMINION_STATE="+f.State, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("%v: %s", err, exit.Stderr)
	}
	if got := strings.Split(string(out), "\n"); got[0] != "@web,db1" {
		t.Errorf("completes to %q; want @web,db1", out)
	}
}

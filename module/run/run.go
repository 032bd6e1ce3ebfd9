// Package run starts programs for methods, without a shell, and ends them.
//
// A program is a file and its arguments. It gets a process group and an
// environment of its own, none of the agent's. Every byte of its output goes to
// the live reader if there is one, who slows the program down when he is slow;
// the first part of it is kept for the result, the rest is counted.
//
// When ctx ends the group gets SIGTERM and, after a grace, SIGKILL. Where the
// machine lets the agent make a cgroup (version 2) for each call, processes
// that left the group get both too, and none is left but one that moved itself
// to another cgroup, as root can. What a program leaves behind in the
// background goes on when it ends by itself, and is no longer listened to,
// unless Command.Whole says otherwise.
//
// Most methods need no more than Find and Output:
//
//	file, err := run.Find("getent")
//	…
//	out, err := run.Output(ctx, env, file, "passwd", "--", name)
package run

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"dominion/call"
	"dominion/module"
)

// Runner is what programs are run with.
type Runner struct {
	Grace  time.Duration          // between SIGTERM and SIGKILL
	Cancel time.Duration          // the same, when somebody cancelled the call and waits for its end
	Idle   time.Duration          // of a pipe that someone else holds open after the program's end
	Cgroup func() (string, error) // gives the cgroup below which programs get theirs; nil: they get none
}

// System is how methods run programs; tests have less patience. It is never
// written. A fleet that is reachable is cancelled within 2 s, so a program has
// less than that to end.
var System = Runner{Grace: 5 * time.Second, Cancel: 1500 * time.Millisecond, Idle: 200 * time.Millisecond, Cgroup: Cgroup}

// Command is a program to run.
type Command struct {
	Path       string              // Required: its file, absolute; not looked up in PATH
	Args       []string            // Required: what it is called with, its own name first
	Env        []string            // the whole environment, KEY=VALUE; nil: none
	Dir        string              // Required: the working directory, absolute
	Credential *syscall.Credential // whom it runs as; nil: the agent's user
	Stdin      []byte              // what it reads; empty: /dev/null

	// Live output; nil: nobody listens. A Write may block, and must return
	// when ctx ends. Both may be called at the same time.
	Stdout, Stderr io.Writer
	// What is kept of the output, in bytes as written in JSON (module.Limit).
	KeepStdout, KeepStderr int

	// Whole says that the program is over when its first process is: what that
	// leaves behind gets SIGKILL. Without a cgroup it is found by a variable in its
	// environment, DOMINION_RUN, so one that removes it is missed.
	Whole bool
	// Memory bounds the private memory of each process (RLIMIT_DATA), in bytes;
	// zero: it is as the agent's. What a process allocates beyond it is refused.
	Memory uint64

	Job call.JobID // names the cgroup
}

// Result is what a program did.
type Result struct {
	Exit           int          // the exit status; 128 and the signal's number for a program that was killed
	Signal         string       // the signal that killed it, such as SIGKILL; empty: none did
	Stdout, Stderr module.Limit // what was kept
}

// how says in words how the program ended.
func (r *Result) how() string {
	if r.Signal != "" {
		return "killed by " + r.Signal
	}
	return fmt.Sprintf("exit %d", r.Exit)
}

// ExitError says that a program ended by itself, and not with status 0.
type ExitError struct {
	Result *Result
}

// Error gives "exit 3" or "killed by SIGSEGV".
func (e *ExitError) Error() string { return e.Result.how() }

// Run runs a program to its end. The result is nil when it was not started.
// The error wraps the cause of ctx when that ended first, and is an *ExitError
// for a program that ended by itself with another status than 0; a program
// that cannot be started is a *call.Error with code Failed.
func (t Runner) Run(ctx context.Context, c Command) (*Result, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, NotStarted(err)
	}
	p, err := t.spawn(&c)
	if err != nil {
		return nil, err
	}
	stopped := p.wait(ctx)
	p.group.release()
	return p.result(ctx, stopped)
}

// NotStarted wraps the cause of a context that ended before a program began.
func NotStarted(cause error) error { return fmt.Errorf("not started: %w", cause) }

// spawn begins a program; wait joins what it started.
func (t Runner) spawn(c *Command) (*process, error) {
	for _, s := range append([]string{c.Path, c.Dir}, c.Args...) {
		if strings.ContainsRune(s, 0) {
			return nil, call.Errorf(call.Invalid, "a zero byte in %.60q", s)
		}
	}
	p := &process{
		Runner: t,
		cmd: &exec.Cmd{
			Path: c.Path, Args: c.Args, Env: append([]string{}, c.Env...), Dir: c.Dir, // nil would be the agent's environment
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: c.Credential},
		},
		exited: make(chan struct{}), drain: make(chan struct{}), copied: make(chan struct{}),
	}
	p.out.Max, p.err.Max, p.memory = c.KeepStdout, c.KeepStderr, c.Memory
	if c.Whole {
		p.mark = newMark()
		p.cmd.Env = append(p.cmd.Env, p.mark)
	}
	if err := p.start(c); err != nil {
		return nil, call.Errorf(call.Failed, "start %s: %v", c.Path, err)
	}
	return p, nil
}

package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
)

const (
	chunk    = 32 << 10 // bytes read at once
	pipeSize = 64 << 10 // bytes that a program can leave in a pipe (pipe(7))
)

// process is one program that runs.
type process struct {
	Runner
	cmd      *exec.Cmd
	mark     string        // in the environment; empty: what it leaves behind goes on
	memory   uint64        // RLIMIT_DATA; zero: as the agent's
	group    *group        // its cgroup; nil: it has none
	readers  []*os.File    // our ends of its standard output and error
	stdin    *os.File      // our end of its standard input; nil: it has none
	exited   chan struct{} // closed when the program has ended; its id is still taken
	drain    chan struct{} // closed when no more output is waited for
	copied   chan struct{} // closed when input and output have been copied
	out, err module.Limit  // each owned by one copy until copied is closed
}

// start begins the program and the goroutines that wait joins.
func (p *process) start(c *Command) error {
	var theirs []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	defer func() { closeAll(theirs) }()
	for _, to := range []*io.Writer{&p.cmd.Stdout, &p.cmd.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(p.readers)
			return err
		}
		p.readers, theirs = append(p.readers, r), append(theirs, w)
		*to = w
	}
	if len(c.Stdin) > 0 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(p.readers)
			return err
		}
		p.stdin, theirs = w, append(theirs, r)
		p.cmd.Stdin = r
	}
	if err := p.begin(c.Job); err != nil {
		closeAll(p.readers)
		if p.stdin != nil {
			p.stdin.Close()
		}
		return err
	}
	var copies sync.WaitGroup
	copies.Go(func() { p.copy(p.readers[0], &p.out, c.Stdout) })
	copies.Go(func() { p.copy(p.readers[1], &p.err, c.Stderr) })
	if p.stdin != nil {
		copies.Go(func() {
			_, _ = p.stdin.Write(c.Stdin) // a program need not read it: EPIPE, or our deadline, ends this
			p.stdin.Close()
		})
	}
	go func() {
		defer close(p.copied)
		copies.Wait()
	}()
	go func() {
		defer close(p.exited)
		// Without reaping: as long as the program's id is taken, its group can
		// be signalled without meeting a stranger.
		for unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	return nil
}

// begin starts the program in a cgroup of its own where the machine allows
// that, and without one elsewhere.
func (p *process) begin(job call.JobID) error {
	if g, err := p.newGroup(job); err == nil {
		in := *p.cmd
		attr := *p.cmd.SysProcAttr
		attr.UseCgroupFD, attr.CgroupFD = true, int(g.file.Fd())
		in.SysProcAttr = &attr
		if err := in.Start(); err == nil {
			p.cmd, p.group = &in, g
			p.bound()
			return nil
		}
		g.release() // nothing has run: an old kernel, a filter of system calls, or what the next try says
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.bound()
	return nil
}

func (p *process) newGroup(job call.JobID) (*group, error) {
	if p.Cgroup == nil {
		return nil, errors.ErrUnsupported
	}
	home, err := p.Cgroup()
	if err != nil {
		return nil, err
	}
	return newGroup(home, job)
}

// copy takes output from r until its end. Once drain is closed nobody waits
// for others that hold the pipe: what the program can have left in it is
// read, as long as something comes.
func (p *process) copy(r *os.File, keep *module.Limit, live io.Writer) {
	buf := make([]byte, chunk)
	left, patient := pipeSize, true
	for left > 0 {
		draining := closed(p.drain)
		n, err := r.Read(buf)
		_, _ = keep.Write(buf[:n])
		if live != nil && n > 0 {
			if _, err := live.Write(buf[:n]); err != nil {
				live = nil // nobody listens any more; the program goes on
			}
		}
		if draining {
			left -= n
		}
		switch {
		case err == nil:
			patient = true
		case patient && errors.Is(err, os.ErrDeadlineExceeded):
			patient = false // the deadline may have passed while the live reader was slow
		default:
			return
		}
		if closed(p.drain) {
			_ = r.SetReadDeadline(time.Now().Add(p.Idle))
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wait returns when the program has ended, its output is read, and no
// goroutine is left. It says whether ctx ended first and the program was
// stopped.
func (p *process) wait(ctx context.Context) (stopped bool) {
	select {
	case <-p.exited:
	case <-ctx.Done():
		if stopped = !closed(p.exited); stopped {
			p.stop(context.Cause(ctx))
			<-p.exited
		}
	}
	p.clear()
	close(p.drain)
	for _, r := range p.readers {
		_ = r.SetReadDeadline(time.Now().Add(p.Idle)) // wakes a copy that reads
	}
	if p.stdin != nil {
		_ = p.stdin.SetWriteDeadline(time.Now())
	}
	<-p.copied
	for _, r := range p.readers {
		r.Close()
	}
	_ = p.cmd.Wait() // its status is in ProcessState
	return stopped
}

// stop ends the process group and all that left it but are still in the
// call's cgroup: SIGTERM, then SIGKILL when the grace is over, or as soon as
// the program, everyone who held its output and the cgroup are gone.
func (p *process) stop(cause error) {
	id := p.cmd.Process.Pid
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} { // a stopped one could not act on it
		_ = syscall.Kill(-id, sig)
		p.group.signal(sig, id)
	}
	wait := p.Grace
	if call.CodeOf(cause) == call.Cancelled {
		wait = p.Cancel
	}
	p.await(time.After(wait))
	_ = syscall.Kill(-id, syscall.SIGKILL)
	p.group.kill()
}

// await returns when nothing of the call is left, or late.
func (p *process) await(late <-chan time.Time) {
	for _, c := range []<-chan struct{}{p.copied, p.exited} {
		select {
		case <-c:
		case <-late:
			return
		}
	}
	tick := time.NewTicker(emptyTick)
	defer tick.Stop()
	for !p.group.empty() {
		select {
		case <-tick.C:
		case <-late:
			return
		}
	}
}

func (p *process) result(ctx context.Context, stopped bool) (*Result, error) {
	r := &Result{Stdout: p.out, Stderr: p.err}
	state := p.cmd.ProcessState
	if state == nil {
		return r, fmt.Errorf("wait for %s: its status is lost", p.cmd.Path)
	}
	status := state.Sys().(syscall.WaitStatus)
	r.Exit = status.ExitStatus()
	if status.Signaled() {
		r.Exit = 128 + int(status.Signal())
		r.Signal = unix.SignalName(status.Signal())
	}
	switch {
	case stopped:
		return r, fmt.Errorf("stopped, %s: %w", r.how(), context.Cause(ctx))
	case r.Exit != 0:
		return r, &ExitError{Result: r}
	}
	return r, nil
}

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/module"
)

// maxProblems bounds the list of processes that could not be signalled.
const maxProblems = 20

// handle is a process that was found and cannot be mistaken for another any
// more.
type handle struct {
	process
	fd int // a pidfd
}

// open finds a process. The pidfd comes first: what /proc says afterwards is
// about the same process as long as that one has not ended.
func open(ctx context.Context, env *module.Env, pid int, start uint64) (handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return handle{}, fault(pid, err)
	}
	h := handle{fd: fd}
	if h.process, err = find(pid); err == nil {
		err = h.check(start)
	}
	if err != nil {
		h.close()
		return handle{}, err
	}
	t := table{all: []process{h.process}}
	t.name(ctx, env)
	h.process = t.all[0]
	return h, nil
}

func find(pid int) (process, error) {
	proc, err := os.OpenRoot("/proc")
	if err != nil {
		return process{}, err
	}
	defer proc.Close()
	boot, err := bootTime(proc)
	if err != nil {
		return process{}, err
	}
	p, err := one(proc, pid, boot)
	if err != nil {
		return process{}, fault(pid, err)
	}
	return p, nil
}

func fault(pid int, err error) error {
	switch {
	case gone(err) && !errors.Is(err, os.ErrPermission):
		return call.Errorf(call.Failed, "there is no process %d", pid)
	case errors.Is(err, unix.EINVAL):
		return call.Errorf(call.Failed, "%d is a thread, not a process", pid)
	case errors.Is(err, unix.ENOSYS):
		return call.Errorf(call.Failed, "this kernel has no pidfd_open: it is older than Linux 5.3")
	}
	return fmt.Errorf("process %d: %w", pid, err)
}

// check refuses what is not to be signalled, and another process than meant.
func (h handle) check(start uint64) error {
	if start != 0 && h.Start != start {
		return call.Errorf(call.Conflict, "process %d started at %d, not %d: it is another one", h.PID, h.Start, start)
	}
	if err := guarded(h.process); err != nil {
		return err
	}
	// The process that /proc told about may be a later one of that number; then
	// the one of the pidfd has ended.
	if err := unix.PidfdSendSignal(h.fd, 0, nil, 0); err != nil {
		return fault(h.PID, err)
	}
	return nil
}

func guarded(p process) error {
	switch {
	case p.PID == 1:
		return call.Errorf(call.Denied, "process 1 is not signalled")
	case p.PID == os.Getpid():
		return call.Errorf(call.Denied, "process %d is the agent", p.PID)
	case p.kernel:
		return call.Errorf(call.Denied, "process %d is a thread of the kernel", p.PID)
	}
	return nil
}

func (h handle) close() { _ = unix.Close(h.fd) }

func (h handle) signal(name string) error {
	if err := unix.PidfdSendSignal(h.fd, unix.SignalNum("SIG"+name), nil, 0); err != nil {
		return fault(h.PID, err)
	}
	return nil
}

func kill(ctx context.Context, env *module.Env, in killIn) (Killed, error) {
	h, err := open(ctx, env, in.PID, in.Start)
	if err != nil {
		return Killed{}, err
	}
	defer h.close()
	out := Killed{Changed: true, Process: h.Process}
	if in.DryRun {
		return out, nil
	}
	if err := h.signal(in.Signal); err != nil {
		return Killed{}, err
	}
	if in.Wait > 0 {
		if out.Ended, err = h.wait(ctx, in.Wait); err == nil && !out.Ended {
			err = call.Errorf(call.Failed, "process %d has the signal and has not ended within %v", in.PID, in.Wait)
		}
	}
	return out, err
}

// wait says whether the process ends in time. Who ended and has not been
// waited for by his parent counts as ended.
func (h handle) wait(ctx context.Context, limit time.Duration) (bool, error) {
	const slice = 50 // milliseconds until we look whether ctx has ended
	late := time.Now().Add(limit)
	for {
		fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, slice)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("wait for process %d: %w", h.PID, err)
		case n > 0:
			return true, nil
		case ctx.Err() != nil:
			return false, fmt.Errorf("wait for process %d: %w", h.PID, context.Cause(ctx))
		case time.Now().After(late):
			return false, nil
		}
	}
}

func match(ctx context.Context, env *module.Env, in matchIn) (Matched, error) {
	if in.Filter == (Filter{}) {
		return Matched{}, call.Errorf(call.Invalid, "process.match: give a name, a command or a user")
	}
	f, err := in.Filter.compile(ctx, env)
	if err != nil {
		return Matched{}, err
	}
	t, err := read(ctx, env)
	if err != nil {
		return Matched{}, err
	}
	oldest := time.Now().Add(-in.Older)
	found := slices.DeleteFunc(t.all, func(p process) bool {
		return !f.holds(p) || guarded(p) != nil || p.State == "Z" || in.Older > 0 && p.Started.After(oldest)
	})
	var out Matched
	if !in.DryRun {
		found = slices.DeleteFunc(found, func(p process) bool { return !out.signal(ctx, env, p, in.Signal) })
	}
	out.Signalled = len(found)
	out.Changed = len(found) > 0
	out.Processes = answer(found, len(found)).Processes
	if n := len(out.Problems); n > 0 {
		return out, call.Errorf(call.Failed, "%d processes got the signal, %s", len(found), out.Problems[0])
	}
	return out, nil
}

// signal says whether a process got the signal. One that ended before is no
// problem.
func (m *Matched) signal(ctx context.Context, env *module.Env, p process, name string) bool {
	h, err := open(ctx, env, p.PID, p.Start)
	if err == nil {
		defer h.close()
		err = h.signal(name)
	}
	if err == nil {
		return true
	}
	if again, e := find(p.PID); e == nil && again.Start == p.Start && again.State != "Z" && len(m.Problems) < maxProblems {
		m.Problems = append(m.Problems, fmt.Sprintf("process %d (%s): %v", p.PID, p.Name, err))
	}
	return false
}

package groupsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxOutput = 16 << 20 // bytes of an answer
	maxError  = 2 << 10  // bytes of standard error that are told
	waitDelay = time.Second
	noGroup   = 4 // exit status: the group is not known
)

// errLong is the end of a program that prints too much.
var errLong = fmt.Errorf("it prints more than %d MiB", maxOutput>>20)

// bounded keeps the first bytes that are written, and with over set calls it for
// the first one too many.
type bounded struct {
	buf  bytes.Buffer
	most int
	over func()
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.most - b.buf.Len()
	b.buf.Write(p[:min(room, len(p))])
	if len(p) > room && b.over != nil {
		b.over()
	}
	return len(p), nil
}

// run starts a program and gives what it prints.
func (s *Sources) run(ctx context.Context, file string, args ...string) ([]byte, error) {
	late := fmt.Errorf("it did not answer within %s", s.opt.Timeout)
	ctx, stop := context.WithTimeoutCause(ctx, s.opt.Timeout, late)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &bounded{most: maxOutput, over: func() { cancel(errLong) }}
	errs := &bounded{most: maxError}
	cmd := exec.CommandContext(ctx, file, args...) //nolint:gosec // running what the administrator put there is what this is for; see key
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = waitDelay
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", file, err)
	}
	// What it left behind is ended before it is reaped: until then its number is nobody else's.
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nobody may be left
	err := cmd.Wait()
	said := ""
	if text := strings.Join(strings.Fields(strings.ToValidUTF8(errs.buf.String(), "?")), " "); text != "" {
		said = ": " + text
	}
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, fmt.Errorf("%w%s", context.Cause(ctx), said)
	case out.buf.Len() == maxOutput:
		return nil, errLong
	case exited && exit.ExitCode() == noGroup:
		return nil, fmt.Errorf("%w%s", ErrNoGroup, said)
	case err != nil:
		return nil, fmt.Errorf("%s ended with %w%s", file, err, said)
	}
	return out.buf.Bytes(), nil
}

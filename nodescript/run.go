package nodescript

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds of one script.
const (
	chunk      = 32 << 10               // bytes read at once
	maxStderr  = 16 << 10               // bytes of its standard error that are kept
	headBytes  = 256                    // of a file that Linux looks at for #! (BINPRM_BUF_SIZE)
	drainTime  = 200 * time.Millisecond // for what is left in a pipe that somebody holds open
	busyTime   = 500 * time.Millisecond // for a file that is being written, or whose writer was copied by a fork, to be closed
	busyTick   = 5 * time.Millisecond
	fallbackSh = "/bin/sh"
)

var (
	errTime   = errors.New("its time is over")
	errOutput = errors.New("its output is too large")
	errHeld   = errors.New("a process that it left in the background holds its output")
)

// program is one script to be run.
type program struct {
	path  string   // absolute
	args  []string // after the path
	env   []string
	shell string        // for #!/bin/sh; empty: that one
	time  time.Duration // it may take
	room  int           // bytes that it may print
	spare bool          // what it leaves behind in the background lives on
}

// output is what a program did.
type output struct {
	stdout []byte
	stderr []byte
	cut    int // bytes of standard error that were not kept
	err    error
}

// head is the beginning of a script.
type head struct {
	interpreter string // empty: it does not begin with #!
	argument    string // all that follows the interpreter
	binary      bool   // it holds a zero byte
}

// parseHead reads the first line as Linux does (execve(2)).
func parseHead(b []byte) head {
	b = b[:min(len(b), headBytes)]
	h := head{binary: bytes.IndexByte(b, 0) >= 0}
	line, ok := bytes.CutPrefix(b, []byte("#!"))
	if !ok {
		return h
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	line, _, _ = bytes.Cut(line, []byte{0})
	text := strings.Trim(string(line), " \t")
	if i := strings.IndexAny(text, " \t"); i >= 0 {
		h.interpreter, h.argument = text[:i], strings.Trim(text[i:], " \t")
	} else {
		h.interpreter = text
	}
	return h
}

// identity tells whether a file was changed.
type identity struct {
	dev, ino        uint64
	size            int64
	modified, inode syscall.Timespec
}

func identityOf(info fs.FileInfo) identity {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim} //nolint:unconvert // Dev is narrower on some machines
}

// look reads what has to be known of a script before it runs.
func (t *Tree) look(name string) (h head, sum [sha256.Size]byte, id identity, err error) {
	f, info, err := t.open(name)
	if err != nil {
		return h, sum, id, err
	}
	defer f.Close()
	id = identityOf(info)
	first := make([]byte, headBytes)
	n, err := io.ReadFull(f, first)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return h, sum, id, err
	}
	d := sha256.New()
	d.Write(first[:n])
	if n == headBytes {
		if _, err := io.Copy(d, f); err != nil {
			return h, sum, id, err
		}
	}
	d.Sum(sum[:0])
	return parseHead(first[:n]), sum, id, nil
}

// unchanged says whether the file at a path is still the one that was looked
// at: the same, or at least with the same content.
func (t *Tree) unchanged(name string, id identity, sum [sha256.Size]byte) bool {
	_, info, err := t.resolve(name)
	if err == nil && identityOf(info) == id {
		return true
	}
	_, now, _, err := t.look(name)
	return err == nil && now == sum
}

// argv gives the words to start a script with.
func (p program) argv(h head) []string {
	argv := []string{p.path}
	if h.interpreter == fallbackSh && p.shell != "" {
		argv = []string{p.shell}
		if h.argument != "" {
			argv = append(argv, h.argument)
		}
		argv = append(argv, p.path)
	}
	return append(argv, p.args...)
}

// run runs a script in a process group of its own, which is killed as a whole
// when its time is over, when it prints too much, or when ctx ends, and which
// is no longer there afterwards. No goroutine is left.
func (p program) run(ctx context.Context, h head) output {
	r := running{program: p, exited: make(chan struct{}), closed: make(chan struct{}), over: make(chan struct{})}
	if err := r.start(ctx, h); err != nil {
		return output{err: err}
	}
	timer := time.NewTimer(p.time)
	defer timer.Stop()
	why := r.wait(ctx, timer.C)
	return r.end(why)
}

// running is a script that runs.
type running struct {
	program
	cmd      *exec.Cmd
	out, err *os.File // our ends of its standard output and error
	copies   sync.WaitGroup
	exited   chan struct{} // closed when it has ended; its id is still taken
	closed   chan struct{} // closed when its standard output has
	over     chan struct{} // closed when it printed too much

	stdout []byte // owned by its copy until closed is
	stderr []byte // owned by its copy until copies is done
	cut    int    // likewise
}

func (r *running) start(ctx context.Context, h head) error {
	var theirs [2]*os.File
	var err error
	if r.out, theirs[0], err = os.Pipe(); err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	if r.err, theirs[1], err = os.Pipe(); err != nil {
		r.out.Close()
		theirs[0].Close()
		return fmt.Errorf("start it: %w", err)
	}
	err = r.begin(ctx, h, theirs[0], theirs[1])
	theirs[0].Close()
	theirs[1].Close()
	if err != nil {
		r.out.Close()
		r.err.Close()
		return err
	}
	r.copies.Go(r.copyOut)
	r.copies.Go(r.copyErr)
	r.copies.Go(func() {
		defer close(r.exited)
		// Without reaping: as long as its id is taken, its group can be
		// signalled without meeting a stranger (waitid(2)).
		const pid, exitedNoWait = 1, syscall.WEXITED | 0x01000000
		for {
			if _, _, e := syscall.Syscall6(syscall.SYS_WAITID, pid, uintptr(r.cmd.Process.Pid), 0, exitedNoWait, 0, 0); e != syscall.EINTR {
				return
			}
		}
	})
	return nil
}

// begin starts the process. A file that somebody is writing, or that a process
// which is being started still has open, is tried again; one that is no program
// is given to a shell, as a shell does.
func (r *running) begin(ctx context.Context, h head, stdout, stderr *os.File) error {
	try := func(argv []string) error {
		r.cmd = &exec.Cmd{
			Path: argv[0], Args: argv, Env: r.env, Dir: "/", Stdout: stdout, Stderr: stderr,
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		}
		return r.cmd.Start()
	}
	argv := r.argv(h)
	err := try(argv)
	tick := time.NewTicker(busyTick)
	defer tick.Stop()
	for late := time.After(busyTime); errors.Is(err, syscall.ETXTBSY); err = try(argv) {
		select {
		case <-tick.C:
			continue
		case <-late:
		case <-ctx.Done():
		}
		break
	}
	if errors.Is(err, syscall.ENOEXEC) && !h.binary {
		err = try(append([]string{r.fallback()}, argv...))
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist) && r.cmd.Path != r.path:
		return fmt.Errorf("the shell %q is missing", r.cmd.Path)
	case errors.Is(err, fs.ErrNotExist) && h.interpreter != "":
		return fmt.Errorf("its interpreter %q is missing", h.interpreter)
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("start it: %w", err)
}

func (r *running) fallback() string {
	if r.shell != "" {
		return r.shell
	}
	return fallbackSh
}

func (r *running) copyOut() {
	defer close(r.closed)
	buf := make([]byte, chunk)
	told := false
	for {
		n, err := r.out.Read(buf)
		fits := min(n, r.room-len(r.stdout))
		r.stdout = append(r.stdout, buf[:fits]...)
		if fits < n && !told {
			told = true
			close(r.over)
		}
		if err != nil {
			return
		}
	}
}

func (r *running) copyErr() {
	buf := make([]byte, chunk)
	for {
		n, err := r.err.Read(buf)
		fits := min(n, maxStderr-len(r.stderr))
		r.stderr = append(r.stderr, buf[:fits]...)
		r.cut += n - fits
		if err != nil {
			return
		}
	}
}

// wait returns when the script has ended and nobody holds its output, and nil;
// or before, and why it has to be ended.
func (r *running) wait(ctx context.Context, late <-chan time.Time) error {
	for _, done := range []chan struct{}{r.exited, r.closed} {
		select {
		case <-done:
		case <-r.over:
			return errOutput
		case <-late:
			if isClosed(r.exited) {
				return errHeld
			}
			return errTime
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if isClosed(r.over) {
		return errOutput
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// end kills what is left, takes what is left in the pipes, and says how it went.
func (r *running) end(why error) output {
	if why != nil || !r.spare {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // ESRCH: nothing is left
		_ = syscall.Kill(r.cmd.Process.Pid, syscall.SIGKILL)  // it may have left its group
	}
	<-r.exited
	_ = r.out.SetReadDeadline(time.Now().Add(drainTime)) // who left the group may hold them for ever
	_ = r.err.SetReadDeadline(time.Now().Add(drainTime))
	r.copies.Wait()
	r.out.Close()
	r.err.Close()
	_ = r.cmd.Wait() // its status is in ProcessState
	o := output{stdout: r.stdout, stderr: r.stderr, cut: r.cut, err: why}
	if why == nil {
		o.err = statusOf(r.cmd.ProcessState)
	}
	return o
}

// statusOf gives nil for status 0.
func statusOf(state *os.ProcessState) error {
	if state == nil {
		return errors.New("its status is lost")
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return errors.New("its status is lost")
	case status.Signaled():
		return fmt.Errorf("it was killed by signal %d (%s)", int(status.Signal()), status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("it ended with status %d", status.ExitStatus())
	}
	return nil
}

// closeOnExec sees to it that no file that this process itself inherited is
// handed on to the programs that it starts. Go's own are closed anyway.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list the open files of this process: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/place"
	"dominion/module/run"
)

// output keeps the first part of what is shown, counts its lines, and passes
// all on to the live reader.
type output struct {
	kept  module.Limit
	lines int
	last  byte // that was written
	live  io.Writer
}

func newOutput(env *module.Env) *output {
	o := &output{kept: module.Limit{Max: keep}, last: '\n'}
	if env != nil {
		o.live = env.Stdout
	}
	return o
}

// Write never fails: a reader that leaves does not end the call.
func (o *output) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	_, _ = o.kept.Write(p)
	o.lines += bytes.Count(p, []byte("\n"))
	o.last = p[len(p)-1]
	if o.live != nil {
		if _, err := o.live.Write(p); err != nil {
			o.live = nil
		}
	}
	return len(p), nil
}

func (o *output) text() Text {
	t := Text{Lines: o.lines, Text: module.Bytes(o.kept.Bytes()), Cut: o.kept.Cut()}
	if o.last != '\n' {
		t.Lines++ // one without an end
	}
	return t
}

// machine is where the journal is; tests have one of their own.
type machine struct {
	args []string // added to those of journalctl
}

var here machine

// errFollowed is why following ends by itself.
var errFollowed = errors.New("the time of following is over")

func (m machine) journal(ctx context.Context, env *module.Env, in JournalIn) (Text, error) {
	file, err := run.Find("journalctl")
	if err != nil {
		return Text{}, err
	}
	c := run.Tool(env, file, append(append([]string{}, m.args...), in.options()...)...)
	o := newOutput(env)
	c.Stdout, c.KeepStdout = o, 0
	limit, why := readTime, fmt.Errorf("journalctl did not end within %s", readTime)
	if in.Follow > 0 {
		limit, why = in.Follow, errFollowed
	}
	within, cancel := context.WithTimeoutCause(ctx, limit, why)
	defer cancel()
	r, err := run.System.Run(within, c)
	if r == nil {
		return Text{}, err
	}
	words := bytes.TrimSpace(r.Stderr.Bytes())
	switch {
	case in.Follow > 0 && errors.Is(err, errFollowed):
	case err != nil && ctx.Err() == nil && len(words) > 0:
		return o.text(), fmt.Errorf("journalctl: %w: %s", err, words)
	case err != nil && ctx.Err() == nil && in.Grep != "" && r.Exit == 1: // it found nothing
	case err != nil:
		return o.text(), fmt.Errorf("journalctl: %w", err)
	}
	if o.lines == 0 {
		err = m.none(ctx, env, file)
	} else {
		err = nil
	}
	return o.text(), err
}

// none says whether there is a journal where nothing was found: journalctl
// does not fail without one, and when it is not to be quiet it tells.
func (m machine) none(ctx context.Context, env *module.Env, file string) error {
	c := run.Tool(env, file, append(append([]string{}, m.args...), "--no-pager", "--lines=1")...)
	r, err := run.System.Run(ctx, c)
	if err == nil && bytes.Contains(r.Stderr.Bytes(), []byte("No journal files")) {
		return call.Errorf(call.Failed, "this machine keeps no journal that the agent can read")
	}
	return err
}

// options are the arguments of journalctl(1).
func (in JournalIn) options() []string {
	args := []string{"--no-pager", "--quiet", "--output=short-iso", "--lines=" + strconv.Itoa(in.Lines), "--priority=" + in.Priority}
	option := func(name, value string) {
		if value != "" {
			args = append(args, name+"="+value)
		}
	}
	option("--unit", in.Unit)
	option("--identifier", in.Identifier)
	option("--grep", in.Grep)
	if in.Since > 0 {
		option("--since", "@"+strconv.FormatInt(time.Now().Add(-in.Since).Unix(), 10))
	}
	if in.Boot {
		args = append(args, "--boot")
	}
	if in.Follow > 0 {
		args = append(args, "--follow")
	}
	return args
}

const tailTick = 200 * time.Millisecond // between looks for new lines

func tail(ctx context.Context, env *module.Env, in TailIn) (Text, error) {
	f, info, err := openLog(in.Path)
	if err != nil {
		return Text{}, err
	}
	defer func() { f.Close() }()
	o := newOutput(env)
	from, err := lastLines(f, info.Size(), in.Lines)
	if err != nil {
		return Text{}, err
	}
	at, err := copyFrom(ctx, o, f, from)
	if err != nil || in.Follow == 0 {
		return o.text(), err
	}
	tick := time.NewTicker(tailTick)
	defer tick.Stop()
	for late := time.After(in.Follow); ; {
		select {
		case <-late:
			return o.text(), nil
		case <-ctx.Done():
			return o.text(), context.Cause(ctx)
		case <-tick.C:
		}
		if at, err = copyFrom(ctx, o, f, at); err != nil {
			return o.text(), err
		}
		next, fresh, err := openLog(in.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // between the old file and the new one
		case err != nil:
			return o.text(), err
		case !os.SameFile(info, fresh):
			if _, err = copyFrom(ctx, o, f, at); err != nil { // what was written to the old one last
				next.Close()
				return o.text(), err
			}
			f.Close()
			f, info, at = next, fresh, 0
		default:
			next.Close()
			if fresh.Size() < at {
				at = 0 // it was cut, and begins anew
			}
		}
	}
}

func openLog(path string) (*os.File, fs.FileInfo, error) {
	p, err := place.Follow(path)
	if err != nil {
		return nil, nil, err
	}
	defer p.Close()
	return p.File(os.O_RDONLY)
}

// lastLines is where the last n lines of a file of that size begin, not before
// its last 4 MiB.
func lastLines(f io.ReaderAt, size int64, n int) (int64, error) {
	const chunk = 64 << 10
	buf := make([]byte, chunk)
	least := max(0, size-maxTail)
	if n == 0 {
		return size, nil
	}
	for end := size; end > least; {
		begin := max(least, end-chunk)
		b := buf[:end-begin]
		if _, err := f.ReadAt(b, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' || begin+int64(i) == size-1 { // the last line's own end
				continue
			}
			if n--; n == 0 {
				return begin + int64(i) + 1, nil
			}
		}
		end = begin
	}
	return least, nil
}

// copyFrom copies from a place to the end that a file has now, and gives where
// that is. A file that grows faster than it is read is left for the next time.
func copyFrom(ctx context.Context, to io.Writer, f *os.File, from int64) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return from, err
	}
	buf := make([]byte, 32<<10)
	for from < info.Size() {
		if ctx.Err() != nil {
			return from, context.Cause(ctx)
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), info.Size()-from)], from)
		if _, werr := to.Write(buf[:n]); werr != nil {
			return from, werr
		}
		from += int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return from, err
		}
		if n == 0 {
			break // it was cut meanwhile
		}
	}
	return from, nil
}

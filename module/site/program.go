package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"dominion/call"
	"dominion/module"
	"dominion/module/run"
)

const (
	tailSize  = 2 << 10 // bytes of standard error that are kept for a reason
	busyTries = 20      // starts of a file that somebody still has open for writing
	busyWait  = 10 * time.Millisecond
)

// collector keeps an answer, and stops the program when it is too long.
type collector struct {
	most int
	kept bytes.Buffer
	stop context.CancelCauseFunc
	over bool
}

// Write implements io.Writer.
func (c *collector) Write(p []byte) (int, error) {
	if c.kept.Len()+len(p) > c.most {
		if !c.over {
			c.over = true
			c.stop(&call.Error{Code: call.Cancelled, Detail: c.reason()})
		}
		return 0, errors.New(c.reason())
	}
	return c.kept.Write(p)
}

func (c *collector) reason() string { return fmt.Sprintf("it printed more than %d bytes", c.most) }

// tail keeps the end of what is written, and passes it on.
type tail struct {
	to   io.Writer // nil: nobody listens
	last []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p[max(0, len(p)-tailSize):]...)
	t.last = t.last[max(0, len(t.last)-tailSize):]
	if t.to != nil {
		if _, err := t.to.Write(p); err != nil {
			t.to = nil
		}
	}
	return len(p), nil
}

// line gives the last line that is not empty.
func (t *tail) line() string {
	s := strings.TrimSpace(strings.ToValidUTF8(string(t.last), "\ufffd"))
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// program is one use of a site's program.
type program struct {
	path  string
	words []string // its name first
	stdin []byte
	env   []string
	most  int // bytes of its answer
	live  io.Writer
	job   call.JobID
	grace time.Duration // between SIGTERM and SIGKILL when its time is over; zero: the runner's
}

// errStopped wraps why a program was stopped that printed too much.
var errStopped = errors.New("stopped")

// run runs it to its end and gives what it printed. The error says how it ended,
// and wraps the cause of ctx when that ended first.
func (s *Set) run(ctx context.Context, p program) ([]byte, error) {
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out, errs := &collector{most: p.most, stop: stop}, &tail{to: p.live}
	c := run.Command{
		Path: p.path, Args: p.words, Env: run.Environment(p.env...), Dir: "/", Stdin: p.stdin,
		Stdout: out, Stderr: errs, Job: p.job, Whole: true, Memory: s.memory,
	}
	runner := s.runner
	if p.grace > 0 {
		runner.Grace = p.grace
	}
	r, err := runner.Run(within, c)
	for try := 0; r == nil && err != nil && try < busyTries && strings.Contains(err.Error(), "text file busy"); try++ {
		time.Sleep(busyWait) // a process that was just forked has our file, which was written a moment ago, open until it begins its program
		r, err = runner.Run(within, c)
	}
	switch {
	case out.over:
		return nil, fmt.Errorf("%w: %s", errStopped, out.reason())
	case err == nil:
		return out.kept.Bytes(), nil
	case r == nil || ctx.Err() != nil:
		return nil, err
	}
	if line := errs.line(); line != "" {
		return nil, fmt.Errorf("%w: %s", err, line)
	}
	return nil, err
}

// describe asks a program what it is.
func (s *Set) describe(ctx context.Context, path, name string) (module.Description, error) {
	timeout := fmt.Errorf("it did not end within %s", s.wait)
	ctx, stop := context.WithTimeoutCause(ctx, s.wait, &call.Error{Code: call.Cancelled, Detail: timeout.Error()})
	defer stop()
	out, err := s.run(ctx, program{path: path, words: []string{name, "describe"}, most: module.MaxDescription})
	if err != nil {
		if ctx.Err() != nil {
			err = timeout
		}
		return module.Description{}, fmt.Errorf("%s describe: %w", name, reasonOf(err))
	}
	d, err := module.ParseDescription(out)
	if err != nil {
		return module.Description{}, fmt.Errorf("what describe prints: %w%s", err, begins(out))
	}
	if d.Name != name {
		return module.Description{}, fmt.Errorf("it describes the module %q; the file must have that name", d.Name)
	}
	return d, nil
}

// reasonOf gives the detail of an error with a code.
func reasonOf(err error) error {
	if e, ok := errors.AsType[*call.Error](err); ok && err == error(e) { //nolint:errorlint // a wrapped one says more
		return errors.New(e.Detail)
	}
	return err
}

// begins shows how an output that cannot be read begins.
func begins(out []byte) string {
	const most = 60
	out = bytes.TrimSpace(out)
	if len(out) == 0 {
		return " (it printed nothing)"
	}
	if len(out) > most {
		out = out[:most]
		for len(out) > 0 && !utf8.Valid(out) && len(out) > most-utf8.UTFMax {
			out = out[:len(out)-1]
		}
	}
	return fmt.Sprintf(" (it begins with %q)", out)
}

// call gives what carries out a method of an entry.
func (s *Set) call(e *entry, method string) module.RawFunc {
	return func(ctx context.Context, env *module.Env, args []byte) ([]byte, error) {
		e, err := s.current(ctx, e, method)
		if err != nil {
			return nil, err
		}
		vars := append([]string{"HOME=/", "DOMINION_MACHINE=" + env.Machine, "DOMINION_OPERATOR=" + env.Operator, "DOMINION_JOB=" + env.Job.String()},
			variables(e.description, method, args)...)
		within, grace, stop := sooner(ctx)
		defer stop()
		out, err := s.run(within, program{
			path: e.found.path, words: []string{e.name, "call", method}, stdin: args, env: vars, most: module.MaxOutput, live: env.Stderr, job: env.Job, grace: grace,
		})
		if err == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("module %s: %w", e.name, err) // its cause has the code
		}
		if within.Err() != nil {
			return nil, context.Cause(within)
		}
		return nil, call.Errorf(call.Failed, "module %s: %v", e.name, reasonOf(err))
	}
}

// lastWords is how long before the end of its time a program is told to end, at
// most. It is killed at the end, and not later: who waits for the answer hears why.
const lastWords = 5 * time.Second

// sooner gives a context that ends a while before another one does, and how long.
func sooner(ctx context.Context) (within context.Context, early time.Duration, stop func()) {
	end, ok := ctx.Deadline()
	if !ok {
		return ctx, 0, func() {}
	}
	early = min(max(time.Until(end)/10, time.Millisecond), lastWords)
	// As of a time-out: without a detail, which would be another on each machine.
	within, stop = context.WithDeadlineCause(ctx, end.Add(-early), &call.Error{Code: call.Timeout})
	return within, early, stop
}

// maxVariable is the longest argument that is given in the environment, in bytes; the
// kernel takes 128 KiB for one variable, and 2 MiB for all.
const maxVariable = 4 << 10

// variables gives arguments that are one short value and no secret in a form that a
// shell can read: ARG_name=value, durations in seconds. All are on standard input.
func variables(d module.Description, method string, args []byte) []string {
	var given map[string]json.RawMessage
	i := slices.IndexFunc(d.Methods, func(s module.Schema) bool { return s.Name == method })
	if i < 0 || json.Unmarshal(args, &given) != nil {
		return nil
	}
	var out []string
	for _, f := range d.Methods[i].Fields {
		v, ok := given[f.Name]
		if !ok || f.Secret {
			continue
		}
		text := string(v)
		switch f.Type {
		case "string", "duration":
			if json.Unmarshal(v, &text) != nil {
				continue
			}
		case "bool", "int", "float":
		default:
			continue
		}
		if f.Type == "duration" {
			length, err := time.ParseDuration(text)
			if err != nil {
				continue
			}
			text = strconv.FormatFloat(length.Seconds(), 'f', -1, 64)
		}
		if len(text) <= maxVariable && !strings.ContainsRune(text, 0) {
			out = append(out, "ARG_"+f.Name+"="+text)
		}
	}
	return out
}

// current gives the entry whose program is to be run: the file must be the one
// that described itself, or describe the method in the same words.
func (s *Set) current(ctx context.Context, e *entry, method string) (*entry, error) {
	now, err := s.identify(filepath.Join(s.dir, e.name))
	if err != nil {
		return nil, call.Errorf(call.Failed, "module %s is not there any more, or cannot be used: %v", e.name, err)
	}
	if now == e.found {
		return e, nil
	}
	if s.Load(ctx, false) {
		s.poke()
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("module %s: %w", e.name, context.Cause(ctx))
	}
	n := s.find(e.name)
	if n == nil || n.reason != "" || !sameMethod(n.description, e.description, method) {
		return nil, call.Errorf(call.Failed, "module %s was changed since this call was accepted, and %s is not the same method any more; call it again", e.name, method)
	}
	return n, nil
}

// sameMethod says whether two descriptions say the same of a method.
func sameMethod(a, b module.Description, method string) bool {
	of := func(d module.Description) []byte {
		i := slices.IndexFunc(d.Methods, func(s module.Schema) bool { return s.Name == method })
		if i < 0 {
			return nil
		}
		text, err := module.EncodeSchemas(d.Methods[i : i+1])
		if err != nil {
			return nil
		}
		return text
	}
	x := of(a)
	return x != nil && bytes.Equal(x, of(b))
}

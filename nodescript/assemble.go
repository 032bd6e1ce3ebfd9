package nodescript

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// What an Assembler does when its Config does not say.
const (
	DefaultTime   = 15 * time.Second // after which Perceus cut a connection
	DefaultOutput = 16 << 20
)

// Perceus193 frames what scripts print by these lines, and so does the old
// protocol under every set of rules.
const (
	ScriptStart = "# NODESCRIPT START\n"
	ScriptEnd   = "# NODESCRIPT END\n"
)

// Perceus's daemon sent these lines around everything, the first one at once.
const (
	WireStart = "# PERCEUSD START\n"
	WireEnd   = "# PROVISIOND END\n"
)

// Config is what an Assembler needs.
type Config struct {
	Statedir  string        // required; the directory that holds nodescripts/
	Rules     Rules         // zero: Documented
	OnFailure OnFailure     // zero: as the rules say
	Shell     string        // absolute path; runs the scripts that say #!/bin/sh. Empty: /bin/sh
	Transfer  Transfer      // how nodes get files
	Places    int           // assemblies at once. Zero: twice the processors, 4 at least
	Time      time.Duration // of one script. Zero: DefaultTime
	Output    int           // bytes of one assembled script. Zero: DefaultOutput
	Log       *slog.Logger  // gets what scripts write to their standard error, and failures. Nil: nobody does
}

// check gives the configuration with its defaults.
func (c Config) check() (Config, error) {
	switch {
	case c.Statedir == "":
		return c, errors.New("the state directory of provisioning is not named")
	case c.Rules > Perceus193 || c.OnFailure > Ignore:
		return c, fmt.Errorf("rules %d, on failure %d: %w", c.Rules, c.OnFailure, ErrWord)
	case c.Shell != "" && !filepath.IsAbs(c.Shell):
		return c, fmt.Errorf("shell %q: give an absolute path", c.Shell)
	case c.Places < 0 || c.Time < 0 || c.Output < 0:
		return c, fmt.Errorf("places %d, time %v, output %d: none may be negative", c.Places, c.Time, c.Output)
	}
	for _, v := range []string{c.Transfer.Method, c.Transfer.Master, c.Transfer.Prefix} {
		if err := checkValue(v); err != nil {
			return c, err
		}
	}
	if c.Places == 0 {
		c.Places = max(4, 2*runtime.NumCPU())
	}
	if c.Time == 0 {
		c.Time = DefaultTime
	}
	if c.Output == 0 {
		c.Output = DefaultOutput
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.OnFailure = c.OnFailure.under(c.Rules)
	return c, nil
}

// Script is what a node gets, and what it came from.
type Script struct {
	// Text is the script, also when Failure is set: then it is one that says so
	// on the node and ends with status 1.
	Text   []byte
	SHA256 [sha256.Size]byte // of Text
	Ran    []Ran             // in order
	// Failure is why nothing of what the scripts printed is in Text. Empty: all
	// of it is.
	Failure string
}

// Ran is a script that had a part in an assembly, or should have had.
type Ran struct {
	Path    string            // relative to nodescripts/, such as init/all/00-init
	SHA256  [sha256.Size]byte // of the file before it ran; zero when it could not be read
	Bytes   int               // that it gave
	Took    time.Duration
	Problem string // why it failed; empty: it did not
	Stderr  []byte // what it wrote to its standard error: the first 16 KiB
	Cut     int    // bytes of standard error beyond Stderr
}

// Assembler makes scripts for nodes, a limited number at a time. Its methods
// may be called at the same time.
type Assembler struct {
	cfg  Config
	fair *fair
}

// New checks the configuration. It also sees to it that files that this process
// inherited open are closed in every program that it starts from now on.
func New(cfg Config) (*Assembler, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("node scripts: %w", err)
	}
	if err := closeOnExec(); err != nil {
		return nil, fmt.Errorf("node scripts: %w", err)
	}
	return &Assembler{cfg: cfg, fair: newFair(cfg.Places)}, nil
}

// Assemble runs the scripts of a node in a state and gives what they print. It
// waits for a place; each node has one at most, and nodes that wait take turns.
// Scripts that fail are no error but in Script: Text is then, unless failures
// are ignored, a script that reports it. An error wraps ErrRequest, is that of
// ctx, or says that STATEDIR cannot be read.
func (a *Assembler) Assemble(ctx context.Context, n Node, state string) (*Script, error) {
	what := func(err error) error {
		return fmt.Errorf("node script of %.253q for state %.64q: %w", n.Name, state, err)
	}
	if err := checkRequest(n, state); err != nil {
		return nil, what(err)
	}
	if err := a.fair.acquire(ctx, n.Name); err != nil {
		return nil, what(err)
	}
	defer a.fair.release(n.Name)
	t, err := Open(a.cfg.Statedir)
	if err != nil {
		return nil, what(err)
	}
	defer t.Close()
	candidates, err := t.Explain(a.cfg.Rules, n, state)
	if err != nil {
		return nil, what(err)
	}
	w := &work{Config: a.cfg, tree: t, node: n, state: state, env: environment(a.cfg.Rules, n, state, t.path, a.cfg.Transfer)}
	s, err := w.assemble(ctx, candidates)
	if err != nil {
		return nil, what(err)
	}
	s.SHA256 = sha256.Sum256(s.Text)
	return s, nil
}

// work is one assembly.
type work struct {
	Config
	tree  *Tree
	node  Node
	state string
	env   []string
}

func (w *work) assemble(ctx context.Context, candidates []Candidate) (*Script, error) {
	s := &Script{Text: []byte{}}
	if w.OnFailure == Stop { // before anything runs
		for _, c := range candidates {
			if c.Does == Fails {
				ran := Ran{Path: c.Path(w.state), Problem: c.Note}
				w.tell(ran)
				s.Ran = append(s.Ran, ran)
				return w.report(s, ran), nil
			}
		}
	}
	if w.Rules == Perceus193 {
		s.Text = append(s.Text, ScriptStart...)
	}
	for _, c := range candidates {
		if !c.part() {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		start := time.Now()
		ran, text := w.one(ctx, c, max(0, w.Output-len(s.Text)-len(ScriptEnd)))
		ran.Bytes, ran.Took = len(text), time.Since(start)
		if err := context.Cause(ctx); err != nil {
			return nil, err // whatever came of it, nobody waits for it
		}
		w.tell(ran)
		s.Ran = append(s.Ran, ran)
		s.Text = append(s.Text, text...)
		if ran.Problem != "" && w.OnFailure == Stop {
			return w.report(s, ran), nil
		}
	}
	if w.Rules == Perceus193 {
		s.Text = append(s.Text, ScriptEnd...)
	}
	return s, nil
}

// one gives what one candidate adds to the script.
func (w *work) one(ctx context.Context, c Candidate, room int) (Ran, []byte) {
	ran := Ran{Path: c.Path(w.state)}
	if c.Does == Fails {
		ran.Problem = c.Note
		return ran, nil
	}
	name, args := c.Name, []string(nil)
	if len(c.words) > 0 {
		name, args = c.words[0], c.words[1:]
	}
	file := scripts + "/" + w.state + "/" + c.Folder + "/" + name
	h, sum, id, err := w.tree.look(file)
	if err != nil {
		ran.Problem = plainError(err)
		return ran, nil
	}
	ran.SHA256 = sum
	var o output
	if c.Does == Sent {
		if o.stdout, o.err = w.tree.literal(ran.Path); o.err == nil && len(o.stdout) > room {
			o.err = errOutput
		}
	} else {
		o = program{
			path: w.absolute(file), args: args, env: w.env, shell: w.Shell, time: w.Time, room: room,
			spare: w.Rules == Perceus193,
		}.run(ctx, h)
	}
	ran.Stderr, ran.Cut = o.stderr, o.cut
	switch {
	case errors.Is(o.err, errOutput):
		ran.Problem = fmt.Sprintf("the script of the node would have more than %d bytes; nothing of this one is in it", w.Output)
		return ran, nil // a part of it could be anything
	case errors.Is(o.err, errTime), errors.Is(o.err, errHeld):
		ran.Problem = fmt.Sprintf("after %v %v", w.Time, o.err)
	case o.err != nil:
		ran.Problem = plainError(o.err)
	case !w.tree.unchanged(file, id, sum):
		ran.Problem = "it was changed while it ran"
	}
	return ran, o.stdout
}

// absolute is the path by which a script is called. Perceus has two slashes
// there, which a script can see.
func (w *work) absolute(file string) string {
	if w.Rules == Perceus193 {
		return w.tree.path + "/" + file
	}
	return w.tree.path + file
}

// plainError leaves out what a path error says about where.
func plainError(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// tell writes to the log what a script complained about, and its failure.
func (w *work) tell(ran Ran) {
	if len(ran.Stderr) > 0 {
		w.Log.Info("node script wrote to standard error", "script", ran.Path, "node", w.node.Name, "text", string(ran.Stderr), "cut", ran.Cut)
	}
	if ran.Problem != "" {
		w.Log.Warn("node script failed", "script", ran.Path, "node", w.node.Name, "err", ran.Problem)
	}
}

// report makes the script that tells the node of a failure. Nothing of what
// other scripts printed is in it.
func (w *work) report(s *Script, ran Ran) *Script {
	s.Failure = fmt.Sprintf("%s: %s", visible(ran.Path), visible(ran.Problem))
	s.Text = []byte("# The scripts of this state could not be put together, so none of them runs.\n" +
		"printf '%s\\n' " + quote("dominion: no script for "+w.node.Name+" in state "+w.state+": "+s.Failure) + " >&2\n" +
		"exit 1\n")
	if w.Rules == Perceus193 {
		s.Text = []byte(ScriptStart + string(s.Text) + ScriptEnd)
	}
	return s
}

// quote makes a word of a POSIX shell of a text.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// visible escapes what is not to be seen in a line.
func visible(s string) string {
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

package groupsource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"dominion/target"
)

// Defaults and limits; see the package documentation.
const (
	DefaultDir     = "/etc/dominion/groups.d"
	DefaultLife    = time.Minute
	DefaultTimeout = 10 * time.Second

	maxLife    = 24 * time.Hour
	failedLife = 5 * time.Second
	maxRuns    = 4
	maxSources = 64
	maxKept    = 1000 // answers
)

// ErrNoGroup is wrapped by the error about a group, or a source, that is not there.
var ErrNoGroup = errors.New("no such group")

// Options say where sources are.
type Options struct {
	Dir     string        // empty: DefaultDir; it need not exist
	Life    time.Duration // of an answer that does not say; zero: DefaultLife
	Timeout time.Duration // of one program; zero: DefaultTimeout
}

// Sources are the programs in a directory. They are safe for concurrent use.
type Sources struct {
	opt  Options
	runs chan struct{} // a place for each program that may run

	mu   sync.Mutex
	kept map[key]*answer
}

// key is a question to a program as it is now.
type key struct {
	file  string
	inode uint64
	mtime int64
	size  int64
	what  string // "list", or "members GROUP"
}

// answer is what a program said, or is about to say.
type answer struct {
	done  chan struct{} // closed when the rest is there
	names []string
	err   error
	until time.Time
}

// New looks at nothing yet: programs may come and go.
func New(opt Options) *Sources {
	if opt.Dir == "" {
		opt.Dir = DefaultDir
	}
	if opt.Life == 0 {
		opt.Life = DefaultLife
	}
	if opt.Timeout == 0 {
		opt.Timeout = DefaultTimeout
	}
	return &Sources{opt: opt, runs: make(chan struct{}, maxRuns), kept: make(map[key]*answer)}
}

// Has says whether there is a source of this name, whether or not it can be used.
func (s *Sources) Has(source string) bool {
	if !isSource(source) {
		return false
	}
	_, err := os.Lstat(filepath.Join(s.opt.Dir, source))
	return err == nil
}

// Members gives the members of a group, sorted, each once. An error wraps
// ErrNoGroup when the source, or the group in it, is not there; others say why
// the program could not be asked.
func (s *Sources) Members(ctx context.Context, source, group string) ([]string, error) {
	if _, err := target.GroupRef(source + "/" + group); err != nil || !isSource(source) {
		return nil, fmt.Errorf("source %.80q: group %.80q: %w", source, group, ErrNoGroup)
	}
	k, err := s.key(source)
	if err != nil {
		return nil, err
	}
	k.what = "members " + group
	names, err := s.ask(ctx, k, func(ctx context.Context) ([]string, time.Duration, error) {
		out, err := s.run(ctx, k.file, "members", group)
		if err != nil {
			return nil, 0, err
		}
		names, err := target.ReadList(string(out))
		return names, s.life(out), err
	})
	if err != nil {
		return nil, fmt.Errorf("source %s: group %q: %w", source, group, err)
	}
	return names, nil
}

// Listing is what is known of one source.
type Listing struct {
	Name   string
	File   string
	Groups []string // that it lists, sorted; nil when Err is set
	Err    error
}

// List asks every source for its groups, and gives them sorted by name. Without
// the directory there are none.
func (s *Sources) List(ctx context.Context) ([]Listing, error) {
	entries, err := os.ReadDir(s.opt.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for sources of groups: %w", err)
	}
	var out []Listing
	for _, e := range entries {
		if !isSource(e.Name()) {
			continue
		}
		if len(out) == maxSources {
			out = append(out, Listing{Name: e.Name(), File: filepath.Join(s.opt.Dir, e.Name()), Err: fmt.Errorf("there are more than %d sources", maxSources)})
			break
		}
		out = append(out, Listing{Name: e.Name(), File: filepath.Join(s.opt.Dir, e.Name())})
	}
	var wg sync.WaitGroup
	for i := range out {
		if out[i].Err == nil {
			wg.Go(func() { out[i].Groups, out[i].Err = s.list(ctx, out[i].Name) })
		}
	}
	wg.Wait()
	return out, nil
}

func (s *Sources) list(ctx context.Context, source string) ([]string, error) {
	k, err := s.key(source)
	if err != nil {
		return nil, err
	}
	k.what = "list"
	return s.ask(ctx, k, func(ctx context.Context) ([]string, time.Duration, error) {
		out, err := s.run(ctx, k.file, "list")
		if err != nil {
			return nil, 0, err
		}
		var names []string
		for line := range strings.Lines(string(out)) {
			line, _, _ = strings.Cut(line, "#")
			for _, w := range strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\r' || r == '\n' }) {
				if _, err := target.GroupRef(source + "/" + w); err != nil {
					return nil, 0, fmt.Errorf("it lists %.80q, which cannot be the name of a group", w)
				}
				names = append(names, w)
			}
		}
		slices.Sort(names)
		return slices.Compact(names), s.life(out), nil
	})
}

// isSource says whether a file's name can be that of a source.
func isSource(name string) bool {
	low, err := target.GroupName(name)
	return err == nil && low == name && name[0] != '.'
}

// life gives how long an answer holds: what a comment before its first name says.
func (s *Sources) life(out []byte) time.Duration {
	for line := range strings.Lines(string(out[:min(len(out), 4096)])) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if !ok {
			break
		}
		if v, ok := strings.CutPrefix(strings.TrimSpace(text), "life:"); ok {
			if d, err := time.ParseDuration(strings.TrimSpace(v)); err == nil && d >= 0 {
				return min(d, maxLife)
			}
		}
	}
	return s.opt.Life
}

// ask gives what is kept, or asks. Who asks the same meanwhile waits for it.
func (s *Sources) ask(ctx context.Context, k key, f func(context.Context) ([]string, time.Duration, error)) ([]string, error) {
	for {
		s.mu.Lock()
		a, found := s.kept[k]
		if found {
			select {
			case <-a.done:
				found = time.Now().Before(a.until)
			default:
			}
		}
		if !found {
			a = &answer{done: make(chan struct{})}
			s.keep(k, a)
		}
		s.mu.Unlock()
		if !found {
			s.fill(ctx, k, a, f)
			return a.names, a.err
		}
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if a.err == nil || ctx.Err() != nil || !errors.Is(a.err, errLeft) {
			return a.names, a.err
		}
	}
}

// errLeft is the failure of an asker who did not wait for the answer: others ask again.
var errLeft = errors.New("it was not waited for")

// fill asks the program and keeps what it says.
func (s *Sources) fill(ctx context.Context, k key, a *answer, f func(context.Context) ([]string, time.Duration, error)) {
	var life time.Duration
	select {
	case s.runs <- struct{}{}:
		a.names, life, a.err = f(ctx)
		<-s.runs
	case <-ctx.Done():
		a.err = context.Cause(ctx)
	}
	switch {
	case ctx.Err() != nil && a.err != nil:
		a.err, life = fmt.Errorf("%w: %w", errLeft, a.err), 0
	case a.err != nil:
		life = failedLife
	}
	a.until = time.Now().Add(life)
	close(a.done)
	if life == 0 {
		s.mu.Lock()
		if s.kept[k] == a {
			delete(s.kept, k)
		}
		s.mu.Unlock()
	}
}

// keep puts an answer into the table, of which mu is held; those that are over
// make room, or else any other does.
func (s *Sources) keep(k key, a *answer) {
	if len(s.kept) >= maxKept {
		now := time.Now()
		for old, o := range s.kept {
			select {
			case <-o.done:
				if now.After(o.until) || len(s.kept) >= maxKept {
					delete(s.kept, old)
				}
			default:
			}
		}
	}
	s.kept[k] = a
}

// key checks the program of a source and says which it is.
func (s *Sources) key(source string) (key, error) {
	file := filepath.Join(s.opt.Dir, source)
	fi, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return key{}, fmt.Errorf("source %s: %w: there is no %s", source, ErrNoGroup, file)
	}
	if err != nil {
		return key{}, fmt.Errorf("source %s: %w", source, err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return key{}, fmt.Errorf("source %s: who owns %s is not known", source, file)
	case !fi.Mode().IsRegular():
		return key{}, fmt.Errorf("source %s: %s is no regular file (a link is none)", source, file)
	case fi.Mode()&0o111 == 0:
		return key{}, fmt.Errorf("source %s: %s is not executable", source, file)
	}
	if err := ours(file, fi); err != nil {
		return key{}, fmt.Errorf("source %s: %w", source, err)
	}
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		di, err := os.Stat(dir)
		if err == nil && (dir == s.opt.Dir || di.Mode()&os.ModeSticky == 0) {
			err = ours(dir, di)
		}
		if err != nil {
			return key{}, fmt.Errorf("source %s: %w", source, err)
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return key{file: file, inode: st.Ino, mtime: fi.ModTime().UnixNano(), size: fi.Size()}, nil
}

// ours refuses what another than root and our user owns or may write.
func ours(path string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to somebody else than root and the overlord's user; chown root %[1]s", path)
	}
	if fi.Mode()&0o022 != 0 {
		return fmt.Errorf("%s may be written by others (mode %03o); chmod go-w %[1]s", path, fi.Mode().Perm())
	}
	return nil
}

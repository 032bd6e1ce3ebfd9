// Package site offers the modules of a site's own: programs in a directory that
// describe themselves and are run for each call.
//
// A program is called in two ways. "describe" prints its module.Description and
// ends with status 0. "call METHOD" reads a JSON object of arguments from
// standard input, prints a JSON object, and ends with status 0; what it writes on
// standard error is shown live. With any other status the call has failed, and
// the last line on standard error says why. When the program ends, or its time is
// over, all that it started is killed.
//
// Only a program that nobody but root, or the agent's own user, can have put there
// is run: the directory and all above it, the file, and what a link leads to are
// owned so and not writable by others. One that cannot be used is disabled with a
// reason; the others are offered.
package site

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"dominion/module"
	"dominion/module/run"
)

// DefaultDir is where the modules of a site are unless told otherwise.
const DefaultDir = "/etc/dominion/modules.d"

// Limits.
const (
	DefaultMemory = 512 << 20 // bytes of private memory, of each process
	maxFiles      = 256       // files that are looked at
	maxSchemas    = 160 << 10 // bytes of the schemas of all modules together
	describeTime  = 5 * time.Second
	describeWidth = 4 // programs that describe themselves at a time
)

// Options say what a Set is made of.
type Options struct {
	Dir string // absolute; empty: DefaultDir
	// Push lets module.install and module.remove change what is in Dir.
	Push bool
	// Taken says whether a module's name is that of one that comes with the agent;
	// nil: none is.
	Taken func(name string) bool
	// Memory bounds the private memory of each process of a program, in bytes; zero:
	// DefaultMemory.
	Memory uint64
	// OnChange is called when Run has found a change, and by module.install and
	// module.remove before they answer: it returns when those who have to know do. It
	// may be called by several goroutines at a time. Nil: nobody is told.
	OnChange func(ctx context.Context)
	Runner   *run.Runner  // nil: run.System
	Log      *slog.Logger // nil: silent
}

// Set is what a machine has of its site's modules. It may be used by any number
// of goroutines.
type Set struct {
	dir    string
	push   bool
	taken  func(name string) bool
	memory uint64
	runner run.Runner
	log    *slog.Logger
	wait   time.Duration // for a program to describe itself

	onChange func(ctx context.Context) // never nil
	wake     chan struct{}             // of one: what is there has changed, and onChange was not called

	loading sync.Mutex // held while the directory is read or changed
	tidied  bool       // covered by loading

	mu      sync.Mutex
	entries []*entry // sorted by name; replaced, never changed
	whole   string   // why none can be used; empty: they can
}

// New makes a Set that has read nothing yet.
func New(opt Options) *Set {
	s := &Set{dir: opt.Dir, push: opt.Push, taken: opt.Taken, memory: opt.Memory, runner: run.System, log: opt.Log, onChange: opt.OnChange, wake: make(chan struct{}, 1), wait: describeTime}
	if s.dir == "" {
		s.dir = DefaultDir
	}
	if s.memory == 0 {
		s.memory = DefaultMemory
	}
	if opt.Runner != nil {
		s.runner = *opt.Runner
	}
	if s.onChange == nil {
		s.onChange = func(context.Context) {}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// entry is one file of the directory, as it was found. It does not change.
type entry struct {
	name        string // of the file
	found       identity
	digest      string // sha256:… of the file; empty: it was not read
	description module.Description
	reason      string // why it is disabled; empty: it is not
}

// all gives what is there.
func (s *Set) all() []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries
}

// find gives the entry of a file; nil: there is none.
func (s *Set) find(name string) *entry {
	for _, e := range s.all() {
		if e.name == name {
			return e
		}
	}
	return nil
}

// Modules gives those that can be called, sorted by name.
func (s *Set) Modules() []module.Module {
	var out []module.Module
	for _, e := range s.all() {
		if e.reason == "" {
			out = append(out, e.description.Module(func(method string) module.RawFunc { return s.call(e, method) }))
		}
	}
	return out
}

// Offer tells what can be called, and what is disabled.
func (s *Set) Offer() module.Offer {
	var o module.Offer
	table, err := module.NewTable(s.Modules())
	if err == nil { // each was tried when it was read
		o.Methods = table.Schemas()
	}
	s.mu.Lock()
	whole := s.whole
	s.mu.Unlock()
	if whole != "" {
		o.Disabled = append(o.Disabled, module.Disabled{Name: "*", Reason: short(whole)})
	}
	for _, e := range s.all() {
		if e.reason != "" && len(o.Disabled) < module.MaxDisabled {
			o.Disabled = append(o.Disabled, module.Disabled{Name: e.name, Reason: short(e.reason)})
		}
	}
	return o
}

package module

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"regexp"
	"time"

	"dominion/call"
)

// Limits of what a method says.
const (
	MaxOutput      = 1 << 20          // bytes of JSON in one answer
	MaxDetail      = 4 << 10          // bytes of an error's text
	DefaultTimeout = 60 * time.Second // of a method that names none
)

// Effect says what a method does to its machine.
type Effect string

// The effects. A method that only reads may run twice without harm.
const (
	Read    Effect = "read"
	Change  Effect = "change"
	Destroy Effect = "destroy"
)

// Module is a named set of methods.
type Module struct {
	Name    string // lower-case letters, digits, underscores
	Doc     string // one line
	Methods []Method
}

// Env is what a method knows besides its arguments. The zero value works.
type Env struct {
	// Stdout and Stderr take live output; nil when nobody listens. A Write
	// may block, which slows the method down, and must return when the
	// call's context ends. A method may use both at the same time.
	Stdout, Stderr io.Writer
	Machine        string       // this machine's name
	Job            call.JobID   // zero: not part of a job
	Operator       string       // who ordered it
	Version        string       // of the agent
	Log            *slog.Logger // nil: nothing is logged

	// Keep leaves a note, at most MaxNote bytes, with the call and returns when
	// it is on the disk: see ErrLater. Nil: the call cannot outlive the agent.
	Keep func(note []byte) error
	// Blob asks the overlord that brought the call for the bytes of a file from an
	// offset on, by its digest, which the call's arguments must name. The caller holds
	// all of it against the digest, asks again after an error from where it is, and
	// closes what it gets; Close may come from another goroutine. Nil: there is no overlord.
	Blob func(ctx context.Context, digest string, offset int64) (io.ReadCloser, error)
}

// MethodOptions are what few methods need to say.
type MethodOptions struct {
	// Timeout of a call whose order names none. Zero: DefaultTimeout;
	// negative: none.
	Timeout time.Duration
	// Resume makes the answer of a call that returned ErrLater, from its note,
	// when the agent has been started again: a value of the method's output
	// type, or nil. It must not block for long: no session begins before.
	// ErrLater says that the answer is still to come. Nil: calls never end later.
	Resume func(ctx context.Context, env *Env, note []byte) (any, error)
}

// Method is one operation of a module. Func or Declared makes it, NewTable completes it.
type Method struct {
	name, doc string
	effect    Effect
	options   MethodOptions
	in, out   reflect.Type
	run       runFunc
	declared  *Schema   // of a method made by Declared, in place of in, out and run
	raw       RawFunc   // likewise
	compiled  *compiled // nil until the method is in a table
}

// A runFunc calls the function behind a method. in points to an In; empty
// says that out is its zero value.
type runFunc func(ctx context.Context, env *Env, in any) (out any, empty bool, err error)

// Func declares a method: its name without the module's, one line of
// documentation, its effect and the function. In and Out are structs as the
// package documentation describes; mistakes in them are reported by NewTable.
//
// An error of fn that is a *call.Error keeps its code, one that comes from the
// end of ctx becomes Timeout or Cancelled, any other becomes Failed with its
// text. What fn returns beside an error is carried too unless it is the zero
// value.
func Func[In, Out any](name, doc string, effect Effect, fn func(ctx context.Context, env *Env, in In) (Out, error), opt MethodOptions) Method {
	return Method{
		name: name, doc: doc, effect: effect, options: opt,
		in: reflect.TypeFor[In](), out: reflect.TypeFor[Out](),
		run: func(ctx context.Context, env *Env, in any) (any, bool, error) {
			out, err := fn(ctx, env, *in.(*In))
			return out, reflect.ValueOf(&out).Elem().IsZero(), err
		},
	}
}

// Name is "service.status" for a method from a table, "status" for one fresh
// from Func.
func (m Method) Name() string { return m.name }

// Effect says what the method does to its machine.
func (m Method) Effect() Effect { return m.effect }

// Timeout is how long a call may run when its order does not say; zero: no
// limit. The caller of Run applies it.
func (m Method) Timeout() time.Duration {
	switch {
	case m.options.Timeout == 0:
		return DefaultTimeout
	case m.options.Timeout < 0:
		return 0
	}
	return m.options.Timeout
}

// Schema describes the method. It is the zero Schema for a method whose
// declaration is wrong.
func (m Method) Schema() Schema {
	c, err := m.compile("")
	if err != nil {
		return Schema{}
	}
	return c.schema.clone()
}

// Validate checks a JSON object of arguments, at most call.MaxArgs bytes; no
// bytes at all count as {}. The error is a *call.Error with code Invalid that
// names the field, what was given and what is wanted.
func (m Method) Validate(args []byte) error {
	c, err := m.compile("")
	if err != nil {
		return call.Errorf(call.Internal, "%v", err)
	}
	_, err = c.spec.decode(args)
	return err
}

// compiled is what a method needs at run time, made once by NewTable.
type compiled struct {
	schema Schema
	spec   *spec
	paths  [][]int // of each input field in the In struct; nil for a declared method
}

var nameShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

func (m Method) compile(moduleDoc string) (*compiled, error) {
	if m.compiled != nil {
		return m.compiled, nil
	}
	if m.declared != nil {
		return m.compileDeclared(moduleDoc)
	}
	if m.run == nil {
		return nil, fmt.Errorf("method %q was not made by module.Func", m.name)
	}
	if m.doc == "" {
		return nil, fmt.Errorf("method %s has no documentation", m.name)
	}
	switch m.effect {
	case Read, Change, Destroy:
	default:
		return nil, fmt.Errorf("method %s has the unknown effect %q", m.name, m.effect)
	}
	c := &compiled{schema: Schema{
		Name: m.name, Doc: m.doc, ModuleDoc: moduleDoc, Effect: m.effect, Timeout: m.Timeout().String(),
	}}
	var err error
	if c.schema.Fields, c.paths, err = inputFields(m.in); err != nil {
		return nil, fmt.Errorf("method %s: input %w", m.name, err)
	}
	if m.out.Kind() != reflect.Struct {
		return nil, fmt.Errorf("method %s: output %s is not a struct", m.name, m.out)
	}
	if c.schema.Output, err = outputFields(m.out, 0); err != nil {
		return nil, fmt.Errorf("method %s: output %w", m.name, err)
	}
	if c.spec, err = newSpec(&c.schema); err != nil {
		return nil, fmt.Errorf("method %w", err)
	}
	return c, nil
}

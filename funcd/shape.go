package funcd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"dominion/call"
)

// Module is a module under its Func name, with the arguments and results that
// Func's programs know.
type Module struct {
	Name       string // may have dots: iptables.port
	Version    string
	APIVersion string
	Doc        string // module_description
	Methods    []Method
	// Missing says why the module is not there on this machine; nil, or an empty
	// text: it is. Asked at each call.
	Missing func() string
}

// Method is one of a Module.
type Method struct {
	Name string // without the module's
	Doc  string
	// Args are its arguments in their order; those that are optional come last.
	// Calls with too few or too many are refused; types are the method's to check.
	Args []Arg
	// Secret keeps the digest of the arguments off the log: one that holds a password
	// could be guessed from it.
	Secret bool
	// Timeout of a call; zero: 60 s; negative: none.
	Timeout time.Duration
	// Run carries out a call. args are xmlrpc values, one for each that was given; so
	// is the result. An error that is an *Exception keeps its type.
	Run func(ctx context.Context, env *Env, args []any) (any, error)

	loose bool // Run checks their number
}

// Arg is one argument, for get_method_args.
type Arg struct {
	Name string
	// Type is int, float, string, boolean, hash, list, or list* for one that takes all
	// that are left; empty: any, and the method is not in get_method_args.
	Type     string
	Doc      string
	Optional bool
	Default  any      // nil: none
	Options  []string // the only values
	// Min and Max of a number, or of the bytes of a text; nil: none.
	Min, Max  any
	Validator string // an expression for texts, or the elements of lists and maps
}

// Env is what a method knows besides its arguments.
type Env struct {
	Machine string
	Version string // of the agent
	Caller  Peer
	ID      call.JobID // of the call, on the machine's log
	Log     *JobLog    // of a call in the background; nil: nobody reads

	size int64        // bytes of the request
	log  *slog.Logger // the machine's; nil: none
}

// Exception is an error with the type that Func's programs see.
type Exception struct {
	Type    string // codes.FuncException
	Message string
}

// Error implements error.
func (e *Exception) Error() string { return e.Type + ": " + e.Message }

// Names of exceptions.
const (
	TypeFuncException  = "func.minion.codes.FuncException"
	typeNoModule       = "func.minion.codes.ModuleNotFoundException"
	typeNoMethod       = "func.minion.codes.InvalidMethodException"
	typeArguments      = "exceptions.TypeError"
	typeDenied         = "func.minion.codes.AccessToMethodDenied"
	typeOverflow       = "exceptions.OverflowError"
	typeException      = "exceptions.Exception"
	typeMarshal        = "exceptions.TypeError"
	faultOverflow      = "<type '" + typeOverflow + "'>:int exceeds XML-RPC limits"
	defaultTimeout     = 60 * time.Second
	defaultVersion     = "0.0.0"
	defaultDescription = "No Description provided"
)

// Raise gives an *Exception of Func's general type.
func Raise(format string, args ...any) error {
	return &Exception{TypeFuncException, fmt.Sprintf(format, args...)}
}

// arity refuses a call with the wrong number of arguments, as Python would.
func (m *Method) arity(args []any) error {
	least, most := 0, len(m.Args)
	for _, a := range m.Args {
		if a.Type == "list*" {
			most = -1
		} else if !a.Optional {
			least++
		}
	}
	if m.loose || len(args) >= least && (most < 0 || len(args) <= most) {
		return nil
	}
	want := fmt.Sprint(least)
	if most < 0 {
		want = fmt.Sprintf("at least %d", least)
	} else if most > least {
		want = fmt.Sprintf("%d to %d", least, most)
	}
	return &Exception{typeArguments, fmt.Sprintf("%s() takes %s arguments (%d given)", m.Name, want, len(args))}
}

func (m *Method) timeout() time.Duration {
	switch {
	case m.Timeout == 0:
		return defaultTimeout
	case m.Timeout < 0:
		return 0
	}
	return m.Timeout
}

package funcd

import (
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"dominion/call"
	"dominion/xmlrpc"
)

// Builtin gives the modules that have Func's names and shapes here. Reading it
// shows what runs.
func Builtin() []Module {
	return []Module{testModule(), echoModule(), {
		Name: "func_module", Version: defaultVersion, APIVersion: defaultVersion, Doc: defaultDescription,
	}}
}

func testModule() Module {
	two := []Arg{{Name: "numb1"}, {Name: "numb2"}}
	return Module{
		Name: "test", Version: "11.11.11", APIVersion: "0.0.1", Doc: "Just a very simple example module",
		Methods: []Method{
			{Name: "add", Doc: "Adds numbers, and joins texts and lists.", Args: two, Run: add},
			{Name: "ping", Doc: "Answers 1.", Run: func(context.Context, *Env, []any) (any, error) { return 1, nil }},
			{Name: "sleep", Doc: "Waits for some seconds, and answers with the time.", Args: []Arg{{Name: "t", Type: "int", Min: 0, Max: 3600}}, Timeout: time.Hour + time.Minute, Run: sleep},
			{Name: "explode", Doc: "Raises an exception.", Run: func(context.Context, *Env, []any) (any, error) {
				return nil, &Exception{typeException, "khhhhhhaaaaaan!!!!!!"}
			}},
			{Name: "explode_no_string", Doc: "Raises an exception without a text.", Run: func(context.Context, *Env, []any) (any, error) {
				return nil, &Exception{typeException, ""}
			}},
			{Name: "echo", Doc: "Answers with what it was given.", Args: []Arg{{Name: "data"}}, Run: same},
			{Name: "bigint", Doc: "Answers with a number that is too large for Func's integers.", Run: func(context.Context, *Env, []any) (any, error) { return 1 << 32, nil }},
		},
	}
}

func same(_ context.Context, _ *Env, args []any) (any, error) { return args[0], nil }

// add is + of Python, as far as values of XML-RPC have it.
func add(_ context.Context, _ *Env, args []any) (any, error) {
	switch a := args[0].(type) {
	case string:
		if b, ok := args[1].(string); ok {
			return a + b, nil
		}
	case []any:
		if b, ok := args[1].([]any); ok {
			return append(append([]any{}, a...), b...), nil
		}
	case int:
		if b, ok := args[1].(int); ok {
			return a + b, nil
		}
	}
	a, okA := float(args[0])
	b, okB := float(args[1])
	if okA && okB {
		return a + b, nil
	}
	return nil, &Exception{typeArguments, "unsupported operand type(s) for +"}
}

// float reads a number.
func float(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case xmlrpc.Long:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// asFloat is float() of Python: a text counts, too.
func asFloat(v any) (float64, error) {
	if f, ok := float(v); ok {
		return f, nil
	}
	if s, ok := v.(string); ok {
		if f, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
			return f, nil
		}
	}
	if b, ok := v.(bool); ok {
		if b {
			return 1, nil
		}
		return 0, nil
	}
	return 0, &Exception{"exceptions.ValueError", "could not convert to a number"}
}

func sleep(ctx context.Context, env *Env, args []any) (any, error) {
	t, err := asFloat(args[0])
	if err != nil {
		return nil, err
	}
	if t = math.Trunc(t); !(t >= 0 && t <= 3600) {
		return nil, call.Errorf(call.Invalid, "sleep() takes 0 to 3600 seconds")
	}
	if err := wait(ctx, time.Duration(t)*time.Second); err != nil {
		return nil, err
	}
	return float64(time.Now().UnixMicro()) / 1e6, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func echoModule() Module {
	run := func(kind string, fn func(context.Context, *Env, []any) (any, error)) Method {
		a := Arg{Name: "x", Type: kind, Doc: "any value"}
		name := "run_" + kind
		switch kind {
		case "list*":
			name = "run_list_star"
		case "options":
			a.Type, a.Options = "string", []string{"first_option", "second_option", "third_option"}
		}
		return Method{Name: name, Doc: "Answers with what it was given.", Args: []Arg{a}, Run: fn}
	}
	return Module{
		Name: "echo", Version: "0.0.1", APIVersion: "0.0.1", Doc: "Says what it was told; for trying out forms.",
		Methods: []Method{
			run("string", func(_ context.Context, _ *Env, args []any) (any, error) { return xmlrpc.Text(text(args[0])), nil }),
			run("int", func(_ context.Context, _ *Env, args []any) (any, error) {
				f, err := asFloat(args[0])
				if err != nil || math.Abs(f) > 1<<53 {
					return nil, &Exception{"exceptions.ValueError", "invalid literal for int()"}
				}
				return int(f), nil
			}),
			run("float", func(_ context.Context, _ *Env, args []any) (any, error) { return asFloat(args[0]) }),
			run("options", same), run("list", same), run("hash", same), run("boolean", same),
			run("list*", func(_ context.Context, _ *Env, args []any) (any, error) { return append([]any{}, args...), nil }),
			{
				Name: "run_str_log", Doc: "Takes a minute, and says how far it has come.", Args: []Arg{{Name: "x", Type: "string"}},
				Timeout: 5 * time.Minute, Run: slowly,
			},
		},
	}
}

func slowly(ctx context.Context, env *Env, args []any) (any, error) {
	const steps = 50
	env.Log.Info("it begins")
	if err := wait(ctx, 10*time.Second); err != nil {
		return nil, err
	}
	for i := range steps {
		if err := wait(ctx, time.Second); err != nil {
			return nil, err
		}
		env.Log.Progress(i+1, steps)
	}
	return xmlrpc.Text(text(args[0])), nil
}

// jobsModule tells how calls in the background fare, each to the identity that made
// it.
func (s *Server) jobsModule() Module {
	id := []Arg{{Name: "job_id", Type: "string", Doc: "what the call in the background answered"}}
	log := func(tell func(*JobLog) []any, none []any) func(context.Context, *Env, []any) (any, error) {
		return func(_ context.Context, env *Env, args []any) (any, error) {
			if j := s.jobs.find(env.Caller.String(), text(args[0])); j != nil {
				return tell(j.log), nil
			}
			return none, nil
		}
	}
	return Module{
		Name: "jobs", Version: "0.0.1", APIVersion: "0.0.1", Doc: "How calls in the background fare.",
		Methods: []Method{
			{Name: "job_status", Doc: "Gives [0, -1] while it runs, [1, result], or [2, 0] when it is not known.", Args: id, Run: func(_ context.Context, env *Env, args []any) (any, error) {
				return s.jobs.status(env.Caller.String(), text(args[0])), nil
			}},
			{Name: "tail_output", Doc: "Gives its last 50 lines.", Args: id, Run: log((*JobLog).tail, []any{"", "no such job\n"})},
			{Name: "get_progress", Doc: "Gives [done, all], [0, 0] when it does not say.", Args: id, Run: log((*JobLog).progress, []any{0, 0})},
		},
	}
}

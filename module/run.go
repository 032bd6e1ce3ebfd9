package module

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"strings"
	"unicode/utf8"

	"dominion/call"
)

// Run validates args, runs the method and gives its answer as JSON, at most
// MaxOutput bytes. The error is nil or a *call.Error with a detail of at most
// MaxDetail bytes of UTF-8: Invalid for bad arguments, what the method
// reported (see Func), Internal with a call id for a panic, whose stack goes
// to env.Log. An answer may come beside an error. A nil env counts as empty.
//
// Run returns when the method does: a method ends early when ctx does. One that
// has set MethodOptions.Resume may give ErrLater itself as the error.
func (m Method) Run(ctx context.Context, env *Env, args []byte) (output []byte, err error) {
	c, err := m.compile("")
	if err != nil {
		return nil, call.Errorf(call.Internal, "%v", err)
	}
	values, err := c.spec.decode(args)
	if err != nil {
		return nil, err
	}
	if env == nil {
		env = &Env{}
	}
	if m.declared != nil {
		return m.runDeclared(ctx, env, c, values)
	}
	in := reflect.New(m.in)
	c.set(in.Elem(), values)
	return m.answer(ctx, env, in.Interface())
}

// answer runs the method and encodes what it gives.
func (m Method) answer(ctx context.Context, env *Env, in any) (output []byte, err error) {
	out, empty, err := m.invoke(ctx, env, in)
	if errors.Is(err, ErrLater) && m.Resumes() {
		return nil, ErrLater
	}
	if err != nil {
		err = classify(ctx, err)
		if empty {
			return nil, err
		}
	}
	output, encodeErr := encode(out)
	if encodeErr != nil {
		if err == nil {
			err = m.internal(env, fmt.Sprintf("encode answer: %v", encodeErr), nil)
		}
		return nil, err
	}
	if len(output) > MaxOutput {
		n := len(output)
		if err == nil {
			err = call.Errorf(call.Failed, "the answer has %d bytes, more than %d", n, MaxOutput)
		}
		return nil, err
	}
	return output, err
}

func (m Method) invoke(ctx context.Context, env *Env, in any) (out any, empty bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, empty, err = nil, true, m.internal(env, fmt.Sprintf("panic: %v", p), debug.Stack())
		}
	}()
	return m.run(ctx, env, in)
}

// recovered is deferred: it turns a panic of the method into an error.
func (m Method) recovered(env *Env, err *error) {
	if p := recover(); p != nil {
		*err = m.internal(env, fmt.Sprintf("panic: %v", p), debug.Stack())
	}
}

// internal keeps what went wrong in our log; the operator gets the job's id,
// by which it is found there.
func (m Method) internal(env *Env, what string, stack []byte) error {
	if env.Log != nil {
		env.Log.Error("method broke", "method", m.name, "call_id", env.Job.String(), "error", what, "stack", string(stack))
	}
	return call.Errorf(call.Internal, "%s broke; the machine's log has the reason under call id %s", m.name, env.Job)
}

func classify(ctx context.Context, err error) *call.Error {
	e := &call.Error{Code: call.Failed, Detail: err.Error()}
	if own, ok := errors.AsType[*call.Error](err); ok {
		// The node is added by whoever knows who asks; a wrapped error's
		// text already begins with what its wrapper was doing.
		e.Code, e.Detail, e.Node = own.Code, own.Detail, own.Node
		if err != error(own) { //nolint:errorlint // the question is whether it is wrapped
			e.Detail, e.Node = err.Error(), ""
		}
	} else if end := ctx.Err(); end != nil && (errors.Is(err, end) || errors.Is(err, context.Cause(ctx))) {
		e.Code = call.Cancelled
		if errors.Is(end, context.DeadlineExceeded) {
			e.Code = call.Timeout
		}
	}
	if e.Code == call.OK {
		e.Code = call.Internal // an error must not look like success
	}
	e.Detail = clip(e.Detail, MaxDetail)
	return e
}

// clip makes s valid UTF-8 of at most n bytes.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= n {
		return s
	}
	const mark = "…"
	n -= len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}

// encode writes JSON without the escapes that only HTML needs. The same value
// gives the same bytes: equal answers of many machines are folded by them.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

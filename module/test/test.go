// Package test offers the methods by which a fleet is tried out: they answer,
// wait, calculate and fail, and change nothing.
package test

import (
	"context"
	"errors"
	"math"
	"time"

	"dominion/call"
	"dominion/module"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "test",
	Doc:  "Try out a machine; nothing is changed.",
	Methods: []module.Method{
		module.Func("ping", "Answers ok, the same on every machine.", module.Read, ping, module.MethodOptions{}),
		module.Func("echo", "Answers with the text it was given.", module.Read, echo, module.MethodOptions{}),
		module.Func("sleep", "Waits, then answers.", module.Read, sleep, module.MethodOptions{}),
		module.Func("add", "Adds two whole numbers.", module.Read, add, module.MethodOptions{}),
		module.Func("fail", "Fails with the message it was given.", module.Read, fail, module.MethodOptions{}),
	},
}

type none struct{}

// OK is an answer that is equal on every machine, so that a fleet's answers
// fold into one.
type OK struct {
	OK bool `json:"ok" doc:"always true"`
}

func ping(context.Context, *module.Env, none) (OK, error) { return OK{OK: true}, nil }

// Text is what echo takes and gives.
type Text struct {
	Text string `json:"text" doc:"any text" required:"true"`
}

func echo(_ context.Context, _ *module.Env, in Text) (Text, error) { return in, nil }

type sleepIn struct {
	Seconds float64 `json:"seconds" doc:"how long, in seconds" required:"true" min:"0" max:"3600"`
}

func sleep(ctx context.Context, _ *module.Env, in sleepIn) (OK, error) {
	t := time.NewTimer(time.Duration(in.Seconds * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
		return OK{OK: true}, nil
	case <-ctx.Done():
		return OK{}, context.Cause(ctx)
	}
}

type addIn struct {
	A int64 `json:"a" doc:"one number" required:"true"`
	B int64 `json:"b" doc:"the other" required:"true"`
}

// Sum is the answer of add.
type Sum struct {
	Sum int64 `json:"sum" doc:"a + b"`
}

func add(_ context.Context, _ *module.Env, in addIn) (Sum, error) {
	if in.B > 0 && in.A > math.MaxInt64-in.B || in.B < 0 && in.A < math.MinInt64-in.B {
		return Sum{}, call.Errorf(call.Invalid, "%d + %d does not fit into 64 bits", in.A, in.B)
	}
	return Sum{Sum: in.A + in.B}, nil
}

type failIn struct {
	Message string `json:"message" doc:"the text of the error" default:"failed as asked" min:"1" max:"4096"`
}

func fail(_ context.Context, _ *module.Env, in failIn) (none, error) {
	return none{}, errors.New(in.Message)
}

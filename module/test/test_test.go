package test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"dominion/call"
	"dominion/module"
)

func method(t *testing.T, name string) module.Method {
	t.Helper()
	tab, err := module.NewTable([]module.Module{Module})
	if err != nil {
		t.Fatal(err)
	}
	m, ok := tab.Lookup("test." + name)
	if !ok {
		t.Fatalf("no method test.%s", name)
	}
	if m.Effect() != module.Read {
		t.Errorf("the effect of %s is %s; want read", m.Name(), m.Effect())
	}
	return m
}

func TestMethods(t *testing.T) {
	for _, test := range []struct{ name, method, args, want, err string }{
		{"ping", "ping", `{}`, `{"ok":true}`, ""},
		{"echo", "echo", `{"text":"a <b> é\u0000"}`, `{"text":"a <b> é\u0000"}`, ""},
		{"echo nothing", "echo", `{}`, "", `invalid: test.echo: field "text" is missing; wants a text`},
		{"add", "add", `{"a":2,"b":-3}`, `{"sum":-1}`, ""},
		{"add to the edge", "add", `{"a":9223372036854775806,"b":1}`, `{"sum":9223372036854775807}`, ""},
		{"add down to the edge", "add", `{"a":-9223372036854775807,"b":-1}`, `{"sum":-9223372036854775808}`, ""},
		{"add over", "add", `{"a":9223372036854775807,"b":1}`, "", "invalid: 9223372036854775807 + 1 does not fit into 64 bits"},
		{"add under", "add", `{"a":-9223372036854775808,"b":-1}`, "", "invalid: -9223372036854775808 + -1 does not fit into 64 bits"},
		{"add a text", "add", `{"a":"2","b":1}`, "", `invalid: test.add: field "a": got "\"2\""; wants a whole number`},
		{"fail", "fail", `{"message":"no\tdisk"}`, "", "failed: no\tdisk"},
		{"fail without a message", "fail", `{}`, "", "failed: failed as asked"},
		{"sleep too long", "sleep", `{"seconds":3601}`, "", `invalid: test.sleep: field "seconds": got "3601"; wants a number, 0 to 3600`},
		{"sleep not", "sleep", `{"seconds":0}`, `{"ok":true}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := method(t, test.method).Run(t.Context(), nil, []byte(test.args))
			if string(out) != test.want || test.err == "" && err != nil || test.err != "" && (err == nil || err.Error() != test.err) {
				t.Errorf("%s(%s) = %s, %v; want %s, %s", test.method, test.args, out, err, test.want, test.err)
			}
		})
	}
}

func TestSleep(t *testing.T) {
	cause := errors.New("its 1s are over")
	for _, test := range []struct {
		name   string
		limit  time.Duration
		cancel time.Duration
		took   time.Duration
		code   call.Code
	}{
		{"to its end", time.Hour, time.Hour, 2500 * time.Millisecond, call.OK},
		{"time-out", time.Second, time.Hour, time.Second, call.Timeout},
		{"cancelled", time.Hour, time.Second, time.Second, call.Cancelled},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := method(t, "sleep")
			synctest.Test(t, func(t *testing.T) {
				ctx, done := context.WithTimeoutCause(t.Context(), test.limit, cause)
				defer done()
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				defer time.AfterFunc(test.cancel, cancel).Stop()
				start := time.Now()
				_, err := m.Run(ctx, nil, []byte(`{"seconds":2.5}`))
				if took := time.Since(start); call.CodeOf(err) != test.code || took != test.took {
					t.Errorf("Run = %v after %v; want %v after %v", err, took, test.code, test.took)
				}
			})
		})
	}
}

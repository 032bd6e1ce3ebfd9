package site

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/run/runtest"
)

func TestCall(t *testing.T) {
	s := newSet(t, nil)
	s.write(t, "echo", script("echo", `
[ "$1 $2" = "call do" ] || exit 9
args=$(cat)
echo "args $args" >&2
echo "env $(env | cut -d= -f1 | grep -v '^_$\|PWD\|SHLVL' | sort | tr '\n' ' ')" >&2
printf '{ "n": %s, "text" : "x" }\n' "$#"
`))
	s.Load(t.Context(), false)
	var live strings.Builder
	m := s.method(t, "echo.do")
	if m.Effect() != module.Change || m.Timeout() != 20*time.Second {
		t.Errorf("effect %s, time-out %s", m.Effect(), m.Timeout())
	}
	out, err := m.Run(t.Context(), &module.Env{Machine: "web1", Operator: "alice", Stderr: &live}, []byte(`{"text":"a b"}`))
	if err != nil || string(out) != `{"text":"x","n":2}` {
		t.Errorf("%s, %v", out, err)
	}
	want := "args {\"text\":\"a b\"}\nenv ARG_text DOMINION_JOB DOMINION_MACHINE DOMINION_OPERATOR DOMINION_RUN HOME LC_ALL PATH \n"
	if live.String() != want {
		t.Errorf("live output %q; want %q", live.String(), want)
	}
	live.Reset()
	if _, err := m.Run(t.Context(), &module.Env{Stderr: &live}, nil); err != nil || !strings.HasPrefix(live.String(), `args {"text":"none"}`) {
		t.Errorf("%q, %v; want the default", live.String(), err)
	}
	if _, err := m.Run(t.Context(), nil, []byte(`{"other":1}`)); call.CodeOf(err) != call.Invalid {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestVariables(t *testing.T) {
	d, err := module.ParseDescription([]byte(`{"name":"a","doc":"b","methods":[{"name":"c","doc":"d","effect":"read","fields":[
{"name":"text","type":"string","doc":"x"},{"name":"nul","type":"string","doc":"x"},{"name":"long","type":"string","doc":"x"},
{"name":"secret","type":"string","doc":"x","secret":true},{"name":"yes","type":"bool","doc":"x"},{"name":"n","type":"int","doc":"x"},
{"name":"f","type":"float","doc":"x"},{"name":"wait","type":"duration","doc":"x"},{"name":"list","type":"[]string","doc":"x"},
{"name":"left_out","type":"string","doc":"x"}]}]}`))
	must(t, err)
	got := variables(d, "c", []byte(`{"text":"a\nb \"c\"","nul":"\u0000","long":"`+strings.Repeat("x", maxVariable+1)+`","secret":"s","yes":true,"n":-3,"f":1.5,"wait":"1m30.5s","list":["a"]}`))
	want := []string{"ARG_text=a\nb \"c\"", "ARG_yes=true", "ARG_n=-3", "ARG_f=1.5", "ARG_wait=90.5"}
	if !slices.Equal(got, want) {
		t.Errorf("%q; want %q", got, want)
	}
}

// TestBrokenCalls: whatever a program does, its call fails with the reason, it does
// not take long, and nothing is left of it.
func TestBrokenCalls(t *testing.T) {
	for _, test := range []struct {
		name, script string
		want         string // in the error
		code         call.Code
		limit        time.Duration // of the call; zero: none
	}{
		{"garbage", "head -c 300 /dev/urandom", "the answer", call.Failed, 0},
		{"text", "echo hello", `the answer "hello": not JSON`, call.Failed, 0},
		{"nothing", ":", "there is no answer", call.Failed, 0},
		{"no object", "echo '[1]'", "want a JSON object", call.Failed, 0},
		{"two", "echo '{}{}'", "not JSON", call.Failed, 0},
		{"field unknown", `echo '{"texts":"a"}'`, `field "texts" is not in the schema's output`, call.Failed, 0},
		{"field twice", `echo '{"n":1,"n":2}'`, `"n" is there twice`, call.Failed, 0},
		{"type", `echo '{"n":"1"}'`, `field n: got "\"1\""; wants int`, call.Failed, 0},
		{"fails", `echo '{}'; echo one >&2; echo 'no disk' >&2; exit 7`, "exit 7: no disk", call.Failed, 0},
		{"fails silently", `exit 1`, "exit 1", call.Failed, 0},
		{"vanishes", `sleep NAP & kill -9 $$`, "killed by SIGKILL", call.Failed, 0},
		{"1 GB", "head -c 1073741824 /dev/zero | tr '\\0' x", "printed more than 1048576 bytes", call.Failed, 0},
		{"1 GB, deaf, in the background", "trap '' TERM; (yes xxxxxxxxxxxxxxxxxxxx & yes & sleep NAP) ; wait", "printed more than 1048576 bytes", call.Failed, 0},
		{"1 GB aside", "head -c 1073741824 /dev/zero >&2; exit 4", "exit 4", call.Failed, 0},
		{"never ends", "sleep NAP", "time-out", call.Timeout, 300 * time.Millisecond},
		{"never ends, deaf", "trap '' TERM; sleep NAP; sleep NAP; sleep NAP", "time-out", call.Timeout, 300 * time.Millisecond},
		{"forks", "sleep NAP & sleep NAP & wait", "time-out", call.Timeout, 300 * time.Millisecond},
		{"forks twice", "(setsid sh -c 'sleep NAP & exit' &); sleep NAP", "time-out", call.Timeout, 300 * time.Millisecond},
		{"a session of its own, without output", "setsid sleep NAP >/dev/null 2>&1 </dev/null & sleep NAP", "time-out", call.Timeout, 300 * time.Millisecond},
		{"memory", "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo \"{\\\"n\\\": ${#x}}\"", "module bad: ", call.Failed, 0},
	} {
		for _, cgroup := range []bool{true, false} {
			if !cgroup && test.limit == 0 && test.name != "vanishes" {
				continue
			}
			t.Run(fmt.Sprintf("%s, cgroup %t", test.name, cgroup), func(t *testing.T) {
				runner := quick
				if !cgroup {
					runner.Cgroup = nil
				}
				seconds, sleeping := runtest.Nap(t)
				s := newSet(t, func(o *Options) { o.Runner, o.Memory = &runner, 64<<20 })
				s.write(t, "bad", script("bad", strings.ReplaceAll(test.script, "NAP", seconds)))
				s.write(t, "good", script("good", `echo '{"n":1}'`))
				s.Load(t.Context(), false)
				ctx := t.Context()
				if test.limit > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeoutCause(ctx, test.limit, call.Errorf(call.Timeout, "time-out"))
					defer stop()
				}
				begun := time.Now()
				_, err := s.method(t, "bad.do").Run(ctx, nil, nil)
				if call.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.want) || test.code == call.Failed && !strings.Contains(err.Error(), "bad") {
					t.Errorf("%v; want %s and %q", err, test.code, test.want)
				}
				if took := time.Since(begun); took > 20*time.Second {
					t.Errorf("it took %s", took)
				}
				if left := sleeping(); len(left) > 0 {
					t.Errorf("processes %v still sleep", left)
				}
				if out, err := s.method(t, "good.do").Run(t.Context(), nil, nil); err != nil || string(out) != `{"n":1}` {
					t.Errorf("the other one: %s, %v", out, err)
				}
			})
		}
	}
}

// TestNothingIsLeft: what a program starts and leaves behind ends with it.
func TestNothingIsLeft(t *testing.T) {
	for _, cgroup := range []bool{true, false} {
		t.Run(fmt.Sprintf("cgroup %t", cgroup), func(t *testing.T) {
			runner := quick
			if !cgroup {
				runner.Cgroup = nil
			}
			seconds, sleeping := runtest.Nap(t)
			s := newSet(t, func(o *Options) { o.Runner = &runner })
			s.write(t, "leaves", strings.ReplaceAll(script("leaves", `
sleep NAP &
setsid sleep NAP &
(setsid sh -c 'trap "" TERM; sleep NAP >/dev/null 2>&1 & exit' &)
while [ "$(pgrep -cxf 'sleep NAP')" -lt 3 ]; do :; done
echo '{"n":1}'`), "NAP", seconds))
			s.Load(t.Context(), false)
			begun := time.Now()
			out, err := s.method(t, "leaves.do").Run(t.Context(), nil, nil)
			if err != nil || string(out) != `{"n":1}` {
				t.Errorf("%s, %v", out, err)
			}
			if left := sleeping(); len(left) > 0 {
				t.Errorf("processes %v still sleep", left)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestChanged: a program that is replaced, or removed, between the acceptance of a
// call and its start.
func TestChanged(t *testing.T) {
	s := newSet(t, nil)
	s.write(t, "moving", script("moving", `echo '{"n":1}'`))
	s.Load(t.Context(), false)
	m := s.method(t, "moving.do")
	s.write(t, "moving", script("moving", `echo '{"n":2}'`))
	if out, err := m.Run(t.Context(), nil, nil); string(out) != `{"n":2}` || err != nil {
		t.Errorf("the same method of a newer file: %s, %v", out, err)
	}
	s.write(t, "moving", strings.Replace(script("moving", `echo '{"n":3}'`), `"change"`, `"destroy"`, 1))
	if out, err := m.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "not the same method") {
		t.Errorf("another method: %s, %v", out, err)
	}
	must(t, os.Chmod(filepath.Join(s.dir, "moving"), 0o777))
	if out, err := m.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "others can write it") {
		t.Errorf("writable: %s, %v", out, err)
	}
	must(t, os.Remove(filepath.Join(s.dir, "moving")))
	if out, err := m.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "not there any more") {
		t.Errorf("gone: %s, %v", out, err)
	}
	if s.Load(t.Context(), false); len(s.all()) != 0 {
		t.Errorf("left: %s", s.reasons())
	}
}

// TestRemovedWhileItRuns: the call goes on with the file that it began with.
func TestRemovedWhileItRuns(t *testing.T) {
	s := newSet(t, nil)
	s.write(t, "goes", script("goes", `rm -- "$0"; sleep 0.05; echo '{"n":1}'`))
	s.Load(t.Context(), false)
	if out, err := s.method(t, "goes.do").Run(t.Context(), nil, nil); err != nil || string(out) != `{"n":1}` {
		t.Errorf("%s, %v", out, err)
	}
}

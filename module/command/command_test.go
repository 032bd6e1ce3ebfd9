package command

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/run"
)

func method(t testing.TB, name string) module.Method {
	t.Helper()
	tab, err := module.NewTable([]module.Module{Module})
	if err != nil {
		t.Fatal(err)
	}
	m, ok := tab.Lookup("command." + name)
	if !ok {
		t.Fatalf("no method %s", name)
	}
	return m
}

func runJSON(t testing.TB, ctx context.Context, env *module.Env, name string, args any) (string, error) {
	t.Helper()
	b, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	out, err := method(t, name).Run(ctx, env, b)
	return string(out), err
}

type args map[string]any

func sh(script string) args { return args{"script": script} }

func TestAnswers(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), []byte("plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "prog"), []byte("#!/bin/sh\necho \"prog $1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "garbage"), []byte("\x01\x02"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AGENT_SECRET", "must not be inherited")
	for _, test := range []struct {
		name, method string
		args         args
		want         string // of the answer; empty: there is none
		err          string // its beginning; empty: there is none
	}{
		{"argv is no shell", "run", args{"argv": []string{"echo", "$HOME", "a  b"}}, `{"exit":0,"stdout":"$HOME a  b\n","stderr":""}`, ""},
		{"shell", "shell", sh("echo out; echo err >&2; exit 3"), `{"exit":3,"stdout":"out\n","stderr":"err\n"}`, "failed: exit 3"},
		{"other shell", "shell", args{"script": "x", "shell": "echo"}, `{"exit":0,"stdout":"-c x\n","stderr":""}`, ""},
		{"stdin", "run", args{"argv": []string{"cat"}, "stdin": "in\n"}, `{"exit":0,"stdout":"in\n","stderr":""}`, ""},
		{"no stdin is at its end", "run", args{"argv": []string{"cat"}}, `{"exit":0,"stdout":"","stderr":""}`, ""},
		{"binary", "run", args{"argv": []string{"cat"}, "stdin": module.Bytes("\xff\x00")}, `{"exit":0,"stdout_base64":"/wA=","stderr":""}`, ""},
		{"binary error", "shell", sh(`printf '\377' >&2`), `{"exit":0,"stdout":"","stderr_base64":"/w=="}`, ""},
		{"stdin not read", "run", args{"argv": []string{"true"}, "stdin": strings.Repeat("x", 300<<10)}, `{"exit":0,"stdout":"","stderr":""}`, ""},
		{"dir", "run", args{"argv": []string{"cat", "data"}, "dir": dir}, `{"exit":0,"stdout":"plain","stderr":""}`, ""},
		{"relative program", "run", args{"argv": []string{"./prog", "x"}, "dir": dir}, `{"exit":0,"stdout":"prog x\n","stderr":""}`, ""},
		{"path of its own", "run", args{"argv": []string{"prog", "x"}, "env": args{"PATH": ":rel:/nosuch:" + dir}}, `{"exit":0,"stdout":"prog x\n","stderr":""}`, ""},
		{"signal", "shell", sh("kill -KILL $$"), `{"exit":137,"signal":"SIGKILL","stdout":"","stderr":""}`, "failed: killed by SIGKILL"},
		{"escapes", "shell", sh(`printf '\033[31m<&>\000'`), `{"exit":0,"stdout":"\u001b[31m<&>\u0000","stderr":""}`, ""},
		{
			"own user", "run",
			args{"argv": []string{"id", "-u"}, "user": strconv.Itoa(os.Getuid())},
			fmt.Sprintf(`{"exit":0,"stdout":"%d\n","stderr":""}`, os.Getuid()), "",
		},
		{"not found", "run", args{"argv": []string{"nosuch-program"}}, "", `failed: "nosuch-program": not found in /usr/local/sbin:`},
		{"empty name", "run", args{"argv": []string{""}}, "", `failed: ""`},
		{"no such file", "run", args{"argv": []string{"/nosuch/x"}}, "", "failed: /nosuch/x: no such file or directory"},
		{"not executable", "run", args{"argv": []string{"./data"}, "dir": dir}, "", "failed: " + dir + "/data: is not an executable file"},
		{"not executable in path", "run", args{"argv": []string{"data"}, "env": args{"PATH": dir}}, "", `failed: "data": ` + dir + "/data: is not an executable file"},
		{"a directory", "run", args{"argv": []string{"/usr"}}, "", "failed: /usr: is a directory"},
		{"not a program", "run", args{"argv": []string{"./garbage"}, "dir": dir}, "", "failed: start " + dir + "/garbage: "},
		{"start fails with stdin", "run", args{"argv": []string{"./garbage"}, "dir": dir, "stdin": "x"}, "", "failed: start " + dir + "/garbage: "},
		{"no dir", "run", args{"argv": []string{"true"}, "dir": "/nosuch"}, "", "failed: working directory: stat /nosuch: no such file"},
		{"dir is a file", "run", args{"argv": []string{"true"}, "dir": dir + "/data"}, "", "failed: working directory: " + dir + "/data is not a directory"},
		{"relative dir", "run", args{"argv": []string{"true"}, "dir": "tmp"}, "", `invalid: command.run: field "dir": got "\"tmp\""; wants a text, at most 4095 bytes, of the form /.*`},
		{"no argv", "run", args{"argv": []string{}}, "", `invalid: command.run: field "argv"`},
		{"zero byte", "run", args{"argv": []string{"echo", "a\x00b"}}, "", "invalid: a zero byte in"},
		{"zero byte in env", "run", args{"argv": []string{"env"}, "env": args{"A": "\x00"}}, "", `invalid: environment variable "A"`},
		{"env without a name", "run", args{"argv": []string{"env"}, "env": args{"": "x"}}, "", `invalid: environment variable ""`},
		{"env name with =", "run", args{"argv": []string{"env"}, "env": args{"A=B": "x"}}, "", `invalid: environment variable "A=B"`},
		{"unknown user", "run", args{"argv": []string{"id"}, "user": "no-such-user"}, "", `failed: no user "no-such-user" on this machine`},
		{"argument too long", "run", args{"argv": []string{"echo", strings.Repeat("x", 140<<10)}}, "", "failed: start /"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := runJSON(t, t.Context(), &module.Env{Machine: "web1"}, test.method, test.args)
			if got != test.want {
				t.Errorf("answer %s\n  want %s", got, test.want)
			}
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
				t.Errorf("error %v; want %q", err, test.err)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("AGENT_SECRET", "must not be inherited")
	out, err := runJSON(t, t.Context(), &module.Env{Machine: "web1"}, "run", args{"argv": []string{"env"}, "env": args{"B": "x=y", "LANG": "C"}})
	if err != nil {
		t.Fatal(err)
	}
	var r Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for line := range strings.Lines(*r.Stdout) {
		k, _, _ := strings.Cut(line, "=")
		names = append(names, k)
	}
	if got, want := strings.Join(names, " "), "B DOMINION_MACHINE HOME LANG LOGNAME PATH USER"; got != want {
		t.Errorf("environment has %s; want %s", got, want)
	}
	for _, want := range []string{"DOMINION_MACHINE=web1\n", "B=x=y\n", "LANG=C\n", "PATH=" + defaultPath + "\n"} {
		if !strings.Contains(*r.Stdout, want) {
			t.Errorf("environment lacks %q:\n%s", want, *r.Stdout)
		}
	}
}

// TestGroupIsItsOwn: signals to the agent's group do not meet the program.
func TestGroupIsItsOwn(t *testing.T) {
	out, err := runJSON(t, t.Context(), nil, "shell", sh(`ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat; echo $$`))
	if err != nil {
		t.Fatal(err)
	}
	var r Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(*r.Stdout)
	if len(f) != 2 || f[0] != f[1] {
		t.Errorf("group and process are %q; want equal", f)
	}
}

func TestMuchOutput(t *testing.T) {
	for _, test := range []struct {
		name, script        string
		stdout, stderr, cut int // kept and cut bytes
		cutErr              uint64
	}{
		{"plain", "head -c 2000000 /dev/zero | tr '\\0' x", keepStdout, 0, 2000000 - keepStdout, 0},
		{"control characters", "head -c 2000000 /dev/zero", keepStdout / 6, 0, 2000000 - keepStdout/6, 0},
		{"both", "head -c 500000 /dev/zero | tr '\\0' x; head -c 500000 /dev/zero | tr '\\0' y >&2", keepStdout, keepStderr, 500000 - keepStdout, 500000 - keepStderr},
		{"binary", "head -c 2000000 /dev/zero | tr '\\0' '\\377'", keepStdout, 0, 2000000 - keepStdout, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runJSON(t, t.Context(), nil, "shell", sh(test.script))
			if err != nil {
				t.Fatal(err)
			}
			if len(out) > 1<<20 {
				t.Errorf("the answer has %d bytes", len(out))
			}
			var r Result
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			plain := func(s, coded *string) int {
				if coded != nil {
					b, err := base64.StdEncoding.DecodeString(*coded)
					if err != nil {
						t.Fatal(err)
					}
					return len(b)
				}
				return len(*s)
			}
			if n := plain(r.Stdout, r.StdoutBase64); n != test.stdout || r.StdoutCut != uint64(test.cut) {
				t.Errorf("stdout kept %d cut %d; want %d, %d", n, r.StdoutCut, test.stdout, test.cut)
			}
			if n := plain(r.Stderr, r.StderrBase64); n != test.stderr || r.StderrCut != test.cutErr {
				t.Errorf("stderr kept %d cut %d; want %d, %d", n, r.StderrCut, test.stderr, test.cutErr)
			}
		})
	}
}

// counter counts what is written to it, and calls each with every piece.
type counter struct {
	n    int
	each func(p []byte) error
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	if c.each != nil {
		if err := c.each(p); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func TestLive(t *testing.T) {
	const size = 64 << 20
	var live counter
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	out, err := runJSON(t, t.Context(), &module.Env{Stdout: &live}, "shell", sh(fmt.Sprintf("head -c %d /dev/zero", size)))
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if live.n != size {
		t.Errorf("the live reader got %d bytes; want %d", live.n, size)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("%d bytes were allocated for %d of output", grown, size)
	}
	var r Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.StdoutCut != size-keepStdout/6 {
		t.Errorf("cut %d, error %v", r.StdoutCut, err)
	}
}

// TestLiveAsProduced: the first line arrives while the program runs.
func TestLiveAsProduced(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "go-on")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	live := counter{each: func(p []byte) error {
		if string(p) == "first\n" {
			return os.WriteFile(fifo, []byte("x\n"), 0) // lets it go on; it would hang otherwise
		}
		return nil
	}}
	out, err := runJSON(t, t.Context(), &module.Env{Stdout: &live}, "shell", sh("echo first; read x <"+fifo+"; echo second"))
	if err != nil || live.n != len("first\nsecond\n") || !strings.Contains(out, `"first\nsecond\n"`) {
		t.Errorf("%d live bytes, answer %s, error %v", live.n, out, err)
	}
}

// TestLiveReaderLeaves: the program goes on and its output is kept.
func TestLiveReaderLeaves(t *testing.T) {
	live := counter{each: func([]byte) error { return io.ErrClosedPipe }}
	out, err := runJSON(t, t.Context(), &module.Env{Stdout: &live}, "shell", sh("echo one; sleep 0.05; echo two"))
	if err != nil || !strings.Contains(out, `"one\ntwo\n"`) || live.n != 4 {
		t.Errorf("answer %s, error %v, %d live bytes", out, err, live.n)
	}
}

// TestSlowLiveReader: what a program left in its pipe is not lost, however
// late it is read.
func TestSlowLiveReader(t *testing.T) {
	quick := runner{run.Runner{Grace: time.Second, Cancel: time.Second, Idle: 20 * time.Millisecond}}
	live := counter{each: func([]byte) error { <-time.After(50 * time.Millisecond); return nil }}
	r, err := quick.run(t.Context(), &module.Env{Stdout: &live}, []string{"head", "-c", "150000", "/dev/zero"}, Options{Dir: "/"})
	if err != nil || live.n != 150000 || r.StdoutCut+uint64(len(*r.Stdout)) != 150000 {
		t.Errorf("%d live bytes, cut %d, error %v", live.n, r.StdoutCut, err)
	}
}

// TestBackground: who stays behind is neither waited for nor killed.
func TestBackground(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	quick := runner{run.Runner{Grace: time.Second, Cancel: time.Second, Idle: 20 * time.Millisecond}}
	start := time.Now()
	for _, script := range []string{"sleep 60 & echo $! >" + file, "yes & echo $! >" + file} {
		if _, err := quick.run(t.Context(), &module.Env{}, []string{"sh", "-c", script}, Options{Dir: "/"}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
		b, _ := os.ReadFile(file)
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		killErr := syscall.Kill(pid, syscall.SIGKILL)
		if killErr != nil && !strings.HasPrefix(script, "yes") { // yes dies of its closed pipe
			t.Errorf("the background process is gone: %v", killErr)
		}
	}
}

func TestEnds(t *testing.T) {
	quick := runner{run.Runner{Grace: 300 * time.Millisecond, Cancel: 300 * time.Millisecond, Idle: 20 * time.Millisecond}}
	limit := errors.New("the limit of this test")
	for _, test := range []struct {
		name, script string
		signal, out  string
		cause        error
	}{
		{"on TERM", "echo begun; exec sleep 60", "SIGTERM", "begun\n", limit},
		{"cancelled", "echo begun; exec sleep 60", "SIGTERM", "begun\n", nil},
		{"not on TERM", "trap '' TERM; echo begun; sleep 60; sleep 60", "SIGKILL", "begun\n", limit},
		{"cleans up", "trap 'echo cleaned; exit 7' TERM; echo begun; sleep 60 & wait", "", "begun\ncleaned\n", limit},
		{"child holds the pipe", "(trap '' TERM; echo begun; exec sleep 60) & exec sleep 60", "SIGTERM", "begun\n", limit},
		{"child cleans up", `(trap 'echo a; sleep 0.1; echo b; exit' TERM; echo begun; sleep 60 & wait) & exec sleep 60`, "SIGTERM", "begun\na\nb\n", limit},
		{"a child of its own session holds the pipe", "setsid sleep 3 & echo begun; exec sleep 60", "SIGTERM", "begun\n", limit},
		{"closed its output", "trap '' TERM; echo begun; exec sleep 60 >&- 2>&-", "SIGKILL", "begun\n", limit},
		{"stopped", "echo begun; kill -STOP $$", "SIGTERM", "begun\n", limit},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			live := counter{each: func(p []byte) error {
				if strings.HasPrefix(string(p), "begun") {
					cancel(test.cause)
				}
				return nil
			}}
			r, err := quick.run(ctx, &module.Env{Stdout: &live}, []string{"sh", "-c", test.script}, Options{Dir: "/"})
			if want := context.Cause(ctx); !errors.Is(err, want) {
				t.Errorf("error %v; want %v", err, want)
			}
			if r.Signal != test.signal || *r.Stdout != test.out {
				t.Errorf("signal %q, stdout %q; want %q, %q", r.Signal, *r.Stdout, test.signal, test.out)
			}
		})
	}
}

func TestEndCodes(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("its 100ms are over"))
	defer cancel()
	out, err := runJSON(t, ctx, nil, "shell", sh("echo begun; exec sleep 60"))
	if want := "time-out: stopped, killed by SIGTERM: its 100ms are over"; err == nil || err.Error() != want ||
		out != `{"exit":143,"signal":"SIGTERM","stdout":"begun\n","stderr":""}` {
		t.Errorf("answer %s, error %v; want %s", out, err, want)
	}
	out, err = runJSON(t, ctx, nil, "shell", sh("echo too late"))
	if call.CodeOf(err) != call.Timeout || out != "" {
		t.Errorf("started after its time: %s, %v", out, err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err = runJSON(t, gone, nil, "shell", sh("echo too late")); call.CodeOf(err) != call.Cancelled {
		t.Errorf("error %v; want cancelled", err)
	}
}

// TestBlockedReader: a live reader that does not read holds the program, not
// its end.
func TestBlockedReader(t *testing.T) {
	quick := runner{run.Runner{Grace: 100 * time.Millisecond, Cancel: 100 * time.Millisecond, Idle: 20 * time.Millisecond}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	live := counter{each: func([]byte) error {
		time.AfterFunc(50*time.Millisecond, cancel)
		<-ctx.Done()
		return ctx.Err()
	}}
	r, err := quick.run(ctx, &module.Env{Stdout: &live}, []string{"yes"}, Options{Dir: "/"})
	if !errors.Is(err, context.Canceled) || r.Signal == "" {
		t.Errorf("signal %q, error %v", r.Signal, err)
	}
	if !bytes.HasPrefix([]byte(*r.Stdout), []byte("y\ny\n")) {
		t.Errorf("output %.10q", *r.Stdout)
	}
}

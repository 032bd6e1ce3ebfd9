package service

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/module"
)

// TestWithoutSystemd: every method says what is missing.
func TestWithoutSystemd(t *testing.T) {
	m := machine{bus: filepath.Join(t.TempDir(), "none"), systemd: filepath.Join(t.TempDir(), "none")}
	for name, f := range map[string]func(context.Context, []byte) error{
		"status": only(m.status), "list": only(m.list), "start": only(m.start), "stop": only(m.stop),
		"restart": only(m.restart), "reload": only(m.reload), "enable": only(m.enable), "disable": only(m.disable),
	} {
		err := f(t.Context(), nil)
		if call.CodeOf(err) != call.Failed || !strings.Contains(err.Error(), "this machine does not run systemd") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func only[In, Out any](f func(context.Context, *module.Env, In) (Out, error)) func(context.Context, []byte) error {
	return func(ctx context.Context, _ []byte) error {
		var in In
		_, err := f(ctx, nil, in)
		return err
	}
}

// TestSilentBus: one that takes a connection and says nothing, or nonsense,
// holds nobody up.
func TestSilentBus(t *testing.T) {
	for _, test := range []struct{ name, says string }{{"silent", ""}, {"garbage", strings.Repeat("\x00\xff garbage", 100)}} {
		t.Run(test.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "bus")
			ln, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			conns := make(chan net.Conn, 1)
			go func() {
				if c, err := ln.Accept(); err == nil {
					_, _ = c.Write([]byte(test.says))
					conns <- c
				}
			}()
			mine := errors.New("the time of this test")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, mine)
			defer cancel()
			_, err = machine{bus: socket, systemd: socket}.status(ctx, nil, Which{"x"})
			if err == nil {
				t.Error("no error")
			}
			(<-conns).Close()
		})
	}
}

func TestFullName(t *testing.T) {
	for in, want := range map[string]string{
		"sshd": "sshd.service", "sshd.service": "sshd.service", "a.timer": "a.timer", "org.x.y": "org.x.y.service", "t@1": "t@1.service", "t@a.b": "t@a.b.service", "x.": "x..service",
	} {
		if got := fullName(in); got != want {
			t.Errorf("fullName(%q) = %q; want %q", in, got, want)
		}
	}
}

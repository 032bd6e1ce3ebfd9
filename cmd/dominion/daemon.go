package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// daemonLog is the structured log of a daemon on standard error: text for
// people, JSON for what collects it. level may change while it runs.
func (a *app) daemonLog(level *slog.LevelVar) *slog.Logger {
	opt := &slog.HandlerOptions{Level: level}
	if a.errTerm {
		return slog.New(slog.NewTextHandler(a.err, opt))
	}
	return slog.New(slog.NewJSONHandler(a.err, opt))
}

// daemonContext ends with the first SIGINT or SIGTERM; the second has its
// usual effect, for when the end takes too long.
func daemonContext(ctx context.Context) (context.Context, func()) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// hangups forwards SIGHUP to a daemon after the log level was read again.
type hangups struct {
	in   chan os.Signal
	out  chan os.Signal // given to the daemon
	done chan struct{}
}

// watchHangups calls reread for each SIGHUP, then lets the daemon know.
func watchHangups(reread func()) *hangups {
	h := &hangups{in: make(chan os.Signal, 1), out: make(chan os.Signal, 1), done: make(chan struct{})}
	signal.Notify(h.in, syscall.SIGHUP)
	go func() {
		defer close(h.done)
		for s := range h.in {
			reread()
			select {
			case h.out <- s:
			default: // one is waiting already
			}
		}
	}()
	return h
}

func (h *hangups) stop() {
	signal.Stop(h.in)
	close(h.in) // nothing is sent to it after Stop
	<-h.done
}

// loadConfig reads the configuration file of a daemon: the one named, or the
// usual one if it is there. path is empty when there is none.
func loadConfig[T any](named, usual string, load func(string) (T, error)) (cfg T, path string, err error) {
	if named != "" {
		cfg, err = load(named)
		return cfg, named, badConfig(err)
	}
	cfg, err = load(usual)
	if errors.Is(err, fs.ErrNotExist) {
		var none T
		return none, "", nil
	}
	return cfg, usual, badConfig(err)
}

// badConfig makes an error about what a configuration file says one of usage,
// as the same words on the command line would be. A file that cannot be read
// is none.
func badConfig(err error) error {
	if _, unread := errors.AsType[*fs.PathError](err); err == nil || unread {
		return err
	}
	return usagef("%v", err)
}

// daemonState is --state or DOMINION_STATE; empty: neither.
func (a *app) daemonState() string {
	if a.state != "" {
		return a.state
	}
	return a.getenv("DOMINION_STATE")
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"dominion/call"
	"dominion/client"
)

// The exit codes of every command.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitIncomplete  = 3 // some or all machines failed or did not answer
	exitNoMatch     = 4 // no machine matched
	exitInterrupted = 130
)

// app is one run of the program: where it reads and writes, and the flags that
// every command takes.
type app struct {
	name   string // by which it was called; empty: dominion
	in     *os.File
	out    *bufio.Writer // flushed at the end, and by whoever wants to be seen
	err    io.Writer
	getenv func(string) string

	inTerm  bool       // standard input is a terminal
	outTerm bool       // standard output is a terminal
	errTerm bool       // standard error is a terminal
	width   func() int // columns of the terminal

	reconnect time.Duration // how long a job's broken connection is tried again; zero: as the client does

	state    string
	overlord string
	context  string
	output   string
}

func newApp(in, out, errs *os.File, getenv func(string) string) *app {
	return &app{
		in: in, out: bufio.NewWriterSize(out, 32<<10), err: errs, getenv: getenv,
		inTerm: term.IsTerminal(int(in.Fd())), outTerm: term.IsTerminal(int(out.Fd())), errTerm: term.IsTerminal(int(errs.Fd())),
		width: func() int {
			w, _, err := term.GetSize(int(errs.Fd()))
			if err != nil || w < 20 {
				return 80
			}
			return w
		},
	}
}

// main runs one command line and gives the exit code.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	if n := nameOf(a.name); n.root != nil {
		root = n.root(a)
	} else if n.name != "" && n.program == nil {
		fmt.Fprintf(a.err, "%s: this program does not answer to that name yet; see: dominion links --help\n", a.name)
		return exitUsage
	}
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if ferr := a.out.Flush(); ferr != nil && err == nil {
		err = &ranError{fmt.Errorf("write the answer: %w", ferr)}
	}
	if err == nil {
		return exitOK
	}
	code, text := verdict(err)
	if text != "" {
		fmt.Fprintf(a.err, "%s: %s\n", cmd.CommandPath(), escapeText(text))
	}
	return code
}

// ranError marks what a command itself reported; any other error of cobra is
// about the words on the command line.
type ranError struct{ err error }

func (e *ranError) Error() string { return e.err.Error() }
func (e *ranError) Unwrap() error { return e.err }

// exitError asks for an exit code of its own. An empty text prints nothing.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

// errInterrupted ends a command that the user stopped with Ctrl-C.
var errInterrupted = &exitError{exitInterrupted, "interrupted"}

// verdict gives the exit code of an error and what to tell.
func verdict(err error) (int, string) {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code, e.text
	}
	if _, ok := errors.AsType[*ranError](err); !ok {
		return exitUsage, err.Error()
	}
	e, ok := errors.AsType[*call.Error](err)
	if !ok {
		return exitFailed, err.Error()
	}
	switch e.Code {
	case call.NoMatch:
		return exitNoMatch, e.Detail + "; enrolled minions: dominion minions"
	case call.Invalid, call.Unconfirmed:
		return exitUsage, plain(err, e)
	default:
		return exitFailed, plain(err, e)
	}
}

// plain leaves the code's word out where the detail says it all, and keeps
// which job an error is about.
func plain(err error, e *call.Error) string {
	switch e.Code {
	case call.Invalid, call.NotFound, call.Unavailable, call.TooMany, call.Conflict, call.Unconfirmed, call.Cancelled:
		if _, ok := errors.AsType[*client.JobError](err); ok && e.Detail != "" {
			return strings.Replace(err.Error(), e.Error(), e.Detail, 1)
		}
		if e.Detail != "" {
			return e.Detail
		}
	}
	return err.Error()
}

// do makes a command's function: it ends with Ctrl-C or SIGTERM, and what it
// reports is told apart from wrong words.
func (a *app) do(f func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := a.checkOutput(); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err := f(ctx, cmd, args)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && cmd.Context().Err() == nil:
			return errInterrupted
		}
		return &ranError{err}
	}
}

// raw is do for commands that handle signals themselves.
func (a *app) raw(f func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := a.checkOutput(); err != nil {
			return err
		}
		if err := f(cmd.Context(), cmd, args); err != nil {
			return &ranError{err}
		}
		return nil
	}
}

// endpoint says where the overlord is, from flags first, then the environment.
func (a *app) endpoint() client.Endpoint {
	e := client.Endpoint{State: a.state, Overlord: a.overlord, Context: a.context}
	if e == (client.Endpoint{}) {
		e.State = a.getenv("DOMINION_STATE")
	}
	if e == (client.Endpoint{}) {
		e.Context = a.getenv("DOMINION_CONTEXT")
	}
	return e
}

// dial connects to the overlord that the flags name.
func (a *app) dial(ctx context.Context) (*client.Conn, error) {
	conn, err := client.Dial(ctx, a.endpoint())
	if err != nil {
		return nil, err
	}
	if w := conn.Warning(); w != "" {
		a.note("dominion: %s", w)
	}
	return conn, nil
}

// note tells the user something beside the answer, on standard error.
func (a *app) note(format string, args ...any) {
	_ = a.out.Flush() // keeps the order on a terminal; an error comes again at the end
	fmt.Fprintln(a.err, escapeText(fmt.Sprintf(format, args...)))
}

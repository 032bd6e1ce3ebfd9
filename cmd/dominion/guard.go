package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dominion/call"
	"dominion/client"
	"dominion/module"
	"dominion/target"
)

// orderFlags are the flags of every command that gives an order.
type orderFlags struct {
	async    bool
	waitFor  time.Duration
	yesCount int
	dryRun   bool
	delegate delegateFlags
	way      delegates // by set
}

func (f *orderFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.async, "async", false, "print the job's id as soon as the overlord has the order, and leave")
	fl.DurationVar(&f.waitFor, "wait-for", 0, "machines that are away get it if they are back within this `DURATION`, at most 168h")
	fl.IntVar(&f.yesCount, "yes-count", 0, "go on without asking if exactly `N` machines are meant")
	fl.BoolVar(&f.dryRun, "dry-run", false, "let the method only say what it would do, or else show whom it would touch")
	f.delegate.register(cmd)
	err := cmd.RegisterFlagCompletionFunc("wait-for", cobra.FixedCompletions([]string{"10m", "1h", "24h", "168h"}, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag does not exist: a bug here
	}
}

// set checks the flags and puts them into the options of an order.
func (f *orderFlags) set(cmd *cobra.Command, o *client.Options) (err error) {
	given := cmd.Flags().Changed
	switch {
	case given("wait-for") && (f.waitFor < time.Second || f.waitFor > call.MaxLife):
		return usagef("--wait-for %s: give a duration from 1s to %gh", f.waitFor, call.MaxLife.Hours())
	case given("yes-count") && f.yesCount <= 0:
		return usagef("--yes-count %d: give a number of machines", f.yesCount)
	case f.async && f.dryRun:
		return usagef("--async and --dry-run exclude each other")
	}
	o.Wait, o.Confirmed = f.waitFor, f.yesCount
	f.way, err = f.delegate.set(cmd, o)
	return err
}

// confirm asks for the number of machines of an order that the guard holds
// back: on a terminal it must be typed, elsewhere --yes-count must say it.
func (v *jobView) confirm(ctx context.Context, g client.Guarded) (int, error) {
	n := len(g.Names)
	if v.dry {
		return n, nil // the method only says what it would do
	}
	if !v.a.inTerm || !v.a.errTerm {
		return 0, usagef("%s (%s) on %s needs their number confirmed: add --yes-count %d; nothing was sent", g.Method, g.Effect, plural(n, "minion"), n)
	}
	v.tell("%s (%s) on %s: %s", g.Method, g.Effect, plural(n, "minion"), target.Fold(g.Names))
	fmt.Fprint(v.a.err, "Type the number of machines to go on: ")
	line, err := readTerminal(ctx, int(v.a.in.Fd()))
	if err != nil {
		return 0, err
	}
	if typed, err := strconv.Atoi(strings.TrimSpace(line)); err != nil || typed != n {
		return 0, errors.New("not confirmed; nothing was sent")
	}
	return n, nil
}

const maxTyped = 100 // bytes of an answer

// readTerminal reads a line that somebody types, until ctx ends.
func readTerminal(ctx context.Context, fd int) (string, error) {
	line, err := readTyped(ctx, fd)
	if errors.Is(err, io.EOF) {
		return line, nil
	}
	return line, err
}

// readTyped reads a line, and nothing that comes after it, until ctx ends; one of
// more than maxTyped bytes is as good as empty. With what comes before the end of the input
// it gives io.EOF. The descriptor is asked whether there is something to read: a read
// could not be ended.
func readTyped(ctx context.Context, fd int) (string, error) {
	var line []byte
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		switch {
		case errors.Is(err, unix.EINTR) || err == nil && n == 0:
			continue
		case err != nil:
			return "", fmt.Errorf("read what is typed: %w", err)
		}
		buf := make([]byte, 1)
		n, err = unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.EIO):
			return "", fmt.Errorf("read what is typed: %w", err)
		case n <= 0:
			return string(line), io.EOF
		case buf[0] == '\n':
			if len(line) > maxTyped {
				line = nil
			}
			return string(line), nil
		case len(line) <= maxTyped:
			line = append(line, buf[0])
		}
	}
}

// dryRunField is the field with which a method is told to change nothing.
const dryRunField = "dry_run"

// hasDryRun says whether a method can say what it would do.
func hasDryRun(s module.Schema) bool {
	f, ok := s.Field(dryRunField)
	return ok && f.Type == "bool"
}

// withDryRun sets the field in a JSON object of arguments.
func withDryRun(args []byte) ([]byte, error) {
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal(args, &m); err != nil {
		return nil, usagef("the arguments are not a JSON object: %v", err)
	}
	m[dryRunField] = json.RawMessage("true")
	return marshalPlain(m)
}

// previewDoc is in json what an order would touch.
type previewDoc struct {
	Method  string   `json:"method"`
	Effect  string   `json:"effect"` // read, change or destroy
	Count   int      `json:"count"`  // of machines
	Names   []string `json:"machines"`
	Unknown []string `json:"unknown"` // names that nobody knows
	Guarded bool     `json:"guarded"` // --yes-count, or an answer on a terminal, is needed

	// Of an order by the map alone.
	Conflicts []string `json:"conflicts,omitempty"` // machines with different keys bear these names: not reached
	Silent    []string `json:"silent,omitempty"`    // sub-overlords that did not say who is in their groups
	Ways      []viaDoc `json:"ways,omitempty"`
}

// preview shows whom an order would touch, and sends nothing.
func (v *jobView) preview(ctx context.Context, c *client.Client, s module.Schema, args []byte) error {
	if err := v.conn.Validate(ctx, s.Name, args); err != nil {
		return err
	}
	r, err := c.Resolve(ctx)
	if err != nil {
		return err
	}
	d := previewDoc{
		Method: s.Name, Effect: string(s.Effect), Count: len(r.Names), Names: slices.Concat([]string{}, r.Names),
		Unknown: slices.Concat([]string{}, r.Unknown), Guarded: r.Guards(s.Effect) && len(r.Names) > 0,
		Conflicts: r.Conflicts, Silent: r.Silent,
	}
	if v.mapped {
		ways, err := c.Routes(ctx, r.Names)
		if err != nil {
			return err
		}
		d.Ways = viaOf(ways.Paths)
	}
	if err := v.showPreview(d); err != nil {
		return err
	}
	if d.Count == 0 {
		return &exitError{exitNoMatch, "nobody would be touched"}
	}
	return nil
}

func (v *jobView) showPreview(d previewDoc) error {
	if v.a.output != outText {
		return v.a.document(d)
	}
	if d.Count > 0 {
		if err := v.a.text("would call %s (%s) on %s: %s\n", d.Method, d.Effect, plural(d.Count, "minion"), target.Fold(d.Names)); err != nil {
			return err
		}
	}
	for _, w := range d.Ways {
		if err := v.a.text("    %s: %s\n", hopsText(append(w.Hops, "")), foldedNames(w.Names)); err != nil {
			return err
		}
	}
	if len(d.Unknown) > 0 {
		if err := v.a.text("unknown: %s\n", target.Fold(d.Unknown)); err != nil {
			return err
		}
	}
	if d.Guarded {
		return v.a.text("it has to be confirmed: --yes-count %d\n", d.Count)
	}
	return nil
}

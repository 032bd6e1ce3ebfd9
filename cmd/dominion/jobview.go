package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/target"
)

// jobFlags are the flags of every command that asks something of machines.
type jobFlags struct {
	targetFlags
	timeout time.Duration
}

func (f *jobFlags) register(cmd *cobra.Command, timeout string) {
	f.targetFlags.register(cmd)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, timeout)
}

// options checks the flags. none is what a time-out of 0, written out, means.
func (f *jobFlags) options(cmd *cobra.Command) (client.Options, error) {
	o := client.Options{Timeout: f.timeout}
	switch {
	case f.timeout < 0:
		return o, usagef("--timeout %s: give a duration such as 30s, or 0 for none", f.timeout)
	case f.timeout == 0 && cmd.Flags().Changed("timeout"):
		o.Timeout = -1
	}
	return o, f.set(cmd, &o)
}

// jobView shows one job as it goes on.
type jobView struct {
	a      *app
	name   string // of the command, "dominion run"
	target string
	method string
	body   func([]byte) []string // shows a result in text
	live   *liveWriter           // nil: results are folded at the end
	aside  *liveWriter           // shows live output beside the results; nil: it is not asked for
	view   viewFlags
	// tabular says that answers may be lists of objects, to be shown as tables.
	tabular bool
	raw     bool                       // live output as it is, without names
	taker   func(*client.Output) error // of live output in place of showing it; nil: none
	// answered is told of the machines that have answered; nil: nobody is.
	answered func(names []string)
	async    bool      // only the job's id is wanted
	dry      bool      // nothing is to be changed
	way      delegates // whether the order goes by the map
	mapped   bool      // it does
	// watching says that the job is another command's: leaving it is all that
	// this one can do.
	watching bool

	conn    *client.Conn // nil until the order is made
	bar     *progress
	folder  client.Folder
	results []resultDoc
	problem string
	isOpen  bool // the job was not closed when its results were asked for
}

func (a *app) bar() *progress {
	p := &progress{width: a.width}
	if a.errTerm && a.output == outText {
		p.w = a.err
	}
	return p
}

// follow orders a job with start and shows it until it is closed. When start
// gives no job there is nothing to show.
func (v *jobView) follow(ctx context.Context, start func(context.Context) (*client.Job, error)) error {
	v.bar = v.a.bar()
	ctx, in := watchInterrupts(ctx, v.a.teller(v.name, v.bar))
	defer in.stop()
	defer v.bar.clear()
	defer v.hangUp()
	job, err := start(ctx)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	if job == nil {
		return nil
	}
	defer job.Close() // what it tells was told by its events
	in.follow(job)
	if job.UsesGroups && v.a.output == outText {
		v.tell("%q names %s", v.target, plural(job.Targeted(), "minion"))
	}
	if v.async && !job.ID.IsZero() {
		return v.detach(ctx, job)
	}
	return in.verdict(v.read(ctx, job))
}

// hangUp ends the connection, if there is one.
func (v *jobView) hangUp() {
	if v.conn != nil {
		_ = v.conn.Close() // nothing is asked of it any more
	}
}

// detach prints the job's id as soon as the overlord has the job.
func (v *jobView) detach(ctx context.Context, job *client.Job) error {
	if !job.Accepted() {
		for e, err := range job.Events() {
			if err == nil {
				err = v.event(job, e)
			}
			if err != nil {
				return v.lost(ctx, job, err)
			}
			if job.Accepted() {
				break
			}
		}
	}
	if v.a.output == outText {
		return v.a.text("%s\n", job.ID)
	}
	return v.a.document(map[string]string{"job": job.ID.String()})
}

// read shows a job until its events end.
func (v *jobView) read(ctx context.Context, job *client.Job) error {
	v.bar.show(job.Counts(), target.Fold(job.Awaited()))
	for e, err := range job.Events() {
		if err == nil {
			err = v.event(job, e)
		}
		if err != nil {
			_ = v.end(job, "") // shows what is known; the error before it says more
			return v.lost(ctx, job, err)
		}
		if c, ok := e.(*client.Closed); ok {
			return v.end(job, c.Reason)
		}
	}
	return v.open(job) // only what is known now was asked for
}

// lost explains the error that ended a job's events: the user left, or sight of
// the job was lost.
func (v *jobView) lost(ctx context.Context, job *client.Job, err error) error {
	switch je, ok := errors.AsType[*client.JobError](err); {
	case ctx.Err() != nil && v.watching:
		return &exitError{exitInterrupted, fmt.Sprintf("left; the job goes on; cancel it with: dominion job cancel %s", job.ID)}
	case ctx.Err() != nil && !job.Accepted():
		return interruptedOr(ctx, &client.JobError{ID: job.ID, What: client.Ordering, Err: err})
	case ctx.Err() != nil:
		return &exitError{exitInterrupted, fmt.Sprintf("interrupted; the job may go on; see it again with: dominion job watch %s", job.ID)}
	case ok && je.Lost:
		return fmt.Errorf("%w; see it again with: dominion job watch %s", err, je.ID)
	}
	return err
}

// interruptedOr gives the error of a command that the user left. An order that
// was on its way may have been taken: then its job goes on.
func interruptedOr(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if e, ok := errors.AsType[*client.JobError](err); ok && e.What == client.Ordering {
		return &exitError{exitInterrupted, fmt.Sprintf("interrupted while job %s was being ordered; if the overlord has it, it goes on there: dominion job watch %s", e.ID, e.ID)}
	}
	return errInterrupted
}

func (v *jobView) tell(format string, args ...any) {
	v.bar.clear()
	v.a.note(v.name+": "+format, args...)
}

func (v *jobView) event(job *client.Job, e client.Event) error {
	switch e := e.(type) {
	case *client.Output:
		return v.output(e)
	case *client.Group:
		if v.answered != nil && e.Status == call.Answered {
			v.answered(e.Names)
		}
		if err := v.group(e); err != nil {
			return err
		}
		v.bar.show(job.Counts(), "")
	case *client.Progress:
		if e.Problem != v.problem && e.Problem != "" {
			v.tell("the results are not on the overlord's disk yet: %s", e.Problem)
		}
		v.problem = e.Problem
		v.bar.show(e.Counts, e.Waiting)
	case *client.Reconnecting:
		return v.reconnecting(job, e)
	}
	return nil
}

// reconnecting says that the connection broke, and keeps the line of progress.
func (v *jobView) reconnecting(job *client.Job, e *client.Reconnecting) error {
	switch {
	case v.raw && e.OutputLost:
		// What follows would not be what the machine wrote.
		return &client.JobError{ID: job.ID, What: "the connection to the overlord broke and output is lost; it goes on", Lost: true, Err: e.Err}
	case !job.Accepted():
		v.tell("connection to the overlord lost before it took the order; trying again …")
	case e.OutputLost && (v.live != nil || v.aside != nil):
		v.tell("connection to the overlord lost; the job goes on there, and what machines write from now on is not shown; trying again …")
	default:
		v.tell("connection to the overlord lost; the job goes on there; trying again …")
	}
	v.bar.show(job.Counts(), target.Fold(job.Awaited()))
	return nil
}

func (v *jobView) output(o *client.Output) error {
	if v.taker != nil {
		return v.taker(o)
	}
	v.bar.clear()
	if v.raw && o.Dropped > 0 {
		// What follows would not be what the machine wrote.
		return fmt.Errorf("%s: %d bytes of its output were lost on the way; the job goes on", o.Machine, o.Dropped)
	}
	switch {
	case v.raw && o.Stream == "stderr":
		if _, err := v.a.err.Write(o.Data); err != nil {
			return fmt.Errorf("write output of %s: %w", o.Machine, err)
		}
		return nil
	case v.raw:
		if err := v.a.write(o.Data); err != nil {
			return err
		}
		return v.a.flush()
	case v.live != nil:
		if err := v.live.write(o.Machine, o.Stream, o.Data, o.Dropped); err != nil {
			return err
		}
		return v.a.flush()
	case v.aside != nil:
		return v.aside.write(o.Machine, o.Stream, o.Data, o.Dropped)
	}
	return nil
}

func (v *jobView) group(g *client.Group) error {
	switch {
	case v.live != nil:
		g.Output = nil // is shown as it comes
		fallthrough
	case v.a.output == outText:
		v.folder.Add(g)
		return v.a.flush()
	}
	for r := range g.Results() {
		doc := resultDocOf(r, g.Status)
		if v.a.output == outJSON || v.view.byName() {
			v.results = append(v.results, doc)
			continue
		}
		if err := v.a.line(doc); err != nil {
			return err
		}
	}
	if g.Status != call.Answered {
		g.Output = nil // the message at the end needs the names and reasons alone
		v.folder.Add(g)
	}
	return v.a.flush()
}

// end shows what was kept for the end, and is the error of a job that not
// every machine answered.
func (v *jobView) end(job *client.Job, why string) error {
	v.bar.clear()
	if v.aside != nil {
		if err := v.aside.end(); err != nil {
			return err
		}
	}
	groups := v.folder.Groups()
	switch v.a.output {
	case outJSON:
		slices.SortFunc(v.results, func(x, y resultDoc) int { return cmp.Compare(x.Machine, y.Machine) })
		doc := jobDoc{Method: v.method, Counts: countsDocOf(job.Counts()), Reason: why, Open: v.isOpen, Results: v.results}
		if doc.Results == nil {
			doc.Results = []resultDoc{}
		}
		if !job.ID.IsZero() {
			doc.Job = job.ID.String()
		}
		if err := v.a.document(doc); err != nil {
			return err
		}
	case outJSONL:
		slices.SortFunc(v.results, func(x, y resultDoc) int { return cmp.Compare(x.Machine, y.Machine) })
		if v.view.sort == "-name" {
			slices.Reverse(v.results)
		}
		for _, doc := range v.results {
			if err := v.a.line(doc); err != nil {
				return err
			}
		}
		v.tell("%s", countsLine(job.Counts()))
	default:
		if err := v.show(groups); err != nil {
			return err
		}
	}
	if why != "" {
		v.tell("%s", why)
	}
	if err := v.a.flush(); err != nil {
		return err
	}
	return incomplete(job.Counts(), groups)
}

func (v *jobView) show(groups []*client.Group) error {
	switch {
	case v.live != nil:
		return v.live.end()
	case v.raw:
		return nil
	}
	return v.folded(groups)
}

// open ends the view of a job that is not closed yet.
func (v *jobView) open(job *client.Job) error {
	v.isOpen = true
	awaited := job.Awaited()
	for _, n := range awaited {
		doc := resultDoc{Machine: n, Status: "awaited", Reason: "the job is open", Result: rawJSON(nil)}
		switch v.a.output {
		case outJSON:
			v.results = append(v.results, doc)
		case outJSONL:
			if err := v.a.line(doc); err != nil {
				return err
			}
		}
	}
	if err := v.end(job, ""); err != nil {
		if _, ok := errors.AsType[*exitError](err); !ok {
			return err
		}
		v.tell("%v", err)
	}
	return &exitError{exitIncomplete, fmt.Sprintf("the job is open, %d of %s awaited: %s; follow it with: dominion job watch %s",
		len(awaited), plural(job.Targeted(), "minion"), target.Fold(awaited), job.ID)}
}

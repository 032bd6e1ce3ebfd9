package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/module"
	"dominion/target"
)

func (a *app) jobWatchCmd() *cobra.Command {
	return a.viewCmd(client.WatchOptions{}, &cobra.Command{
		Use: "watch ID", Short: "Follow a job to its end",
		Long: `Watch shows a job as call does, from its first result on, and ends with the exit
code of the job. Ctrl-C only leaves: the job goes on. Live output is not shown.`,
		Example: "  dominion job watch 0c52a1\n  dominion job watch 0c52a1 -o jsonl",
	})
}

func (a *app) jobResultsCmd() *cobra.Command {
	return a.viewCmd(client.WatchOptions{Now: true}, &cobra.Command{
		Use: "results ID", Short: "Show the results of a job that there are now",
		Long: `Results shows what is stored of a job now, in the forms of call: with -o jsonl one
line per machine, with -o json one document. Of a job that is open the machines
still awaited have the status "awaited", and the exit code is 3.

` + viewHelp,
		Example: "  dominion job results 0c52a1\n  dominion job results 0c52a1 -o jsonl\n  dominion job results 0c52a1 --diff",
	})
}

// viewCmd completes a command that shows a job that was ordered before.
func (a *app) viewCmd(opt client.WatchOptions, cmd *cobra.Command) *cobra.Command {
	var view viewFlags
	cmd.Args, cmd.ValidArgsFunction = args(1, 1, "a job's id"), a.completeJob
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		if err := view.check(a, cmd); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		return a.viewJob(ctx, cmd.CommandPath(), words[0], view, opt)
	})
	view.register(cmd)
	return cmd
}

// viewJob shows a job that was ordered before; the end of ctx only leaves.
func (a *app) viewJob(ctx context.Context, name, word string, view viewFlags, opt client.WatchOptions) error {
	conn, err := a.dial(ctx)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	v := &jobView{a: a, name: name, conn: conn, bar: a.bar(), watching: true, view: view}
	defer v.hangUp()
	defer v.bar.clear()
	info, err := conn.FindJob(ctx, word)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	v.target = info.Target
	v.of(info.Method)
	opt.Reconnect = a.reconnect
	job, err := conn.Watch(ctx, info.ID, opt)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	defer job.Close() // what it tells was told by its events
	err = v.read(ctx, job)
	if info.Dropped {
		v.tell("the outputs of this job were removed, to make room")
	}
	return err
}

// cancelDoc is in json what cancelling a job did.
type cancelDoc struct {
	Job     string     `json:"job"`
	Skipped []string   `json:"skipped"` // never start
	Running []string   `json:"running"` // had started, and were told to end
	Closed  bool       `json:"closed"`
	Counts  *countsDoc `json:"counts,omitempty"` // once it is closed
}

func (a *app) jobCancelCmd() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use: "cancel ID", Short: "Stop a job",
		Long: `Cancel withdraws what has not started of a job, tells what runs to end, and waits
until the job is closed. What runs may still end well; job results says so.`,
		Example:           "  dominion job cancel 0c52a1\n  dominion job cancel 0c52a1 --no-wait",
		Args:              args(1, 1, "a job's id"),
		ValidArgsFunction: a.completeJob,
	}
	cmd.RunE = a.do(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		conn, err := a.dial(ctx)
		if err != nil {
			return err
		}
		v := &jobView{a: a, name: cmd.CommandPath(), conn: conn, bar: a.bar()}
		defer v.hangUp()
		defer v.bar.clear()
		info, err := conn.FindJob(ctx, words[0])
		if err != nil {
			return err
		}
		if !info.Open() {
			return call.Errorf(call.NotFound, "job %s is closed since %s; nothing of it runs", info.ID, stamp(info.Closed.UnixMilli()))
		}
		return v.cancelJob(ctx, &info, noWait)
	})
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the job is closed")
	return cmd
}

// cancelJob cancels, says what that did, and waits for the end of the job.
func (v *jobView) cancelJob(ctx context.Context, info *client.JobInfo, noWait bool) error {
	left, err := v.conn.CancelJob(ctx, info.ID)
	if err != nil {
		return err
	}
	doc := cancelDoc{Job: info.ID.String(), Skipped: append([]string{}, left.Skipped...), Running: append([]string{}, left.Running...)}
	if v.a.output == outText {
		if err := v.sayCancelled(info.ID, left); err != nil {
			return err
		}
	}
	if !noWait {
		job, err := v.conn.Watch(ctx, info.ID, client.WatchOptions{Reconnect: v.a.reconnect})
		if err != nil {
			return err
		}
		defer job.Close() // what it tells was told by its events
		for e, err := range job.Events() {
			if _, ok := e.(*client.Group); ok {
				v.bar.show(job.Counts(), "")
			} else if err == nil {
				err = v.event(job, e)
			}
			if err != nil {
				return v.lost(ctx, job, err)
			}
		}
		doc.Closed, doc.Counts = true, new(countsDocOf(job.Counts()))
		v.bar.clear()
		if v.a.output == outText {
			return v.a.text("closed; %s\n", countsLine(job.Counts()))
		}
	}
	if v.a.output == outText {
		return nil
	}
	return v.a.document(doc)
}

func (v *jobView) sayCancelled(id call.JobID, left client.Cancelled) error {
	if err := v.a.text("cancelled job %s\n", id); err != nil {
		return err
	}
	for _, k := range []struct {
		names []string
		what  string
	}{{left.Skipped, "never starts on"}, {left.Running, "told to end on"}} {
		if len(k.names) > 0 {
			if err := v.a.text("%s %s: %s\n", k.what, plural(len(k.names), "minion"), target.Fold(k.names)); err != nil {
				return err
			}
		}
	}
	return v.a.flush()
}

func (a *app) jobRerunCmd() *cobra.Command {
	var (
		how     orderFlags
		timeout time.Duration
		raw     string
	)
	cmd := &cobra.Command{
		Use: "rerun ID [VALUE | name=value]... [-- COMMAND...]", Short: "Order a job again where it was not answered",
		Long: `Rerun gives a new order, of the same method, for the machines of a closed job that
did not answer it: those that failed, were unreachable or skipped. A job keeps no
arguments: give them again, as for call, and the command of a run after --. Only
a job that had none needs none.
It goes by the map if that job did (the overlord's own, unless --map names one), or as --delegate says.`,
		Example: `  dominion job rerun 0c52a1
  dominion job rerun 0c52a1 name=chronyd --wait-for 24h
  dominion job rerun 0c52a1 -- systemctl restart chronyd`,
		Args:              args(1, -1, "a job's id"),
		ValidArgsFunction: a.completeRerun,
	}
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		opt := client.Options{Timeout: timeout}
		if timeout < 0 {
			return usagef("--timeout %s: give a duration such as 30s, or 0 for none", timeout)
		}
		if err := how.set(cmd, &opt); err != nil {
			return err
		}
		if cmd.ArgsLenAtDash() == 0 {
			return usagef("give a job's id before --")
		}
		if raw != "" && len(words) > 1 {
			return usagef("--args gives all arguments; leave out %q", words[1])
		}
		r := rerun{
			v:     &jobView{a: a, name: cmd.CommandPath(), async: how.async, dry: how.dryRun, way: how.way},
			words: words[1:], command: cmd.ArgsLenAtDash() == 1, mixed: cmd.ArgsLenAtDash() > 1, raw: raw,
			opt: opt, timed: cmd.Flags().Changed("timeout"),
		}
		return r.v.follow(ctx, func(ctx context.Context) (*client.Job, error) { return r.start(ctx, words[0]) })
	})
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long the method may run, a `DURATION`; 0: no limit (default: that of the job)")
	cmd.Flags().StringVar(&raw, "args", "", "all arguments at once: `JSON`, @FILE, or - for standard input")
	how.register(cmd)
	return cmd
}

// rerun is one new order for what a job left.
type rerun struct {
	v       *jobView
	words   []string // the arguments
	command bool     // words came after --
	mixed   bool     // only some of them did
	raw     string   // --args
	opt     client.Options
	timed   bool // --timeout was given
}

// start finds out what the job left and orders it.
func (r *rerun) start(ctx context.Context, word string) (*client.Job, error) {
	v := r.v
	conn, err := v.a.dial(ctx)
	if err != nil {
		return nil, err
	}
	v.conn = conn
	info, err := conn.FindJob(ctx, word)
	if err != nil {
		return nil, err
	}
	if info.Open() {
		return nil, fmt.Errorf("job %s is open and may still be answered; wait for its end with: dominion job watch %[1]s, or end it with: dominion job cancel %[1]s", info.ID)
	}
	if info.Counts.Answered == info.Counts.Targeted {
		v.tell("every machine answered job %s; nothing is ordered", info.ID)
		return nil, nil //nolint:nilnil // nothing to follow, as its doc says
	}
	if err := r.check(&info); err != nil {
		return nil, err
	}
	names, err := conn.Unanswered(ctx, info.ID.String())
	if err != nil {
		return nil, err
	}
	v.target = target.Fold(names)
	v.of(info.Method)
	if v.way == undecided { // as that job
		if r.opt.Delegate, v.way = info.Delegate, direct; info.Delegate {
			v.way = byMap
		}
	}
	if !r.timed {
		if r.opt.Timeout = info.Timeout; info.Timeout == 0 {
			r.opt.Timeout = -1
		}
	} else if r.opt.Timeout == 0 {
		r.opt.Timeout = -1
	}
	if !v.dry {
		v.tell("ordering %s again on %s: %s", v.method, plural(len(names), "minion"), v.target)
	}
	return v.order(ctx, r.opt, r.arguments)
}

// check refuses a rerun whose arguments are missing.
func (r *rerun) check(info *client.JobInfo) error {
	shell := strings.HasPrefix(info.Method, "command.")
	switch {
	case len(r.words) == 0 && r.raw == "" && !info.Bare && shell:
		return usagef("the command of a job is not kept; give it again: dominion job rerun %s -- COMMAND", info.ID)
	case len(r.words) == 0 && r.raw == "" && !info.Bare:
		return usagef("the arguments of a job are not kept; give them again: dominion job rerun %s name=value ...; dominion modules %s shows them", info.ID, info.Method)
	case r.mixed:
		return usagef("%q is one word too many before --", r.words[0])
	case r.command && !shell:
		return usagef("%s is no command; leave out --", info.Method)
	}
	return nil
}

// arguments makes the arguments of the new order.
func (r *rerun) arguments(s module.Schema) ([]byte, error) {
	switch {
	case r.raw != "":
		return r.v.a.readArgs(r.raw)
	case r.command && (s.Name == "command.run" || s.Name == "command.shell"):
		f := runFlags{shell: s.Name == "command.shell"}
		_, b, err := f.arguments(r.v.a.in, r.words)
		return b, err
	}
	return module.ParseArgs(s, r.words)
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/target"
)

func (a *app) pingCmd() *cobra.Command {
	var flags jobFlags
	cmd := &cobra.Command{
		Use:   "ping TARGET",
		Short: "Ask machines for a sign of life",
		Long: `Ping asks the session of every machine that TARGET names for a sign of life: no
order is signed, no job is made, no method runs (test.ping is a method).

The times are between overlord and minion. With -o jsonl each machine is one
line, {"machine", "status", "reason", "result": {"rtt_ms"}}, and the counts go
to standard error.`,
		Example: `  dominion ping '*'
  dominion ping 'web[01-20]' --timeout 1s
  dominion ping '@db' -o jsonl
  dominion ping '*' --where '"web" in groups && facts.os == "debian"'`,
		Args:              args(1, 1, "one target"),
		ValidArgsFunction: a.completeTarget,
	}
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		opt, err := flags.options(cmd)
		if err != nil {
			return err
		}
		if opt.Timeout < 0 {
			return usagef("--timeout 0: a ping needs an end; give a duration such as 5s")
		}
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := a.ping(ctx, cmd.CommandPath(), words[0], opt); err != nil {
			return interruptedOr(ctx, err)
		}
		return nil
	})
	flags.register(cmd, "how long to wait for answers, a `DURATION` (default 5s)")
	return cmd
}

// pong is the result of a ping in json.
type pong struct {
	RTT float64 `json:"rtt_ms"`
}

func (a *app) ping(ctx context.Context, name, expr string, opt client.Options) error {
	conn, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	opt.OnResolve = func(r client.Resolved) {
		tellResolved(func(format string, args ...any) { a.note(name+": "+format, args...) }, &opt, r)
	}
	c, err := conn.Target(expr, opt)
	if err != nil {
		return err
	}
	pings, err := c.Ping(ctx)
	if err != nil {
		return err
	}
	defer pings.Close() // what it tells was told by its results
	v := pingView{a: a, bar: a.bar()}
	defer v.bar.clear()
	for r, err := range pings.Results() {
		if err == nil {
			err = v.result(r, pings.Counts())
		}
		if err != nil {
			return err
		}
	}
	v.bar.clear()
	return v.end(name, pings.Counts())
}

// pingView shows one ping as it goes on.
type pingView struct {
	a       *app
	bar     *progress
	folder  client.Folder
	alive   []string
	took    []time.Duration
	results []resultDoc
}

func (v *pingView) result(r call.Result, c call.Counts) error {
	status := r.Status()
	if status == call.Answered {
		v.alive, v.took = append(v.alive, r.Machine), append(v.took, r.Took)
		b, err := json.Marshal(pong{RTT: float64(r.Took.Microseconds()) / 1000})
		if err != nil {
			return err
		}
		r.Output = b
	} else {
		v.folder.Add(&client.Group{Names: []string{r.Machine}, Status: status, Code: r.Code, Detail: r.Detail})
	}
	switch v.a.output {
	case outJSON:
		v.results = append(v.results, resultDocOf(r, status))
	case outJSONL:
		if err := v.a.line(resultDocOf(r, status)); err != nil {
			return err
		}
		return v.a.flush()
	default:
		v.bar.show(c, "")
	}
	return nil
}

func (v *pingView) end(name string, c call.Counts) error {
	switch v.a.output {
	case outJSON:
		slices.SortFunc(v.results, func(x, y resultDoc) int { return cmp.Compare(x.Machine, y.Machine) })
		if err := v.a.document(jobDoc{Counts: countsDocOf(c), Results: v.results}); err != nil {
			return err
		}
	case outJSONL:
		v.a.note("%s: %s", name, countsLine(c))
	default:
		if len(v.alive) > 0 {
			if err := v.a.text("%s", pingLine(v.alive, v.took)); err != nil {
				return err
			}
		}
	}
	if err := v.a.flush(); err != nil {
		return err
	}
	return incomplete(c, v.folder.Groups())
}

// pingLine gives "web[01-12] (12): alive, 0.2 to 1.4 ms, 0.3 ms in the middle".
func pingLine(names []string, took []time.Duration) string {
	slices.Sort(took)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.3g", float64(d.Microseconds())/1000) }
	if len(names) == 1 {
		return fmt.Sprintf("%s: alive, %s ms\n", names[0], ms(took[0]))
	}
	return fmt.Sprintf("%s (%d): alive, %s to %s ms, median %s ms\n",
		target.Fold(names), len(names), ms(took[0]), ms(took[len(took)-1]), ms(took[len(took)/2]))
}

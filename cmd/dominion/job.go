package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dominion/client"
	"dominion/target"
)

const recentJobs = 1000 // in a page of a list

func (a *app) jobCmd() *cobra.Command {
	return parent("job", "See and steer jobs",
		`A job is an order being carried out; it outlives the command that gave the order,
and a restart of the overlord. These commands take the job's id, or enough of its
beginning or end, at least 6 characters, to tell it from other recent jobs.`,
		`  dominion call '*' test.ping --wait-for 24h --async
  dominion job list --open
  dominion job watch 0c52a1
  dominion job results 0c52a1 -o jsonl
  dominion job cancel 0c52a1
  dominion job rerun 0c52a1`,
		a.jobListCmd(), a.jobShowCmd(), a.jobWatchCmd(), a.jobResultsCmd(), a.jobCancelCmd(), a.jobRerunCmd())
}

// jobRow is a job in json. Machines, unknown and waiting are folded.
type jobRow struct {
	Job       string     `json:"job"`
	Created   *time.Time `json:"created"`
	Operator  string     `json:"operator"`
	Method    string     `json:"method"`
	Target    string     `json:"target"`
	State     string     `json:"state"` // open, cancelling, done, incomplete, cancelled
	Counts    countsDoc  `json:"counts"`
	Expires   *time.Time `json:"expires"`             // no call starts after it
	Cancelled *time.Time `json:"cancelled,omitempty"` // when it was withdrawn
	Closed    *time.Time `json:"closed,omitempty"`
	Reason    string     `json:"reason,omitempty"`    // why it ended early, or who answered for others
	Waits     bool       `json:"waits,omitempty"`     // machines that are away get it when they are back
	Delegated bool       `json:"delegated,omitempty"` // it goes by the map
}

// jobDetail is everything about a job.
type jobDetail struct {
	jobRow
	Timeout  string `json:"timeout"` // of each call; 0s: none
	Machines string `json:"machines"`
	Unknown  string `json:"unknown,omitempty"`
	Waiting  string `json:"waiting,omitempty"` // at most 64 of those still awaited
	Dropped  bool   `json:"outputs_removed,omitempty"`
	Bare     bool   `json:"without_arguments,omitempty"`
	Record   uint64 `json:"audit_record"`
	Next     string `json:"next"` // the command to go on with
}

func jobRowOf(i *client.JobInfo) jobRow {
	return jobRow{
		Job: i.ID.String(), Created: timeDoc(i.Created), Operator: i.Operator, Method: i.Method, Target: i.Target, State: jobState(i),
		Counts: countsDocOf(i.Counts), Expires: timeDoc(i.Expires), Cancelled: timeDoc(i.Cancelled), Closed: timeDoc(i.Closed), Reason: i.Reason, Waits: i.Wait, Delegated: i.Delegate,
	}
}

func jobDetailOf(i *client.JobInfo) jobDetail {
	d := jobDetail{
		jobRow: jobRowOf(i), Timeout: i.Timeout.String(), Machines: i.Names, Unknown: i.Unknown, Waiting: i.Waiting, Dropped: i.Dropped, Bare: i.Bare, Record: i.Record,
	}
	verb := "results"
	switch {
	case i.Open():
		verb = "watch"
	case i.Counts.Answered != i.Counts.Targeted:
		verb = "rerun"
	}
	d.Next = fmt.Sprintf("dominion job %s %s", verb, i.ID)
	return d
}

// timeDoc is a time in JSON: RFC 3339 in UTC, left out when there is none.
func timeDoc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}

// jobState gives the word for how far a job is.
func jobState(i *client.JobInfo) string {
	switch {
	case i.Open() && !i.Cancelled.IsZero():
		return "cancelling"
	case i.Open():
		return "open"
	case !i.Cancelled.IsZero():
		return "cancelled"
	case i.Counts.Answered == i.Counts.Targeted:
		return "done"
	}
	return "incomplete"
}

// jobProgress gives the state with its counts: "open, 3 of 40, 1 failed".
func jobProgress(i *client.JobInfo) string {
	c := i.Counts
	words := []string{jobState(i)}
	if i.Open() {
		words = append(words, fmt.Sprintf("%d of %d", c.Done(), c.Targeted))
	} else {
		words = append(words, fmt.Sprintf("%d answered", c.Answered))
	}
	for _, k := range []struct {
		n    int
		word string
	}{{c.Failed, "failed"}, {c.Unreachable, "unreachable"}, {c.Skipped, "skipped"}} {
		if k.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", k.n, k.word))
		}
	}
	return strings.Join(words, ", ")
}

func (a *app) jobListCmd() *cobra.Command {
	var f client.JobFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List the jobs, the newest first",
		Example: "  dominion job list --open\n  dominion job list --operator alice --limit 0 -o jsonl",
		Args:    args(0, 0, "flags only"),
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
		if f.Limit < 0 {
			return usagef("--limit %d: give a number of jobs, or 0 for all", f.Limit)
		}
		jobs, err := listJobs(ctx, conn, f)
		if err != nil {
			return err
		}
		rows := make([]jobRow, len(jobs))
		lines := make(map[string]string, len(jobs))
		for i := range jobs {
			rows[i] = jobRowOf(&jobs[i])
			lines[rows[i].Job] = jobProgress(&jobs[i])
		}
		return list(a, "jobs", rows, []string{"JOB", "TIME", "OPERATOR", "METHOD", "TARGET", "STATE"}, func(r jobRow) []string {
			return []string{r.Job, stampOf(r.Created), r.Operator, r.Method, short(r.Target), lines[r.Job]}
		})
	})
	fl := cmd.Flags()
	fl.BoolVar(&f.Open, "open", false, "only jobs that are not closed")
	fl.StringVar(&f.Operator, "operator", "", "only jobs of the operator `NAME`")
	fl.IntVar(&f.Limit, "limit", 50, "at most `N` jobs; 0: all")
	a.completeFlag(cmd, "operator", operatorNames)
	return cmd
}

// listJobs gives up to f.Limit jobs, page by page; 0: all.
func listJobs(ctx context.Context, conn *client.Conn, f client.JobFilter) ([]client.JobInfo, error) {
	var out []client.JobInfo
	for want := f.Limit; ; {
		f.Limit = recentJobs
		if want > 0 {
			f.Limit = min(want-len(out), recentJobs)
		}
		page, err := conn.Jobs(ctx, f)
		if err != nil {
			return nil, err
		}
		out = append(out, page...)
		if len(page) < f.Limit || want > 0 && len(out) >= want {
			return out, nil
		}
		f.Before = page[len(page)-1].ID
	}
}

func stampOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return stamp(t.UnixMilli())
}

const maxShort = 40 // characters of a target in a list

func short(s string) string {
	if r := []rune(s); len(r) > maxShort {
		return string(r[:maxShort-1]) + "…"
	}
	return s
}

func (a *app) jobShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show everything about a job",
		Example:           "  dominion job show 0c52a1",
		Args:              args(1, 1, "a job's id"),
		ValidArgsFunction: a.completeJob,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			info, err := conn.FindJob(ctx, words[0])
			if err != nil {
				return err
			}
			if a.output != outText {
				return a.document(jobDetailOf(&info))
			}
			return a.write([]byte(jobTable(&info).String()))
		}),
	}
}

// jobTable shows everything about a job.
func jobTable(i *client.JobInfo) table {
	d := jobDetailOf(i)
	t := table{{"job", d.Job}}
	add := func(name, value string) {
		if value != "" {
			t = append(t, []string{name, value})
		}
	}
	add("state", jobProgress(i))
	add("reason", d.Reason)
	add("method", d.Method)
	add("operator", d.Operator)
	if add("target", d.Target); d.Delegated {
		add("way", "by the map")
	}
	add("machines", folded(d.Machines))
	add("unknown", folded(d.Unknown))
	add("waiting for", d.Waiting)
	add("ordered", stampOf(d.Created))
	expires := stampOf(d.Expires)
	if d.Waits {
		expires += ", machines that are back before get it"
	}
	add("expires", expires)
	add("cancelled", stampOf(d.Cancelled))
	add("closed", stampOf(d.Closed))
	if i.Timeout > 0 {
		add("time-out", i.Timeout.String())
	}
	if i.Dropped {
		add("outputs", "removed, to make room")
	}
	add("audit record", fmt.Sprint(i.Record))
	add("next", d.Next)
	return t
}

// folded shows a folded list with the number of its names.
func folded(s string) string {
	if s == "" {
		return ""
	}
	names, err := target.Expand(s)
	if err != nil || len(names) == 1 {
		return s
	}
	return fmt.Sprintf("%s (%d)", s, len(names))
}

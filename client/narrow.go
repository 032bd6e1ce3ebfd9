package client

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"dominion/call"
	"dominion/target"
)

// settle checks what narrows the target.
func (c *Client) settle() error {
	if c.opt.Where != "" && strings.TrimSpace(c.opt.Where) == "" {
		return call.Errorf(call.Invalid, "--where: the condition is empty")
	}
	return c.opt.Sample.check()
}

// narrows says whether the target alone does not say who is meant.
func (c *Client) narrows() bool {
	return c.opt.Where != "" || c.opt.Narrow || c.opt.Rerun != "" || c.opt.Sample.on()
}

// usesGroups says whether what is asked for cannot be checked without the overlord.
func (c *Client) usesGroups() bool {
	return c.opt.Where != "" || c.expr.UsesGroups() || c.except != nil && c.except.UsesGroups()
}

// askLimit is the limit that the overlord may hold the target against.
func (c *Client) askLimit() uint64 {
	if c.opt.Sample.on() {
		return 0
	}
	return uint64(c.opt.Limit)
}

// narrowing are the names that alone count.
type narrowing struct {
	on     bool
	names  []string // sorted, each once
	folded string
}

// narrowed gives what Options.Among and Options.Rerun leave.
func (c *Client) narrowed(ctx context.Context) (narrowing, error) {
	n := narrowing{on: c.opt.Narrow || c.opt.Rerun != ""}
	if !n.on {
		return n, nil
	}
	if c.opt.Narrow {
		for _, name := range c.opt.Among {
			low, err := call.ParseName(name)
			if err != nil {
				return n, call.Errorf(call.Invalid, "%v", err)
			}
			n.names = append(n.names, low)
		}
	}
	if c.opt.Rerun != "" {
		left, err := c.conn.Unanswered(ctx, c.opt.Rerun)
		if err != nil {
			return n, err
		}
		if c.opt.Narrow {
			n.names = slices.DeleteFunc(n.names, func(name string) bool { _, is := slices.BinarySearch(left, name); return !is })
		} else {
			n.names = left
		}
	}
	slices.Sort(n.names)
	n.names = slices.Compact(n.names)
	n.folded = target.Fold(n.names)
	return n, nil
}

// asked says in words what was asked for: the target and what narrows it.
func (c *Client) asked() string {
	words := []string{fmt.Sprintf("%q", c.target)}
	if c.opt.Where != "" {
		words = append(words, fmt.Sprintf("with --where %q", c.opt.Where))
	}
	if c.opt.Narrow {
		words = append(words, "among the names given")
	}
	if c.opt.Rerun != "" {
		words = append(words, fmt.Sprintf("among those that did not answer job %s", c.opt.Rerun))
	}
	return strings.Join(words, " ")
}

const maxDescribed = 60 << 10 // bytes

// described is the target as the job keeps it, with what narrowed it.
func (c *Client) described() string {
	text := c.target
	if c.opt.Exclude != "" {
		text += " -x " + quoted(c.opt.Exclude)
	}
	if c.opt.Where != "" {
		text += " --where " + quoted(c.opt.Where)
	}
	if c.opt.Narrow {
		text += " --hosts-from …"
	}
	if c.opt.Rerun != "" {
		text += " --rerun " + c.opt.Rerun
	}
	if c.opt.Sample.on() {
		text += fmt.Sprintf(" --sample %s --seed %d", c.opt.Sample, c.opt.Sample.Seed)
	}
	if len(text) > maxDescribed {
		return c.target
	}
	return text
}

// quoted puts a text into quotes of a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func unjudgedWords(r Resolved) string {
	if len(r.Unjudged) == 0 {
		return ""
	}
	return fmt.Sprintf("; %d could not be judged, as facts are missing: %s", len(r.Unjudged), target.Fold(r.Unjudged))
}

// Unanswered gives the machines that did not answer a closed job, known by its id or
// enough of its beginning or end: those that failed in it, were unreachable or skipped; sorted.
func (c *Conn) Unanswered(ctx context.Context, word string) ([]string, error) {
	info, err := c.FindJob(ctx, word)
	if err != nil {
		return nil, err
	}
	if info.Open() {
		return nil, call.Errorf(call.Conflict, "job %s is open and may still be answered; wait for its end with: dominion job watch %[1]s, or end it with: dominion job cancel %[1]s", info.ID)
	}
	job, err := c.Watch(ctx, info.ID, WatchOptions{Now: true})
	if err != nil {
		return nil, err
	}
	defer job.Close() // it is closed
	var names []string
	for e, err := range job.Events() {
		if err != nil {
			return nil, err
		}
		if g, ok := e.(*Group); ok && g.Status != call.Answered {
			names = append(names, g.Names...)
		}
	}
	slices.Sort(names)
	return names, nil
}

const (
	recentJobs = 1000 // among which a part of an id is looked up
	leastID    = 6    // characters of that part
)

// FindJob gives the job of an id, or of the beginning or end of one, at least 6
// characters, that only a single one of the newest 1,000 jobs has.
func (c *Conn) FindJob(ctx context.Context, word string) (JobInfo, error) {
	if id, err := call.ParseJobID(word); err == nil {
		return c.Job(ctx, id)
	}
	part := strings.ToLower(word)
	if len(part) < leastID || strings.Trim(part, "0123456789abcdef-") != "" {
		return JobInfo{}, call.Errorf(call.Invalid, "%q is not a job's id, nor %d or more characters of one; list them with: dominion job list", word, leastID)
	}
	recent, err := c.Jobs(ctx, JobFilter{Limit: recentJobs})
	if err != nil {
		return JobInfo{}, err
	}
	var found []call.JobID
	for i := range recent {
		if id := recent[i].ID.String(); strings.HasPrefix(id, part) || strings.HasSuffix(id, part) {
			found = append(found, recent[i].ID)
		}
	}
	switch len(found) {
	case 0:
		return JobInfo{}, call.Errorf(call.NotFound, "no recent job's id begins or ends with %q; list them with: dominion job list", word)
	case 1:
		return c.Job(ctx, found[0])
	}
	return JobInfo{}, call.Errorf(call.Invalid, "%q fits %d jobs, such as %s and %s; give more of the id", word, len(found), found[0], found[1])
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/audit"
	"dominion/call"
	"dominion/client"
	"dominion/target"
)

// maxDifferences is how many are listed; more are only counted.
const maxDifferences = 1000

// fleetDoc is how the minions' own logs compare with the overlord's.
type fleetDoc struct {
	Minions     int      `json:"minions"`     // whose signed logs were read
	Silent      string   `json:"silent"`      // folded; those that are not connected
	Records     int      `json:"records"`     // of the minions, compared
	Differences []string `json:"differences"` // what does not fit, for people; at most 1000
}

// String shows the differences, one on a line, then the account.
func (d *fleetDoc) String() string {
	var b strings.Builder
	for _, l := range d.Differences {
		b.WriteString(escapeLine(l) + "\n")
	}
	fmt.Fprintf(&b, "%d records of %s compared", d.Records, plural(d.Minions, "minion"))
	if d.Silent != "" {
		b.WriteString("; not connected, so not compared: " + escapeLine(d.Silent))
	}
	b.WriteByte('\n')
	return b.String()
}

// verifyFleet reads the whole log, computes its root, and holds what the
// minions signed against it. before is the head that was checked first: jobs
// ordered later may not be in every minion's log yet.
func (a *app) verifyFleet(ctx context.Context, conn *client.Conn, before audit.Checkpoint) (*fleetDoc, error) {
	status, err := conn.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{}))
	if err != nil {
		return nil, err
	}
	logs, silent, err := readMinionLogs(ctx, conn)
	if err != nil {
		return nil, err
	}
	dir, err := client.ContextsDir()
	if err != nil {
		return nil, err
	}
	// The head again: everything the minions told was ordered before it.
	head, _, err := conn.AuditHead(ctx, dir)
	if err != nil {
		return nil, err
	}
	cmp := newComparison(status.Msg.GetName(), before.Size)
	for _, l := range logs {
		cmp.minion(l)
	}
	if err := readLog(ctx, conn, head, cmp.record); err != nil {
		return nil, err
	}
	cmp.end()
	return &fleetDoc{Minions: len(logs), Silent: target.Fold(silent), Records: cmp.compared, Differences: append([]string{}, cmp.differences...)}, nil
}

// readLog reads the records under a checkpoint and checks that they are those
// that it signs.
func readLog(ctx context.Context, conn *client.Conn, head audit.Checkpoint, take func(index int64, r *audit.Record)) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream with us
	defer cancel()
	stream, err := conn.Audit.List(ctx, connect.NewRequest(&apipb.AuditListRequest{Limit: uint64(head.Size)}))
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // it was read to its end, or is given up
	var (
		tree   audit.Tree
		hashes []audit.Hash
	)
	for tree.Size() < head.Size && stream.Receive() {
		m := stream.Msg()
		index := tree.Size()
		if m.GetIndex() != uint64(index) {
			return &exitError{exitFailed, fmt.Sprintf("the overlord's log does not hold: record %d is missing", index)}
		}
		r, err := audit.Decode(m.GetBody())
		if err != nil {
			return &exitError{exitFailed, fmt.Sprintf("record %d does not hold: %v", index, err)}
		}
		hashes = tree.Append(hashes[:0], audit.LeafHash(m.GetBody()))
		take(index, r)
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	if tree.Size() != head.Size || tree.Root() != head.Root {
		return &exitError{exitFailed, fmt.Sprintf(
			"the overlord's log does not hold: its %d records are not the %d that its checkpoint signs", tree.Size(), head.Size)}
	}
	return nil
}

// comparison joins the minions' records with the overlord's, by job and machine.
type comparison struct {
	overlord string // whose records of the minions are compared
	settled  int64  // orders below this index were over before the minions were asked
	ran      map[call.JobID]map[string]*told
	minions  map[string]*minionLog
	orders   map[call.JobID]*ordered

	compared    int
	differences []string
	more        int
}

// told is what a minion signed about a job that it ran.
type told struct {
	rec     *audit.MinionRecord
	matched bool // by the overlord's log
}

// ordered is what the comparison needs of an order.
type ordered struct {
	index  int64
	method string
	digest [sha256.Size]byte
	at     int64 // Unix milliseconds
}

func newComparison(overlord string, settled int64) *comparison {
	return &comparison{
		overlord: overlord, settled: settled, ran: make(map[call.JobID]map[string]*told), minions: make(map[string]*minionLog),
		orders: make(map[call.JobID]*ordered),
	}
}

func (c *comparison) differ(format string, args ...any) {
	if len(c.differences) == maxDifferences {
		c.more++
		return
	}
	c.differences = append(c.differences, fmt.Sprintf(format, args...))
}

// didRun says that a method was started: a refusal needs no order.
func didRun(code call.Code) bool {
	switch code {
	case call.OK, call.Failed, call.Timeout, call.Cancelled, call.Unknown:
		return true
	}
	return false
}

// lost says that the machine went down while the method ran: it does not know
// the end, and its journal held neither operator nor arguments.
func lost(r *audit.MinionRecord) bool { return call.Code(r.GetCode()) == call.Unknown }

// minion takes the log of one machine.
func (c *comparison) minion(l *minionLog) {
	if l.problem != "" {
		c.differ("%s: %s", l.name, l.problem)
	}
	c.minions[l.name] = l
	for _, r := range l.records {
		if r.GetOverlord() != c.overlord || len(r.GetJob()) != len(call.JobID{}) || !didRun(call.Code(r.GetCode())) {
			continue
		}
		job := call.JobID(r.GetJob())
		if c.ran[job] == nil {
			c.ran[job] = make(map[string]*told)
		}
		if before := c.ran[job][l.name]; before != nil {
			if !lost(before.rec) && !lost(r) { // a crash may double the record of a loss
				c.differ("%s ran job %s twice", l.name, job)
			}
			continue
		}
		c.ran[job][l.name] = &told{rec: r}
		c.compared++
	}
}

// record takes one record of the overlord's log.
func (c *comparison) record(index int64, r *audit.Record) {
	if p := r.GetOrder(); p != nil {
		o, err := call.ParseOrder(p.GetOrder())
		if err != nil {
			c.differ("record %d holds an order that cannot be read: %v", index, err)
			return
		}
		c.orders[o.Job] = &ordered{index: index, method: o.Method, digest: o.ArgsDigest, at: o.IssuedAt.UnixMilli()}
		for name, t := range c.ran[o.Job] {
			t.matched = true
			if t.rec.GetMethod() != o.Method || !lost(t.rec) && string(t.rec.GetArgsDigest()) != string(o.ArgsDigest[:]) {
				c.differ("%s ran %s in job %s, and the overlord's log has another order there: %s", name, t.rec.GetMethod(), o.Job, o.Method)
			}
		}
		return
	}
	if r.GetMinionLeaf() != nil {
		c.face(index, r)
		return
	}
	p := r.GetResults()
	if p == nil || len(p.GetJob()) != len(call.JobID{}) {
		return
	}
	names, err := target.Expand(p.GetNames())
	if err != nil {
		c.differ("record %d holds results of machines that cannot be read: %v", index, err)
		return
	}
	job, code := call.JobID(p.GetJob()), call.Code(p.GetCode())
	for _, n := range names {
		c.result(job, n, code, digestOf(p.GetOutputSha256()))
	}
}

// face compares what the overlord has of a call on a machine's Func face with the
// machine's own log, as far as that is still the same and has the record.
func (c *comparison) face(index int64, r *audit.Record) {
	name := strings.TrimPrefix(r.GetActor(), "minion/")
	l := c.minions[name]
	if l == nil || l.problem != "" || l.id != r.GetMinionLog() || r.GetMinionIndex() < l.first || r.GetMinionIndex()-l.first >= int64(len(l.records)) {
		return
	}
	c.compared++
	leaf, err := audit.EncodeMinion(l.records[r.GetMinionIndex()-l.first])
	if err != nil || !bytes.Equal(leaf, r.GetMinionLeaf()) {
		c.differ("%s: record %d has a call on its func face, and its own log has something else in that place (%d)", name, index, r.GetMinionIndex())
	}
}

// result compares one machine's result as the overlord recorded it. Only what
// the machine must have said itself is compared: that an answer got lost, or
// that a call was given up, the overlord decides alone.
func (c *comparison) result(job call.JobID, name string, code call.Code, output string) {
	if code != call.OK && code != call.Failed {
		return
	}
	l := c.minions[name]
	if l == nil || l.problem != "" {
		return
	}
	t := c.ran[job][name]
	if t == nil {
		o := c.orders[job]
		since, some := l.since()
		if o != nil && o.index < c.settled && (l.first == 0 || some && o.at > since.UnixMilli()) {
			c.differ("%s: the overlord records its answer to job %s (%s), and its own log does not have that job", name, job, o.method)
		}
		return
	}
	switch said := call.Code(t.rec.GetCode()); {
	case lost(t.rec): // it may have answered before
	case said != code:
		c.differ("%s ended job %s with %q, and the overlord records %q", name, job, said, code)
	case digestOf(t.rec.GetOutputSha256()) != output:
		c.differ("%s answered job %s with another result than the overlord records", name, job)
	}
}

// digestOf gives a digest as text; that of nothing, and none, are the same.
func digestOf(b []byte) string {
	nothing := sha256.Sum256(nil)
	if string(b) == string(nothing[:]) {
		return ""
	}
	return hex.EncodeToString(b)
}

// end names what minions ran and the overlord's log does not know.
func (c *comparison) end() {
	for job, machines := range c.ran {
		for name, t := range machines {
			if !t.matched {
				c.differ("%s ran %s by operator %s in job %s, and the overlord's log has no such order", name, t.rec.GetMethod(), cmp.Or(t.rec.GetOperator(), "unknown"), job)
			}
		}
	}
	if c.more > 0 {
		c.differences = append(c.differences, fmt.Sprintf("and %d more", c.more))
	}
}

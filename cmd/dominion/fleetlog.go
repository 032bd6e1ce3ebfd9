package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/audit"
	"dominion/call"
	"dominion/client"
	"dominion/minion"
	"dominion/pki"
	"dominion/target"
)

const (
	logPage  = 1000    // records asked of one machine at a time
	maxLog   = 1 << 20 // records read of one machine, so that none keeps us for ever
	logBatch = 200     // machines in one order: their pages fit into what is kept of a job
)

// minionLog is what one machine's own signed log says, as far as it was read.
type minionLog struct {
	name    string
	id      string           // of the log
	key     *ecdsa.PublicKey // of the machine's certificate
	tree    audit.Tree       // of the records read
	started bool             // a page was read
	first   int64            // index of the oldest record that is kept
	next    int64            // index to read on from
	done    bool
	problem string // why it was not read to its end
	records []*audit.MinionRecord
}

// readMinionLogs reads the logs of every enrolled machine, each signed by its
// key, whose certificate the root vouches for.
func readMinionLogs(ctx context.Context, conn *client.Conn) (logs []*minionLog, silent []string, err error) {
	root, err := conn.Root()
	if err != nil {
		return nil, nil, err
	}
	trust, err := pki.NewTrust(root)
	if err != nil {
		return nil, nil, err
	}
	resp, err := conn.Fleet.Minions(ctx, connect.NewRequest(&apipb.MinionsRequest{Certs: true}))
	if err != nil {
		return nil, nil, err
	}
	for _, m := range resp.Msg.GetMinions() {
		if !m.GetConnected() {
			silent = append(silent, m.GetName())
			continue
		}
		l := &minionLog{name: m.GetName()}
		if l.key, err = minionKey(trust, m); err != nil {
			l.problem, l.done = err.Error(), true
		}
		logs = append(logs, l)
	}
	for batch := range slices.Chunk(logs, logBatch) {
		if err := readBatch(ctx, conn, batch); err != nil {
			return nil, nil, err
		}
	}
	return logs, silent, nil
}

// minionKey gives the key of a machine's certificate.
func minionKey(trust *pki.Trust, m *apipb.Minion) (*ecdsa.PublicKey, error) {
	var chain []*x509.Certificate
	for _, der := range m.GetChain() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("its certificate cannot be read: %w", err)
		}
		chain = append(chain, c)
	}
	v, err := trust.Verify(chain, time.Now())
	if err != nil {
		return nil, fmt.Errorf("its certificate does not hold: %w", err)
	}
	key, ok := v.Leaf.PublicKey.(*ecdsa.PublicKey)
	want := pki.Identity{Role: pki.Minion, Name: m.GetName()}
	if m.GetOverlord() { // its agent has the overlord's own certificate
		want.Role = pki.Overlord
	}
	if v.Identity != want || !ok {
		return nil, fmt.Errorf("the certificate shown for it is of %s", v.Identity)
	}
	return key, nil
}

// readBatch reads page after page until each machine's log is read, or why not
// is known.
func readBatch(ctx context.Context, conn *client.Conn, batch []*minionLog) error {
	for {
		byNext := make(map[int64][]*minionLog)
		for _, l := range batch {
			if !l.done {
				byNext[l.next] = append(byNext[l.next], l)
			}
		}
		if len(byNext) == 0 {
			return nil
		}
		for from, logs := range byNext {
			if err := readPages(ctx, conn, from, logs); err != nil {
				return err
			}
		}
	}
}

// readPages orders one page of several machines.
func readPages(ctx context.Context, conn *client.Conn, from int64, logs []*minionLog) error {
	byName := make(map[string]*minionLog, len(logs))
	names := make([]string, 0, len(logs))
	for _, l := range logs {
		byName[l.name] = l
		names = append(names, l.name)
	}
	c, err := conn.Target(target.Fold(names), client.Options{})
	if err != nil {
		return err
	}
	job, err := c.Call(ctx, "agent.log", map[string]any{"from": from, "limit": logPage})
	if err != nil {
		return fmt.Errorf("read the minions' logs: %w", err)
	}
	defer job.Close() // was read to its end
	for r, err := range job.Results() {
		if err != nil {
			return fmt.Errorf("read the minions' logs: %w", err)
		}
		l := byName[r.Machine]
		if l == nil {
			return call.Errorf(call.Internal, "%q answered and was not asked", r.Machine)
		}
		delete(byName, r.Machine)
		if err := l.take(r); err != nil {
			l.done, l.problem = true, err.Error()
		}
	}
	return nil
}

// take checks one page and adds it to what was read.
func (l *minionLog) take(r call.Result) error {
	if r.Code != call.OK {
		return fmt.Errorf("its log was not read: %s", reason(r.Code, r.Detail))
	}
	var out minion.LogOut
	if err := json.Unmarshal(r.Output, &out); err != nil || r.Cut > 0 {
		return fmt.Errorf("its log cannot be read (%d bytes were not kept): %v", r.Cut, err)
	}
	signed, err := out.SignedHead()
	if err != nil {
		return err
	}
	head, err := signed.Open(l.key)
	if err != nil {
		return fmt.Errorf("its log is not signed by its key: %w", err)
	}
	l.id = head.LogID
	page, err := out.Page()
	if err != nil {
		return err
	}
	if l.started && page.From != l.next {
		return fmt.Errorf("its log lost records while it was read: record %d follows %d", page.From, l.next)
	}
	if err := page.Check(&l.tree); err != nil {
		return fmt.Errorf("its log does not hold: %w", err)
	}
	if !l.started {
		l.started, l.first = true, page.From
	}
	for i, leaf := range page.Leaves {
		rec, err := audit.DecodeMinion(leaf)
		if err != nil {
			return fmt.Errorf("record %d of its log: %w", page.From+int64(i), err)
		}
		l.records = append(l.records, rec)
	}
	l.next = l.tree.Size()
	switch {
	case l.next == head.Size && l.tree.Root() != head.Root:
		return fmt.Errorf("its log does not hold: the %d records have another root than the signed one", head.Size)
	case l.next > head.Size, l.next < head.Size && len(page.Leaves) == 0:
		return fmt.Errorf("its log does not hold: %d records under a signed head of %d", l.next, head.Size)
	}
	l.done = l.next == head.Size
	if !l.done && len(l.records) >= maxLog {
		return fmt.Errorf("its log has more than %d records; the rest was not compared", maxLog)
	}
	return nil
}

// since is when the machine's log begins, as far as it can vouch for what ran:
// the time of the oldest record; false when it is empty.
func (l *minionLog) since() (time.Time, bool) {
	if len(l.records) == 0 {
		return time.Time{}, false
	}
	oldest := slices.MinFunc(l.records, func(a, b *audit.MinionRecord) int { return cmp.Compare(a.GetTimeMs(), b.GetTimeMs()) })
	return time.UnixMilli(oldest.GetTimeMs()), true
}

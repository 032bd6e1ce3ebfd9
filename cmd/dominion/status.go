package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
)

// statusDoc is the overlord's state in json.
type statusDoc struct {
	Name         string     `json:"name"`
	Version      string     `json:"version"`
	Started      *time.Time `json:"started,omitempty"`
	Time         *time.Time `json:"time,omitempty"` // the overlord's clock
	Minions      uint64     `json:"minions"`
	Connected    uint64     `json:"connected"`
	Pending      uint64     `json:"pending_requests"`
	RunningJobs  uint64     `json:"running_jobs"`
	LogID        string     `json:"log_id"`
	LogSize      uint64     `json:"log_size"`
	AuditProblem string     `json:"audit_problem"` // empty: none known
	StoreProblem string     `json:"store_problem"` // empty: the store takes writes
	Revocations  uint64     `json:"revocation_number"`
	RootKeyHere  bool       `json:"root_key_here"`
	Pin          string     `json:"pin"`
	RootHost     string     `json:"root_host,omitempty"` // the overlord that holds the root's key; empty: this one
	Parent       *parentDoc `json:"parent,omitempty"`    // of a sub-overlord
	Nodes        *nodesDoc  `json:"nodes,omitempty"`     // left out: this overlord does not provision
	Delegate     bool       `json:"delegate,omitempty"`  // orders go by the map unless the command says otherwise
}

// nodesDoc is how many nodes there are, in json.
type nodesDoc struct {
	All     uint64 `json:"all"`
	Held    uint64 `json:"held"`    // nobody approved them
	Claimed uint64 `json:"claimed"` // somebody else wanted to boot as one of these
}

func (d nodesDoc) String() string {
	text := strconv.FormatUint(d.All, 10)
	if d.Held > 0 {
		text += fmt.Sprintf(", %d held", d.Held)
	}
	if d.Claimed > 0 {
		text += fmt.Sprintf(", %d claimed by somebody else", d.Claimed)
	}
	if d.Held+d.Claimed > 0 {
		text += ": dominion node status"
	}
	return text
}

// parentDoc is the overlord above in json.
type parentDoc struct {
	Name      string     `json:"name"`
	Address   string     `json:"address"`
	Connected bool       `json:"connected"`
	Since     *time.Time `json:"since,omitempty"` // of the session
}

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how the overlord is",
		Long: `Status shows the overlord's counts and what is wrong with it: its exit code is 3
when the store takes no writes or the audit log is damaged. Of an overlord that
provisions it shows how many nodes wait for approval, and how many boots somebody
else claimed.`,
		Example: "  dominion status\n  dominion status -o json",
		Args:    args(0, 0, "nothing"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
			resp, err := conn.Fleet.Status(ctx, connect.NewRequest(&apipb.StatusRequest{}))
			if err != nil {
				return err
			}
			s := resp.Msg
			d := statusDoc{
				Name: s.GetName(), Version: s.GetVersion(), Started: jsonTime(s.GetStartedAtMs()), Time: jsonTime(s.GetTimeMs()),
				Minions: s.GetMinions(), Connected: s.GetConnected(), Pending: s.GetPendingRequests(), RunningJobs: s.GetRunningJobs(),
				LogID: s.GetLogId(), LogSize: s.GetLogSize(), AuditProblem: s.GetAuditProblem(), StoreProblem: s.GetStoreProblem(),
				Revocations: s.GetRevocationNumber(), RootKeyHere: s.GetRootKeyHere(), Pin: s.GetPin(), RootHost: s.GetRootHost(),
				Delegate: s.GetDelegate(),
			}
			if p := s.GetParent(); p != nil {
				d.Parent = &parentDoc{Name: p.GetName(), Address: p.GetAddress(), Connected: p.GetConnected(), Since: jsonTime(p.GetSinceMs())}
			}
			if n := s.GetNodes(); n != nil {
				d.Nodes = &nodesDoc{n.GetAll(), n.GetHeld(), n.GetClaimed()}
			}
			if a.output != outText {
				err = a.document(d)
			} else {
				err = a.write([]byte(statusTable(d).String()))
			}
			if err == nil && d.AuditProblem+d.StoreProblem != "" {
				return &exitError{code: exitIncomplete}
			}
			return err
		}),
	}
}

func statusTable(d statusDoc) table {
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	t := table{
		{"overlord", d.Name},
		{"version", d.Version},
		{"minions", n(d.Connected) + " connected of " + n(d.Minions)},
		{"pending", n(d.Pending) + " requests for certificates"},
		{"jobs", n(d.RunningJobs) + " running"},
		{"audit log", d.LogID + ", " + n(d.LogSize) + " records"},
		{"revocations", "list " + n(d.Revocations)},
		{"pin", d.Pin},
	}
	if d.Started != nil {
		t = append(t, []string{"started", stamp(d.Started.UnixMilli())})
	}
	if d.Nodes != nil {
		t = append(t, []string{"nodes", d.Nodes.String()})
	}
	if d.Delegate {
		t = append(t, []string{"orders", "by the map, to machines below sub-overlords too; --delegate=false: not so"})
	}
	if p := d.Parent; p != nil {
		state := "not connected"
		if p.Connected {
			state = "connected"
		}
		t = append(t, []string{"parent", p.Name + " at " + p.Address + ", " + state})
	}
	if !d.RootKeyHere {
		host := d.RootHost
		if host == "" {
			host = "elsewhere"
		}
		t = append(t, []string{"root key", "on " + host + ": operators, revocation and renewal of overlords need it"})
	}
	if d.AuditProblem != "" {
		t = append(t, []string{"AUDIT", d.AuditProblem})
	}
	if d.StoreProblem != "" {
		t = append(t, []string{"STORE", d.StoreProblem})
	}
	return t
}

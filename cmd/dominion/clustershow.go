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

// clusterDoc is the cluster in json.
type clusterDoc struct {
	Exists     bool                  `json:"exists"` // without a cluster all else is empty, but for the problem
	Name       string                `json:"name,omitempty"`
	UUID       string                `json:"uuid,omitempty"`
	Serial     uint64                `json:"serial"`
	Made       *time.Time            `json:"made,omitempty"`
	Master     string                `json:"master,omitempty"`
	Address    string                `json:"master_address,omitempty"` // the cluster's
	Key        bool                  `json:"key"`                      // there is one
	Instances  uint64                `json:"instances"`
	Disks      uint64                `json:"disks"`
	Candidates []clusterCandidateDoc `json:"candidates"`
	Nodes      []clusterNodeDoc      `json:"nodes"`
	Problem    string                `json:"problem,omitempty"` // why the stored data cannot be used
}

// clusterCandidateDoc is a candidate in json.
type clusterCandidateDoc struct {
	Name   string     `json:"name"`
	State  string     `json:"state"`            // current, behind, away, refuses
	Serial uint64     `json:"serial,omitempty"` // of the data it holds
	Made   *time.Time `json:"made,omitempty"`   // of the data it holds
	Age    *int64     `json:"age_seconds,omitempty"`
	Heard  *time.Time `json:"heard,omitempty"`
	Listen string     `json:"listen,omitempty"` // where it answers
	Reason string     `json:"reason,omitempty"`
}

// clusterNodeDoc is a node in json.
type clusterNodeDoc struct {
	Name      string `json:"name"`
	Role      string `json:"role"` // master, candidate, regular, drained, offline
	Primary   string `json:"primary"`
	Secondary string `json:"secondary"`
	Enrolled  bool   `json:"enrolled"`
	Connected bool   `json:"connected"`
	Learnt    bool   `json:"address_learnt"` // its address follows its sessions
	Candidate bool   `json:"candidate"`
}

func clusterDocOf(m *apipb.ClusterShowResponse) clusterDoc {
	d := clusterDoc{
		Exists: m.GetExists(), Name: m.GetName(), UUID: m.GetUuid(), Serial: m.GetSerial(), Made: jsonTime(m.GetMadeMs()), Master: m.GetMaster(),
		Address: m.GetMasterAddress(), Key: m.GetKey(), Instances: m.GetInstances(), Disks: m.GetDisks(), Problem: m.GetProblem(),
		Candidates: []clusterCandidateDoc{}, Nodes: []clusterNodeDoc{},
	}
	for _, c := range m.GetCandidates() {
		doc := clusterCandidateDoc{
			Name: c.GetName(), State: c.GetState(), Serial: c.GetSerial(), Made: jsonTime(c.GetMadeMs()), Heard: jsonTime(c.GetHeardMs()),
			Listen: c.GetListen(), Reason: c.GetReason(),
		}
		if c.GetMadeMs() > 0 {
			doc.Age = new(max(0, (m.GetTimeMs()-c.GetMadeMs())/1000))
		}
		d.Candidates = append(d.Candidates, doc)
	}
	for _, n := range m.GetNodes() {
		d.Nodes = append(d.Nodes, clusterNodeDoc{
			Name: n.GetName(), Role: n.GetRole(), Primary: n.GetPrimary(), Secondary: n.GetSecondary(), Enrolled: n.GetEnrolled(),
			Connected: n.GetConnected(), Learnt: n.GetLearnt(), Candidate: n.GetCandidate(),
		})
	}
	return d
}

func (a *app) clusterShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the cluster, its candidates and its nodes",
		Long: `Show tells the master and the serial of the version in force, then for each candidate
what it last said: current, behind (it holds an older version), away (it has no
session; it may serve what it holds) or refuses, with the serial and the age of what
it holds and the address at which it answers. Then it lists the nodes; one that is not
enrolled came with an imported file.

The exit code is 3 when a candidate refuses, or the stored data cannot be used.`,
		Example: "  dominion cluster show\n  dominion cluster show -o json",
		Args:    args(0, 0, "nothing"),
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
			resp, err := conn.Cluster.Show(ctx, connect.NewRequest(&apipb.ClusterShowRequest{}))
			if err != nil {
				return err
			}
			d := clusterDocOf(resp.Msg)
			if a.output != outText {
				err = a.document(d)
			} else {
				err = a.showCluster(d)
			}
			if err != nil {
				return err
			}
			if d.Problem != "" {
				return &exitError{exitIncomplete, d.Problem}
			}
			for _, c := range d.Candidates {
				if c.State == "refuses" {
					return &exitError{code: exitIncomplete}
				}
			}
			return nil
		}),
	}
}

// showCluster writes the cluster for people.
func (a *app) showCluster(d clusterDoc) error {
	if !d.Exists {
		if d.Problem != "" {
			return nil // the error tells it
		}
		return a.text("no cluster yet; make one with: dominion cluster set-master NODE, or dominion cluster import FILE\n")
	}
	master := d.Master
	if master == "" {
		master = "none; set it with: dominion cluster set-master NODE"
	} else if d.Address != "" {
		master += ", address " + d.Address
	}
	t := table{
		{"cluster", d.Name + ", " + d.UUID},
		{"serial", strconv.FormatUint(d.Serial, 10) + ", made " + stamp(d.Made.UnixMilli())},
		{"master", master},
		{"instances", fmt.Sprintf("%d, with %s", d.Instances, plural(int(d.Disks), "disk"))},
	}
	out := t.String()
	if len(d.Candidates) > 0 {
		t = table{{"CANDIDATE", "STATE", "SERIAL", "AGE", "ANSWERS AT", "NOTE"}}
		for _, c := range d.Candidates {
			serial, age := "", ""
			if c.Serial > 0 {
				serial = strconv.FormatUint(c.Serial, 10)
			}
			if c.Age != nil {
				age = ageText(time.Duration(*c.Age) * time.Second)
			}
			t = append(t, []string{c.Name, c.State, serial, age, c.Listen, c.Reason})
		}
		out += "\n" + t.String()
	}
	t = table{{"NODE", "ROLE", "PRIMARY", "SECONDARY", "NOTE"}}
	for _, n := range d.Nodes {
		note := ""
		switch {
		case !n.Enrolled:
			note = "not enrolled"
		case !n.Connected:
			note = "not connected"
		}
		t = append(t, []string{n.Name, n.Role, n.Primary, n.Secondary, note})
	}
	return a.write([]byte(out + "\n" + t.String()))
}

// ageText shows how old something is, in its largest unit.
func ageText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

package overlord

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/cluster"
)

// Methods of the cluster's administration, for policy and audit.
const (
	actClusterSet    = "cluster.set"
	actClusterImport = "cluster.import"
	actClusterExport = "cluster.export"
	actKeyShow       = "cluster.key.show"
	actKeyRotate     = "cluster.key.rotate"
)

// clusterAPI serves dominion.v1.ClusterService.
type clusterAPI struct{ o *Overlord }

// Show implements ClusterServiceHandler.
func (a clusterAPI) Show(context.Context, *connect.Request[apipb.ClusterShowRequest]) (*connect.Response[apipb.ClusterShowResponse], error) {
	v, out := a.o.clusterNow(), &apipb.ClusterShowResponse{TimeMs: ms(time.Now())}
	if p := a.o.cluster.problem.Load(); p != nil {
		out.Problem = *p
	}
	if v == nil {
		return connect.NewResponse(out), nil
	}
	d := v.doc
	out.Exists, out.Name, out.Uuid, out.Serial, out.MadeMs, out.Key = true, d.Name(), d.UUID(), v.serial, ms(v.made), len(v.key) > 0
	out.Master, out.MasterAddress = d.Master(), d.Address()
	instances, disks := d.Count()
	out.Instances, out.Disks = uint64(instances), uint64(disks)
	for _, n := range d.Nodes() {
		pb := &apipb.ClusterNode{Name: n.Name, Primary: n.Primary, Secondary: n.Secondary, Role: string(n.Role), Learnt: n.Learnt, Candidate: n.Candidate}
		if m, ok := a.o.fleet.look(strings.ToLower(n.Name)); ok {
			pb.Enrolled, pb.Connected = true, m.session != nil
		}
		out.Nodes = append(out.Nodes, pb)
	}
	states := a.o.candidates.states(v)
	for _, name := range v.candidates {
		out.Candidates = append(out.Candidates, a.candidate(name, states))
	}
	return connect.NewResponse(out), nil
}

// candidate gives what is known of one candidate.
func (a clusterAPI) candidate(name string, states map[string]candidateState) *apipb.ClusterCandidate {
	pb := &apipb.ClusterCandidate{Name: name, State: "away"}
	if s, ok := states[name]; ok {
		pb.State, pb.Serial, pb.MadeMs, pb.HeardMs, pb.Reason, pb.Listen = s.state, s.serial, ms(s.made), ms(s.heard), cutText(s.reason, 1000), s.listen
	}
	if pb.Reason == "" && pb.State == "away" {
		switch m, ok := a.o.fleet.look(name); {
		case !ok:
			pb.Reason = "not enrolled"
		case m.session == nil:
			pb.Reason = m.reason
		}
	}
	return pb
}

// edit makes a change of the nodes or instances, for an operator. With the first
// one that may begin a cluster there is one.
func (a clusterAPI) edit(ctx context.Context, begin bool, subject, detail string, do ...cluster.Change) (*connect.Response[apipb.ClusterChanged], error) {
	c, err := a.o.admit(ctx, actClusterSet, subject)
	if err != nil {
		return nil, err
	}
	k := &a.o.cluster
	return a.changed(ctx, clusterChange{
		actor: c.actor(), action: actClusterSet, subject: subject, detail: detail,
		make: func(v *clusterVersion) (*cluster.Document, error) {
			changes := append([]cluster.Change{k.inventory()}, do...)
			if v != nil {
				return v.doc.Apply(time.Now(), changes...)
			}
			if !begin {
				return nil, errNoCluster()
			}
			return cluster.New(a.o.cfg.Name, time.Now()).Apply(time.Now(), changes...)
		},
	})
}

func (a clusterAPI) changed(ctx context.Context, c clusterChange) (*connect.Response[apipb.ClusterChanged], error) {
	v, changed, err := a.o.cluster.change(ctx, c)
	if err != nil {
		return nil, err
	}
	out := &apipb.ClusterChanged{Changed: changed}
	if v != nil {
		out.Serial = v.serial
		if v.doc.Master() == "" && len(v.candidates) > 0 {
			out.Note = "there is no master: until there is one, candidates answer questions for it, and for roles, with an error; dominion cluster set-master NODE"
		}
	}
	return connect.NewResponse(out), nil
}

// SetMaster implements ClusterServiceHandler.
func (a clusterAPI) SetMaster(ctx context.Context, r *connect.Request[apipb.ClusterSetMasterRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	return a.edit(ctx, true, r.Msg.Node, "master "+r.Msg.Node, cluster.SetMaster(r.Msg.Node))
}

// SetCandidates implements ClusterServiceHandler.
func (a clusterAPI) SetCandidates(ctx context.Context, r *connect.Request[apipb.ClusterSetCandidatesRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	names := r.Msg.Nodes
	if len(names) == 0 || len(names) > cluster.MaxCandidates {
		return nil, call.Errorf(call.Invalid, "%d nodes; from 1 to %d are allowed", len(names), cluster.MaxCandidates)
	}
	subject := strings.Join(names, ",")
	if r.Msg.Remove {
		return a.edit(ctx, false, subject, "no candidates any more: "+subject, cluster.RemoveCandidates(names...))
	}
	return a.edit(ctx, true, subject, "candidates: "+subject, cluster.AddCandidates(names...))
}

// SetNode implements ClusterServiceHandler.
func (a clusterAPI) SetNode(ctx context.Context, r *connect.Request[apipb.ClusterSetNodeRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	c := cluster.NodeChange{Primary: r.Msg.Primary, Secondary: r.Msg.Secondary}
	detail := "node " + r.Msg.Node
	for _, f := range []struct {
		name  string
		value *string
	}{{"primary", c.Primary}, {"secondary", c.Secondary}, {"role", r.Msg.Role}} {
		if f.value != nil {
			detail += fmt.Sprintf(", %s %q", f.name, cutText(*f.value, 100))
		}
	}
	if r.Msg.Role != nil {
		c.Role = new(cluster.Role(*r.Msg.Role))
	}
	do := []cluster.Change{cluster.SetNode(r.Msg.Node, c)}
	if c.Primary != nil && *c.Primary == cluster.Auto {
		do = append(do, a.o.cluster.inventory()) // it follows at once
	}
	return a.edit(ctx, false, r.Msg.Node, detail, do...)
}

// RemoveNode implements ClusterServiceHandler. A machine that is enrolled would
// come back at once.
func (a clusterAPI) RemoveNode(ctx context.Context, r *connect.Request[apipb.ClusterRemoveNodeRequest]) (*connect.Response[apipb.ClusterChanged], error) {
	if v := a.o.clusterNow(); v != nil {
		if n, err := v.doc.Node(r.Msg.Node); err == nil {
			if _, ok := a.o.fleet.look(strings.ToLower(n.Name)); ok {
				return nil, call.Errorf(call.Conflict, "node %s is an enrolled machine, and every one is a node; take it out of use with: dominion cluster node set %[1]s --role offline", n.Name)
			}
		}
	}
	return a.edit(ctx, false, r.Msg.Node, "node removed: "+r.Msg.Node, cluster.RemoveNode(r.Msg.Node))
}

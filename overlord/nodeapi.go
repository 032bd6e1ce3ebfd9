package overlord

import (
	"context"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/provision"
	"dominion/target"
)

// nodeAPI serves dominion.v1.NodeService. The service writes the audit record
// with the change.
type nodeAPI struct{ o *Overlord }

// resolve says which nodes an expression names.
func (a nodeAPI) resolve(ctx context.Context, s *provision.Service, expr, exclude string) (nodes []provision.Node, boots map[string]provision.Nonce, unknown []string, err error) {
	e, err := parseTarget(expr, exclude)
	if err != nil {
		return nil, nil, nil, err
	}
	all, boots, err := s.Nodes(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	names, at := make([]string, len(all)), make(map[string]int, len(all))
	for i, n := range all {
		names[i], at[n.Name] = n.Name, i
	}
	res, err := e.Resolve(target.Env{Known: names, Group: a.o.keep.group})
	if err != nil {
		return nil, nil, nil, call.Errorf(call.Invalid, "%v", err)
	}
	for _, n := range res.Names {
		if i, ok := at[n]; ok {
			nodes = append(nodes, all[i])
		}
	}
	return nodes, boots, res.Unknown, nil
}

// names gives the names of the nodes of an expression that is to change them, and,
// folded, the literal names that nobody has. Nobody at all is an error.
func (a nodeAPI) names(ctx context.Context, s *provision.Service, expr string) (names []string, unknown string, err error) {
	nodes, _, missing, err := a.resolve(ctx, s, expr, "")
	if err != nil {
		return nil, "", err
	}
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	if len(names) == 0 && len(missing) == 0 {
		return nil, "", call.Errorf(call.NoMatch, "no node matches %q; dominion node list shows them", expr)
	}
	return names, target.Fold(missing), nil
}

func nodePB(n provision.Node, boot provision.Nonce) *apipb.Node {
	return &apipb.Node{
		Name: n.Name, Hwaddr: n.HWAddr, Group: n.Group, Vnfs: n.VNFS, Enabled: n.Enabled, Debug: uint32(n.Debug), Boot: string(n.Boot),
		Description: n.Description, CreatedMs: ms(n.Created), Source: addrText(n.Source), ApprovedMs: ms(n.Approved), ApprovedBy: n.ApprovedBy,
		Address: addrText(n.Addr), State: n.State, ContactMs: ms(n.Contact), ScriptSha256: n.Script, Failure: n.Failure,
		Claim: addrText(n.Claim), ClaimMs: ms(n.ClaimAt), EndedState: n.Ended.State, EndedMs: ms(n.Ended.At), EndedExit: uint32(n.Ended.Exit),
		EndedTookMs: uint64(n.Ended.Took.Milliseconds()), EndedDetail: n.Ended.Detail, BootUntilMs: ms(boot.Expires), BootSource: addrText(boot.Source),
	}
}

func nodesPB(nodes []provision.Node) []*apipb.Node {
	out := make([]*apipb.Node, len(nodes))
	for i, n := range nodes {
		out[i] = nodePB(n, provision.Nonce{})
	}
	return out
}

// Nodes implements NodeServiceHandler.
func (a nodeAPI) Nodes(ctx context.Context, r *connect.Request[apipb.NodesRequest]) (*connect.Response[apipb.NodesResponse], error) {
	s, err := a.o.nodes()
	if err != nil {
		return nil, err
	}
	expr := r.Msg.Target
	if expr == "" {
		expr = "*"
	}
	nodes, boots, unknown, err := a.resolve(ctx, s, expr, r.Msg.Exclude)
	if err != nil {
		return nil, err
	}
	c := a.o.prov.cfg
	capsules, err := a.o.prov.capsules()
	if err != nil {
		return nil, err
	}
	out := &apipb.NodesResponse{Unknown: target.Fold(unknown), Provision: &apipb.ProvisionInfo{
		Statedir: c.Statedir, Rules: defaulted(c.Rules, "documented"), OnFailure: c.OnFailure, Shell: c.Shell,
		Method: c.VNFS.Method, Master: c.VNFS.Master, Prefix: c.VNFS.Prefix, States: c.States, BootAddress: a.o.prov.boot, Capsules: capsules, CapsulesAbove: a.o.parent != nil,
	}}
	for _, n := range nodes {
		out.Nodes = append(out.Nodes, nodePB(n, boots[n.Name]))
	}
	return connect.NewResponse(out), nil
}

// AddNode implements NodeServiceHandler.
func (a nodeAPI) AddNode(ctx context.Context, r *connect.Request[apipb.AddNodeRequest]) (*connect.Response[apipb.AddNodeResponse], error) {
	s, c, err := a.admitIn(ctx, "node.add", cutText(r.Msg.Name+" "+r.Msg.Hwaddr, 300))
	if err != nil {
		return nil, err
	}
	n, err := s.Add(ctx, c.actor(), provision.Spec{
		HWAddr: r.Msg.Hwaddr, Name: r.Msg.Name, Group: r.Msg.Group, VNFS: r.Msg.Vnfs, Enabled: r.Msg.Enabled == nil || *r.Msg.Enabled, Debug: int(r.Msg.Debug),
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.AddNodeResponse{Node: nodePB(n, provision.Nonce{}), MissingVnfs: a.o.missing(n.VNFS)}), nil
}

// admitIn is admit for what lets a machine in, under a name that may be in use: a
// token that replaces does the same, so it takes that right as well.
func (a nodeAPI) admitIn(ctx context.Context, action, subject string) (*provision.Service, caller, error) {
	s, c, err := a.admit(ctx, action, subject)
	if err == nil {
		_, err = a.o.admit(ctx, "token.create", subject)
	}
	return s, c, err
}

// admit gives the service to those who may do an action.
func (a nodeAPI) admit(ctx context.Context, action, subject string) (*provision.Service, caller, error) {
	s, err := a.o.nodes()
	if err != nil {
		return nil, caller{}, err
	}
	c, err := a.o.admit(ctx, action, subject)
	return s, c, err
}

// SetNodes implements NodeServiceHandler.
func (a nodeAPI) SetNodes(ctx context.Context, r *connect.Request[apipb.SetNodesRequest]) (*connect.Response[apipb.SetNodesResponse], error) {
	s, c, err := a.admit(ctx, "node.set", r.Msg.Target)
	if err != nil {
		return nil, err
	}
	names, unknown, err := a.names(ctx, s, r.Msg.Target)
	if err != nil {
		return nil, err
	}
	change := provision.Change{Group: r.Msg.Group, VNFS: r.Msg.Vnfs, Enabled: r.Msg.Enabled, Description: r.Msg.Description}
	if r.Msg.Debug != nil {
		change.Debug = new(int(*r.Msg.Debug))
	}
	if r.Msg.Boot != nil {
		change.Boot = new(provision.Boot(*r.Msg.Boot))
	}
	nodes, err := s.Set(ctx, c.actor(), names, change)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.SetNodesResponse{Nodes: nodesPB(nodes), Unknown: unknown, MissingVnfs: a.o.missing(r.Msg.GetVnfs())}), nil
}

// ApproveNodes implements NodeServiceHandler.
func (a nodeAPI) ApproveNodes(ctx context.Context, r *connect.Request[apipb.ApproveNodesRequest]) (*connect.Response[apipb.ApproveNodesResponse], error) {
	s, c, err := a.admitIn(ctx, "node.approve", r.Msg.Target)
	if err != nil {
		return nil, err
	}
	names, unknown, err := a.names(ctx, s, r.Msg.Target)
	if err != nil {
		return nil, err
	}
	nodes, err := s.Approve(ctx, c.actor(), names)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.ApproveNodesResponse{Nodes: nodesPB(nodes), Unknown: unknown}), nil
}

// DeleteNodes implements NodeServiceHandler.
func (a nodeAPI) DeleteNodes(ctx context.Context, r *connect.Request[apipb.DeleteNodesRequest]) (*connect.Response[apipb.DeleteNodesResponse], error) {
	s, c, err := a.admit(ctx, "node.delete", r.Msg.Target)
	if err != nil {
		return nil, err
	}
	names, unknown, err := a.names(ctx, s, r.Msg.Target)
	if err != nil {
		return nil, err
	}
	nodes, err := s.Delete(ctx, c.actor(), names)
	if err != nil {
		return nil, err
	}
	gone := make([]string, len(nodes))
	for i, n := range nodes {
		gone[i] = n.Name
	}
	return connect.NewResponse(&apipb.DeleteNodesResponse{Deleted: target.Fold(gone), Count: uint64(len(gone)), Unknown: unknown}), nil
}

// ReplaceNode implements NodeServiceHandler.
func (a nodeAPI) ReplaceNode(ctx context.Context, r *connect.Request[apipb.ReplaceNodeRequest]) (*connect.Response[apipb.ReplaceNodeResponse], error) {
	name, err := call.ParseName(r.Msg.Name)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	s, c, err := a.admitIn(ctx, "node.replace", name)
	if err != nil {
		return nil, err
	}
	n, err := s.Replace(ctx, c.actor(), name, r.Msg.By)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.ReplaceNodeResponse{Node: nodePB(n, provision.Nonce{})}), nil
}

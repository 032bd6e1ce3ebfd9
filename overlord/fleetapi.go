package overlord

import (
	"context"
	"net"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/target"
)

// fleetAPI serves dominion.v1.FleetService.
type fleetAPI struct{ o *Overlord }

const defaultPing = 5 * time.Second

// parseTarget reads a target and what is taken out of it, if anything is.
func parseTarget(expr, exclude string) (*target.Expr, error) {
	e, err := target.Parse(expr)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	if exclude == "" {
		return e, nil
	}
	x, err := target.Parse(exclude)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "exclude: %v", err)
	}
	return e.Without(x), nil
}

// within refuses more machines than the caller's limit; zero: there is none.
func within(limit uint64, machines int) error {
	if n := uint64(machines); limit > 0 && n > limit {
		return call.Errorf(call.TooMany, "the target names %d machines, more than the limit of %d", n, limit)
	}
	return nil
}

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Status implements FleetServiceHandler.
func (a fleetAPI) Status(ctx context.Context, _ *connect.Request[apipb.StatusRequest]) (*connect.Response[apipb.StatusResponse], error) {
	o := a.o
	known, up := o.fleet.count()
	pending, err := o.keep.pendingCount(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := o.nodeCounts(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.StatusResponse{
		Name: o.cfg.Name, Version: o.cfg.Version, StartedAtMs: ms(o.started), TimeMs: ms(time.Now()), Minions: uint64(known), Connected: uint64(up),
		PendingRequests: uint64(pending), LogId: o.keep.logID(), LogSize: uint64(o.keep.logSize()), AuditProblem: o.keep.auditProblem(),
		RunningJobs: uint64(o.jobs.count()), RevocationNumber: o.revoked().Number(), RootKeyHere: o.keys.root != nil, StoreProblem: o.keep.problem(), Pin: o.keys.pin(),
		Parent: o.parent.status(), RootHost: o.rootHostPB(), Delegate: o.cfg.Delegate, Nodes: nodes,
	}), nil
}

// Resolve implements FleetServiceHandler.
func (a fleetAPI) Resolve(ctx context.Context, r *connect.Request[apipb.ResolveRequest]) (*connect.Response[apipb.ResolveResponse], error) {
	if r.Msg.Delegate {
		out, err := a.o.resolveBelow(ctx, r.Msg)
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(out), nil
	}
	q := queryOf(r.Msg)
	q.where = r.Msg.Where
	res, err := a.o.resolve(ctx, q, r.Msg.Limit)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apipb.ResolveResponse{
		Names: target.Fold(res.Names), Count: uint64(len(res.Names)), Unknown: target.Fold(res.Unknown), UnknownCount: uint64(len(res.Unknown)),
		UsesGroups: res.UsedGroups, TimeMs: ms(time.Now()), Guard: uint64(a.o.cfg.Guard),
		Unjudged: target.Fold(res.unjudged), UnjudgedCount: uint64(len(res.unjudged)),
	}), nil
}

// Minions implements FleetServiceHandler.
func (a fleetAPI) Minions(ctx context.Context, r *connect.Request[apipb.MinionsRequest]) (*connect.Response[apipb.MinionsResponse], error) {
	q := queryOf(r.Msg)
	q.where = r.Msg.Where
	if q.target == "" {
		q.target = "*"
	}
	res, err := a.o.resolve(ctx, q, 0)
	if err != nil {
		return nil, err
	}
	rows, err := a.o.keep.minions(ctx, res.Names, r.Msg.Facts)
	if err != nil {
		return nil, err
	}
	out := &apipb.MinionsResponse{Unknown: target.Fold(res.Unknown), Unjudged: target.Fold(res.unjudged), Minions: make([]*apipb.Minion, 0, len(res.Names))}
	for _, n := range res.Names {
		m := rows[n]
		if m == nil {
			m = &apipb.Minion{Name: n}
		}
		if st, ok := a.o.fleet.look(n); ok {
			m.Connected, m.SinceMs, m.Problem, m.DialAddress = st.session != nil, ms(st.since), st.reason, st.dial
			m.Overlord = st.sub
			if st.session != nil {
				m.Address = st.session.RemoteAddr().String()
				m.LastSeenMs = ms(time.Now())
				if leaf := st.session.PeerCert(); r.Msg.Certs {
					m.Chain = [][]byte{leaf.Raw}
					if issuer := a.o.keys.issuerOf(leaf); issuer != nil {
						m.Chain = append(m.Chain, issuer.Raw)
					}
				}
			}
		}
		out.Minions = append(out.Minions, m)
	}
	return connect.NewResponse(out), nil
}

// SetMinion implements FleetServiceHandler.
func (a fleetAPI) SetMinion(ctx context.Context, r *connect.Request[apipb.SetMinionRequest]) (*connect.Response[apipb.SetMinionResponse], error) {
	name, err := call.ParseName(r.Msg.Name)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "%v", err)
	}
	if addr := r.Msg.DialAddress; addr != "" {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, call.Errorf(call.Invalid, "address %q is not host:port", addr)
		}
	}
	c, err := a.o.admit(ctx, "minion.set", name)
	if err != nil {
		return nil, err
	}
	st, ok := a.o.fleet.look(name)
	if !ok {
		return nil, call.Errorf(call.NotFound, "no minion %q; dominion minions lists them", name)
	}
	if st.sub {
		return nil, call.Errorf(call.Invalid, "%q is a sub-overlord: it dials its parent, and is not dialled", name)
	}
	if err := a.o.keep.setDial(ctx, c, name, r.Msg.DialAddress); err != nil {
		return nil, err
	}
	if err := a.o.fleet.setDial(name, r.Msg.DialAddress); err != nil {
		return nil, err
	}
	a.o.dialer.look()
	return connect.NewResponse(&apipb.SetMinionResponse{}), nil
}

// Modules implements FleetServiceHandler.
func (a fleetAPI) Modules(_ context.Context, r *connect.Request[apipb.ModulesRequest]) (*connect.Response[apipb.ModulesResponse], error) {
	out, err := a.o.modules(r.Msg.Name)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

// Ping implements FleetServiceHandler.
func (a fleetAPI) Ping(ctx context.Context, r *connect.Request[apipb.PingRequest], out *connect.ServerStream[apipb.PingEvent]) error {
	res, err := a.o.resolve(ctx, queryOf(r.Msg), r.Msg.Limit)
	if err != nil {
		return err
	}
	counts := call.Counts{Targeted: len(res.Names) + len(res.Unknown)}
	send := func(pongs []pong) error {
		ev := &apipb.PingEvent{Pongs: make([]*apipb.Pong, len(pongs))}
		for i, p := range pongs {
			status := call.StatusOf(p.code)
			counts.Add(status, 1)
			ev.Pongs[i] = &apipb.Pong{
				Machine: p.machine, Status: uint32(status), Code: uint32(p.code), Detail: p.detail, TookUs: uint64(p.took.Microseconds()),
			}
		}
		return out.Send(ev)
	}
	if len(res.Unknown) > 0 {
		pongs := make([]pong, len(res.Unknown))
		for i, n := range res.Unknown {
			pongs[i] = pong{machine: n, code: call.UnknownName, detail: "no machine of that name has enrolled"}
		}
		if err := send(pongs); err != nil {
			return err
		}
	}
	timeout := time.Duration(r.Msg.TimeoutMs) * time.Millisecond
	if timeout == 0 {
		timeout = defaultPing
	}
	if err := a.o.ping(ctx, res.Names, timeout, send); err != nil {
		return err
	}
	return out.Send(&apipb.PingEvent{Closed: countsPB(counts)})
}

func countsPB(c call.Counts) *apipb.Counts {
	return &apipb.Counts{
		Targeted: uint64(c.Targeted), Answered: uint64(c.Answered), Failed: uint64(c.Failed), Unreachable: uint64(c.Unreachable), Skipped: uint64(c.Skipped),
	}
}

package overlord

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"dominion/call"
	"dominion/delegation"
	"dominion/pki"
	"dominion/session"
)

const (
	// mapPage is how many bytes a page of session.map has, about: it fits into one
	// frame, and a parent that asks for many at once does not fill the memory.
	mapPage = 240 << 10
	// maxWhy is how much of the reason of a lost session is told, in bytes.
	maxWhy = 200
	// hopMargin is how much less time, at least, a hop gives the next one than it
	// has, so that it can still say who was late.
	hopMargin = 20 * time.Millisecond
	// hopShare is the part of its time that it keeps for that, when there is more.
	hopShare = 20
)

// mapBelow answers session.map: with a page of what is directly below this
// overlord, or with the answer of the sub-overlord that the path leads to.
func (o *Overlord) mapBelow(ctx context.Context, args []byte) (session.MapResult, error) {
	var in session.MapArgs
	if err := json.Unmarshal(args, &in); err != nil {
		return session.MapResult{}, call.Errorf(call.Invalid, "arguments: %v", err)
	}
	if len(in.Path) > call.MaxHops {
		return session.MapResult{}, call.Errorf(call.Invalid, "a path of %d overlords; at most %d are allowed", len(in.Path), call.MaxHops)
	}
	if len(in.After) > call.MaxName {
		return session.MapResult{}, call.Errorf(call.Invalid, "after a name of %d bytes", len(in.After))
	}
	if len(in.Path) == 0 {
		return o.mapPage(ctx, in.After)
	}
	ctx, cancel, err := lessTime(ctx, in.Path[0])
	if err != nil {
		return session.MapResult{}, err
	}
	defer cancel()
	return o.mapFrom(ctx, in)
}

// mapPage tells of the machines directly below that come after a name.
func (o *Overlord) mapPage(ctx context.Context, after string) (session.MapResult, error) {
	names := o.fleet.list()
	from, found := slices.BinarySearch(names, strings.ToLower(after))
	if found {
		from++
	}
	names = names[from:]
	machines, err := o.describe(ctx, names[:min(len(names), session.MaxMapPage)])
	if err != nil {
		return session.MapResult{}, err
	}
	size := 0
	for i := range machines {
		m := &machines[i]
		size += len(m.Name) + len(m.Fingerprint) + len(m.Problem) + 90
		if size > mapPage && i > 0 {
			machines = machines[:i]
			break
		}
	}
	more := len(machines) > 0 && machines[len(machines)-1].Name < names[len(names)-1]
	return session.MapResult{Machines: machines, More: more}, nil
}

// describe says what is known of machines directly below, in the order of their
// names. Those that were forgotten meanwhile are left out.
func (o *Overlord) describe(ctx context.Context, names []string) ([]session.MapMachine, error) {
	out := make([]session.MapMachine, 0, len(names))
	away := false
	for _, name := range names {
		st, ok := o.fleet.look(name)
		if !ok {
			continue
		}
		m := session.MapMachine{Name: name, Overlord: st.sub, Alive: st.session != nil}
		if m.Alive {
			m.Fingerprint = pki.FingerprintOf(st.session.PeerCert())
		} else {
			m.Problem, away = cutText(st.reason, maxWhy), true
		}
		out = append(out, m)
	}
	if !away {
		return out, nil
	}
	certs, err := o.keep.current(ctx)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if m := &out[i]; !m.Alive {
			m.Fingerprint = certs[m.Name].Fingerprint
		}
	}
	return out, nil
}

// mapFrom asks the sub-overlord that a path leads to.
func (o *Overlord) mapFrom(ctx context.Context, in session.MapArgs) (session.MapResult, error) {
	hop, err := call.ParseName(in.Path[0])
	if err != nil {
		return session.MapResult{}, call.Errorf(call.Invalid, "path: %v", err)
	}
	if !o.fleet.isSub(hop) {
		return session.MapResult{}, call.Errorf(call.NotFound, "%s is no sub-overlord of overlord/%s", hop, o.cfg.Name)
	}
	s := o.fleet.get(hop)
	if s == nil {
		return session.MapResult{}, call.Errorf(call.NoSession, "%s has no session with overlord/%s: %s", hop, o.cfg.Name, cutText(o.fleet.why(hop), maxWhy))
	}
	args, err := json.Marshal(session.MapArgs{Path: in.Path[1:], After: in.After})
	if err != nil {
		return session.MapResult{}, err
	}
	b, err := s.Call(ctx, session.MethodMap, args)
	if err != nil {
		return session.MapResult{}, err
	}
	return decodePage(b, hop)
}

// lessTime gives the next hop of a path less time than there is.
func lessTime(ctx context.Context, hop string) (context.Context, context.CancelFunc, error) {
	end, ok := ctx.Deadline()
	if !ok {
		ctx, cancel := context.WithCancel(ctx)
		return ctx, cancel, nil
	}
	left := time.Until(end)
	left -= max(hopMargin, left/hopShare)
	late := call.Errorf(call.Timeout, "no answer from %.80q within %s", hop, left.Round(time.Millisecond))
	if left <= 0 {
		return nil, nil, call.Errorf(call.Timeout, "no time was left to ask %.80q", hop)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, left, late)
	return ctx, cancel, nil
}

// decodePage reads the answer to session.map. What it says of machines is looked
// at by package delegation.
func decodePage(b []byte, hop string) (session.MapResult, error) {
	var out session.MapResult
	if err := json.Unmarshal(b, &out); err != nil {
		return out, call.Errorf(call.Invalid, "the answer of %s is malformed: %v", hop, err)
	}
	if len(out.Machines) > session.MaxMapPage || out.More && len(out.Machines) == 0 {
		return out, call.Errorf(call.Invalid, "the answer of %s is malformed: a page of %d machines", hop, len(out.Machines))
	}
	return out, nil
}

// probe is the delegation.Probe of this overlord.
func (o *Overlord) probe(ctx context.Context, path delegation.Path) (delegation.Answer, error) {
	if len(path) == 0 {
		machines, err := o.describe(ctx, o.fleet.list())
		return delegation.Answer{Machines: machinesOf(nil, machines)}, err
	}
	if len(path) > call.MaxHops {
		return delegation.Answer{}, call.Errorf(call.TooMany, "it is behind more than %d overlords", call.MaxHops)
	}
	return allPages(func(after string) (session.MapResult, error) {
		return o.mapFrom(ctx, session.MapArgs{Path: path, After: after})
	})
}

// allPages puts the pages of an answer together. Names that do not ascend are an
// error: a hop could go on for ever.
func allPages(ask func(after string) (session.MapResult, error)) (delegation.Answer, error) {
	var out delegation.Answer
	for after := ""; ; {
		page, err := ask(after)
		if err != nil {
			return delegation.Answer{}, err
		}
		for _, m := range page.Machines {
			if m.Name <= after {
				return delegation.Answer{}, call.Errorf(call.Invalid, "its answer is malformed: %.80q comes after %.80q", m.Name, after)
			}
			after = m.Name
		}
		out.Machines = machinesOf(out.Machines, page.Machines)
		if !page.More {
			return out, nil
		}
		if len(out.Machines) > delegation.MaxNodes {
			return delegation.Answer{}, call.Errorf(call.TooMany, "it names more than %d machines", delegation.MaxNodes)
		}
	}
}

func machinesOf(to []delegation.Machine, page []session.MapMachine) []delegation.Machine {
	for _, m := range page {
		to = append(to, delegation.Machine{Name: m.Name, Fingerprint: m.Fingerprint, Alive: m.Alive, Overlord: m.Overlord, Problem: m.Problem})
	}
	return to
}

package overlord

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dominion/api/apimap"
	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/call"
	"dominion/delegation"
	"dominion/pki"
)

// mapAPI serves dominion.v1.MapService.
type mapAPI struct {
	o        *Overlord
	building sync.Mutex // held while a map is built: a second builder is sent away
}

// Map implements MapServiceHandler.
func (a *mapAPI) Map(context.Context, *connect.Request[apipb.MapRequest]) (*connect.Response[apipb.MapResponse], error) {
	_, out, err := a.o.currentMap()
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoMap()
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

// currentMap gives the map that is in force, with what the build that wrote it
// found, if one did; fs.ErrNotExist when there is none.
func (o *Overlord) currentMap() (delegation.Map, *apipb.MapResponse, error) {
	m, err := o.readMap()
	if err != nil {
		return m, nil, err
	}
	found, err := o.readFound()
	if err != nil {
		return m, nil, err
	}
	if known, err := apimap.Decode(found.GetMap()); err == nil && found.GetBuiltMs() > 0 {
		if delegation.Unambiguous(known, apimap.Conflicts(found.GetMap())...).String() == m.String() {
			return known, found, nil
		}
	}
	pb := apimap.Encode(m)
	if pb.Conflicts == nil {
		pb.Conflicts = found.GetMap().GetConflicts() // they are not routed, whoever wrote the map
	}
	return m, &apipb.MapResponse{Map: pb}, nil
}

// Build implements MapServiceHandler. Only one map is built at a time.
func (a *mapAPI) Build(ctx context.Context, r *connect.Request[apipb.BuildMapRequest], out *connect.ServerStream[apipb.BuildMapEvent]) error {
	c, err := a.o.admit(ctx, "map.build", "map")
	if err != nil {
		return err
	}
	if !a.building.TryLock() {
		return call.Errorf(call.Conflict, "the map is being built at this moment; ask again when that is done")
	}
	defer a.building.Unlock()
	b := &mapBuild{o: a.o, req: r.Msg, out: out}
	return whileTelling(ctx, listTell, func() error { return b.send(&apipb.BuildMapEvent{}) }, func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		over := make(chan struct{})
		defer close(over)
		go func() { // ends with the build
			select {
			case <-a.o.stopping:
				cancel(call.Errorf(call.Unavailable, "the overlord stops; the map stays as it was"))
			case <-over:
			}
		}()
		m, err := b.run(ctx, c)
		if err != nil {
			return err
		}
		return b.send(&apipb.BuildMapEvent{Map: m})
	})
}

// mapBuild is one building of the map.
type mapBuild struct {
	o   *Overlord
	req *apipb.BuildMapRequest

	mu  sync.Mutex // covers out
	out *connect.ServerStream[apipb.BuildMapEvent]
}

func (b *mapBuild) send(e *apipb.BuildMapEvent) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Send(e)
}

// say tells a step; who has left is noticed by the context.
func (b *mapBuild) say(warning bool, format string, args ...any) {
	_ = b.send(&apipb.BuildMapEvent{Line: fmt.Sprintf(format, args...), Warning: warning})
}

// run builds the map and, unless that is not wanted, writes it.
func (b *mapBuild) run(ctx context.Context, c caller) (*apipb.FleetMap, error) {
	o := b.o
	m, err := delegation.Build(ctx, o.probe, delegation.Options{
		Name: o.cfg.Name, Fingerprint: pki.FingerprintOf(o.keys.server.Load().Leaf), Timeout: time.Duration(min(b.req.TimeoutMs, 1<<40)) * time.Millisecond,
		Observe: func(e delegation.Event) { b.say(false, "%s", e) },
	})
	if err != nil {
		return nil, err
	}
	conflicts := delegation.Conflicts(m) // of what is silent, too
	if b.req.OnlyAlive {
		m = delegation.OnlyAlive(m)
		b.say(false, "left out what did not answer")
	}
	if b.req.Append {
		m = b.merge(m)
	}
	pb := apimap.Encode(m, conflicts...)
	for _, conflict := range pb.Conflicts {
		b.say(false, "%s is the name of machines with different keys, and is not routed", conflict.Name)
	}
	return pb, b.finish(ctx, c, m, pb)
}

// merge joins the map that is there with a fresh one. When the former cannot be
// read, the fresh one takes its place.
func (b *mapBuild) merge(fresh delegation.Map) delegation.Map {
	old, _, err := b.o.currentMap()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		if names, merr := b.o.readMap(); merr == nil { // what was found with it is of less worth
			b.say(true, "of the old map only the names are merged: %v", err)
			old, err = names, nil
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b.say(false, "there is no map to merge with")
		return fresh
	case err != nil:
		b.say(true, "the old map could not be read, and the fresh one replaces it: %v", err)
		b.o.log.Warn("old map not read; a fresh one replaces it", "error", err)
		return fresh
	}
	m := delegation.Merge(old, fresh)
	b.say(false, "merged with the map that was there: %d machines then, %d found, %d now", old.Count().Machines, fresh.Count().Machines, m.Count().Machines)
	return m
}

// finish puts the building on the audit log and writes the files. What the
// building found goes first: were this interrupted between the two, names in
// conflict would already be barred.
func (b *mapBuild) finish(ctx context.Context, c caller, m delegation.Map, pb *apipb.FleetMap) error {
	o := b.o
	n := m.Count()
	detail := fmt.Sprintf("%d machines, %d of them overlords", n.Machines, n.Overlords)
	if b.req.Dry {
		detail += "; not written here"
	}
	found, err := proto.Marshal(&apipb.MapResponse{Map: pb, BuiltMs: ms(time.Now())})
	if err != nil {
		return fmt.Errorf("encode the map: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := o.keep.record(ctx, &auditpb.Record{Actor: c.actor(), Action: "map.build", Subject: "map", Detail: detail}); err != nil {
		return err
	}
	if b.req.Dry {
		return nil
	}
	if len(found) > maxMapFound {
		return call.Errorf(call.Failed, "the map of %d machines is too large to be kept", n.Machines)
	}
	if err := o.dir.WriteFile(fileMapFound, found); err != nil {
		return call.Errorf(call.Failed, "%v", err)
	}
	if err := delegation.Save(o.mapPath(), delegation.Unambiguous(m, apimap.Conflicts(pb)...)); err != nil {
		return call.Errorf(call.Failed, "%v", err)
	}
	o.routes.forget()
	where, err := filepath.Abs(o.mapPath())
	if err != nil {
		where = o.mapPath()
	}
	b.say(false, "wrote %s: %s", where, detail)
	o.log.Info("map written", "machines", n.Machines, "overlords", n.Overlords, "silent", n.Silent)
	return nil
}

package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apimap"
	"dominion/api/apipb"
	"dominion/call"
	"dominion/delegation"
)

// FleetMap is the tree below an overlord, with what its building found.
type FleetMap struct {
	delegation.Map
	// Conflicts are names that machines with different keys bear; they are not
	// routed.
	Conflicts []MapConflict
	Cut       []string  // what was left out and why, for people
	Built     time.Time // zero: the overlord has not built it, or it was changed since
}

// MapConflict is a name of several machines.
type MapConflict struct {
	Name   string
	Places []string // path and key, for people
}

// Barred gives the names that are not routed.
func (m FleetMap) Barred() []string {
	var out []string
	for _, c := range m.Conflicts {
		out = append(out, c.Name)
	}
	return out
}

// Index answers which way machines are reached by the map.
func (m FleetMap) Index() *delegation.Index { return m.Map.Index(m.Barred()...) }

// Unambiguous gives the map without machines of conflicting names, which is
// what a file holds.
func (m FleetMap) Unambiguous() delegation.Map {
	return delegation.Unambiguous(m.Map, m.Barred()...)
}

func fleetMapOf(pb *apipb.FleetMap) (FleetMap, error) {
	m, err := apimap.Decode(pb)
	if err != nil {
		return FleetMap{}, call.Errorf(call.Internal, "the overlord's map cannot be read: %v", err)
	}
	out := FleetMap{Map: m, Cut: pb.GetCuts()}
	for _, c := range pb.GetConflicts() {
		out.Conflicts = append(out.Conflicts, MapConflict{Name: c.GetName(), Places: c.GetPlaces()})
	}
	return out, nil
}

// Map gives the map that the overlord has. When it has none the error has the
// code NotFound.
func (c *Conn) Map(ctx context.Context) (FleetMap, error) {
	resp, err := c.Maps.Map(ctx, connect.NewRequest(&apipb.MapRequest{}))
	if err != nil {
		return FleetMap{}, fmt.Errorf("ask for the map: %w", err)
	}
	m, err := fleetMapOf(resp.Msg.GetMap())
	if t := resp.Msg.GetBuiltMs(); t != 0 {
		m.Built = time.UnixMilli(t)
	}
	return m, err
}

// MapOptions are for BuildMap; every zero value is usable.
type MapOptions struct {
	Append    bool          // keep what only the map that is there knows
	OnlyAlive bool          // leave out what does not answer, at every level
	Timeout   time.Duration // of the question to each overlord; zero: 60 s
	// File is a map's file of this machine, to be merged with (Append) and
	// written, instead of the overlord's own. Empty: the overlord's.
	File string
	Dry  bool // write nothing
	// Observe is told each step, in words; warning: something went wrong. Nil:
	// nobody.
	Observe func(line string, warning bool)
}

func (o *MapOptions) tell(warning bool, format string, args ...any) {
	if o.Observe != nil {
		o.Observe(fmt.Sprintf(format, args...), warning)
	}
}

// BuildMap lets the overlord ask all sub-overlords below it who is below them,
// write the map, and gives it. When it is not built to its end, by an error or
// because ctx ends, the old map stays. The overlord builds one at a time;
// meanwhile the error has the code Conflict.
func (c *Conn) BuildMap(ctx context.Context, opt MapOptions) (FleetMap, error) {
	here := opt.File != ""
	m, err := c.buildMap(ctx, &apipb.BuildMapRequest{
		Append: opt.Append && !here, OnlyAlive: opt.OnlyAlive, TimeoutMs: uint64(max(0, opt.Timeout.Milliseconds())), Dry: here || opt.Dry,
	}, &opt)
	if err != nil || !here {
		return m, err
	}
	if opt.Append {
		old, err := delegation.Load(opt.File)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			opt.tell(false, "there is no map to merge with")
		case err != nil:
			opt.tell(true, "the old map could not be read, and the fresh one replaces it: %v", err)
		default:
			fresh := m.Count().Machines
			m.Map = delegation.Merge(old, m.Map)
			opt.tell(false, "merged with the map that was there: %d machines then, %d found, %d now", old.Count().Machines, fresh, m.Count().Machines)
		}
	}
	if opt.Dry {
		return m, nil
	}
	if err := ctx.Err(); err != nil {
		return m, context.Cause(ctx)
	}
	if err := delegation.Save(opt.File, m.Unambiguous()); err != nil {
		return m, err
	}
	opt.tell(false, "wrote %s: %d machines", opt.File, m.Count().Machines)
	return m, nil
}

// buildMap reads the steps of a building up to the map.
func (c *Conn) buildMap(ctx context.Context, req *apipb.BuildMapRequest, opt *MapOptions) (FleetMap, error) {
	stream, err := c.Maps.Build(ctx, connect.NewRequest(req))
	if err != nil {
		return FleetMap{}, fmt.Errorf("build the map: %w", err)
	}
	defer func() { _ = stream.Close() }() // it was read to its end, or is given up
	var pb *apipb.FleetMap
	for stream.Receive() {
		e := stream.Msg()
		if e.GetLine() != "" {
			opt.tell(e.GetWarning(), "%s", e.GetLine())
		}
		if e.GetMap() != nil {
			pb = e.GetMap()
		}
	}
	if err := stream.Err(); err != nil {
		return FleetMap{}, fmt.Errorf("build the map: %w", err)
	}
	if pb == nil {
		return FleetMap{}, call.Errorf(call.Internal, "build the map: the overlord ended without a word of how it went; look with: dominion map show")
	}
	return fleetMapOf(pb)
}

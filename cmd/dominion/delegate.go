package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/delegation"
	"dominion/target"
)

// delegateFlags say whether an order goes by the map.
type delegateFlags struct {
	on   bool
	file string
}

func (f *delegateFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.on, "delegate", false,
		"by the map, to machines below sub-overlords too; --delegate=false: not so (default: what the overlord's configuration says)")
	cmd.Flags().StringVar(&f.file, "map", "", "by the map in `FILE` on this machine; implies --delegate")
}

// delegates says whether an order goes by the map, as far as the command line
// decides it.
type delegates uint8

const (
	undecided delegates = iota
	direct
	byMap
)

// set checks the flags and puts them into the options of an order.
func (f *delegateFlags) set(cmd *cobra.Command, o *client.Options) (delegates, error) {
	given := cmd.Flags().Changed
	switch {
	case given("map") && f.file == "":
		return 0, usagef("--map: give a map's file; without --map the overlord's own is used")
	case given("map") && given("delegate") && !f.on:
		return 0, usagef("--map is for orders by the map; leave out --delegate=false")
	}
	o.Delegate, o.MapFile = f.on || given("map"), f.file
	switch {
	case o.Delegate:
		return byMap, nil
	case given("delegate"):
		return direct, nil
	}
	return undecided, nil
}

// decide lets the overlord's configuration say what the command line leaves open; an
// order for those that did not answer a job goes as that job did.
func (d delegates) decide(ctx context.Context, conn *client.Conn, o *client.Options) (err error) {
	if d == undecided && o.Rerun != "" {
		info, err := conn.FindJob(ctx, o.Rerun)
		o.Delegate = info.Delegate
		return err
	}
	if d == undecided {
		o.Delegate, err = conn.Delegates(ctx)
	}
	return err
}

// resolved tells what is missing among the machines of an order before it is sent.
func (v *jobView) resolved(r client.Resolved) {
	if len(r.Silent) > 0 {
		v.tell("%s did not say who is in the groups there: machines may be missing", target.Fold(r.Silent))
	}
	if len(r.Conflicts) > 0 {
		v.tell("not reached, since machines with different keys bear the name: %s; dominion map show tells where they are", target.Fold(r.Conflicts))
	}
}

// unmatched adds what to do to the error of a target that names nobody in the map.
func (v *jobView) unmatched(err error) error {
	if e, ok := errors.AsType[*call.Error](err); ok && v.mapped && e.Code == call.NoMatch {
		return &exitError{exitNoMatch, e.Detail + "; it has: dominion map show"}
	}
	return err
}

// viaDoc is in json a way that a part of an order takes.
type viaDoc struct {
	Hops  []string `json:"hops"` // overlords on the way; empty: none
	Names []string `json:"machines"`
}

// viaOf groups machines by their ways, the direct ones first.
func viaOf(paths []delegation.Path) []viaDoc {
	byWay := make(map[string]*viaDoc)
	var out []*viaDoc
	for _, p := range paths {
		hops := p[:len(p)-1]
		way := strings.Join(hops, "/")
		d := byWay[way]
		if d == nil {
			d = &viaDoc{Hops: slices.Concat([]string{}, hops)}
			byWay[way] = d
			out = append(out, d)
		}
		d.Names = append(d.Names, p[len(p)-1])
	}
	slices.SortFunc(out, func(a, b *viaDoc) int { return slices.Compare(a.Hops, b.Hops) })
	docs := make([]viaDoc, len(out))
	for i, d := range out {
		docs[i] = *d
	}
	return docs
}

// targetNames gives the machines that the target of a command may name: those of the
// overlord, or of the map when the words so far say so.
func targetNames(ctx context.Context, conn *client.Conn, cmd *cobra.Command) ([]string, error) {
	on, _ := cmd.Flags().GetBool("delegate") // an error: the command has no such flag
	file, _ := cmd.Flags().GetString("map")
	if file != "" {
		m, err := delegation.Load(file)
		if err != nil {
			return nil, err
		}
		return m.Index().Names(), nil
	}
	resp, err := conn.Fleet.Resolve(ctx, connect.NewRequest(&apipb.ResolveRequest{Target: "*", Delegate: on}))
	if err != nil || resp.Msg.GetNames() == "" {
		return nil, err
	}
	return target.Expand(resp.Msg.GetNames())
}

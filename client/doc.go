// Package client gives orders to a fleet through its overlord. The dominion
// command does everything through it, and so can any Go program:
//
//	c, err := client.New(ctx, "web*", client.Options{})
//	if err != nil { … }
//	defer c.Close()
//	job, err := c.Call(ctx, "service.status", map[string]any{"name": "chronyd"})
//	if err != nil { … }
//	defer job.Close()
//	for r, err := range job.Results() {
//		if err != nil { … }
//		fmt.Println(r.Machine, r.Status(), string(r.Output))
//	}
//
// # Where the overlord is
//
// On the overlord's own host root speaks through the socket in the overlord's
// state directory and signs with the key kept there. From anywhere else an
// operator uses a context, made by "dominion login": a key and certificate of
// the operator's own, the overlord's address, and the root it is held to. The
// server must present an overlord's certificate signed directly by that root;
// a minion's certificate is refused.
//
// # What is signed
//
// A target is resolved by the overlord first. The client then checks, for
// every target without groups, that each machine the overlord named is one the
// target names, and signs an order for exactly those machines. Names that the
// operator wrote out and nobody knows are not signed; they are reported as
// unreachable.
//
// # Machines behind sub-overlords
//
// With Options.Delegate the target names machines of the overlord's map (dominion map
// build), or of the map in Options.MapFile, under however many overlords: the order
// is signed once for all of them, goes down the tree, and its results come up as
// they do without. Machines that are not in the map are not reached: one that the
// target names is unreachable, and so is one whose name another machine bears, too
// (Resolved.Conflicts). Groups are those of the overlord and of all below it; who of
// them did not answer is in Resolved.Silent.
//
// # Jobs that go on
//
// A job goes on at the overlord whatever becomes of the client. When the
// connection breaks, the job's events wait until the overlord can be reached
// again and go on where they were; an order that never arrived is sent again, the
// same bytes, so that no machine can run it twice. Conn.Jobs lists jobs,
// Conn.Watch follows one that was ordered before, Conn.CancelJob stops one.
//
// An order of a method that destroys, or changes many machines, must carry the
// number of its machines, confirmed by a person: Options.Confirmed or
// Options.Confirm.
//
// # Errors
//
// What the overlord refuses is a *call.Error; ask with call.CodeOf. A job that
// some machines failed is not an error: its results say so.
//
// An overlord that says nothing counts as a broken connection, with the code
// Unavailable: after 45 s in which a job, a list or a verification waits for its
// next message, 10 s after a ping's own time-out, and 30 s after a question whose
// context has no deadline (30 minutes for audit recover, which reads the whole log).
package client

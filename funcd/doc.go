// Package funcd is the Func face of a minion: XML-RPC over HTTP and mutual TLS,
// for the programs of sites that ran Func. docs/func.md is for their users.
//
// The parts, from the inside out:
//
//   - access lists in Func's format say which certificate may call what (acl.go,
//     acldir.go, glob.go);
//   - modules come from two places: those with Func's names and shapes (shape.go,
//     builtin.go), and every other one of the minion's table, whose fields take
//     arguments by their position (native.go);
//   - a dispatcher judges, records and runs one call (dispatch.go), guarded by facts
//     (facts.go), in the background (jobs.go), or several at once (system.go);
//   - a Server is the HTTP around it (server.go).
//
// Who calls is read from the connection of the request and handed on as a value;
// nothing is kept between calls but jobs, each of which belongs to one identity.
package funcd

// Package delegation holds the map, the tree of sub-overlords and machines
// below an overlord: how it is built by asking them, merged, compared, written
// and read, and how it gives each machine its route.
//
// It does no network input or output: Build asks through a function that it
// is given.
//
// # The file
//
// A map is a YAML document, a nested mapping of names in which a machine
// without others below it is {}:
//
//	---
//	dc1:
//	    rack1:
//	        '10gw': {}
//	        web1: {}
//	mail1: {}
//
// It is what Func's func-build-map writes: "---" first, keys sorted, 4 blanks
// of indent, names that begin with a digit in single quotes; the map of nobody
// is "--- {}". We also quote the seven names that YAML would read as something
// else (null, true, false, yes, no, on, off). Nothing but names is in it: what
// else a probe learnt is only in the Map in memory.
//
// Read is more: any indent that is consistent, blocks and flow ({a: {b: {}}}),
// both kinds of quotes without escapes, null or nothing for {}, comments,
// CR LF, upper case. Refused are anchors, aliases, tags, sequences, tabs, a
// second document, more than MaxFile bytes, MaxDepth levels or MaxNodes names.
// A key that is no machine name, such as web_1, is left out and listed in
// Map.Cuts.
//
// # Invariants
//
//   - Names are lower case and valid (call.ParseName); among neighbours they
//     are sorted and differ.
//   - No machine stands below itself, by name, nor by key as far as one probe
//     or tree told the keys. Where one did, it was cut and is listed in
//     Map.Cuts. A machine may stand at several places.
//   - A Map and what is below it is not changed after it was made, and maps
//     share parts: all functions are safe for concurrent use.
//
// # What a sub-overlord can do to a map
//
// It can leave out what is below it, and invent it. An answer is used only at
// the place that was asked, never for another place that shows the same name or
// key, so that a false answer stays in its own subtree. There are two
// exceptions. As a name with two keys is not routed, who invents a machine of
// another's name takes that name out of the routes, which Conflicts shows; it
// is still used as a hop, so nothing behind it is lost. And who claims a machine
// with its own key, or names none, is one more way to it, which is taken when it
// is the shortest: he then gets the orders for it. The limits of a branch,
// a direct sub-overlord and all behind it, are shared by those in it: one that
// is slow or invents machines without end can use them up for its branch.
package delegation

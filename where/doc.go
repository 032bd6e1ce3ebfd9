// Package where reads and evaluates the conditions of --where: expressions in
// CEL (the Common Expression Language) over what is known about one machine.
//
//	facts.os == "debian" && facts.memory_gb >= 64
//	"web" in groups && !name.startsWith("web0")
//	facts.disks.exists(d, d.mount == "/srv" && d.size_bytes > 1000000000000)
//
// # What an expression may use
//
//	name    string           the machine's name
//	groups  list(string)     the groups that it is in
//	facts   object           what it said of itself, by the schema of facts.all
//
// and CEL's standard functions and macros (has, all, exists, exists_one, map,
// filter). Whole numbers and fractions may be compared with each other. The
// value of an expression must be true or false.
//
// # Checked before, judged after
//
// Compile holds an expression against the schema: a fact that there is none of
// is an error that wraps ErrCondition, with those whose names are near. What is
// not an error is a machine that lacks a fact, since it is older or never sent
// any: it does not match, whatever the expression does with the fact, unless
// the rest decides ("a || b" is true when b is). has(facts.x) asks whether a
// machine has one. A value of another type than the schema's counts as lacking.
//
// # Limits
//
// An expression has at most 4 KiB and 512 nodes, nested 32 deep; a regular
// expression in it compiles to at most 1,000 instructions. Judging one machine
// may cost at most 100,000 steps of CEL's cost model and 1 MiB; who asks about many
// bounds the time of all with the context.
package where

// Package target reads the expressions that name machines, finds the machines
// they name, and folds sets of names back into short text.
//
// # Grammar
//
//	expression = term { operator term }
//	operator   = "," | ";"       union
//	           | "&"             intersection
//	           | "!"             difference
//	term       = pattern | "@" [ source "/" ] group [ ":" pattern ]
//	pattern    = { text | "*" | "?" | bracket }
//	bracket    = "[" number [ "-" number ] { "," number [ "-" number ] } "]"
//	           | "[" [ "!" ] characters "]"
//
// Operators apply left to right and all bind alike: "a,b&c" is (a or b) and c.
// Blanks around a term mean nothing; an empty term is an error. Case never
// matters. "*" also crosses dots.
//
// A bracket is a range of numbers when it holds a comma, or a dash and a
// number of two or more digits; otherwise it is a class of characters, of
// which it matches one. So web[1-2] and web[12] are classes, web[1,2], web[1-10]
// and web[01-02] are ranges. "!" at the start of a class matches what is not in it.
//
// A range whose ends begin with a zero is padded, and both ends then have
// the same width: web1, web01 and web001 are three machines. A number in a
// bracket has at most 16 digits.
//
// # What a term names
//
// A name, or a member of a range or of a group, that nobody knows is reported
// (Result.Unknown). A pattern with "*", "?" or a class names only known
// machines, and nothing when it matches none. An unknown group is an error.
//
// Each name is judged on its own, whether it is known or not: "web[1-9]!web5*"
// does not report web5. A name that stands only behind "!" is never reported.
//
// # Limits
//
// An expression or pattern has at most 64 KiB, a folded list 16 MiB; the names
// and ranges of one text stand for at most call.MaxMachines names and 128 MiB
// of them; an expression holds at most 1,024 globs, groups and intersections.
// Nothing is expanded before it was counted.
package target

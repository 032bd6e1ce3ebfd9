// Package groupsource asks programs of a site who is in groups: of a batch system, an
// inventory, a directory service. In a target such a group is @SOURCE/GROUP.
//
// # The program
//
// Each executable file in the directory is a source of its name, lower-case. It is called as
//
//	FILE members GROUP     prints the names and ranges of the group's members
//	FILE list              prints the names of the groups that it knows, for people and completion
//
// with nothing on its standard input, PATH and LC_ALL=C as its environment, / as its
// directory, as the overlord's user, and never through a shell. GROUP is as it was typed:
// letters, digits, dots, hyphens and underscores, at most 64 bytes, no hyphen in front.
//
// What it prints is a list as target.ReadList reads it: names and ranges such as
// web[01-20], separated by blanks, commas or line ends; "#" begins a comment. Exit status 0
// says that the group is known (it may be empty), 4 that it is not; any other one is a
// failure, of which the first lines of its standard error tell. A comment before the
// first name may say for how long the answer holds: "# life: 5m", at most 24 h; otherwise
// it is Options.Life. Failures are remembered for 5 s.
//
// # Limits
//
// An answer has at most 16 MiB and is there within Options.Timeout, otherwise the
// program and its process group are killed; at most 4 programs run at a time. A
// program must be a regular file, no link, that root or the overlord's user owns and nobody
// else may write, in a directory of which the same is true; all directories above it must
// be such that nobody else could replace it.
package groupsource

// Package nodescript makes the script that a node runs in a state of its
// provisioning. Node scripts are programs below STATEDIR/nodescripts that run
// on the overlord; what they print, one after the other, is the script of the
// node. So a variable that one of them sets is seen by those after it.
//
// For a node and a state these folders count, those of fields that the node
// has:
//
//	STATEDIR/nodescripts/STATE/all/
//	STATEDIR/nodescripts/STATE/vnfs/VNFS/
//	STATEDIR/nodescripts/STATE/group/GROUP/
//	STATEDIR/nodescripts/STATE/node/NAME/
//
// There are two sets of rules. Documented is what Perceus's documentation says
// (its file MODULES) with what it left open decided: every executable script
// runs, in the order of the base names, and one that fails stops the assembly.
// Perceus193 is what Perceus 1.9.3 did, byte for byte, which is not the same: a
// script replaces one of the same name in a less particular folder, some that
// are not executable are sent as they are, and failures are not noticed.
//
// A Tree lists and explains, an Assembler assembles, Tree.Lint finds traps, and
// Install writes the scripts of our own.
package nodescript

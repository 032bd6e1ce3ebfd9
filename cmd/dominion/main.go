// Dominion runs a fleet of Linux machines: the overlord, the agent on each
// machine, and the commands of operators are all this one program.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 incomplete (some or all machines
// failed or did not answer), 4 no machine matched, 130 interrupted.
package main

import (
	"context"
	"os"
	"path/filepath"

	"dominion/provisiond"
)

func main() {
	name := filepath.Base(os.Args[0])
	if provisiond.IsName(name) { // it has options and exit codes of its own
		os.Exit(runProvisiond(context.Background(), name, os.Args[1:]))
	}
	a := newApp(os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	a.name = name
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

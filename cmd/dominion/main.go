// Dominion runs a fleet of Linux machines: the overlord, the agent on each
// machine, and the commands of operators are all this one program. Names of
// older programs, by which it may be called, are in names.go.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 incomplete (some or all machines
// failed or did not answer), 4 no machine matched, 130 interrupted.
package main

import (
	"context"
	"os"
	"path/filepath"
)

func main() {
	os.Exit(runName(context.Background(), filepath.Base(os.Args[0]), os.Args[1:]))
}

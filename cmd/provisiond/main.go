// Provisiond asks an overlord for the script of this node in a state, and runs
// it: the small program for an initramfs. Called as getfile it fetches files for
// such a script. "dominion provisiond" is the same.
package main

import (
	"context"
	"os"
	"path/filepath"

	"dominion/provisiond"
)

func main() {
	os.Exit(provisiond.Main(context.Background(), provisiond.Invocation{
		Name: filepath.Base(os.Args[0]), Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}

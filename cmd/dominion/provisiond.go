package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"dominion/provisiond"
)

func (a *app) provisiondCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "provisiond [options] SERVER[,SERVER...] STATE [ARG...]",
		Short: "Ask for this node's script in a state, and run it",
		Long: `Provisiond asks an overlord for the script of this node in a state, and runs it
when it arrived whole. It takes the options of the provisiond of Perceus and has
its exit codes, not those of dominion: the script's own; 255 when no server gave
one; 1 for wrong usage. See: dominion provisiond -h

In state init it shows the nonce of the boot (dominion.nonce= on the kernel's
command line), in every other state the certificate of this machine's minion.`,
		Example: `  dominion provisiond dc1 ready
  dominion provisiond -i 300 dc1,dc2 ready
  dominion provisiond -v - init`,
		Args:               cobra.ArbitraryArgs, // it reads its words itself
		DisableFlagParsing: true,
		RunE: a.raw(func(ctx context.Context, _ *cobra.Command, words []string) error {
			if code := runProvisiond(ctx, provisiond.Name, words); code != 0 {
				return &exitError{code: code}
			}
			return nil
		}),
	}
}

// runProvisiond is the program itself, under one of its names.
func runProvisiond(ctx context.Context, name string, words []string) int {
	return provisiond.Main(ctx, provisiond.Invocation{
		Name: name, Args: words, Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
	})
}

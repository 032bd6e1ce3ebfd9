package main

import (
	"context"
	_ "embed" // for the scripts below

	"github.com/spf13/cobra"
)

// The scripts ask the program for completions of the words before the cursor, as they are
// once quotes are taken off. Cobra's own give the program an open quote, with which it
// finds nothing, and targets are mostly quoted; that for bash breaks words at "@", too,
// and needs the package bash-completion.
var (
	//go:embed completion.bash
	bashScript string
	//go:embed completion.zsh
	zshScript string
	//go:embed completion.fish
	fishScript string
)

// completionCmd prints the scripts with which shells complete words.
func (a *app) completionCmd() *cobra.Command {
	script := func(shell, example, text string) *cobra.Command {
		return &cobra.Command{
			Use: shell, Short: "Print the script for " + shell, Example: example, Args: args(0, 0, "nothing"),
			RunE: a.do(func(context.Context, *cobra.Command, []string) error { return a.write([]byte(text)) }),
		}
	}
	return parent("completion", "Make a shell complete words",
		`Completion prints the script with which a shell completes commands, flags, names of
machines and groups, modules, methods and their arguments. Names and methods are
asked of the overlord while you wait, for at most 2 s.`,
		`  dominion completion bash >/etc/bash_completion.d/dominion
  source <(dominion completion zsh)
  dominion completion fish | source`,
		script("bash", "  source <(dominion completion bash)", bashScript),
		script("zsh", "  dominion completion zsh >/usr/share/zsh/vendor-completions/_dominion", zshScript),
		script("fish", "  dominion completion fish >~/.config/fish/completions/dominion.fish", fishScript))
}

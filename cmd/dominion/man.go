package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) manCmd() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the man pages into a directory", Hidden: true,
		Example: "  dominion man /usr/local/share/man/man1",
		Args:    args(1, 1, "a directory"),
		RunE: a.do(func(_ context.Context, cmd *cobra.Command, words []string) error {
			if err := os.MkdirAll(words[0], 0o755); err != nil {
				return fmt.Errorf("write man pages: %w", err)
			}
			roots := []*cobra.Command{cmd.Root()}
			for _, n := range otherNames() {
				if n.root != nil {
					roots = append(roots, n.root(a))
				}
			}
			head := &doc.GenManHeader{Section: "1", Source: "Dominion " + buildVersion(), Manual: "Dominion", Date: new(time.Time)}
			if info, err := os.Stat(os.Args[0]); err == nil {
				head.Date = new(info.ModTime())
			}
			for _, root := range roots {
				root.DisableAutoGenTag = true // the same pages from the same program
				if err := doc.GenManTree(root, head, words[0]); err != nil {
					return fmt.Errorf("write man pages: %w", err)
				}
			}
			return nil
		}),
	}
}

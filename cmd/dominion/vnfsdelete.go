package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"dominion/target"
	"dominion/vnfs"
)

func (a *app) vnfsDeleteCmd() *cobra.Command {
	var f statedirFlag
	var force bool
	cmd := &cobra.Command{
		Use: "delete NAME…", Short: "Remove capsules",
		Long: `Delete removes capsules and the links to their node scripts. Scripts of a site's own
in nodescripts/STATE/vnfs/NAME/ stay, and are named.

A capsule that nodes are set to is not removed, unless --force is given: without it
they would not boot any more. The overlord of this host says which nodes these are;
while it does not run nobody does, and nodes of overlords below it, which get their
files from here as well, it does not know.`,
		Example: "  dominion vnfs delete debian12 debian12-test\n  dominion vnfs delete debian12 -o json --force",
		Args:    args(1, 1000, "capsules"),
	}
	cmd.RunE = a.vnfsDo(&f, func(ctx context.Context, s *vnfs.Store, words []string) error {
		for _, name := range words { // all of them are there, or nothing is removed
			if _, err := s.Get(name); err != nil {
				return err
			}
		}
		if !force {
			if err := a.vnfsUnused(ctx, s, words); err != nil {
				return fmt.Errorf("%w; nothing was removed; --force removes it all the same", err)
			}
		}
		for _, name := range words {
			stays, err := s.Delete(name)
			for _, file := range stays {
				a.note("%s is not the capsule's, and stays", file)
			}
			if err != nil {
				return err
			}
		}
		if a.output != outText {
			return a.document(map[string][]string{"deleted": words})
		}
		return nil
	})
	f.on(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "remove what nodes are set to as well")
	cmd.ValidArgsFunction = a.completeCapsules(&f, 0)
	return cmd
}

// vnfsUnused says which nodes of this host's overlord are set to capsules. Without an
// overlord, and with one whose capsules are elsewhere, nobody is known to be.
func (a *app) vnfsUnused(ctx context.Context, s *vnfs.Store, capsules []string) error {
	known := a.provisioning(ctx)
	if known == nil || !sameFile(known.GetProvision().GetStatedir(), s.Dir()) {
		return nil
	}
	for _, name := range capsules {
		var users []string
		for _, n := range known.GetNodes() {
			if n.GetVnfs() == name {
				users = append(users, n.GetName())
			}
		}
		if len(users) > 0 {
			slices.Sort(users)
			return fmt.Errorf("capsule %q is that of %s: %s", name, plural(len(users), "node"), target.Fold(users))
		}
	}
	return nil
}

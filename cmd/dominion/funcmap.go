package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"dominion/client"
	"dominion/delegation"
)

// funcBuildMap is the name by which this program builds the map as Func's
// command of that name does.
const funcBuildMap = "func-build-map"

// funcMapFile is where Func keeps its map.
const funcMapFile = "/var/lib/func/map"

// funcRoot is the command line of func-build-map.
func (a *app) funcRoot() *cobra.Command {
	var (
		f    mapBuildFlags
		copy string
	)
	cmd := &cobra.Command{
		Use:   funcBuildMap,
		Short: "Build the delegation map",
		Long: `Ask all sub-overlords below this overlord for their machines and write the map,
as dominion map build does, and a copy of it where Func keeps its own.`,
		Example:       `  func-build-map --append --verbose`,
		Version:       buildVersion(),
		Args:          args(0, 0, "flags only"),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetIn(a.in)
	cmd.SetOut(a.out)
	cmd.SetErr(a.err)
	a.output = outText
	f.on(cmd)
	cmd.Flags().StringVar(&copy, "copy", funcMapFile, "write the copy to `FILE`")
	if err := cmd.Flags().MarkHidden("copy"); err != nil {
		panic(err) // the flag does not exist: a bug here
	}
	cmd.RunE = a.withConn(func(ctx context.Context, conn *client.Conn, _ []string) error {
		m, err := a.buildMap(ctx, conn, funcBuildMap, &f, false)
		if err != nil {
			return err
		}
		if err := delegation.Save(copy, m.Unambiguous()); err != nil {
			a.note("%s: no copy for Func: %v", funcBuildMap, err)
			return nil
		}
		if f.verbose {
			return a.text("%s\n", fmt.Sprintf("wrote a copy to %s", copy))
		}
		return nil
	})
	return cmd
}

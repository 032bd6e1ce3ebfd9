package main

import (
	"context"

	"github.com/spf13/cobra"
)

const overlordConfigFile = "/etc/dominion/overlord.yaml"

func checkOverlordConfig(string) error { return nil }

func (a *app) overlordCmd() *cobra.Command {
	return &cobra.Command{Use: "overlord", RunE: a.raw(func(context.Context, *cobra.Command, []string) error { return nil })}
}

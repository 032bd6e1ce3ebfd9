package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// root builds the whole command line. Nothing outlives it.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "dominion",
		Short: "Run a fleet of Linux machines",
		Long: `Dominion runs a fleet of Linux machines: it enrols them, gives them signed
orders, shows their answers as they come, and keeps an audit trail that can be
verified.

Exit codes: 0 done, 1 failed, 2 usage, 3 incomplete (some or all machines failed
or did not answer), 4 no machine matched, 130 interrupted.`,
		Example: `  dominion demo
  dominion ping '*'
  dominion call 'web[01-20]' test.ping
  dominion run '@web' -- uname -r`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmd.Help(); err != nil {
				return err
			}
			return usagef("give a command")
		},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.CompletionOptions.DisableDefaultCmd = true
	a.where(root)
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "output as `FORMAT`: text, json, jsonl")
	a.complete(root)
	root.AddGroup(
		&cobra.Group{ID: "orders", Title: "Orders:"},
		&cobra.Group{ID: "fleet", Title: "The fleet:"},
		&cobra.Group{ID: "trust", Title: "Trust:"},
		&cobra.Group{ID: "daemons", Title: "Daemons:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("orders", a.callCmd(), a.runCmd(), a.copyCmd(), a.fetchCmd(), a.pingCmd(), a.jobCmd())
	add("fleet", a.minionsCmd(), a.modulesCmd(), a.moduleCmd(), a.groupCmd(), a.mapCmd(), a.statusCmd(), a.clusterCmd(), a.confdCmd(), a.nodeCmd(), a.nodescriptCmd(), a.vnfsCmd(), a.bootCmd())
	add("trust", a.certCmd(), a.tokenCmd(), a.operatorCmd(), a.loginCmd(), a.pinCmd(), a.auditCmd())
	add("daemons", a.overlordCmd(), a.minionCmd(), a.demoCmd(), a.provisiondCmd(), a.configCmd())
	root.AddCommand(a.versionCmd(), a.linksCmd(), a.manCmd(), a.completionCmd(), a.perceusCmd())
	a.completeTargetFlags(root)
	return root
}

// where makes the flags that say where the overlord is.
func (a *app) where(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&a.state, "state", "", "state `DIR` of the overlord on this host (or DOMINION_STATE; default /var/lib/dominion/overlord)")
	f.StringVar(&a.overlord, "overlord", "", "`ADDR` of an overlord elsewhere, with an operator's context")
	f.StringVar(&a.context, "context", "", "`NAME` of the operator's context (or DOMINION_CONTEXT; default: the current one)")
}

// parent makes a command that only holds others: without one of them it is
// wrong usage.
func parent(use, short, long, example string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("there is no %q; see: %s --help", args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("say what to do; see: %s --help", cmd.CommandPath())
		},
	}
	c.AddCommand(children...)
	return c
}

// args checks the number of words and says what they are.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, words []string) error {
		switch {
		case len(words) < least:
			return fmt.Errorf("give %s; see: %s --help", what, cmd.CommandPath())
		case most >= 0 && len(words) > most:
			return fmt.Errorf("%q is one word too many, wanted is %s; see: %s --help", words[most], what, cmd.CommandPath())
		}
		return nil
	}
}

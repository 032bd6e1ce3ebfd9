package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/module"
	"dominion/module/site"
)

// maxModule is the largest program that fits into an order, in bytes.
const maxModule = 480 << 10

func (a *app) moduleCmd() *cobra.Command {
	return parent("module", "Put modules of your own on machines",
		`Module installs, removes and lists the modules of a site's own: programs in any
language that describe themselves and are run for each call
(docs/external-modules.md). dominion modules shows what can be called.

Install and remove are orders: signed, on the audit log, and refused by machines
whose minion.yaml does not say modules_push: true.`,
		`  dominion module push '@web' ./disk_health.py
  dominion module list '@web'
  dominion module remove web1 disk_health`,
		a.modulePushCmd(), a.moduleRemoveCmd(), a.moduleListCmd())
}

func (a *app) modulePushCmd() *cobra.Command {
	var dir, name string
	cmd := a.moduleOrder(&cobra.Command{
		Use:   "push TARGET NAME|FILE",
		Short: "Install a module on machines, or replace it",
		Long: fmt.Sprintf(`Push sends a program to machines, which have it describe itself in a place apart,
and put it into their directory of modules only when it can be used. It is there
for the next call. A module that is there already, as the same bytes, is left.

FILE has a slash or a dot in it; the module's name is its base name without the
ending. NAME alone is the file of that name in --dir, so that one host can keep the
modules of all. A program may have %d KiB; for a larger one use dominion copy.`, maxModule>>10),
		Example: `  dominion module push '*' ./disk_health.py
  dominion module push '@db' backup_check --dry-run
  dominion module push web1 /tmp/new.sh --name disk_health`,
		Args: args(2, 2, "a target, and a module's name or file"),
	}, "module.install", func(words []string) (map[string]any, error) {
		file := words[1]
		if !strings.ContainsAny(file, "/.") {
			file = filepath.Join(dir, file)
		}
		if name == "" {
			name, _, _ = strings.Cut(filepath.Base(file), ".")
		}
		b, err := readFileLimited(file, maxModule)
		if err != nil {
			return nil, usagef("%s: %v", file, err)
		}
		return map[string]any{"name": name, "content": module.Bytes(b), "digest": site.DigestOf(b)}, nil
	})
	cmd.Flags().StringVar(&dir, "dir", site.DefaultDir, "`DIRECTORY` of this host where NAME is")
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the module, when it is not the file's")
	return cmd
}

func (a *app) moduleRemoveCmd() *cobra.Command {
	return a.moduleOrder(&cobra.Command{
		Use:   "remove TARGET NAME",
		Short: "Remove a module from machines",
		Long: `Remove deletes a file from the machines' directory of modules. It destroys: the
number of machines has to be confirmed. Calls that run go on.`,
		Example: `  dominion module remove web1 disk_health --yes-count 1
  dominion module remove '*' disk_health --dry-run`,
		Args: args(2, 2, "a target and a module's name"),
	}, "module.remove", func(words []string) (map[string]any, error) { return map[string]any{"name": words[1]}, nil })
}

func (a *app) moduleListCmd() *cobra.Command {
	return a.moduleOrder(&cobra.Command{
		Use:   "list TARGET",
		Short: "List the modules of the site that machines have",
		Long: `List asks machines what is in their directory of modules: versions, digests, and
why some are disabled.`,
		Example: `  dominion module list '*'
  dominion module list web1 -o json`,
		Args: args(1, 1, "a target"),
	}, "module.list", func([]string) (map[string]any, error) { return map[string]any{}, nil })
}

// moduleOrder completes a command that orders a method of the module "module".
func (a *app) moduleOrder(cmd *cobra.Command, method string, arguments func(words []string) (map[string]any, error)) *cobra.Command {
	var (
		flags jobFlags
		how   orderFlags
	)
	cmd.ValidArgsFunction = a.completeTarget
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		opt, err := flags.options(cmd)
		if err == nil {
			err = how.set(cmd, &opt)
		}
		if err != nil {
			return err
		}
		in, err := arguments(words)
		if err != nil {
			return err
		}
		raw, err := marshalPlain(in)
		if err != nil {
			return err
		}
		if len(raw) > call.MaxArgs {
			return usagef("%s: an order of %d bytes is larger than %d", words[1], len(raw), call.MaxArgs)
		}
		v := &jobView{a: a, name: cmd.CommandPath(), target: words[0], method: method, body: resultLines, async: how.async, dry: how.dryRun, way: how.way}
		return v.follow(ctx, func(ctx context.Context) (*client.Job, error) {
			return v.order(ctx, opt, func(module.Schema) ([]byte, error) { return raw, nil })
		})
	})
	flags.register(cmd, "how long it may take on a machine, a `DURATION`; 0: no limit")
	how.register(cmd)
	return cmd
}

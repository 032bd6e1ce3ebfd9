package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"dominion/minion"
)

func (a *app) configCmd() *cobra.Command {
	return parent("config", "Check configuration files", "Config checks the configuration files of the daemons.",
		"  dominion config check", a.configCheckCmd())
}

func (a *app) configCheckCmd() *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use: "check [FILE]...", Short: "Say what is wrong in a configuration file, with line and key",
		Long: `Check reads configuration files as the daemons do, and starts nothing. Without
FILE it checks /etc/dominion/overlord.yaml and /etc/dominion/minion.yaml, those
that are there. What a file is for is told by its name, or by --kind.`,
		Example: "  dominion config check\n  dominion config check --kind minion new.yaml",
		Args:    args(0, -1, "files"),
	}
	cmd.RunE = a.do(func(_ context.Context, _ *cobra.Command, files []string) error {
		usual := len(files) == 0
		if usual {
			files = []string{overlordConfigFile, minion.DefaultConfig}
		}
		found := false
		for _, f := range files {
			if _, err := os.Stat(f); usual && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			found = true
			if err := checkConfig(kind, f); err != nil {
				return err
			}
			if err := a.text("%s: good\n", f); err != nil {
				return err
			}
		}
		if !found {
			return a.text("there is neither %s nor %s: the daemons take their flags alone\n", files[0], files[1])
		}
		return nil
	})
	cmd.Flags().StringVar(&kind, "kind", "", "`KIND` of the files: overlord or minion")
	return cmd
}

// checkConfig checks one file.
func checkConfig(kind, file string) error {
	if kind == "" {
		base := filepath.Base(file)
		switch {
		case strings.Contains(base, "overlord"):
			kind = "overlord"
		case strings.Contains(base, "minion"):
			kind = "minion"
		default:
			return usagef("%s: its name does not tell what it is for; add --kind overlord or --kind minion", file)
		}
	}
	switch kind {
	case "minion":
		cfg, err := minion.LoadConfig(file)
		if err != nil {
			return badConfig(err)
		}
		if err := cfg.Check(); err != nil {
			return usagef("%s: %v", file, err)
		}
		return nil
	case "overlord":
		return checkOverlordConfig(file)
	}
	return usagef("--kind %q: use overlord or minion", kind)
}

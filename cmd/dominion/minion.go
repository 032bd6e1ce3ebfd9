package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"dominion/minion"
)

// minionFlags are the flags of dominion minion; they win over the file.
type minionFlags struct {
	config, name, pin, tokenFile, listen, logLevel string
	overlords                                      []string
}

func (a *app) minionCmd() *cobra.Command {
	var f minionFlags
	cmd := &cobra.Command{
		Use:   "minion --overlord ADDR... --pin PIN",
		Short: "Run the agent of this machine",
		Long: `Minion makes this machine's key, asks the overlord for a certificate, keeps a
session with every overlord named, and carries out signed orders.

It enrols at once with a join token (--token-file, or DOMINION_TOKEN), or waits
for dominion cert sign. The pin is what dominion pin prints on the overlord's
host. Everything can be in /etc/dominion/minion.yaml instead; flags win.

SIGHUP reads the policy and the log level again, and has modules of the site that
are disabled tried again. SIGTERM lets running calls
finish for up to 30 s; a second one ends at once.`,
		Example: `  dominion minion --overlord dc1.example.org --pin sha256:… --token-file /run/token
  dominion minion --overlord dc1:51235 --overlord dc2:51235 --pin sha256:… --name web1
  dominion minion --listen :51234 --overlord dc1 --pin sha256:…`,
		Args: args(0, 0, "flags only"),
	}
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
		cfg, path, err := loadConfig(f.config, minion.DefaultConfig, minion.LoadConfig)
		if err != nil {
			return err
		}
		if err := a.minionConfig(&cfg, &f); err != nil {
			return err
		}
		if err := cfg.Check(); err != nil {
			return usagef("%v", err)
		}
		return a.runMinion(ctx, cfg, path)
	})
	fl := cmd.Flags()
	fl.StringArrayVar(&f.overlords, "overlord", nil, "`ADDR` of an overlord; may be repeated")
	fl.StringVar(&f.pin, "pin", "", "`PIN` of the fleet's root, sha256:…")
	fl.StringVar(&f.name, "name", "", "`NAME` of this machine (default: its host name)")
	fl.StringVar(&f.tokenFile, "token-file", "", "`FILE` with a join token, or - for standard input (or DOMINION_TOKEN)")
	fl.StringVar(&f.listen, "listen", "", "let overlords dial this machine at `ADDR`, such as :51234")
	fl.StringVar(&f.config, "config", "", "configuration `FILE` (default /etc/dominion/minion.yaml, if it is there)")
	fl.StringVar(&f.logLevel, "log-level", "", "`LEVEL`: debug, info, warn, error")
	fl.StringVar(&a.state, "state", "", "state `DIR` (or DOMINION_STATE; default /var/lib/dominion/minion)")
	return cmd
}

// minionConfig lets flags win over the file.
func (a *app) minionConfig(cfg *minion.Config, f *minionFlags) error {
	set := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	set(&cfg.State, a.daemonState())
	set(&cfg.Name, f.name)
	set(&cfg.Pin, f.pin)
	set(&cfg.Listen, f.listen)
	set(&cfg.LogLevel, f.logLevel)
	if len(f.overlords) > 0 {
		cfg.Overlords = f.overlords
	}
	switch f.tokenFile {
	case "", "-":
		token, err := a.readToken(f.tokenFile)
		if err != nil {
			return err
		}
		cfg.Token = token
	default:
		cfg.TokenFile = f.tokenFile
	}
	cfg.Version = buildVersion()
	return nil
}

func (a *app) runMinion(ctx context.Context, cfg minion.Config, path string) error {
	level := new(slog.LevelVar)
	l, err := cfg.Level()
	if err != nil {
		return usagef("%v", err)
	}
	level.Set(l)
	log := a.daemonLog(level)
	ctx, stop := daemonContext(ctx)
	defer stop()
	hup := watchHangups(func() {
		if path == "" {
			return
		}
		again, err := minion.LoadConfig(path)
		if err == nil {
			l, err = again.Level()
		}
		if err != nil {
			log.Error("configuration could not be read again", "err", err)
			return
		}
		level.Set(l)
	})
	defer hup.stop()
	cfg.Reload = hup.out
	return minion.Run(ctx, cfg, log)
}

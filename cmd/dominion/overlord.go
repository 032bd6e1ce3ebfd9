package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"dominion/overlord"
)

// overlordConfigFile is read when no other is named.
const overlordConfigFile = "/etc/dominion/overlord.yaml"

// overlordFlags are the flags of dominion overlord; they win over the file.
type overlordFlags struct {
	config, name, listen, logLevel string
	parent, pin, tokenFile         string
	autosign                       []string
}

func (a *app) overlordCmd() *cobra.Command {
	var f overlordFlags
	cmd := &cobra.Command{
		Use:   "overlord",
		Short: "Run the daemon that holds the fleet",
		Long: `Overlord holds the sessions of minions, carries out orders, keeps results and the
audit log, and grants certificates. The first start makes its state directory
with the fleet's root key: back it up.

With --parent it becomes a sub-overlord instead: it makes its keys, asks the
overlord at ADDR for its certificates (at once with a token of role overlord, or
it waits for dominion cert sign overlord/NAME there), and keeps a session with it
as a machine of that fleet. Its own machines enrol with it. Later starts need
--parent no more.

Everything can be in /etc/dominion/overlord.yaml instead; flags win.
SIGHUP reads the policy, the autosign rules, the rules that approve nodes
(provision.approve) and the log level again. SIGTERM lets running calls finish
for up to 30 s; a second one ends at once.`,
		Example: `  dominion overlord
  dominion overlord --name dc1.example.org --listen :51235 --autosign 'web*'
  dominion overlord --parent top.example.org --pin sha256:… --token-file token
  dominion overlord --state ./state --listen 127.0.0.1:0`,
		Args: args(0, 0, "flags only"),
	}
	cmd.RunE = a.raw(func(ctx context.Context, _ *cobra.Command, _ []string) error {
		if a.overlord != "" || a.context != "" {
			return usagef("--overlord and --context are for commands that speak to an overlord; this one runs it")
		}
		cfg, path, err := loadConfig(f.config, overlordConfigFile, overlord.LoadConfig)
		if err != nil {
			return err
		}
		a.overlordConfig(&cfg, &f)
		if err := a.overlordToken(&cfg, &f); err != nil {
			return err
		}
		if err := cfg.Check(); err != nil {
			return usagef("%v", err)
		}
		if path != "" {
			cfg.Reread = func() (overlord.Config, error) {
				again, err := overlord.LoadConfig(path)
				a.overlordConfig(&again, &f)
				return again, err
			}
		}
		return a.runOverlord(ctx, cfg)
	})
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "`NAME` of this overlord (default: the host name; fixed by the first start)")
	fl.StringVar(&f.listen, "listen", "", "`ADDR` of sessions and API (default :51235; port 0: any, see STATE/address)")
	fl.StringArrayVar(&f.autosign, "autosign", nil, "sign minions whose name matches `PATTERN` at once; may be repeated")
	fl.StringVar(&f.parent, "parent", "", "run below the overlord at `ADDR`; on a fresh state directory")
	fl.StringVar(&f.pin, "pin", "", "`PIN` of the fleet's root, sha256:…; with --parent")
	fl.StringVar(&f.tokenFile, "token-file", "", "`FILE` with a token of role overlord, or - for standard input (or DOMINION_TOKEN); with --parent")
	fl.StringVar(&f.config, "config", "", "configuration `FILE` (default /etc/dominion/overlord.yaml, if it is there)")
	fl.StringVar(&f.logLevel, "log-level", "", "`LEVEL`: debug, info, warn, error")
	return cmd
}

// overlordConfig lets flags win over the file.
func (a *app) overlordConfig(cfg *overlord.Config, f *overlordFlags) {
	set := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	set(&cfg.State, a.daemonState())
	set(&cfg.Name, f.name)
	set(&cfg.Listen, f.listen)
	set(&cfg.LogLevel, f.logLevel)
	set(&cfg.Parent, f.parent)
	set(&cfg.Pin, f.pin)
	for _, p := range f.autosign {
		cfg.Autosign = append(cfg.Autosign, overlord.AutosignRule{Names: p})
	}
	cfg.Version = buildVersion()
}

// overlordToken reads the token that the parent's fleet grants a certificate for.
func (a *app) overlordToken(cfg *overlord.Config, f *overlordFlags) (err error) {
	switch {
	case cfg.Parent == "" && f.tokenFile == "":
	case f.tokenFile == "" && cfg.TokenFile != "":
	case f.tokenFile == "", f.tokenFile == "-":
		cfg.Token, err = a.readToken(f.tokenFile)
	default:
		cfg.TokenFile = f.tokenFile
	}
	return err
}

func (a *app) runOverlord(ctx context.Context, cfg overlord.Config) error {
	cfg.Level = new(slog.LevelVar)
	ctx, stop := daemonContext(ctx)
	defer stop()
	hup := watchHangups(func() {}) // the overlord reads its file again itself
	defer hup.stop()
	cfg.Reload = hup.out
	log := a.daemonLog(cfg.Level)
	if err := overlord.Batch(); err != nil {
		log.Warn("going on without", "error", err)
	}
	go overlord.RareCollections(ctx)
	return overlord.Run(ctx, cfg, log)
}

// checkOverlordConfig says what is wrong in an overlord's file.
func checkOverlordConfig(file string) error {
	cfg, err := overlord.LoadConfig(file)
	if err != nil {
		return badConfig(err)
	}
	if err := cfg.Check(); err != nil {
		return usagef("%s: %v", file, err)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
)

// perceusName is the name by which this program has the commands of Perceus.
const perceusName = "perceus"

// perceus is one command line of Perceus, whose output is kept to the byte. Where
// no order was kept by Perceus it is that of the names.
type perceus struct {
	a *app

	nodeID, yes, no, quiet, verbose, debug, embedded bool

	conn *client.Conn // once it was asked for
}

// perceusVerb is the word after node, group, vnfs or info.
type perceusVerb struct {
	name, doc string
	run       func(ctx context.Context, words []string) error
	names     bool // its words name nodes
}

// perceusRoot is the whole command line when the program is called perceus.
func (a *app) perceusRoot() *cobra.Command {
	cmd := a.perceusCmd()
	cmd.Hidden, cmd.Version = false, buildVersion()
	cmd.SetVersionTemplate("Version={{.Version}}\nBuild=dominion\n")
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	cmd.SetIn(a.in)
	cmd.SetOut(a.out)
	cmd.SetErr(a.err)
	a.output = outText
	a.where(cmd)
	return cmd
}

func (a *app) perceusCmd() *cobra.Command {
	p := &perceus{a: a}
	cmd := &cobra.Command{
		Use: perceusName, Short: "The commands of Perceus", Hidden: true,
		Long: `Perceus does what the commands node, group, vnfs and info of Perceus did, with their
words, options and columns, for an overlord and its nodes. Its exit codes are those
of dominion. Called as perceus (see dominion links) this program is this command.`,
		Example: "  perceus node status\n  perceus -y node set vnfs debian13 'n[0000-0015]'",
		Args:    cobra.ArbitraryArgs,
	}
	cmd.RunE = p.do(func(_ context.Context, words []string) error {
		switch {
		case len(words) == 0 || words[0] == "about":
			return p.about()
		case words[0] == "help":
			return p.usage(cmd, nil)
		}
		p.fail("Unrecognized command '%s', type 'perceus help' for usage summary.", words[0])
		return &exitError{code: exitUsage}
	})
	fl := cmd.PersistentFlags()
	fl.BoolVarP(&p.nodeID, "nodeid", "i", false, "Reference nodes by their NodeID rather than hostname")
	fl.BoolVarP(&p.yes, "yes", "y", false, "Assume 'yes' to all questions")
	fl.BoolVarP(&p.no, "no", "n", false, "Assume 'no' to all questions")
	fl.BoolVarP(&p.quiet, "quiet", "q", false, "Be quiet, only show prints and errors")
	fl.BoolVarP(&p.verbose, "verbose", "v", false, "Be more verbose and print whats going on")
	fl.BoolVarP(&p.debug, "debug", "d", false, "The same as -v here")
	fl.BoolVarP(&p.embedded, "embeded", "e", false, "Useful if calling via a script (similar to -yq)") //nolint:misspell // it is spelled so
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) { _, _ = io.WriteString(a.out, p.summary(cmd, nil)) })
	cmd.AddCommand(
		p.command("node", "View and/or manipulate node attributes", "perceus node status", "Node", "iynqvde", p.nodeVerbs()),
		p.command("group", "View and/or manipulate node attributes by group", "perceus group list", "Group", "ynqvde", p.groupVerbs()),
		p.command("vnfs", "Manage VNFS images and attributes", "perceus vnfs list", "VNFS", "ynqvde", p.vnfsVerbs()),
		p.command("info", "Show Perceus related information", "perceus info config statedir", "Info", "qvde", p.infoVerbs()),
		p.replaced("module", "Replaced by node scripts", moduleReplaced),
		p.replaced("configure", "Replaced by overlord.yaml and dominion boot", configureReplaced, "config"),
		p.replaced("init", "Replaced by dominion nodescript install", initReplaced),
		p.replaced("contact", "Dropped", "there is nobody to register with"),
	)
	return cmd
}

// command makes one of the commands that have verbs.
func (p *perceus) command(use, short, example, title, options string, verbs []perceusVerb) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " VERB [WORDS]", Short: short, Example: "  " + example, Args: cobra.ArbitraryArgs,
		Annotations: map[string]string{"title": title, "options": options},
	}
	var long strings.Builder // for the man page; help is laid out by summary
	fmt.Fprintf(&long, "%s. The verbs:\n\n", short)
	for _, v := range verbs {
		fmt.Fprintf(&long, "    %-10s %s\n", v.name, v.doc)
	}
	cmd.Long = long.String()
	cmd.RunE = p.do(func(ctx context.Context, words []string) error {
		if len(words) > 0 {
			for _, v := range verbs {
				if v.name == words[0] {
					return v.run(ctx, words[1:])
				}
			}
		}
		return p.usage(cmd, verbs)
	})
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) { _, _ = io.WriteString(p.a.out, p.summary(cmd, verbs)) })
	cmd.ValidArgsFunction = func(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(words) == 0 {
			var out []string
			for _, v := range verbs {
				out = append(out, v.name+"\t"+v.doc)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		for _, v := range verbs {
			if v.name == words[0] && v.names {
				return p.a.completeNode(cmd, nil, word)
			}
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
	return cmd
}

// What has other ways now.
const (
	moduleReplaced = `modules are node scripts now: put a script into
STATEDIR/nodescripts/STATE/{all,group/NAME,vnfs/NAME,node/NAME}/, make it executable,
and look at what a node gets with: dominion nodescript explain NODE STATE`
	configureReplaced = `there are no services of its own to configure: how nodes are provisioned is in
overlord.yaml (provision:), and what DHCP, TFTP and PXE need is printed by:
dominion boot dhcp-config`
	initReplaced = `nothing has to be initialised: set provision: {enabled: true} in overlord.yaml,
start the overlord, and write our node scripts with: dominion nodescript install`
)

// replaced makes a command that says what there is in its place.
func (p *perceus) replaced(use, short, text string, aliases ...string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: "  perceus " + use, Aliases: aliases, Args: cobra.ArbitraryArgs,
		RunE: p.do(func(context.Context, []string) error {
			p.fail("perceus %s: %s", use, text)
			return &exitError{code: exitUsage}
		}),
	}
}

// do makes a command's function. What it reports looks as it did.
func (p *perceus) do(f func(ctx context.Context, words []string) error) func(*cobra.Command, []string) error {
	return p.a.do(func(ctx context.Context, _ *cobra.Command, words []string) error {
		if p.embedded {
			p.yes, p.quiet = true, true
		}
		defer func() {
			if p.conn != nil {
				p.conn.Close() // nothing is asked of it any more
			}
		}()
		err := f(ctx, words)
		if err == nil || ctx.Err() != nil {
			return err
		}
		code, text := verdict(&ranError{err})
		if text != "" {
			p.fail("%s", text)
		}
		return &exitError{code: code}
	})
}

// info tells what went on.
func (p *perceus) info(format string, words ...any) error {
	switch text := fmt.Sprintf(format, words...); {
	case p.verbose || p.debug:
		return p.a.text("INFO: %s\n", text)
	case p.quiet:
		return nil
	default:
		return p.a.text("%s\n", text)
	}
}

func (p *perceus) warn(format string, words ...any) {
	switch text := fmt.Sprintf(format, words...); {
	case p.verbose || p.debug:
		p.a.note("WARN: %s", text)
	case !p.quiet:
		p.a.note("WARNING: %s", text)
	}
}

func (p *perceus) fail(format string, words ...any) {
	p.a.note("ERROR: %s", fmt.Sprintf(format, words...))
}

// failedf ends a command with a text of Perceus'.
func failedf(format string, words ...any) error {
	return &exitError{exitFailed, fmt.Sprintf(format, words...)}
}

// usage shows the verbs, and is wrong usage.
func (p *perceus) usage(cmd *cobra.Command, verbs []perceusVerb) error {
	p.a.note("%s", strings.TrimSuffix(p.summary(cmd, verbs), "\n"))
	return &exitError{code: exitUsage}
}

// perceusOption is a line about an option.
type perceusOption struct{ flag, doc string }

// perceusOptions are the options that a letter each stands for, in the order of the texts.
func perceusOptions(letters string) []perceusOption {
	var out []perceusOption
	for _, o := range []perceusOption{
		{"-i, --nodeid", "Reference nodes by their NodeID rather than hostname"},
		{"-y, --yes", "Assume 'yes' to all questions"},
		{"-n, --no", "Assume 'no' to all questions"},
		{"-h, --help", "Show this help screen"},
		{"-q, --quiet", "Be quiet, only show prints and errors"},
		{"-v, --verbose", "Be more verbose and print whats going on"},
		{"-d, --debug", "The same as -v here"},
		{"-e, --embeded", "Useful if calling via a script (similar to -yq)"}, //nolint:misspell // it is spelled so
	} {
		if strings.Contains(letters, o.flag[1:2]) {
			out = append(out, o)
		}
	}
	return out
}

// summary is the text about a command, laid out as it was.
func (p *perceus) summary(cmd *cobra.Command, verbs []perceusVerb) string {
	var b strings.Builder
	line := func(format string, words ...any) { fmt.Fprintf(&b, format+"\n", words...) }
	line("Usage summary for: %s\n", cmd.CommandPath())
	if verbs != nil {
		width := 10
		if cmd.Name() == "node" {
			width = 13
		}
		line("%s Commands:", cmd.Annotations["title"])
		for _, v := range verbs {
			line("   %-*s %s", width, v.name, v.doc)
		}
		line("\nCommand Specific Options:")
		for _, o := range perceusOptions(cmd.Annotations["options"]) {
			line("   %-13s %s", o.flag, o.doc)
		}
		return b.String() + "\n"
	}
	line("Perceus Commands:")
	for _, name := range []string{"node", "group", "vnfs", "module", "info", "init", "configure"} {
		for _, c := range cmd.Commands() { // which are sorted, and were not
			if c.Name() == name {
				line("   %-13s %s", name, c.Short)
			}
		}
	}
	line("\nGeneral Options:")
	for _, o := range append(perceusOptions("ynhqvde"), perceusOption{"    --version", "Show the version"}, perceusOption{"    --state", "The overlord's state directory on this host"}) {
		line("   %-13s %s", o.flag, o.doc)
	}
	line("\nTo get further information on any of the Perceus commands type:\n   # perceus [command] help")
	return b.String() + "\n"
}

// confirm shows a list and asks about it. Without an answer it is wrong usage.
func (p *perceus) confirm(ctx context.Context, question string, rows []string) (bool, error) {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "   %s\n", escapeLine(r))
	}
	fmt.Fprintf(&b, "\n%s\n", escapeText(question))
	if err := p.a.write([]byte(b.String())); err != nil || p.yes || p.no {
		return p.yes, err
	}
	for {
		err := p.a.text("Please Confirm [yes/no]> ")
		if err == nil {
			err = p.a.flush()
		}
		if err != nil {
			return false, err
		}
		answer, err := readTyped(ctx, int(p.a.in.Fd()))
		switch {
		case answer == "yes" || answer == "y":
			return true, nil
		case answer == "no" || answer == "n":
			return false, nil
		case errors.Is(err, io.EOF):
			return false, usagef("there is no answer; -y says yes, -n no; nothing was changed")
		case err != nil:
			return false, err
		}
	}
}

// nodes asks the overlord for all nodes, and how it provisions.
func (p *perceus) nodes(ctx context.Context) (*apipb.NodesResponse, error) {
	if p.conn == nil {
		conn, err := p.a.dial(ctx)
		if err != nil {
			return nil, err
		}
		p.conn = conn
	}
	resp, err := p.conn.Nodes.Nodes(ctx, connect.NewRequest(&apipb.NodesRequest{}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/nodescript"
)

func (a *app) nodescriptCmd() *cobra.Command {
	return parent("nodescript", "Show and check what nodes run while they are provisioned",
		`Node scripts are programs below STATEDIR/nodescripts that run on the overlord's
host; what they print is what a node runs. These commands read that directory.
They need no overlord that runs; explain and show ask it for what it knows of the
node, if it is there and --statedir is not given. Flags win.`,
		`  dominion nodescript install
  dominion nodescript explain n0001 init --vnfs debian13
  dominion nodescript show n0001 init --vnfs debian13
  dominion nodescript lint`,
		a.nodescriptExplainCmd(), a.nodescriptShowCmd(), a.nodescriptLintCmd(), a.nodescriptInstallCmd())
}

// nodeFlags say what is to be known of a node, and by which rules its scripts
// are chosen.
type nodeFlags struct {
	statedirFlag
	node             nodescript.Node
	rules, onFailure string
	overlord         *apipb.ProvisionInfo // how the overlord provisions; nil: it was not asked
}

func (f *nodeFlags) on(cmd *cobra.Command) {
	f.statedirFlag.on(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.node.Group, "group", "", "the node's `GROUP`")
	fl.StringVar(&f.node.VNFS, "vnfs", "", "the node's `VNFS` capsule")
	fl.BoolVar(&f.node.Enabled, "enabled", true, "whether the node is enabled")
	fl.IntVar(&f.node.Debug, "debug", 0, "the node's debug `LEVEL`, 0 to 9")
	fl.StringVar(&f.node.Addr, "ip", "", "the node's `ADDR`")
	fl.StringVar(&f.node.ID, "id", "", "the node's hardware `ADDR`")
	rulesFlag(cmd, &f.rules)
}

func rulesFlag(cmd *cobra.Command, rules *string) {
	cmd.Flags().StringVar(rules, "rules", "documented", "the `RULES`: documented or perceus-1.9.3")
	complete := cobra.FixedCompletions([]string{"documented", "perceus-1.9.3"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("rules", complete); err != nil {
		panic(err) // the flag does not exist: a bug here
	}
}

// read gives the node, the state and the rules of a command line. What no flag
// says the overlord is asked for, if one is there and --statedir names no other place.
func (f *nodeFlags) read(ctx context.Context, a *app, cmd *cobra.Command, words []string) (nodescript.Node, string, nodescript.Rules, error) {
	if err := f.askOverlord(ctx, a, cmd, words[0]); err != nil {
		return nodescript.Node{}, "", 0, err
	}
	rules, err := nodescript.ParseRules(f.rules)
	if err != nil {
		return nodescript.Node{}, "", 0, usagef("--%v", err)
	}
	n := f.node
	if n.Name, err = call.ParseName(words[0]); err != nil {
		return nodescript.Node{}, "", 0, usagef("%v", err)
	}
	return n, words[1], rules, nil
}

// wrongRequest makes wrong usage of an error about a node's fields.
func wrongRequest(err error) error {
	if errors.Is(err, nodescript.ErrRequest) {
		return usagef("%v", err)
	}
	return err
}

// candidateDoc is one file in nodescript explain.
type candidateDoc struct {
	Script string   `json:"script"` // relative to nodescripts/
	Does   string   `json:"does"`
	Order  int      `json:"order,omitempty"`     // among those that have a part
	Ties   []string `json:"tied_with,omitempty"` // scripts of the same name that run too
	By     string   `json:"overridden_by,omitempty"`
	Over   []string `json:"overrides,omitempty"`
	Link   string   `json:"link,omitempty"` // where a symbolic link leads
	Note   string   `json:"note,omitempty"`
}

func candidateDocOf(c nodescript.Candidate, state string) candidateDoc {
	at := func(folder string) string { return nodescript.Candidate{Folder: folder, Name: c.Name}.Path(state) }
	d := candidateDoc{Script: c.Path(state), Does: c.Does.String(), Order: c.Order, Link: c.Link, Note: c.Note}
	for _, f := range c.Ties {
		d.Ties = append(d.Ties, at(f))
	}
	for _, f := range c.Over {
		d.Over = append(d.Over, at(f))
	}
	if c.By != "" {
		d.By = at(c.By)
	}
	return d
}

// what says in words what becomes of a file.
func (d candidateDoc) what() string {
	s := d.Does
	for _, part := range []struct{ word, text string }{
		{", tied with ", strings.Join(d.Ties, ", ")},
		{" by ", d.By},
		{" instead of ", strings.Join(d.Over, ", ")},
		{": ", d.Note},
		{"; link to ", d.Link},
	} {
		if part.text != "" {
			s += part.word + part.text
		}
	}
	return s
}

func (a *app) nodescriptExplainCmd() *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use: "explain NODE STATE", Short: "Say of each script what becomes of it, and why",
		Long: `Explain lists the files in the folders that count for a node in a state, in the
order in which they run: what runs, what is tied with another of its name, what is
overridden, what is not executable. Nothing is run.`,
		Example: "  dominion nodescript explain n0001 init --vnfs debian13 --group web\n  dominion nodescript explain n0001 ready --rules perceus-1.9.3",
		Args:    args(2, 2, "a node and a state"), ValidArgsFunction: a.completeNodeState,
	}
	cmd.RunE = a.do(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		n, state, rules, err := f.read(ctx, a, cmd, words)
		if err != nil {
			return err
		}
		dir, err := f.find(ctx, a)
		if err != nil {
			return err
		}
		t, err := nodescript.Open(dir)
		if err != nil {
			return err
		}
		defer t.Close()
		candidates, err := t.Explain(rules, n, state)
		if err != nil {
			return wrongRequest(err)
		}
		var rows []candidateDoc
		for _, c := range candidates {
			rows = append(rows, candidateDocOf(c, state))
		}
		if len(rows) == 0 && a.output == outText {
			return a.text("no script is there for %s in state %s\n", n.Name, state)
		}
		return list(a, "scripts", rows, []string{"ORDER", "SCRIPT", "WHAT"}, func(d candidateDoc) []string {
			order := "-"
			if d.Order > 0 {
				order = fmt.Sprint(d.Order)
			}
			return []string{order, d.Script, d.what()}
		})
	})
	f.on(cmd)
	return cmd
}

// showFlags are those of nodescript show beyond those of a node.
type showFlags struct {
	nodeFlags
	transfer nodescript.Transfer
	shell    string
	time     time.Duration
	wire     bool
}

func (a *app) nodescriptShowCmd() *cobra.Command {
	var f showFlags
	cmd := &cobra.Command{
		Use: "show NODE STATE", Short: "Print the script that a node would get",
		Long: `Show runs the scripts that count for a node in a state, here and now, as whoever
calls it, and prints what the node would get. The node is not told. When a script
fails, what is printed is what the node would get then, and the exit code is 1.`,
		Example: "  dominion nodescript show n0001 init --vnfs debian13 --group web\n  dominion nodescript show n0001 ready --rules perceus-1.9.3 --wire",
		Args:    args(2, 2, "a node and a state"), ValidArgsFunction: a.completeNodeState,
	}
	cmd.RunE = a.do(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		n, state, rules, err := f.read(ctx, a, cmd, words)
		if err != nil {
			return err
		}
		f.asProvisioned(cmd)
		onFailure, err := nodescript.ParseOnFailure(f.onFailure)
		if err != nil {
			return usagef("--on-failure %q: use stop or ignore", f.onFailure)
		}
		if f.wire && rules != nodescript.Perceus193 {
			return usagef("--wire is for --rules perceus-1.9.3")
		}
		if f.time <= 0 {
			return usagef("--time %v: give a duration", f.time)
		}
		dir, err := f.find(ctx, a)
		if err != nil {
			return err
		}
		assembler, err := nodescript.New(nodescript.Config{
			Statedir: dir, Rules: rules, OnFailure: onFailure, Shell: f.shell, Transfer: f.transfer, Time: f.time,
		})
		if err != nil {
			return usagef("%v", err)
		}
		s, err := assembler.Assemble(ctx, n, state)
		if err != nil {
			return wrongRequest(err)
		}
		return a.showScript(s, n.Name, state, rules, f.wire)
	})
	f.on(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.onFailure, "on-failure", "", "`WHAT` a failure does: stop or ignore (default: as the rules say)")
	fl.StringVar(&f.shell, "shell", "", "`PATH` of the shell for scripts that say #!/bin/sh (default /bin/sh)")
	fl.StringVar(&f.transfer.Method, "method", "http", "how nodes get files: the `METHOD` http or nfs")
	fl.StringVar(&f.transfer.Master, "master", "", "`ADDR` from which nodes get files")
	fl.StringVar(&f.transfer.Prefix, "prefix", "", "`PATH` before that of files")
	fl.DurationVar(&f.time, "time", nodescript.DefaultTime, "how long one script may take")
	fl.BoolVar(&f.wire, "wire", false, "with the lines that Perceus sent around it")
	return cmd
}

// scriptDoc is the answer of nodescript show in JSON.
type scriptDoc struct {
	Node    string   `json:"node"`
	State   string   `json:"state"`
	Rules   string   `json:"rules"`
	SHA256  string   `json:"sha256"` // of the script, without the lines of --wire
	Failure string   `json:"failure,omitempty"`
	Script  *string  `json:"script,omitempty"`
	Base64  *string  `json:"script_base64,omitempty"` // instead of script, when that is not UTF-8
	Ran     []ranDoc `json:"ran"`
}

type ranDoc struct {
	Script  string `json:"script"`
	SHA256  string `json:"sha256,omitempty"` // of the file; left out when it could not be read
	Bytes   int    `json:"bytes"`            // that it gave
	TookMS  int64  `json:"took_ms"`
	Problem string `json:"problem,omitempty"`
	Stderr  string `json:"stderr,omitempty"` // the beginning of its standard error
}

// showScript prints an assembled script and, beside it, what the scripts
// complained about. A terminal sees escapes, a file the bytes as they are.
func (a *app) showScript(s *nodescript.Script, node, state string, rules nodescript.Rules, wire bool) error {
	text := s.Text
	if wire {
		text = []byte(nodescript.WireStart + string(text) + nodescript.WireEnd)
	}
	doc := scriptDoc{Node: node, State: state, Rules: rules.String(), SHA256: hex.EncodeToString(s.SHA256[:]), Failure: s.Failure, Ran: []ranDoc{}}
	if utf8.Valid(text) {
		doc.Script = new(string(text))
	} else {
		doc.Base64 = new(base64.StdEncoding.EncodeToString(text))
	}
	for _, r := range s.Ran {
		doc.Ran = append(doc.Ran, ranDoc{r.Path, hex.EncodeToString(r.SHA256[:]), r.Bytes, r.Took.Milliseconds(), r.Problem, string(r.Stderr)})
		for line := range strings.Lines(string(r.Stderr)) {
			a.note("%s: %s", r.Path, strings.TrimSuffix(line, "\n"))
		}
		if r.Cut > 0 {
			a.note("%s: … and %d bytes more", r.Path, r.Cut)
		}
		if r.Problem != "" && s.Failure == "" {
			a.note("dominion nodescript show: %s: %s", r.Path, r.Problem)
		}
	}
	var err error
	switch {
	case a.output != outText:
		err = a.document(doc)
	case a.outTerm:
		err = a.text("%s", text)
	default:
		err = a.write(text)
	}
	if err == nil && s.Failure != "" {
		err = errors.New(s.Failure)
	}
	return err
}

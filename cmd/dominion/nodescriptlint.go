package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"dominion/nodescript"
)

// findingDoc is one trap that nodescript lint found.
type findingDoc struct {
	Script string `json:"script"` // relative to nodescripts/
	Line   int    `json:"line,omitempty"`
	Trap   string `json:"trap"`
	Text   string `json:"text"`
}

func (a *app) nodescriptLintCmd() *cobra.Command {
	var f statedirFlag
	var rulesWord string
	cmd := &cobra.Command{
		Use: "lint [STATE]", Short: "Look for the traps of node scripts",
		Long: `Lint reads all node scripts, or those of one state, and says what they are likely
to do otherwise than meant: what runs on the overlord instead of the node, variables
that nobody sets, a last command that can fail, numbers for other scripts, modes.
Nothing is run. A comment with lint:ok on a line says that it is meant so. The exit
code is 1 when there are findings.`,
		Example: "  dominion nodescript lint\n  dominion nodescript lint init -o jsonl",
		Args:    args(0, 1, "a state at most"),
	}
	cmd.RunE = a.do(func(ctx context.Context, _ *cobra.Command, words []string) error {
		rules, err := nodescript.ParseRules(rulesWord)
		if err != nil {
			return usagef("--%v", err)
		}
		state := ""
		if len(words) > 0 {
			if state, err = nodescript.ParseState(words[0]); err != nil {
				return usagef("%v", err)
			}
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
		found, err := t.Lint(rules, state)
		if err != nil {
			return err
		}
		return a.showFindings(found)
	})
	f.on(cmd)
	rulesFlag(cmd, &rulesWord)
	return cmd
}

func (a *app) showFindings(found []nodescript.Finding) error {
	rows := make([]findingDoc, 0, len(found))
	for _, f := range found {
		rows = append(rows, findingDoc{f.Path, f.Line, string(f.Trap), f.Text})
	}
	var err error
	if a.output != outText {
		err = list(a, "findings", rows, nil, nil)
	}
	for _, f := range found {
		if err == nil && a.output == outText {
			err = a.write([]byte(escapeLine(f.String()) + "\n"))
		}
	}
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("%s", plural(len(found), "finding"))
	}
	return err
}

// installDoc is one script of nodescript install.
type installDoc struct {
	Script string `json:"script"`
	Did    string `json:"did"` // wrote, unchanged, replaced, kept
}

func (a *app) nodescriptInstallCmd() *cobra.Command {
	var f statedirFlag
	var replace bool
	cmd := &cobra.Command{
		Use: "install", Short: "Write our own scripts 00-init and 90-finish",
		Long: `Install writes init/all/00-init and init/all/90-finish below nodescripts/, the first
and the last but VNFS's own of what a node runs in state init: functions, mounts and
checks; a node that is not enabled is stopped. Other files of these names are kept,
unless --replace is given; the exit code is then 1.`,
		Example: "  dominion nodescript install\n  dominion nodescript install --statedir /var/lib/perceus",
		Args:    args(0, 0, "flags only"),
	}
	cmd.RunE = a.do(func(ctx context.Context, _ *cobra.Command, _ []string) error {
		dir, err := f.find(ctx, a)
		if err != nil {
			return err
		}
		done, err := nodescript.Install(dir, replace)
		if err != nil {
			return err
		}
		var rows []installDoc
		kept := 0
		for _, d := range done {
			rows = append(rows, installDoc{d.Path, string(d.Did)})
			if d.Did == nodescript.Kept {
				kept++
			}
		}
		if err := list(a, "scripts", rows, []string{"SCRIPT", "DID"}, func(d installDoc) []string { return []string{d.Script, d.Did} }); err != nil {
			return err
		}
		if kept > 0 {
			return fmt.Errorf("%s of that name and another content; see: dominion nodescript install --replace", plural(kept, "file"))
		}
		return nil
	})
	f.on(cmd)
	cmd.Flags().BoolVar(&replace, "replace", false, "replace other files of these names")
	return cmd
}

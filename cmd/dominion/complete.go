package main

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
)

// completionWait is how long the overlord may take while somebody presses Tab.
const completionWait = 2 * time.Second

// complete registers what the flags of every command complete to.
func (a *app) complete(root *cobra.Command) {
	completeOutput(root)
	for flag, f := range map[string]cobra.CompletionFunc{
		"context": func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			dir, err := client.ContextsDir()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			names, err := client.Contexts(dir)
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	} {
		if err := root.RegisterFlagCompletionFunc(flag, f); err != nil {
			panic(err) // the flag does not exist: a bug here
		}
	}
}

// completeOutput registers what --output completes to.
func completeOutput(cmd *cobra.Command) {
	f := cobra.FixedCompletions([]string{outText, outJSON, outJSONL}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("output", f); err != nil {
		panic(err) // the flag does not exist: a bug here
	}
}

// ask runs f with a connection while somebody waits for a completion. What
// goes wrong completes to nothing.
func (a *app) ask(cmd *cobra.Command, f func(ctx context.Context, conn *client.Conn) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionWait)
	defer cancel()
	conn, err := client.Dial(ctx, a.endpoint())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer conn.Close() // nothing is asked of it any more
	words, err := f(ctx, conn)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return completions(words), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completions escapes what the overlord says: a shell shows it. A tab stands
// before what explains a word.
func completions(words []string) []string {
	for i, w := range words {
		words[i] = string(appendEscaped(nil, []byte(w), "\t"))
	}
	return words
}

func (a *app) completeGroup(cmd *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) { return groupNames(ctx, conn, "") })
}

func groupNames(ctx context.Context, conn *client.Conn, prefix string) ([]string, error) {
	resp, err := conn.Fleet.Groups(ctx, connect.NewRequest(&apipb.GroupsRequest{}))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, g := range resp.Msg.GetGroups() {
		out = append(out, prefix+g.GetName())
	}
	return out, nil
}

// completeModule completes modules and their methods.
func (a *app) completeModule(cmd *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		schemas, err := conn.Modules(ctx, "")
		if err != nil {
			return nil, err
		}
		var out []string
		for _, s := range schemas {
			out = append(out, s.Name+"\t"+s.Doc)
		}
		return out, nil
	})
}

// completeFlag registers what a flag completes to: what f gets of the overlord.
func (a *app) completeFlag(cmd *cobra.Command, flag string, f func(context.Context, *client.Conn) ([]string, error)) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.ask(cmd, f)
	})
	if err != nil {
		panic(err) // the flag does not exist: a bug here
	}
}

func operatorNames(ctx context.Context, conn *client.Conn) ([]string, error) {
	resp, err := conn.Admin.Operators(ctx, connect.NewRequest(&apipb.OperatorsRequest{}))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, o := range resp.Msg.GetOperators() {
		out = append(out, o.GetName())
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

const completedJobs = 50 // the newest

// completeJob completes a job's id.
func (a *app) completeJob(cmd *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		jobs, err := conn.Jobs(ctx, client.JobFilter{Limit: completedJobs})
		if err != nil {
			return nil, err
		}
		var out []string
		for i := range jobs {
			j := &jobs[i]
			out = append(out, j.ID.String()+"\t"+j.Method+" on "+short(j.Target)+", "+jobProgress(j))
		}
		return out, nil
	})
}

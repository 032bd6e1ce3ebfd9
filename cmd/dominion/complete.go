package main

import (
	"context"
	"strings"
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
	for flag, f := range map[string]cobra.CompletionFunc{
		"output": cobra.FixedCompletions([]string{outText, outJSON, outJSONL}, cobra.ShellCompDirectiveNoFileComp),
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

func (a *app) completeTarget(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		head := word[:strings.LastIndexAny(word, ",;&!")+1]
		if strings.HasPrefix(word[len(head):], "@") {
			return groupNames(ctx, conn, head+"@")
		}
		resp, err := conn.Fleet.Minions(ctx, connect.NewRequest(&apipb.MinionsRequest{}))
		if err != nil {
			return nil, err
		}
		var out []string
		for _, m := range resp.Msg.GetMinions() {
			if strings.HasPrefix(m.GetName(), word[len(head):]) {
				out = append(out, head+m.GetName())
			}
		}
		return out, nil
	})
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

// completeCall completes the target, the method, then the method's fields.
func (a *app) completeCall(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
	switch len(words) {
	case 0:
		return a.completeTarget(cmd, nil, word)
	case 1:
		return a.completeModule(cmd, nil, word)
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		s, err := conn.Schema(ctx, words[1])
		if err != nil {
			return nil, err
		}
		var out []string
		for _, f := range s.Fields {
			out = append(out, f.Name+"=\t"+f.Doc)
		}
		return out, nil
	})
}

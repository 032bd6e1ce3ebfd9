package main

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/module"
	"dominion/target"
)

// completeTarget completes the last term of a target: names, groups, sources of groups,
// members of a group behind its colon.
func (a *app) completeTarget(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		head := word[:strings.LastIndexAny(word, ",;&!")+1]
		term := word[len(head):]
		if !strings.HasPrefix(term, "@") {
			names, err := targetNames(ctx, conn, cmd)
			return withPrefix(names, head, term), err
		}
		if group, pattern, colon := strings.Cut(term, ":"); colon {
			members, err := membersOf(ctx, conn, group[1:])
			return withPrefix(members, head+group+":", pattern), err
		}
		groups, err := groupNames(ctx, conn, "@")
		if err != nil {
			return nil, err
		}
		return withPrefix(append(groups, sourceGroups(ctx, conn)...), head, term), nil
	})
}

// withPrefix gives those of some words that begin with what is typed, after head.
func withPrefix(words []string, head, typed string) []string {
	var out []string
	typed = strings.ToLower(typed)
	for _, w := range words {
		if strings.HasPrefix(strings.ToLower(w), typed) {
			out = append(out, head+w)
		}
	}
	return out
}

func membersOf(ctx context.Context, conn *client.Conn, group string) ([]string, error) {
	resp, err := conn.Fleet.Groups(ctx, connect.NewRequest(&apipb.GroupsRequest{Name: group}))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, g := range resp.Msg.GetGroups() {
		if g.GetMembers() == "" {
			continue
		}
		names, err := target.Expand(g.GetMembers())
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	return out, nil
}

// sourceGroups gives the groups of programs, as far as they answer while somebody waits.
func sourceGroups(ctx context.Context, conn *client.Conn) []string {
	ctx, cancel := context.WithTimeout(ctx, completionWait/2)
	defer cancel()
	resp, err := conn.Fleet.Groups(ctx, connect.NewRequest(&apipb.GroupsRequest{Sources: true}))
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range resp.Msg.GetSources() {
		for _, g := range s.GetGroups() {
			out = append(out, "@"+s.GetName()+"/"+g)
		}
	}
	return out
}

// completeTargetFlags registers what the flags of commands that take a target
// complete to, in all commands below cmd.
func (a *app) completeTargetFlags(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		a.completeTargetFlags(c)
	}
	for flag, f := range map[string]cobra.CompletionFunc{
		"exclude": func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return a.completeTarget(cmd, nil, word)
		},
		"rerun": func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return a.completeJob(cmd, nil, word)
		},
		"where":  completeWhere,
		"sample": cobra.FixedCompletions([]string{"1", "5", "1%", "10%"}, cobra.ShellCompDirectiveNoFileComp),
	} {
		if cmd.LocalNonPersistentFlags().Lookup(flag) == nil || cmd.LocalNonPersistentFlags().Lookup("where") == nil {
			continue // another command's flag of that name
		}
		if _, have := cmd.GetFlagCompletionFunc(flag); have {
			continue
		}
		if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
			panic(err) // the flag does not exist: a bug here
		}
	}
}

// completeWhere completes the last word of a condition: facts, groups, name.
func completeWhere(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	head := strings.TrimRight(word, "abcdefghijklmnopqrstuvwxyz_.")
	return withPrefix(append(factPaths(), "groups", "name"), head, word[len(head):]), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeFields completes the last of some fields, separated by commas.
func completeFields(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	head := word[:strings.LastIndexByte(word, ',')+1]
	return withPrefix(append(minionFields(), factPaths()...), head, word[len(head):]), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeSort completes a field, behind a "-" or not.
func completeSort(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	typed, down := strings.CutPrefix(word, "-")
	head := ""
	if down {
		head = "-"
	}
	return withPrefix(append(minionFields(), factPaths()...), head, typed), cobra.ShellCompDirectiveNoFileComp
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
		return arguments(ctx, conn, words[1], words[2:], word)
	})
}

// completeRerun completes a job's id, then the fields of its method.
func (a *app) completeRerun(cmd *cobra.Command, words []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(words) == 0 {
		return a.completeJob(cmd, nil, word)
	}
	return a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		info, err := conn.FindJob(ctx, words[0])
		if err != nil {
			return nil, err
		}
		return arguments(ctx, conn, info.Method, words[1:], word)
	})
}

// arguments completes a word of the arguments of a method: "name=" of each field that
// was not given, its values once the name is there, and those of the field whose turn it is.
func arguments(ctx context.Context, conn *client.Conn, method string, given []string, word string) ([]string, error) {
	s, err := conn.Schema(ctx, method)
	if err != nil {
		return nil, err
	}
	if name, value, ok := strings.Cut(word, "="); ok {
		if f, declared := s.Field(name); declared {
			return withPrefix(valuesOf(f), name+"=", value), nil
		}
	}
	var out []string
	next := true // no field came yet whose turn it is
	for _, f := range left(s, given) {
		if next && f.Type != "map[string]string" {
			next = false
			out = append(out, withPrefix(valuesOf(f), "", word)...)
		}
		if strings.HasPrefix(f.Name, word) {
			out = append(out, f.Name+"=\t"+f.Doc)
		}
	}
	return out, nil
}

// left gives the fields that some words of arguments leave open, in their order.
func left(s module.Schema, given []string) []module.Field {
	named := make(map[string]bool)
	positional := 0
	for _, w := range given {
		name, _, ok := strings.Cut(w, "=")
		if _, declared := s.Field(name); ok && declared {
			named[name] = true
		} else {
			positional++
		}
	}
	var out []module.Field
	for _, f := range s.Fields {
		many := f.Type == "[]string" || f.Type == "map[string]string"
		switch {
		case named[f.Name] && !many:
		case positional > 0 && !named[f.Name] && f.Type != "map[string]string":
			if positional--; f.Type == "[]string" {
				positional = 0
				out = append(out, f)
			}
		default:
			out = append(out, f)
		}
	}
	return out
}

// valuesOf gives the values of a field that has few.
func valuesOf(f module.Field) []string {
	if f.Type == "bool" {
		return []string{"false", "true"}
	}
	return slices.Clone(f.Enum)
}

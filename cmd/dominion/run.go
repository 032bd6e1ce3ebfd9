package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"dominion/client"
	"dominion/module"
)

// maxStdin is the most that --stdin takes; it travels in the order's arguments.
const maxStdin = 400 << 10 // bytes

// runFlags are what a command line turns into arguments of command.run or
// command.shell.
type runFlags struct {
	shell bool
	dir   string
	user  string
	env   []string
	stdin string
	fold  bool
	raw   bool
	view  viewFlags
}

const runLong = `Run starts a command on every machine that TARGET names, without a shell unless
--shell asks for it, and shows what it writes.

On a terminal each line is shown as it is written, after its machine's name; a
line longer than 4096 bytes is broken. Elsewhere, and with --fold, equal outputs
are shown once at the end, with all machines that gave them; then at most 1 MiB
per machine is kept. --raw passes the bytes of a single machine on unchanged;
everything else is shown with control characters and terminal escapes made
visible.

With --diff only the most frequent output is shown in full, and of others what differs
from it; --sort name shows outputs in the order of their machines' names.

A command that ends with another status than 0 has failed on that machine. Live
output has no time limit; folded, the command may run for 60 s unless --timeout
says otherwise.

A change on many machines (more than 100 unless the overlord is configured
otherwise) wants their number typed on a terminal, and --yes-count N elsewhere.

With --delegate TARGET names machines of the map (dominion map), below any number of
sub-overlords, and no others; groups are those of all overlords in it.

With -o json or jsonl the result of each machine is {"exit", "stdout", "stderr"};
output that is not UTF-8 is in "stdout_base64" instead.`

func (a *app) runCmd() *cobra.Command {
	var (
		flags jobFlags
		how   orderFlags
		f     runFlags
	)
	cmd := &cobra.Command{
		Use:   "run TARGET -- COMMAND [ARGUMENT]...",
		Short: "Run a command on machines",
		Long:  runLong,
		Example: `  dominion run '*' -- uname -r
  dominion run 'web*' --shell -- 'systemctl is-failed nginx || true'
  dominion run db1 --raw -- pg_dump shop > shop.sql
  dominion run '@web' --diff -- cat /etc/ssh/sshd_config
  dominion run '*' --hosts-from broken.txt -- systemctl --failed
  dominion run '@web' --fold --stdin site.conf -- tee /etc/nginx/conf.d/site.conf`,
		Args:              args(2, -1, "a target, --, and a command"),
		ValidArgsFunction: a.completeTarget,
	}
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		if n := cmd.ArgsLenAtDash(); n > 1 {
			return usagef("%q is one word too many before --; join targets with a comma", words[1])
		} else if n == 0 {
			return usagef("give a target before --")
		}
		return a.run(ctx, cmd, &flags, &how, &f, words)
	})
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w; write -- before the command", err)
	})
	flags.register(cmd, "how long the command may run, a `DURATION`; 0: no limit")
	how.register(cmd)
	f.view.register(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&f.shell, "shell", false, "give COMMAND to /bin/sh")
	fl.StringVar(&f.dir, "dir", "", "working `DIRECTORY`")
	fl.StringVar(&f.user, "user", "", "run as `USER`")
	fl.StringArrayVar(&f.env, "env", nil, "set an environment variable, `KEY=VALUE`; may be repeated")
	fl.StringVar(&f.stdin, "stdin", "", "`FILE`, or - for our own, as standard input of the command; at most 400 KiB")
	fl.BoolVar(&f.fold, "fold", false, "show equal outputs once, at the end (default when not on a terminal)")
	fl.BoolVar(&f.raw, "raw", false, "pass the output of a single machine on unchanged")
	return cmd
}

func (a *app) run(ctx context.Context, cmd *cobra.Command, flags *jobFlags, how *orderFlags, f *runFlags, words []string) error {
	opt, err := flags.options(cmd)
	if err == nil {
		err = how.set(cmd, &opt)
	}
	if err != nil {
		return err
	}
	if err := f.view.check(a, cmd); err != nil {
		return err
	}
	fold := f.fold || !cmd.Flags().Changed("fold") && (!a.outTerm || f.view != viewFlags{})
	switch {
	case a.output != outText && (f.raw || cmd.Flags().Changed("fold")):
		return usagef("-o %s is never folded nor raw; leave out --fold and --raw", a.output)
	case !fold && f.view != viewFlags{}:
		return usagef("--diff and --sort are for folded output; leave out --fold=false")
	case f.raw && f.view != viewFlags{}:
		return usagef("--raw shows bytes as they come; leave out --diff and --sort")
	case f.raw && f.fold:
		return usagef("--raw and --fold exclude each other")
	case f.raw && how.async:
		return usagef("--raw needs somebody who reads; leave out --async")
	case f.raw && opt.Limit == 0:
		opt.Limit = 1 // the bytes of several machines would mix
	case f.raw && opt.Limit > 1:
		return usagef("--raw takes a single machine, not a limit of %d", opt.Limit)
	}
	v := &jobView{a: a, name: cmd.CommandPath(), target: words[0], body: runLines, raw: f.raw, async: how.async, dry: how.dryRun, way: how.way, view: f.view}
	if a.output == outText && !fold && !f.raw && !how.async {
		v.live = newLiveWriter(a.out, a.err, a.painter())
	}
	opt.Stream = v.live != nil || v.raw
	if opt.Stream && opt.Timeout == 0 {
		opt.Timeout = -1
	}
	method, arguments, err := f.arguments(a.in, words[1:])
	if err != nil {
		return err
	}
	v.method = method
	return v.follow(ctx, func(ctx context.Context) (*client.Job, error) {
		return v.order(ctx, opt, func(module.Schema) ([]byte, error) { return arguments, nil })
	})
}

// arguments gives the method and its arguments as JSON.
func (f *runFlags) arguments(in io.Reader, command []string) (string, []byte, error) {
	m := map[string]any{"argv": command}
	method := "command.run"
	if f.shell {
		method = "command.shell"
		m = map[string]any{"script": strings.Join(command, " ")}
	}
	if f.dir != "" {
		m["dir"] = f.dir
	}
	if f.user != "" {
		m["user"] = f.user
	}
	if len(f.env) > 0 {
		env := make(map[string]string, len(f.env))
		for _, kv := range f.env {
			k, v, ok := strings.Cut(kv, "=")
			if !ok || k == "" {
				return "", nil, usagef("--env %q: write it as KEY=VALUE", kv)
			}
			env[k] = v
		}
		m["env"] = env
	}
	if f.stdin != "" {
		b, err := readInput(in, f.stdin)
		if err != nil {
			return "", nil, usagef("--stdin %s: %v", f.stdin, err)
		}
		m["stdin"] = inputBytes(b)
	}
	b, err := marshalPlain(m)
	if err != nil {
		return "", nil, err
	}
	return method, b, nil
}

func readInput(in io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return readLimited(in, maxStdin)
	}
	return readFileLimited(name, maxStdin)
}

// inputBytes gives bytes as a method takes them: text, or base64 for what is
// not UTF-8 or clearly shorter that way.
func inputBytes(b []byte) any {
	text, err := marshalPlain(string(b))
	if err == nil && utf8.Valid(b) && len(text) <= base64.StdEncoding.EncodedLen(len(b))+16 {
		return string(b)
	}
	return map[string][]byte{"base64": b}
}

// marshalPlain is json.Marshal without the escapes that only HTML needs.
func marshalPlain(v any) ([]byte, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(b.String(), "\n")), nil
}

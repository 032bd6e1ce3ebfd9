package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/module"
)

const callLong = `Call orders one method of every machine that TARGET names, and shows equal
answers once, with all machines that gave them.

A word is the value of the method's next field, unless it begins with the name
of one of its fields and "=". The arguments are checked before anything is sent;
dominion modules MODULE.METHOD shows what a method takes.

` + targetHelp + `

` + viewHelp + `

Ctrl-C cancels what has not started and waits for the rest; twice leaves at once.
When the connection to the overlord breaks the job goes on there, and so does
this command as soon as it can; dominion job watch shows a job again.

A method that destroys, or changes many machines (more than 100 unless the
overlord is configured otherwise), wants the number of machines typed on a
terminal, and --yes-count N elsewhere.

With --delegate TARGET names machines of the map (dominion map), below any number of
sub-overlords, and no others; groups are those of all overlords in it.

With -o jsonl each machine is one line, {"machine", "status", "reason",
"result"}, and the counts go to standard error; with -o json all is one
document, {"job", "method", "counts", "results"}.`

func (a *app) callCmd() *cobra.Command {
	var (
		flags jobFlags
		how   orderFlags
		view  viewFlags
		raw   string
		live  bool
	)
	cmd := &cobra.Command{
		Use:   "call TARGET MODULE.METHOD [VALUE | name=value]...",
		Short: "Call a method on machines",
		Long:  callLong,
		Example: `  dominion call '*' test.ping
  dominion call 'web[01-20]' test.echo 'hello there'
  dominion call '@db' test.add a=1 b=2 -o jsonl
  dominion call 'web*' -x web07 test.sleep 10 --timeout 5s
  dominion call web1 backups.prune dir=/srv/backup keep=7 --live
  dominion call '*' test.ping --wait-for 24h --async
  dominion call --delegate 'web*' test.ping
  dominion call '*' facts.all --where 'facts.os == "debian" && facts.memory_gb >= 64'
  dominion call '*' test.ping --sample 10% --seed 7
  dominion call '*' test.ping --rerun 0c52a1
  echo '{"text": "from a file"}' | dominion call web1 test.echo --args -`,
		Args:              args(2, -1, "a target and a method"),
		ValidArgsFunction: a.completeCall,
	}
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		opt, err := flags.options(cmd)
		if err = cmp.Or(err, how.set(cmd, &opt), view.check(a, cmd)); err != nil {
			return err
		}
		if raw != "" && len(words) > 2 {
			return usagef("--args gives all arguments; leave out %q", words[2])
		}
		v := &jobView{a: a, name: cmd.CommandPath(), target: words[0], async: how.async, dry: how.dryRun, way: how.way, view: view}
		v.of(words[1])
		if live && !how.async {
			v.aside, opt.Stream = newLiveWriter(a.err, a.err, false), true
		}
		return v.follow(ctx, func(ctx context.Context) (*client.Job, error) {
			return v.order(ctx, opt, func(s module.Schema) ([]byte, error) {
				if raw != "" {
					return a.readArgs(raw)
				}
				return v.conn.ParseArgs(ctx, s.Name, words[2:])
			})
		})
	})
	flags.register(cmd, "how long the method may run, a `DURATION`; 0: no limit (default: the method's own)")
	how.register(cmd)
	view.register(cmd)
	cmd.Flags().BoolVar(&live, "live", false, "show on standard error what the method writes while it runs")
	cmd.Flags().StringVar(&raw, "args", "", "all arguments at once: `JSON`, @FILE, or - for standard input")
	return cmd
}

// bodyOf says how a method's results are shown in text.
func bodyOf(method string) func([]byte) []string {
	if strings.HasPrefix(method, "command.") {
		return runLines
	}
	return resultLines
}

// of makes the view one of a method's results.
func (v *jobView) of(method string) {
	v.method, v.body, v.tabular = method, bodyOf(method), !strings.HasPrefix(method, "command.")
}

// order makes and sends the order; its arguments are made once the method's
// schema is known. It gives no job when nothing was to be sent.
func (v *jobView) order(ctx context.Context, opt client.Options, arguments func(module.Schema) ([]byte, error)) (*client.Job, error) {
	if v.conn == nil {
		conn, err := v.a.dial(ctx)
		if err != nil {
			return nil, err
		}
		v.conn = conn
	}
	if err := v.way.decide(ctx, v.conn, &opt); err != nil {
		return nil, err
	}
	opt.Confirm, opt.Reconnect, v.mapped = v.confirm, v.a.reconnect, opt.Delegate
	opt.OnResolve = func(r client.Resolved) {
		v.resolved(r)
		tellResolved(v.tell, &opt, r)
	}
	c, err := v.conn.Target(v.target, opt)
	if err != nil {
		return nil, err
	}
	schema, err := v.conn.Schema(ctx, v.method)
	if e, ok := errors.AsType[*call.Error](err); ok && e.Code == call.NotFound {
		return nil, usagef("%s", e.Detail)
	}
	if err != nil {
		return nil, err
	}
	raw, err := arguments(schema)
	if err != nil {
		return nil, err
	}
	if v.dry {
		if !hasDryRun(schema) {
			return nil, v.unmatched(v.preview(ctx, c, schema, raw))
		}
		if raw, err = withDryRun(raw); err != nil {
			return nil, err
		}
	}
	job, err := c.Call(ctx, v.method, json.RawMessage(raw))
	return job, v.unmatched(err)
}

// readArgs reads --args.
func (a *app) readArgs(s string) ([]byte, error) {
	var (
		b   []byte
		err error
	)
	switch {
	case s == "-":
		b, err = readLimited(a.in, call.MaxArgs)
	case strings.HasPrefix(s, "@"):
		b, err = readFileLimited(s[1:], call.MaxArgs)
	default:
		b = []byte(s)
	}
	if err != nil {
		return nil, usagef("--args %s: %v", s, err)
	}
	if !json.Valid(b) {
		return nil, usagef("--args: not a JSON object: %.60q", b)
	}
	return b, nil
}

// readFileLimited reads a file of at most n bytes.
func readFileLimited(name string, n int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	return readLimited(f, n)
}

func readLimited(r io.Reader, n int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(n)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > n {
		return nil, fmt.Errorf("more than %d bytes", n)
	}
	return b, nil
}

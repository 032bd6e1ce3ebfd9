package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dominion/client"
	"dominion/module"
	"dominion/module/copy"
)

const copyLong = `Copy writes a file, or what is in a directory, to every machine that TARGET names.
PATH is absolute and the name that it gets there; with a slash at its end it is the
directory that it goes into. A directory is made if it is missing, the one above it
must exist, and what else is in it stays.

The file is read once and sent to the overlord, from where each machine gets what it
lacks, at its own pace; below sub-overlords it travels once to each of them. A machine
writes it beside its place and renames it when its SHA-256 is right, so nobody sees a
part of it. What breaks off goes on where it was, also when the command is given again.

A file is left alone when the machine's has the same size and time, or the same bytes;
with --checksum the bytes alone decide. Permissions, times and holes are kept, symbolic
links are copied as links. Files belong to who owned what they replace, or else to the
agent's user; with --owner to who owns them here, by name, or by number where there is
no such name. Without --owner nothing is setuid or setgid. The top directory keeps its
permissions if it was there.`

func (a *app) copyCmd() *cobra.Command {
	var (
		flags           jobFlags
		how             orderFlags
		checksum, owner bool
	)
	cmd := &cobra.Command{
		Use:   "copy FILE|DIR TARGET:PATH",
		Short: "Copy a file or a directory to machines",
		Long:  copyLong,
		Example: `  dominion copy nginx.conf '@web:/etc/nginx/'
  dominion copy motd '*:/etc/motd' --dry-run
  dominion copy site 'web[01-20]:/srv/www/site' --checksum
  dominion copy --delegate image.qcow2 'hv*:/var/lib/images/'`,
		Args: args(2, 2, "a file or a directory, and TARGET:PATH"),
	}
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		opt, err := flags.options(cmd)
		if err == nil {
			err = how.set(cmd, &opt)
		}
		if err != nil {
			return err
		}
		where, to, err := targetPath(words[1])
		if err != nil {
			return err
		}
		if strings.HasSuffix(to, "/") {
			name, err := filepath.Abs(words[0])
			if err != nil {
				return err
			}
			to = path.Join(to, filepath.Base(name))
		}
		v := &jobView{a: a, name: cmd.CommandPath(), target: where, method: copy.MethodPut, body: resultLines, async: how.async, dry: how.dryRun, way: how.way}
		c := &copying{v: v, from: words[0], in: copy.PutIn{Path: to, Checksum: checksum}, owner: owner, have: make(map[string]int64)}
		opt.Stream = a.errTerm && a.output == outText && !how.async
		if opt.Stream {
			v.taker = c.progress
			if opt.Timeout == 0 {
				opt.Timeout = -1
			}
		}
		return v.follow(ctx, func(ctx context.Context) (*client.Job, error) { return c.order(ctx, opt) })
	})
	flags.register(cmd, "how long a machine may take, a `DURATION` (default: no limit)")
	how.register(cmd)
	cmd.Flags().BoolVar(&checksum, "checksum", false, "compare files by their bytes, not by size and time")
	cmd.Flags().BoolVar(&owner, "owner", false, "keep owner and group, and setuid and setgid")
	return cmd
}

// targetPath divides TARGET:PATH, whose PATH is absolute.
func targetPath(s string) (where, to string, err error) {
	i := strings.Index(s, ":/")
	if i <= 0 {
		return "", "", usagef("%q: write it as TARGET:PATH, where PATH begins with a slash", s)
	}
	return s[:i], s[i+1:], nil
}

// copying is one copy at work.
type copying struct {
	v     *jobView
	from  string
	in    copy.PutIn
	owner bool

	sent  *client.Sent
	began time.Time
	count int              // machines
	have  map[string]int64 // bytes, by machine
}

// order sends the files, and then orders them to be copied.
func (c *copying) order(ctx context.Context, opt client.Options) (*client.Job, error) {
	v := c.v
	conn, err := v.a.dial(ctx)
	if err != nil {
		return nil, err
	}
	v.conn = conn
	if err := v.way.decide(ctx, conn, &opt); err != nil {
		return nil, err
	}
	target, err := conn.Target(v.target, opt)
	if err != nil {
		return nil, err
	}
	r, err := target.Resolve(ctx) // before many bytes are sent for nobody
	if err != nil {
		return nil, v.unmatched(err)
	}
	c.count = len(r.Names)
	meter := newMeter()
	if c.sent, err = conn.Send(ctx, c.from, client.SendOptions{
		Owner: c.owner, Reconnect: v.a.reconnect,
		Progress: func(sent, all int64) { v.bar.text("sending to the overlord: " + meter.line(sent, all)) },
	}); err != nil {
		return nil, err
	}
	if left := c.sent.LeftOutText(); left != "" {
		v.tell("left out, because they are neither files, directories nor links: %s", left)
	}
	c.in.Manifest, c.in.ManifestSize = c.sent.Manifest.String(), c.sent.ManifestSize
	c.began = time.Now()
	speed := newMeter()
	v.bar.more = func() string {
		var have int64
		for _, n := range c.have {
			have += n
		}
		return ", " + speed.line(have, c.sent.Bytes*int64(c.count))
	}
	return v.order(ctx, opt, func(module.Schema) ([]byte, error) { return json.Marshal(c.in) })
}

// progress takes what machines say of how far they are.
func (c *copying) progress(o *client.Output) error {
	for line := range bytes.Lines(o.Data) {
		var p copy.Progress
		if json.Unmarshal(line, &p) == nil && p.Have >= 0 && p.Have <= c.sent.Bytes { // a line may be cut
			c.have[o.Machine] = p.Have
		}
	}
	return nil
}

// meter says how fast something goes on, and when it will be done.
type meter struct {
	began time.Time
	first int64 // what was there when it began to be measured
	begun bool
}

func newMeter() *meter { return &meter{began: time.Now()} }

// line gives "1.2 GiB of 3.0 GiB, 80.0 MiB/s, 22s left".
func (m *meter) line(n, all int64) string {
	if !m.begun {
		m.begun, m.first, m.began = true, n, time.Now()
	}
	text := fmt.Sprintf("%s of %s", bytesText(n), bytesText(all))
	took := time.Since(m.began)
	if took < time.Second || n <= m.first {
		return text
	}
	rate := float64(n-m.first) / took.Seconds()
	left := time.Duration(float64(all-n) / rate * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s, %s/s, %s left", text, bytesText(int64(rate)), left)
}

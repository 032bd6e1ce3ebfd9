package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/module"
	"dominion/module/copy"
	"dominion/target"
)

const fetchLong = `Fetch writes a file, or the files of a directory, of every machine that TARGET names
to DIR/MACHINE/PATH. A file gets its name when its SHA-256 is right. What broke off, of
files of 1 MiB and more, goes on where it was when the command is given again.

Permissions, times and holes are kept, owners are not. Links and devices are left out,
and named.`

func (a *app) fetchCmd() *cobra.Command {
	var (
		flags jobFlags
		how   orderFlags
	)
	cmd := &cobra.Command{
		Use:   "fetch TARGET:PATH DIR",
		Short: "Fetch a file or a directory from machines",
		Long:  fetchLong,
		Example: `  dominion fetch '*:/etc/os-release' releases
  dominion fetch 'db[1-3]:/var/log/postgresql' logs
  dominion fetch --delegate 'hv*:/etc/libvirt/qemu' backup`,
		Args: args(2, 2, "TARGET:PATH and a directory"),
	}
	cmd.RunE = a.raw(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		opt, err := flags.options(cmd)
		if err == nil {
			err = how.set(cmd, &opt)
		}
		if err != nil {
			return err
		}
		if how.async || how.dryRun {
			return usagef("files that are fetched need somebody who takes them; leave out --async and --dry-run")
		}
		where, from, err := targetPath(words[0])
		if err != nil {
			return err
		}
		opt.Stream = true
		if opt.Timeout == 0 {
			opt.Timeout = -1
		}
		f := &fetching{dir: words[1], path: path.Clean(from), machines: make(map[string]*receiver)}
		v := &jobView{a: a, name: cmd.CommandPath(), target: where, method: copy.MethodGet, body: resultLines, way: how.way, taker: f.take, answered: f.answered}
		f.v = v
		defer f.close()
		err = v.follow(ctx, func(ctx context.Context) (*client.Job, error) {
			meter := newMeter()
			v.bar.more = func() string { return ", " + meter.rate(f.bytes) }
			return v.order(ctx, opt, func(module.Schema) ([]byte, error) { return f.arguments() })
		})
		return f.verdict(err)
	})
	flags.register(cmd, "how long a machine may take, a `DURATION` (default: no limit)")
	how.register(cmd)
	return cmd
}

// fetching is one fetch at work.
type fetching struct {
	v        *jobView
	dir      string // of ours
	path     string // on the machines
	machines map[string]*receiver
	bytes    int64 // that came
}

// maxResume bounds what is told of machines that go on, in bytes.
const maxResume = 256 << 10

// arguments says where the machines go on of which a part is here.
func (f *fetching) arguments() ([]byte, error) {
	in := copy.GetIn{Path: f.path}
	if err := os.MkdirAll(f.dir, 0o755); err != nil { //nolint:gosec // as the user's umask says
		return nil, err
	}
	list, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	length := 0
	for _, e := range list {
		name, err := call.ParseName(e.Name())
		if err != nil || name != e.Name() || !e.IsDir() {
			continue
		}
		text, ok := resumeOf(filepath.Join(f.dir, name), f.path)
		if length += len(name) + len(text) + 8; !ok || length > maxResume {
			continue
		}
		if in.Resume == nil {
			in.Resume = make(map[string]string)
		}
		in.Resume[name] = text
	}
	if in.Resume == nil { // a method's argument is left out, or has a value
		return json.Marshal(map[string]string{"path": in.Path})
	}
	b, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode the arguments: %w", err)
	}
	return b, nil
}

// take takes what a machine sends. What is wrong with it is kept for the end: the other
// machines go on.
func (f *fetching) take(o *client.Output) error {
	if o.Stream != "stdout" {
		return nil
	}
	f.bytes += int64(len(o.Data))
	r := f.machines[o.Machine]
	if r == nil {
		r = newReceiver(f.dir, o.Machine, f.path)
		f.machines[o.Machine] = r
	}
	if o.Dropped > 0 {
		r.fail(fmt.Errorf("%d bytes were lost on the way", o.Dropped))
	}
	r.take(o.Data)
	return nil
}

// answered notes who says that everything was sent: of these it must have arrived.
// Nothing at all does when the connection to the overlord broke before it came.
func (f *fetching) answered(names []string) {
	for _, name := range names {
		if f.machines[name] == nil {
			f.machines[name] = newReceiver(f.dir, name, f.path)
		}
	}
}

func (f *fetching) close() {
	for _, r := range f.machines {
		r.close()
	}
}

// verdict adds to the job's outcome what did not arrive whole.
func (f *fetching) verdict(err error) error {
	reasons := make(map[string][]string)
	for name, r := range f.machines {
		if why := r.problem(); why != "" {
			reasons[why] = append(reasons[why], name)
		}
	}
	if len(reasons) == 0 {
		return err
	}
	if err != nil { // the job says why; what we have is in addition
		for _, why := range slices.Sorted(maps.Keys(reasons)) {
			f.v.tell("%s: %s", target.Fold(reasons[why]), why)
		}
		return err
	}
	var list []string
	n := 0
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		list, n = append(list, target.Fold(reasons[why])+": "+why), n+len(reasons[why])
	}
	return &exitError{exitIncomplete, fmt.Sprintf("the files of %s did not arrive whole: %s; give the command again to go on", plural(n, "minion"), strings.Join(list, "; "))}
}

// rate gives "1.2 GiB, 80.0 MiB/s".
func (m *meter) rate(n int64) string {
	text := bytesText(n)
	if took := timeSince(m.began); took >= 1 {
		text += fmt.Sprintf(", %s/s", bytesText(int64(float64(n)/took)))
	}
	return text
}

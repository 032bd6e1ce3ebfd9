package main

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/target"
)

// targetHelp says what a TARGET is, for the help of commands that take one.
const targetHelp = `TARGET: name, glob web*, range web[01-20,30], @group, @group:web1*, or @source/group
of a program at the overlord; joined by "," (or), "&" (and), "!" (but not), from left
to right. --where, --hosts-from, --rerun and --sample each leave fewer of its machines.`

const maxHosts = 16 << 20 // bytes of --hosts-from

// targetFlags are the flags of every command that takes a TARGET: all that leaves
// fewer machines than it names.
type targetFlags struct {
	exclude   string
	limit     int
	where     string
	hostsFrom string
	rerun     string
	sample    string
	seed      uint64
}

func (f *targetFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVarP(&f.exclude, "exclude", "x", "", "leave out the machines of `TARGET`")
	fl.IntVar(&f.limit, "limit", 0, "refuse more than `N` machines")
	fl.StringVar(&f.where, "where", "", "only machines that fit `CONDITION`, in CEL over facts, groups and name: 'facts.memory_gb >= 64'")
	fl.StringVar(&f.hostsFrom, "hosts-from", "", "only machines that `FILE` names, or - for standard input: names and ranges")
	fl.StringVar(&f.rerun, "rerun", "", "only machines that did not answer the closed `JOB`: failed, unreachable, skipped")
	fl.StringVar(&f.sample, "sample", "", "only some of the machines: `N` of them, or 10%")
	fl.Uint64Var(&f.seed, "seed", 0, "the `NUMBER` that decides which are in the sample (default: by chance, and told)")
}

// set checks the flags and puts them into the options of a client.
func (f *targetFlags) set(cmd *cobra.Command, o *client.Options) error {
	given := cmd.Flags().Changed
	o.Exclude, o.Limit, o.Where, o.Rerun = f.exclude, f.limit, f.where, f.rerun
	switch {
	case f.limit < 0 || f.limit == 0 && given("limit"):
		return usagef("--limit %d: give a number of machines", f.limit)
	case given("where") && strings.TrimSpace(f.where) == "":
		return usagef(`--where: give a condition, such as 'facts.os == "debian"'`)
	case given("rerun") && f.rerun == "":
		return usagef("--rerun: give a job's id; list them with: dominion job list")
	case given("seed") && f.sample == "":
		return usagef("--seed %d: it is for --sample", f.seed)
	}
	if given("hosts-from") {
		names, err := readHosts(cmd, f.hostsFrom)
		if err != nil {
			return err
		}
		o.Narrow, o.Among = true, names
	}
	if given("sample") {
		s, err := client.ParseSample(f.sample)
		if err != nil {
			return usagef("--%s", detailOf(err))
		}
		if s.Seed = f.seed; !given("seed") {
			var b [4]byte
			rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
			s.Seed = uint64(binary.LittleEndian.Uint32(b[:]))
		}
		o.Sample = s
	}
	return nil
}

// narrow says whether any of the flags leaves fewer machines than the target names.
func (f *targetFlags) narrow(cmd *cobra.Command) bool {
	for _, name := range []string{"limit", "where", "hosts-from", "rerun", "sample"} {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

// readHosts reads the names of --hosts-from.
func readHosts(cmd *cobra.Command, file string) ([]string, error) {
	var (
		b   []byte
		err error
	)
	for _, other := range []string{"stdin", "args", "token-file"} {
		if o := cmd.Flags().Lookup(other); file == "-" && o != nil && o.Value.String() == "-" {
			return nil, usagef("--hosts-from and --%s cannot both read standard input", other)
		}
	}
	if file == "-" {
		b, err = readLimited(cmd.InOrStdin(), maxHosts)
	} else {
		b, err = readFileLimited(file, maxHosts)
	}
	if err != nil {
		return nil, usagef("--hosts-from %s: %v", file, err)
	}
	names, err := target.ReadList(string(b))
	if err != nil {
		return nil, usagef("--hosts-from %s: %v", file, err)
	}
	if len(names) == 0 {
		return nil, usagef("--hosts-from %s: it names no machine", file)
	}
	return names, nil
}

// tellResolved tells what was left out of a target, and of what a sample was drawn.
func tellResolved(tell func(format string, args ...any), o *client.Options, r client.Resolved) {
	if n := len(r.Unjudged); n > 0 {
		tell("left out, since --where cannot be judged without their facts: %s", foldedNames(r.Unjudged))
	}
	if r.Drawn > 0 {
		tell("a sample of %d of %s; the same again: --sample %s --seed %d", len(r.Names), plural(r.Drawn, "minion"), o.Sample, o.Sample.Seed)
	}
}

// detailOf gives what an error says, without its code.
func detailOf(err error) string {
	if e, ok := errors.AsType[*call.Error](err); ok && e.Detail != "" {
		return e.Detail
	}
	return err.Error()
}

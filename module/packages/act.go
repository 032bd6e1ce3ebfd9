package packages

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"dominion/call"
	"dominion/module"
	"dominion/module/run"
)

// machine is where packages are; tests have some of their own.
type machine struct {
	env  []string // added to the environment of all programs
	dnf  []string // added to the arguments of dnf
	rpm  []string // added to the arguments of rpm
	only string   // "apt" or "dnf"; empty: what is there
}

var here machine

// patient runs programs that must not be torn from their work.
var patient = run.Runner{Grace: 30 * time.Second, Cancel: 30 * time.Second, Idle: run.System.Idle, Cgroup: run.System.Cgroup}

const lockTick = 500 * time.Millisecond // between tries to get the lock

// manager finds out who looks after the packages. A machine with both has
// dpkg's table for one of them only.
func (m machine) manager(env *module.Env) (manager, error) {
	apt, aptErr := run.Find("apt-get")
	query, queryErr := run.Find("dpkg-query")
	dnf, dnfErr := run.Find("dnf5", "dnf")
	rpm, rpmErr := run.Find("rpm")
	info, err := os.Stat("/var/lib/dpkg/status")
	byApt := errors.Join(aptErr, queryErr) == nil && (m.only == "apt" || m.only == "" && err == nil && info.Size() > 0)
	switch {
	case byApt:
		cache, err := run.Find("apt-cache")
		return &aptManager{tools: tools{m: m, env: env}, apt: apt, cache: cache, query: query}, err
	case errors.Join(dnfErr, rpmErr) == nil && m.only != "apt":
		return &dnfManager{tools: tools{m: m, env: env}, dnf: dnf, rpm: rpm}, nil
	}
	return nil, call.Errorf(call.Failed, "this machine has neither apt nor dnf (looked for apt-get with dpkg-query, and dnf with rpm)")
}

// tools runs the programs of a manager.
type tools struct {
	m   machine
	env *module.Env
}

func (t tools) output(ctx context.Context, file string, args ...string) (string, error) {
	c := run.Tool(t.env, file, args...)
	c.Env = run.Environment(append([]string{
		"DEBIAN_FRONTEND=noninteractive", "APT_LISTCHANGES_FRONTEND=none", "NEEDRESTART_MODE=l", "COLUMNS=200",
	}, t.m.env...)...)
	c.KeepStdout = 16 << 20 // a large machine has some 5000 packages
	out, err := patient.Output(ctx, c)
	return string(out), err
}

func (m machine) list(ctx context.Context, env *module.Env, in ListIn) (Packages, error) {
	if _, err := path.Match(in.Pattern, ""); err != nil {
		return Packages{}, call.Errorf(call.Invalid, "pattern %q: %v", in.Pattern, err)
	}
	mgr, all, err := m.known(ctx, env)
	if err != nil {
		return Packages{}, err
	}
	all = slices.DeleteFunc(all, func(p Package) bool { ok, _ := path.Match(in.Pattern, p.Name); return !ok })
	out := Packages{Manager: mgr.name(), Packages: all[:min(len(all), maxPackages)], Cut: max(0, len(all)-maxPackages)}
	if out.Packages == nil {
		out.Packages = []Package{}
	}
	return out, nil
}

// known gives the manager and what is installed, sorted.
func (m machine) known(ctx context.Context, env *module.Env) (manager, []Package, error) {
	mgr, err := m.manager(env)
	if err != nil {
		return nil, nil, err
	}
	all, err := mgr.list(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list packages: %w", err)
	}
	slices.SortFunc(all, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version))
	})
	return mgr, all, nil
}

func (m machine) installed(ctx context.Context, env *module.Env, in NamesIn) (Installed, error) {
	_, all, err := m.known(ctx, env)
	if err != nil {
		return Installed{}, err
	}
	out := Installed{All: true}
	for _, name := range in.Names {
		v, ok := versions(all)[name]
		s := State{Name: name, Installed: ok}
		if ok {
			s.Version = v[len(v)-1]
		}
		out.All = out.All && ok
		out.Packages = append(out.Packages, s)
	}
	return out, nil
}

// versions gives the versions of each name.
func versions(all []Package) map[string][]string {
	v := map[string][]string{}
	for _, p := range all {
		v[p.Name] = append(v[p.Name], p.Version)
	}
	return v
}

func (m machine) pending(ctx context.Context, env *module.Env, in PendingIn) (Pending, error) {
	mgr, err := m.manager(env)
	if err != nil {
		return Pending{}, err
	}
	if in.Refresh {
		if err := m.waiting(ctx, mgr, time.Minute, mgr.refresh); err != nil {
			return Pending{}, fmt.Errorf("fetch the lists: %w", err)
		}
	}
	all, err := mgr.pending(ctx)
	if err != nil {
		return Pending{}, fmt.Errorf("look for newer versions: %w", err)
	}
	slices.SortFunc(all, func(a, b Update) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch)) })
	out := Pending{Manager: mgr.name(), Updates: all[:min(len(all), maxUpdates)], Cut: max(0, len(all)-maxUpdates)}
	if out.Updates == nil {
		out.Updates = []Update{}
	}
	return out, nil
}

func (m machine) install(ctx context.Context, env *module.Env, in InstallIn) (Changed, error) {
	return m.act(ctx, env, order{
		refresh: in.Refresh, wait: in.LockWait, dry: in.DryRun, task: task{verb: "install", names: in.Names, downgrade: in.Downgrade},
		needed: func(name string, have map[string][]string) bool {
			name, version, _ := strings.Cut(name, "=")
			return len(have[name]) == 0 || version != "" && !slices.Contains(have[name], version)
		},
	})
}

func (m machine) upgrade(ctx context.Context, env *module.Env, in UpgradeIn) (Changed, error) {
	return m.act(ctx, env, order{
		refresh: in.Refresh, wait: in.LockWait, dry: in.DryRun, all: len(in.Names) == 0, task: task{verb: "upgrade", names: in.Names},
		needed: func(name string, have map[string][]string) bool { return len(have[name]) > 0 },
	})
}

func (m machine) remove(ctx context.Context, env *module.Env, in RemoveIn) (Changed, error) {
	return m.act(ctx, env, order{
		wait: in.LockWait, dry: in.DryRun, task: task{verb: "remove", names: in.Names, purge: in.Purge},
		needed: func(name string, have map[string][]string) bool { return len(have[name]) > 0 },
	})
}

// order is a task and how it is done.
type order struct {
	task
	refresh, dry bool
	all          bool // no names: all packages
	wait         time.Duration
	// needed says whether something is to be done for a name, given what is
	// installed; the others are not passed on.
	needed func(name string, have map[string][]string) bool
}

func (m machine) act(ctx context.Context, env *module.Env, o order) (Changed, error) {
	mgr, before, err := m.known(ctx, env)
	if err != nil {
		return Changed{}, err
	}
	out := Changed{Manager: mgr.name()}
	if o.refresh {
		if err := m.waiting(ctx, mgr, o.wait, mgr.refresh); err != nil {
			return out, fmt.Errorf("fetch the lists: %w", err)
		}
	}
	have := versions(before)
	o.names = slices.DeleteFunc(slices.Clone(o.names), func(name string) bool { return !o.needed(name, have) })
	if len(o.names) == 0 && !o.all {
		return out, nil
	}
	if o.dry {
		plan, err := mgr.plan(ctx, o.task)
		return out.with(plan, before), err
	}
	err = m.waiting(ctx, mgr, o.wait, func(ctx context.Context) error { return mgr.do(ctx, o.task) })
	if ctx.Err() != nil {
		return out, err
	}
	after, listErr := mgr.list(ctx)
	if listErr != nil && err == nil {
		err = fmt.Errorf("list packages: %w", listErr)
	}
	if listErr != nil {
		return out, err
	}
	return out.with(difference(before, after), nil), err
}

// with completes an answer: sorted, bounded, and with the versions that are
// installed where a plan does not name them.
func (c Changed) with(changes []Change, before []Package) Changed {
	have := versions(before)
	for i, x := range changes {
		if v := have[x.Name]; x.From == "" && x.To == "" && len(v) > 0 {
			changes[i].From = v[len(v)-1]
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	c.Changed, c.Changes = len(changes) > 0, changes[:min(len(changes), maxChanges)]
	return c
}

// waiting runs f again as long as another program holds the lock, for limit
// at most.
func (m machine) waiting(ctx context.Context, mgr manager, limit time.Duration, f func(context.Context) error) error {
	late := time.NewTimer(limit)
	defer late.Stop()
	tick := time.NewTicker(lockTick)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil || !mgr.locked(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-late.C:
			return fmt.Errorf("another program has held the packages' lock for %s: %w", limit, err)
		case <-ctx.Done():
			return fmt.Errorf("another program holds the packages' lock (%v): %w", err, context.Cause(ctx))
		}
	}
}

// difference compares what was installed with what is.
func difference(before, after []Package) []Change {
	type key struct{ name, arch string }
	gone, came := map[key][]string{}, map[key][]string{}
	for _, p := range before {
		gone[key{p.Name, p.Arch}] = append(gone[key{p.Name, p.Arch}], p.Version)
	}
	for _, p := range after {
		k := key{p.Name, p.Arch}
		if i := slices.Index(gone[k], p.Version); i >= 0 {
			gone[k] = slices.Delete(gone[k], i, i+1)
		} else {
			came[k] = append(came[k], p.Version)
		}
	}
	var changes []Change
	keys := slices.Collect(maps.Keys(gone))
	for k := range came {
		if _, ok := gone[k]; !ok {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		old, fresh := gone[k], came[k]
		for i := range max(len(old), len(fresh)) { // of several versions at once, such as kernels, some go and some come
			c := Change{Name: k.name, Arch: k.arch}
			if i < len(old) {
				c.From = old[i]
			}
			if i < len(fresh) {
				c.To = fresh[i]
			}
			changes = append(changes, c)
		}
	}
	return changes
}

package process

import (
	"cmp"
	"context"
	"path"
	"regexp"
	"slices"

	"dominion/call"
	"dominion/module"
	"dominion/module/names"
)

// filter is a Filter made ready.
type filter struct {
	name    string
	command *regexp.Regexp
	uid     int // below 0: any
}

func (f Filter) compile(ctx context.Context, env *module.Env) (filter, error) {
	out := filter{name: f.Name, uid: -1}
	if _, err := path.Match(f.Name, ""); err != nil {
		return out, call.Errorf(call.Invalid, "name %q: %v", f.Name, err)
	}
	var err error
	if f.Command != "" {
		if out.command, err = regexp.Compile(f.Command); err != nil {
			return out, call.Errorf(call.Invalid, "command %q: %v", f.Command, err)
		}
	}
	if f.User != "" {
		out.uid, err = names.UID(ctx, env, f.User)
	}
	return out, err
}

func (f filter) holds(p process) bool {
	if f.name != "" {
		if ok, _ := path.Match(f.name, p.Name); !ok {
			return false
		}
	}
	return (f.uid < 0 || uint32(f.uid) == p.uid) && (f.command == nil || f.command.MatchString(p.args))
}

func list(ctx context.Context, env *module.Env, in listIn) (List, error) {
	f, err := in.Filter.compile(ctx, env)
	if err != nil {
		return List{}, err
	}
	t, err := read(ctx, env)
	if err != nil {
		return List{}, err
	}
	found := slices.DeleteFunc(t.all, func(p process) bool { return !f.holds(p) })
	slices.SortFunc(found, func(a, b process) int {
		var by int
		switch in.Sort {
		case "memory":
			by = cmp.Compare(b.MemoryBytes, a.MemoryBytes)
		case "cpu":
			by = cmp.Compare(b.CPUSeconds, a.CPUSeconds)
		case "age":
			by = cmp.Compare(a.Start, b.Start)
		}
		return cmp.Or(by, cmp.Compare(a.PID, b.PID))
	})
	return answer(found, in.Limit), nil
}

// answer takes as many as fit.
func answer(found []process, limit int) List {
	out := List{Processes: []Process{}, Total: len(found)}
	size := 0
	for _, p := range found[:min(limit, len(found))] {
		if size += 500 + 6*len(p.Name) + 6*len(p.User) + jsonCost(p.Command); size > maxAnswer {
			break
		}
		out.Processes = append(out.Processes, p.Process)
	}
	return out
}

// jsonCost is at least what a text costs in JSON.
func jsonCost(s string) int {
	n := 0
	for _, c := range []byte(s) {
		if c < 0x20 || c == '"' || c == '\\' || c == 0x7f || c == 0xe2 {
			n += 5
		}
		n++
	}
	return n
}

func tree(ctx context.Context, env *module.Env, in treeIn) (List, error) {
	t, err := read(ctx, env)
	if err != nil {
		return List{}, err
	}
	found := t.below(in.PID)
	if len(found) == 0 {
		return List{}, call.Errorf(call.Failed, "there is no process %d", in.PID)
	}
	return answer(found, in.Limit), nil
}

// below gives a process and its descendants, each before those below it.
func (t *table) below(root int) []process {
	children := map[int][]process{}
	var todo []process
	for _, p := range t.all {
		if p.PID == root {
			todo = append(todo, p)
		} else {
			children[p.Parent] = append(children[p.Parent], p)
		}
	}
	var out []process
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		out = append(out, p)
		next := children[p.PID]
		delete(children, p.PID) // whatever /proc said while it changed, each comes once
		slices.SortFunc(next, func(a, b process) int { return cmp.Compare(b.PID, a.PID) })
		for _, c := range next {
			c.Depth = p.Depth + 1
			todo = append(todo, c)
		}
	}
	return out
}

package overlord

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/module"
)

// anyMethod is what an order may name: a method that comes with agents, or one that
// machines of the fleet have of their site.
type anyMethod struct {
	builtin module.Method
	site    *siteMethod // nil: it comes with agents
}

// method finds one by its whole name. Those that come with agents win.
func (o *Overlord) method(name string) (anyMethod, bool) {
	if m, ok := o.table.Lookup(name); ok {
		return anyMethod{builtin: m}, true
	}
	s := o.catalogue.now().methods[name]
	return anyMethod{site: s}, s != nil
}

// Effect is the gravest of all versions.
func (m anyMethod) Effect() module.Effect {
	if m.site == nil {
		return m.builtin.Effect()
	}
	return m.site.schema().Effect
}

// Validate checks arguments. They have to fit one of the versions: a machine that has
// another refuses what its own does not take.
func (m anyMethod) Validate(args []byte) error {
	if m.site == nil {
		return m.builtin.Validate(args)
	}
	var first error
	for _, v := range m.site.versions {
		err := v.schema.Validate(args)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// schema is what is shown: the version that most machines have, with the gravest
// effect and the longest time-out of all.
func (s *siteMethod) schema() module.Schema {
	out := s.versions[0].schema
	longest, _ := time.ParseDuration(out.Timeout) // what cannot be read counts as none
	for _, v := range s.versions[1:] {
		out.Effect = module.Graver(out.Effect, v.schema.Effect)
		d, _ := time.ParseDuration(v.schema.Timeout)
		if longest != 0 && (d == 0 || d > longest) {
			longest, out.Timeout = d, v.schema.Timeout
		}
	}
	return out
}

// modules gives what can be called, or only a module, or a method. An empty name is
// all.
func (o *Overlord) modules(name string) (*apipb.ModulesResponse, error) {
	wanted := func(method string) bool {
		return name == "" || method == name || strings.HasPrefix(method, name+".")
	}
	schemas := slices.DeleteFunc(o.table.Schemas(), func(s module.Schema) bool { return !wanted(s.Name) })
	out := &apipb.ModulesResponse{}
	now := o.catalogue.now()
	all := now.methods
	for _, n := range slices.Sorted(maps.Keys(all)) {
		if !wanted(n) {
			continue
		}
		schemas = append(schemas, all[n].schema())
		for _, v := range all[n].versions {
			out.Offered = append(out.Offered, &apipb.OfferedMethod{Schema: []byte(v.text), Names: v.names, Count: uint64(v.machines)})
		}
	}
	for _, d := range now.disabled {
		if name == "" || d.Name == name {
			out.Disabled = append(out.Disabled, &apipb.DisabledModule{Name: d.Name, Reason: d.Reason, Names: d.names, Count: uint64(d.machines)})
		}
	}
	if len(schemas)+len(out.Disabled) == 0 {
		return nil, call.Errorf(call.NotFound, "there is no module or method %q; list them with: dominion modules", name)
	}
	if schemas == nil {
		schemas = []module.Schema{}
	}
	var err error
	out.Modules, err = json.Marshal(schemas)
	return out, err
}

package funcd

import (
	"context"
	"maps"
	"slices"
	"strings"

	"dominion/call"
	"dominion/module"
	"dominion/xmlrpc"
)

// find gives the method of a name on the wire: those of the server itself, of the
// modules with Func's shapes, of the minion's table, and at last what every module
// has.
func (s *Server) find(name string) (found, error) {
	if m, ok := s.system[name]; ok {
		return found{m, true, name == "system.multicall"}, nil
	}
	mod, base, ok := split(name)
	if !ok {
		return found{}, &Exception{typeNoModule, ""}
	}
	shape := s.shape(mod)
	if shape != nil {
		for i := range shape.Methods {
			if m := &shape.Methods[i]; m.Name == base {
				own := mod == "jobs" // how calls fare that are on the log already
				return found{m, own, own}, nil
			}
		}
	}
	table := s.opt.Table()
	if m, ok := table.Lookup(name); ok {
		return found{Method: native(m)}, nil
	}
	if shape == nil && !slices.ContainsFunc(table.Schemas(), func(d module.Schema) bool { return strings.HasPrefix(d.Name, mod+".") }) {
		return found{}, &Exception{typeNoModule, ""}
	}
	if m := s.common(mod, base); m != nil {
		return found{m, true, false}, nil
	}
	return found{}, &Exception{typeNoMethod, ""}
}

// shape gives the module with Func's shape of this name, if it is there.
func (s *Server) shape(mod string) *Module {
	m := s.shapes[mod]
	if m == nil || m.Missing != nil && m.Missing() != "" {
		return nil
	}
	return m
}

// methods gives every module's methods by name, those that all modules have left
// out.
func (s *Server) methods() map[string]map[string]*Method {
	out := make(map[string]map[string]*Method)
	add := func(mod, name string, m *Method) {
		if out[mod] == nil {
			out[mod] = make(map[string]*Method)
		}
		if out[mod][name] == nil {
			out[mod][name] = m
		}
	}
	for name := range s.shapes {
		shape := s.shape(name)
		if shape == nil {
			continue
		}
		out[name] = make(map[string]*Method)
		for i := range shape.Methods {
			add(name, shape.Methods[i].Name, &shape.Methods[i])
		}
	}
	table := s.opt.Table()
	for _, schema := range table.Schemas() {
		if m, ok := table.Lookup(schema.Name); ok {
			mod, name, _ := split(schema.Name)
			add(mod, name, native(m))
		}
	}
	return out
}

// commonNames are what every module has.
var commonNames = []string{
	"config_items", "get_method_args", "grep", "list_methods", "module_api_version", "module_description", "module_version", "save_config",
}

// common gives a method that every module has; nil: no such one.
func (s *Server) common(mod, name string) *Method {
	if !slices.Contains(commonNames, name) {
		return nil
	}
	m := &Method{Name: name}
	if name == "grep" {
		m.Args = []Arg{{Name: "word"}}
	}
	m.Run = func(context.Context, *Env, []any) (any, error) {
		switch name {
		case "config_items":
			return []any{}, nil
		case "save_config":
			return true, nil
		case "grep":
			return map[string]any{}, nil
		case "get_method_args":
			return s.methodArgs(mod), nil
		case "list_methods":
			return listOf(slices.Concat(slices.Collect(maps.Keys(s.methods()[mod])), commonNames)), nil
		}
		return s.about(mod, name), nil
	}
	return m
}

// about gives a module's version, version of its interface, or description.
func (s *Server) about(mod, what string) string {
	version, api, doc := s.opt.Version, defaultVersion, ""
	if shape := s.shape(mod); shape != nil {
		version, api, doc = shape.Version, shape.APIVersion, shape.Doc
	} else {
		for _, d := range s.opt.Table().Schemas() {
			if strings.HasPrefix(d.Name, mod+".") {
				doc = d.ModuleDoc
			}
		}
	}
	text, other := doc, defaultDescription
	switch what {
	case "module_version":
		text, other = version, defaultVersion
	case "module_api_version":
		text, other = api, defaultVersion
	}
	if text == "" {
		return other
	}
	return text
}

// methodArgs is get_method_args: what is registered about each method's arguments.
func (s *Server) methodArgs(mod string) any {
	out := map[string]any{}
	for name, m := range s.methods()[mod] {
		args := map[string]any{}
		for i, a := range m.Args {
			if a.Type == "" {
				args = nil
				break
			}
			args[a.Name] = a.spec(i)
		}
		if args != nil {
			out[name] = map[string]any{"args": args, "description": m.Doc}
		}
	}
	return out
}

// spec describes an argument with the keys that Func allows for its type.
func (a Arg) spec(order int) map[string]any {
	out := map[string]any{"type": a.Type, "order": order, "optional": a.Optional}
	set := func(key string, v any) {
		if v != nil {
			out[key] = v
		}
	}
	if a.Doc != "" {
		out["description"] = a.Doc
	}
	set("default", a.Default)
	switch a.Type {
	case "int", "float":
		set("min", a.Min)
		set("max", a.Max)
	case "string":
		if len(a.Options) > 0 {
			out["options"] = listOf(slices.Clone(a.Options))
			break
		}
		set("min_length", a.Min)
		set("max_length", a.Max)
	}
	if a.Validator != "" && len(a.Options) == 0 && slices.Contains([]string{"string", "hash", "list", "list*"}, a.Type) {
		out["validator"] = a.Validator
	}
	return out
}

// systemMethods makes the pseudo-module system, and what Python's proxies ask for.
func (s *Server) systemMethods() map[string]*Method {
	all := func(context.Context, *Env, []any) (any, error) { return listOf(s.allNames()), nil }
	mods := func(context.Context, *Env, []any) (any, error) {
		return listOf(slices.Collect(maps.Keys(s.methods()))), nil
	}
	name := []Arg{{Name: "name", Type: "string", Doc: "whole name of a method"}}
	return map[string]*Method{
		"system.listMethods":     {Name: "listMethods", Doc: "Names of all methods.", Run: all},
		"system.list_methods":    {Name: "list_methods", Doc: "Names of all methods.", Run: all},
		"system.listModules":     {Name: "listModules", Doc: "Names of all modules.", Run: mods},
		"system.list_modules":    {Name: "list_modules", Doc: "Names of all modules.", Run: mods},
		"system.inventory":       {Name: "inventory", Doc: "Methods by module.", Run: s.inventory},
		"system.grep":            {Name: "grep", Doc: "Names of modules and methods in which a word is.", Args: []Arg{{Name: "word", Type: "string"}}, Run: s.grep},
		"system.methodHelp":      {Name: "methodHelp", Doc: "What a method does.", Args: name, Run: s.methodHelp},
		"system.methodSignature": {Name: "methodSignature", Doc: "Types of a method's result and arguments.", Args: name, Run: s.methodSignature},
		"system.multicall":       {Name: "multicall", Doc: "Several calls, one after the other.", Args: []Arg{{Name: "calls", Type: "list"}}, Timeout: -1, Run: s.multicall},
		"trait_names":            {Name: "trait_names", Doc: "Names of all methods.", Run: all},
		"_getAttributeNames":     {Name: "_getAttributeNames", Doc: "Names of all methods.", Run: all},
	}
}

func (s *Server) allNames() []string {
	var names []string
	for name := range s.system {
		if strings.HasPrefix(name, "system.") {
			names = append(names, name)
		}
	}
	for mod, methods := range s.methods() {
		for name := range methods {
			names = append(names, mod+"."+name)
		}
		for _, name := range commonNames {
			names = append(names, mod+"."+name)
		}
	}
	return names
}

func (s *Server) inventory(context.Context, *Env, []any) (any, error) {
	out := map[string]any{}
	for mod, methods := range s.methods() {
		out[mod] = listOf(slices.Concat(slices.Collect(maps.Keys(methods)), commonNames))
	}
	return out, nil
}

func (s *Server) grep(_ context.Context, _ *Env, args []any) (any, error) {
	word := strings.ToLower(strings.TrimSpace(text(args[0])))
	out := map[string]any{}
	for key, names := range map[string][]string{"system.list_modules": slices.Collect(maps.Keys(s.methods())), "system.list_methods": s.allNames()} {
		names = slices.DeleteFunc(names, func(n string) bool { return !strings.Contains(strings.ToLower(n), word) })
		if len(names) > 0 {
			out[key] = listOf(names)
		}
	}
	return out, nil
}

func (s *Server) methodHelp(_ context.Context, _ *Env, args []any) (any, error) {
	m, err := s.find(text(args[0]))
	if err != nil {
		return nil, err
	}
	return m.Doc, nil
}

// methodSignature gives one signature whose result is of any type, or "undef" when
// a type is not known, as the convention has it.
func (s *Server) methodSignature(_ context.Context, _ *Env, args []any) (any, error) {
	m, err := s.find(text(args[0]))
	if err != nil {
		return nil, err
	}
	types := map[string]string{"int": "int", "float": "double", "string": "string", "boolean": "boolean", "hash": "struct", "list": "array"}
	sig := []any{"undef"}
	for _, a := range m.Args {
		t := types[a.Type]
		if t == "" {
			return "undef", nil
		}
		sig = append(sig, t)
	}
	return []any{sig}, nil
}

// multicall runs calls one after the other, each judged and recorded by itself.
func (s *Server) multicall(_ context.Context, env *Env, args []any) (any, error) {
	calls, ok := args[0].([]any)
	if !ok || len(calls) > maxParts {
		return nil, call.Errorf(call.Invalid, "multicall takes a list of at most %d calls", maxParts)
	}
	out, size := []any{}, 0
	for _, c := range calls {
		if size > xmlrpc.MaxDocument/2 {
			out = append(out, faulty("the answers before it are too long; ask for it again"))
			continue
		}
		m, _ := c.(map[string]any)
		name, ok := m["methodName"].(string)
		params, also := m["params"].([]any)
		if !ok || !also || strings.TrimPrefix(name, "async.") == "system.multicall" {
			out = append(out, faulty("a call is {methodName, params}, and no other multicall"))
			continue
		}
		r := s.dispatch(env.Caller, name, params, env.size/int64(len(calls)))
		if r.fault != nil {
			out = append(out, faulty(r.fault.Text))
			continue
		}
		size += len(r.doc)
		out = append(out, []any{r.value})
	}
	return out, nil
}

func faulty(text string) map[string]any { return map[string]any{"faultCode": 1, "faultString": text} }

// listOf sorts names and makes them a value.
func listOf(names []string) []any {
	names = sortedUnique(names)
	out := make([]any, len(names))
	for i, n := range names {
		out[i] = n
	}
	return out
}

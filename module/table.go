package module

import (
	"fmt"
	"slices"
	"strings"

	"dominion/call"
)

// Table holds the methods that a minion offers. It does not change after
// NewTable and may be shared by any number of goroutines.
type Table struct {
	methods map[string]Method
	names   []string // sorted
}

// Words that name administrative actions or the protocol's own calls: a
// module of that name could be confused with them in a policy.
var reserved = []string{"cert", "operator", "session", "token"}

// NewTable checks and completes every method: reflection over inputs and
// outputs happens here, once. An error names the module, method and field.
func NewTable(modules []Module) (*Table, error) {
	t := &Table{methods: map[string]Method{}}
	seen := map[string]bool{}
	for _, mod := range modules {
		switch {
		case !nameShape.MatchString(mod.Name) || slices.Contains(reserved, mod.Name):
			return nil, fmt.Errorf("module name %q: wants lower-case letters, digits and underscores, and none of %s",
				mod.Name, strings.Join(reserved, ", "))
		case seen[mod.Name]:
			return nil, fmt.Errorf("module %s is there twice", mod.Name)
		case mod.Doc == "":
			return nil, fmt.Errorf("module %s has no documentation", mod.Name)
		}
		seen[mod.Name] = true
		for _, m := range mod.Methods {
			if err := t.add(mod, m); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(t.names)
	return t, nil
}

func (t *Table) add(mod Module, m Method) error {
	if !nameShape.MatchString(m.name) {
		return fmt.Errorf("module %s: method name %q: wants lower-case letters, digits and underscores", mod.Name, m.name)
	}
	m.name = mod.Name + "." + m.name
	if len(m.name) > call.MaxMethod {
		return fmt.Errorf("method name %s is longer than %d bytes", m.name, call.MaxMethod)
	}
	if _, twice := t.methods[m.name]; twice {
		return fmt.Errorf("method %s is there twice", m.name)
	}
	m.compiled = nil // of another table, perhaps under another name
	c, err := m.compile(mod.Doc)
	if err != nil {
		return err
	}
	m.compiled = c
	t.methods[m.name] = m
	t.names = append(t.names, m.name)
	return nil
}

// Lookup finds a method by its whole name, "service.status".
func (t *Table) Lookup(name string) (Method, bool) {
	m, ok := t.methods[name]
	return m, ok
}

// Schemas describes every method, sorted by name.
func (t *Table) Schemas() []Schema {
	out := make([]Schema, len(t.names))
	for i, n := range t.names {
		out[i] = t.methods[n].Schema()
	}
	return out
}

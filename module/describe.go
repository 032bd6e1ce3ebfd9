package module

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what a program says of itself.
const (
	MaxDescription = 64 << 10 // bytes of JSON
	maxMethods     = 64       // of one module
	maxDocText     = 1 << 10  // bytes of a line of documentation
	maxVersion     = 64       // bytes
)

// Description is a module as a program describes it, in JSON with these keys. A
// method's name is without the module's, its time-out may be left out
// (DefaultTimeout), and of an output field only name, type, doc and fields count.
type Description struct {
	Name    string   `json:"name"`
	Doc     string   `json:"doc"`
	Version string   `json:"version,omitempty"` // of the module, in the site's own words
	Methods []Schema `json:"methods"`
}

// ParseDescription reads what a program says of itself, at most MaxDescription
// bytes. It is stricter than ParseSchemas, so that a mistake is seen where it was
// made: keys and types that are not known are refused. Every error wraps ErrSchema.
func ParseDescription(b []byte) (Description, error) {
	d, err := parseDescription(b)
	if err != nil {
		return Description{}, fmt.Errorf("%w: %v", ErrSchema, err)
	}
	return d, nil
}

func parseDescription(b []byte) (d Description, err error) {
	if len(b) > MaxDescription {
		return d, fmt.Errorf("%d bytes are more than %d", len(b), MaxDescription)
	}
	if err := checkText(b); err != nil {
		return d, err
	}
	if err := exactKeys(b, 0); err != nil {
		return d, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return d, err
	}
	switch {
	case !nameShape.MatchString(d.Name):
		return d, fmt.Errorf("name %s: wants lower-case letters, digits and underscores", quote(d.Name))
	case !docText(d.Doc):
		return d, fmt.Errorf("doc: wants one line of at most %d bytes", maxDocText)
	case len(d.Version) > maxVersion || d.Version != "" && !docText(d.Version):
		return d, fmt.Errorf("version: wants at most %d bytes on one line", maxVersion)
	case len(d.Methods) == 0 || len(d.Methods) > maxMethods:
		return d, fmt.Errorf("%d methods; wants 1 to %d", len(d.Methods), maxMethods)
	}
	for i := range d.Methods {
		if err := checkDeclared(&d.Methods[i]); err != nil {
			return d, fmt.Errorf("method %s: %w", quote(d.Methods[i].Name), err)
		}
		if d.Methods[i].ModuleDoc != "" {
			return d, fmt.Errorf("method %s: module_doc is the module's doc", quote(d.Methods[i].Name))
		}
	}
	// What a table asks for beyond that: names once, defaults that hold.
	_, err = NewTable([]Module{d.Module(nil)})
	return d, err
}

// docText says whether s is a line for people.
func docText(s string) bool {
	return s != "" && len(s) <= maxDocText && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError })
}

// keyShape is of the keys of a schema. encoding/json would take "Name" for name.
var keyShape = regexp.MustCompile(`^[a-z_]+$`)

// exactKeys refuses objects with a key that is there twice, or not in lower case.
func exactKeys(raw json.RawMessage, depth int) error {
	raw = bytes.TrimSpace(raw)
	if depth > 4*maxNesting {
		return fmt.Errorf("it nests deeper than %d", 4*maxNesting)
	}
	switch kindOf(raw) {
	case '{':
		list, problem := members(raw)
		if problem != "" {
			return fmt.Errorf("%s", problem)
		}
		for _, m := range list {
			if !keyShape.MatchString(m.name) {
				return fmt.Errorf("unknown key %s", quote(m.name))
			}
			if kindOf(m.value) == 'n' {
				return fmt.Errorf("%s is null; leave it out", quote(m.name))
			}
			if err := exactKeys(m.value, depth+1); err != nil {
				return err
			}
		}
	case '[':
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
		for _, v := range list {
			if err := exactKeys(v, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// inputTypes are the types that an input field may have.
var inputTypes = []string{"string", "bool", "int", "float", "duration", "bytes", "[]string", "map[string]string"}

// outputTypes are those of an output field, without what makes lists and maps of them.
var outputTypes = []string{"string", "bool", "int", "float", "time", "bytes", "any", "object"}

// checkDeclared holds a schema to what a Go declaration could have said.
func checkDeclared(s *Schema) error {
	switch s.Effect {
	case Read, Change, Destroy:
	default:
		return fmt.Errorf("effect is %s; wants read, change or destroy", quote(string(s.Effect)))
	}
	if !docText(s.Doc) {
		return fmt.Errorf("doc: wants one line of at most %d bytes", maxDocText)
	}
	if s.Timeout != "" {
		if d, err := time.ParseDuration(s.Timeout); err != nil || d < 0 {
			return fmt.Errorf("timeout is %s; wants a duration such as 30s, or 0s for none", quote(s.Timeout))
		}
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		switch {
		case !slices.Contains(inputTypes, f.Type):
			return fmt.Errorf("field %s: type %s; wants one of %s", quote(f.Name), quote(f.Type), strings.Join(inputTypes, ", "))
		case !docText(f.Doc):
			return fmt.Errorf("field %s: doc: wants one line of at most %d bytes", quote(f.Name), maxDocText)
		case len(f.Fields) > 0:
			return fmt.Errorf("field %s: an input field has no fields of its own", quote(f.Name))
		}
	}
	return checkOutput(s.Output, 0)
}

func checkOutput(fields []Field, depth int) error {
	if depth > maxNesting || len(fields) > maxFields {
		return fmt.Errorf("output: %d fields, %d objects deep; at most %d and %d", len(fields), depth, maxFields, maxNesting)
	}
	seen := map[string]bool{}
	for i := range fields {
		f := &fields[i]
		base, nested := elementOf(f.Type)
		plain := Field{Name: f.Name, Type: f.Type, Doc: f.Doc, Fields: f.Fields}
		switch {
		case !nameShape.MatchString(f.Name) || seen[f.Name]:
			return fmt.Errorf("output: field name %s is there twice or malformed", quote(f.Name))
		case !slices.Contains(outputTypes, base) || nested > maxNesting:
			return fmt.Errorf("output: field %s: type %s; wants one of %s, or [] or map[string] of one", f.Name, quote(f.Type), strings.Join(outputTypes, ", "))
		case !docText(f.Doc):
			return fmt.Errorf("output: field %s: doc: wants one line of at most %d bytes", f.Name, maxDocText)
		case base != "object" && len(f.Fields) > 0:
			return fmt.Errorf("output: field %s: only objects have fields", f.Name)
		case !equalField(*f, plain):
			return fmt.Errorf("output: field %s: an output field has only name, type, doc and fields", f.Name)
		}
		seen[f.Name] = true
		if err := checkOutput(f.Fields, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// equalField compares two fields with the same Fields.
func equalField(a, b Field) bool {
	return a.Required == b.Required && a.Default == b.Default && a.Min == b.Min && a.Max == b.Max &&
		a.Pattern == b.Pattern && a.Secret == b.Secret && len(a.Enum) == len(b.Enum)
}

// elementOf gives what lists and maps of a type hold at last, and how often it is
// wrapped: int and 2 for "[]map[string]int".
func elementOf(t string) (base string, nested int) {
	for {
		rest, list := strings.CutPrefix(t, "[]")
		if !list {
			var is bool
			if rest, is = strings.CutPrefix(t, "map[string]"); !is {
				return t, nested
			}
		}
		t = rest
		nested++
	}
}

// Module makes a module of it. run gives what carries out a method, by its name
// without the module's; nil makes one that is only looked at.
func (d Description) Module(run func(method string) RawFunc) Module {
	m := Module{Name: d.Name, Doc: d.Doc}
	for _, s := range d.Methods {
		var f RawFunc
		if run != nil {
			f = run(s.Name)
		}
		m.Methods = append(m.Methods, Declared(s, f))
	}
	return m
}

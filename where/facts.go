package where

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"dominion/module"
)

// factsPath is where the facts stand in an expression.
const factsPath = "facts"

// typeName gives the name of the type of the objects at a path: one that no
// expression can say, since the checker takes "facts.cpu" for a type's name
// before it takes it for a field.
func typeName(path string) string { return "/" + strings.ReplaceAll(path, ".", "/") }

// object is a type of objects: those of the schema, by the type's name.
type object struct {
	path   string // "facts.cpu"
	fields map[string]field
	order  []string // names, as in the schema
}

type field struct {
	kind string  // of module.Field, without "[]" or "map[string]"
	list bool    // a list of them
	dict bool    // a map of them
	of   *object // of an object
}

// add makes the type of an object, and those of objects in it.
func (l *Language) add(path string, fields []module.Field) *object {
	o := &object{path: path, fields: make(map[string]field, len(fields))}
	l.objects[typeName(path)] = o
	for _, f := range fields {
		v := field{kind: f.Type}
		if s, ok := strings.CutPrefix(v.kind, "[]"); ok {
			v.kind, v.list = s, true
		} else if s, ok := strings.CutPrefix(v.kind, "map[string]"); ok {
			v.kind, v.dict = s, true
		}
		if v.kind == "object" {
			v.of = l.add(path+"."+f.Name, f.Fields)
		}
		o.fields[f.Name] = v
		o.order = append(o.order, f.Name)
	}
	return o
}

// only gives the type with these fields alone, so that no others are decoded;
// nil: with all.
func (o *object) only(names map[string]bool) *object {
	if names == nil {
		return o
	}
	out := &object{path: o.path, fields: make(map[string]field, len(names))}
	for n := range names {
		if f, ok := o.fields[n]; ok {
			out.fields[n] = f
		}
	}
	return out
}

func (f field) celType() *cel.Type {
	t := cel.DynType
	switch f.kind {
	case "string":
		t = cel.StringType
	case "int":
		t = cel.IntType
	case "float":
		t = cel.DoubleType
	case "bool":
		t = cel.BoolType
	case "time":
		t = cel.TimestampType
	case "object":
		t = cel.ObjectType(typeName(f.of.path))
	}
	switch {
	case f.list:
		return cel.ListType(t)
	case f.dict:
		return cel.MapType(cel.StringType, t)
	}
	return t
}

var errFacts = errors.New("not a JSON object")

// decode gives facts as CEL takes them: what the schema does not know, and what
// is of another type, is left out.
func (o *object) decode(doc []byte) (map[string]any, error) {
	if len(doc) == 0 || len(o.fields) == 0 {
		return map[string]any{}, nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(doc, &raw); err != nil {
		return nil, errFacts
	}
	return o.values(raw), nil
}

func (o *object) values(raw map[string]json.RawMessage) map[string]any {
	out := make(map[string]any, len(raw))
	for name, text := range raw {
		f, ok := o.fields[name]
		if !ok {
			continue
		}
		if v, ok := f.value(text); ok {
			out[name] = v
		}
	}
	return out
}

// value reads a value of a field; false: it is not of its type.
func (f field) value(text []byte) (any, bool) {
	one := field{kind: f.kind, of: f.of}
	switch {
	case string(text) == "null":
		return nil, false
	case f.list:
		var raw []json.RawMessage
		if json.Unmarshal(text, &raw) != nil {
			return nil, false
		}
		out := make([]any, len(raw))
		for i, r := range raw {
			var ok bool
			if out[i], ok = one.value(r); !ok {
				return nil, false
			}
		}
		return out, true
	case f.dict:
		var raw map[string]json.RawMessage
		if json.Unmarshal(text, &raw) != nil {
			return nil, false
		}
		out := make(map[string]any, len(raw))
		for k, r := range raw {
			var ok bool
			if out[k], ok = one.value(r); !ok {
				return nil, false
			}
		}
		return out, true
	}
	return f.scalar(text)
}

func (f field) scalar(text []byte) (any, bool) {
	switch f.kind {
	case "string":
		return read[string](text)
	case "int":
		return read[int64](text)
	case "float":
		v, ok := read[float64](text)
		return v, ok && !math.IsNaN(v.(float64))
	case "bool":
		return read[bool](text)
	case "time":
		v, ok := read[time.Time](text)
		if !ok || v.(time.Time).Year() < 1 || v.(time.Time).Year() > 9999 {
			return nil, false
		}
		return v, true
	case "object":
		var raw map[string]json.RawMessage
		if json.Unmarshal(text, &raw) != nil {
			return nil, false
		}
		return f.of.values(raw), true
	}
	return anything(text)
}

func read[T any](text []byte) (any, bool) {
	var v T
	err := json.Unmarshal(text, &v)
	return v, err == nil
}

// anything reads a value of a type that the schema leaves open.
func anything(text []byte) (any, bool) {
	dec := json.NewDecoder(bytes.NewReader(text))
	var v any
	if dec.Decode(&v) != nil {
		return nil, false
	}
	return v, true
}

// provider tells the checker what facts there are, and remembers for what it
// was asked in vain. It serves one Compile.
type provider struct {
	*types.Registry
	objects map[string]*object
	missing []missing
}

type missing struct {
	in   *object
	name string
}

// FindStructType implements types.Provider.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.objects[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	if o, ok := p.objects[name]; ok {
		return o.order, true
	}
	return p.Registry.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider. There is no accessor: values
// are maps, and a fact that a machine lacks is a key that is not there.
func (p *provider) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	o, ok := p.objects[name]
	if !ok {
		return p.Registry.FindStructFieldType(name, fieldName)
	}
	f, ok := o.fields[fieldName]
	if !ok {
		p.missing = append(p.missing, missing{o, fieldName})
		return nil, false
	}
	return &types.FieldType{Type: f.celType()}, true
}

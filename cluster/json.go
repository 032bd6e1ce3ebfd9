package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// raw is one JSON value without white space between its tokens.
type raw = json.RawMessage

// member is one member of an object, its value as it was written.
type member struct {
	name  string
	key   raw // the name as it was written
	value raw
}

// object is a JSON object whose members keep their order, and their text when
// nobody changes them. Names are unique.
type object struct{ members []member }

// parseObject reads a compact and valid JSON object.
func parseObject(b []byte) (*object, error) {
	if len(b) == 0 || b[0] != '{' {
		return nil, fmt.Errorf("%.20s is no object", b)
	}
	o := new(object)
	seen := make(map[string]struct{})
	for i := 1; b[i] != '}'; {
		if b[i] == ',' {
			i++
		}
		end := skip(b, i)
		m := member{key: b[i:end:end]}
		name, err := text(m.key)
		if err != nil {
			return nil, err
		}
		m.name = name
		if _, twice := seen[m.name]; twice {
			return nil, fmt.Errorf("%.60q stands there twice", m.name)
		}
		seen[m.name] = struct{}{}
		i = end + 1 // the colon
		end = skip(b, i)
		m.value = b[i:end:end]
		o.members = append(o.members, m)
		i = end
	}
	return o, nil
}

// elements gives the elements of a compact and valid JSON array.
func elements(b []byte) ([]raw, error) {
	if len(b) == 0 || b[0] != '[' {
		return nil, fmt.Errorf("%.20s is no array", b)
	}
	var out []raw
	for i := 1; b[i] != ']'; {
		if b[i] == ',' {
			i++
		}
		end := skip(b, i)
		out = append(out, b[i:end:end])
		i = end
	}
	return out, nil
}

// skip gives the end of the value that begins at i, in compact and valid JSON.
func skip(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // the end of a number or a word, in the object around it
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ':':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// text reads a string.
func text(v raw) (string, error) {
	if len(v) < 2 || v[0] != '"' {
		return "", fmt.Errorf("%.60s is no string", v)
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1]), nil
	}
	var s string
	err := json.Unmarshal(v, &s)
	return s, err
}

// encode writes what cannot fail to be written: strings, numbers, and structs of
// them.
func encode(v any) raw {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a bug here
	}
	return b
}

func (o *object) clone() *object { return &object{members: slices.Clone(o.members)} }

// get gives a member's value, nil when there is none.
func (o *object) get(name string) raw {
	for i := range o.members {
		if o.members[i].name == name {
			return o.members[i].value
		}
	}
	return nil
}

// text gives a string member; empty when it is not there or no string.
func (o *object) text(name string) string {
	s, _ := text(o.get(name)) // check has seen to it where it matters
	return s
}

func (o *object) flag(name string) bool { return string(o.get(name)) == "true" }

// integer gives a member that is a whole number; 0 when it is not.
func (o *object) integer(name string) int64 {
	n, _ := strconv.ParseInt(string(o.get(name)), 10, 64)
	return n
}

// set puts a value where the member is, or at the end.
func (o *object) set(name string, v raw) {
	for i := range o.members {
		if o.members[i].name == name {
			o.members[i].value = v
			return
		}
	}
	o.members = append(o.members, member{name: name, key: encode(name), value: v})
}

func (o *object) append(dst []byte) []byte {
	dst = append(dst, '{')
	for i, m := range o.members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, m.key...), ':'), m.value...)
	}
	return append(dst, '}')
}

// table is an object whose members are objects: all nodes, for example. What it
// holds is shared between versions and never changed; a change puts another in
// its place.
type table struct {
	order []entry
	at    map[string]int
}

type entry struct {
	name string
	key  raw
	obj  *object
}

func parseTable(b []byte) (*table, error) {
	o, err := parseObject(b)
	if err != nil {
		return nil, err
	}
	t := &table{at: make(map[string]int, len(o.members)), order: make([]entry, 0, len(o.members))}
	for _, m := range o.members {
		x, err := parseObject(m.value)
		if err != nil {
			return nil, fmt.Errorf("%.60s: %w", m.name, err)
		}
		t.at[m.name] = len(t.order)
		t.order = append(t.order, entry{m.name, m.key, x})
	}
	return t, nil
}

func (t *table) clone() *table {
	at := make(map[string]int, len(t.at)+1)
	for k, v := range t.at {
		at[k] = v
	}
	return &table{order: slices.Clone(t.order), at: at}
}

func (t *table) get(key string) *object {
	if i, ok := t.at[key]; ok {
		return t.order[i].obj
	}
	return nil
}

func (t *table) put(key string, o *object) {
	if i, ok := t.at[key]; ok {
		t.order[i].obj = o
		return
	}
	t.at[key] = len(t.order)
	t.order = append(t.order, entry{key, encode(key), o})
}

func (t *table) remove(key string) {
	i, ok := t.at[key]
	if !ok {
		return
	}
	t.order = slices.Delete(t.order, i, i+1)
	delete(t.at, key)
	for ; i < len(t.order); i++ {
		t.at[t.order[i].name] = i
	}
}

func (t *table) append(dst []byte) []byte {
	dst = append(dst, '{')
	for i, e := range t.order {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = e.obj.append(append(append(dst, e.key...), ':'))
	}
	return append(dst, '}')
}

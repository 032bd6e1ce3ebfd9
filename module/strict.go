package module

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"dominion/call"
)

// decode checks a JSON object of arguments and gives one value per field, nil
// for those left out. It is stricter than encoding/json: unknown and doubled
// names, null, bytes that are not UTF-8, lone surrogates and anything behind
// the object are refused, and names are matched exactly.
func (s *spec) decode(args []byte) ([]any, error) {
	values := make([]any, len(s.fields))
	if len(args) > call.MaxArgs {
		return nil, s.invalid("arguments of %d bytes are more than %d", len(args), call.MaxArgs)
	}
	if len(args) > 0 && string(args) != "{}" {
		if err := checkText(args); err != nil {
			return nil, s.invalid("arguments: %v", err)
		}
		list, problem := members(args)
		if problem != "" {
			return nil, s.invalid("arguments: %s", problem)
		}
		for _, m := range list {
			i, ok := s.index[m.name]
			if !ok {
				return nil, s.invalid("no field %s; %s", quote(m.name), s.known())
			}
			f := &s.fields[i]
			v, ok := f.value(m.value)
			if !ok || !f.holds(v) {
				return nil, s.refuse(f, string(m.value))
			}
			values[i] = v
		}
	}
	for i := range s.fields {
		if f := &s.fields[i]; f.Required && values[i] == nil {
			return nil, s.invalid("field %q is missing; wants %s", f.Name, f.wants())
		}
	}
	return values, nil
}

// value reads the JSON of one field.
func (f *fieldSpec) value(raw json.RawMessage) (any, bool) {
	kind := kindOf(raw)
	switch f.Type {
	case "string":
		var s string
		v, ok := decodeInto(raw, &s, func() any { return s })
		return v, ok && kind == '"'
	case "bytes":
		return bytesValue(raw)
	case "bool":
		return kind == 't', kind == 't' || kind == 'f'
	case "int":
		v, err := strconv.ParseInt(string(raw), 10, 64)
		return v, err == nil
	case "float":
		v, err := strconv.ParseFloat(string(raw), 64)
		return v, err == nil && kind == '0'
	case "duration":
		var s string
		if kind != '"' || json.Unmarshal(raw, &s) != nil {
			return nil, false
		}
		v, err := time.ParseDuration(s)
		return v, err == nil
	case "[]string":
		return listValue(raw)
	case "map[string]string":
		return mapValue(raw)
	}
	return raw, kind != 'n' // the machine knows this type, we do not
}

func listValue(raw []byte) (any, bool) {
	var elements []json.RawMessage
	if kindOf(raw) != '[' || json.Unmarshal(raw, &elements) != nil {
		return nil, false
	}
	out := make([]string, len(elements))
	for i, e := range elements {
		if kindOf(e) != '"' || json.Unmarshal(e, &out[i]) != nil {
			return nil, false
		}
	}
	return out, true
}

func mapValue(raw []byte) (any, bool) {
	list, problem := members(raw)
	if problem != "" {
		return nil, false
	}
	out := make(map[string]string, len(list))
	for _, m := range list {
		var s string
		if kindOf(m.value) != '"' || json.Unmarshal(m.value, &s) != nil {
			return nil, false
		}
		out[m.name] = s
	}
	return out, true
}

// kindOf tells a valid JSON value by its first byte: { [ " t f n, or 0 for
// any number.
func kindOf(raw []byte) byte {
	if len(raw) == 0 {
		return 'n'
	}
	switch c := raw[0]; c {
	case '{', '[', '"', 't', 'f', 'n':
		return c
	}
	return '0'
}

type member struct {
	name  string
	value json.RawMessage
}

// members takes an object of valid JSON apart, in its order; problem says
// what is wrong with it.
func members(raw []byte) (list []member, problem string) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, "want a JSON object"
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, "not JSON"
		}
		if seen[name] {
			return nil, fmt.Sprintf("%s is there twice", quote(name))
		}
		seen[name] = true
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, "not JSON"
		}
		list = append(list, member{name, v})
	}
	return list, ""
}

// checkText refuses what encoding/json would repair in silence or report
// without a place: bad UTF-8, bad syntax, lone surrogates.
func checkText(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("not UTF-8; bytes that are not text go into a field that takes base64")
	}
	if !json.Valid(b) {
		var v json.RawMessage
		err := json.Unmarshal(b, &v)
		return fmt.Errorf("not JSON: %v", err)
	}
	if lone := loneSurrogate(b); lone >= 0 {
		return fmt.Errorf("byte %d: half of a surrogate pair", lone)
	}
	return nil
}

// loneSurrogate finds an escape \ud800 to \udfff of valid JSON that is not
// part of a pair; -1: there is none.
func loneSurrogate(b []byte) int {
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		i++
		r := escaped(b[i-1:])
		switch {
		case r < 0xd800 || r > 0xdfff:
		case r < 0xdc00:
			if low := escaped(b[i+5:]); low < 0xdc00 || low > 0xdfff {
				return i - 1
			}
			i += 6
		default:
			return i - 1
		}
	}
	return -1
}

// escaped gives the number of an escape, \u and four hex digits; 0 for anything else.
func escaped(b []byte) uint64 {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 32)
	if err != nil {
		return 0
	}
	return n
}

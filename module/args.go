package module

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// ParseArgs turns the words of a command line into a JSON object of arguments
// that Validate accepts:
//
//   - name=VALUE gives the field of that name; a word whose part before "=" is
//     no declared field is a value like any other. For a list or a map
//     (env=KEY=VALUE) it may be repeated and adds an entry each time.
//   - Every other word is the value of the next field, in the schema's order,
//     that has not been given by name. Maps are skipped. A list takes all the
//     words that are left.
//
// The error is a *call.Error with code Invalid.
func ParseArgs(schema Schema, words []string) ([]byte, error) {
	s, err := newSpec(&schema)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSchema, err)
	}
	values := make([]any, len(s.fields))
	var rest []string
	for _, w := range words {
		name, text, found := strings.Cut(w, "=")
		i, declared := s.index[name]
		if !found || !declared {
			rest = append(rest, w)
			continue
		}
		if err := s.give(values, i, text); err != nil {
			return nil, err
		}
	}
	if err := s.positional(values, rest); err != nil {
		return nil, err
	}
	b, err := s.object(values)
	if err != nil {
		return nil, err
	}
	if _, err := s.decode(b); err != nil {
		return nil, err
	}
	return b, nil
}

func (s *spec) positional(values []any, words []string) error {
	for i := range s.fields {
		if len(words) == 0 {
			return nil
		}
		f := &s.fields[i]
		if values[i] != nil || f.Type == "map[string]string" {
			continue
		}
		take := 1
		if f.Type == "[]string" {
			take = len(words)
		}
		for _, w := range words[:take] {
			if err := s.give(values, i, w); err != nil {
				return err
			}
		}
		words = words[take:]
	}
	if len(words) > 0 {
		return s.invalid("no field is left for %s; %s", quote(words[0]), s.known())
	}
	return nil
}

// give adds one word to field i.
func (s *spec) give(values []any, i int, word string) error {
	f := &s.fields[i]
	if f.Type == "map[string]string" {
		m, _ := values[i].(map[string]string)
		if m == nil {
			m = map[string]string{}
		}
		k, v, found := strings.Cut(word, "=")
		if _, twice := m[k]; twice || !found || !utf8.ValidString(word) {
			return s.refuse(f, word)
		}
		m[k] = v
		values[i] = m
		return nil
	}
	v, ok := f.parseText(word)
	if !ok {
		return s.refuse(f, word)
	}
	if f.Type == "[]string" {
		list, _ := values[i].([]string)
		values[i] = append(list, word)
		return nil
	}
	if values[i] != nil {
		return s.invalid("field %q is given twice", f.Name)
	}
	values[i] = v
	return nil
}

// object writes the values in the schema's order.
func (s *spec) object(values []any) ([]byte, error) {
	b := []byte{'{'}
	for i, v := range values {
		if v == nil {
			continue
		}
		if d, ok := v.(interface{ String() string }); ok {
			v = d.String() // a duration
		}
		enc, err := encode(v)
		if err != nil {
			return nil, s.invalid("field %q: %v", s.fields[i].Name, err)
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, s.fields[i].Name...)
		b = append(b, '"', ':')
		b = append(b, enc...)
	}
	return append(b, '}'), nil
}

package module

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"dominion/call"
)

// Bytes is text or binary data: in JSON a string when it is UTF-8, otherwise
// {"base64": "…"} (RFC 4648, section 4).
type Bytes []byte

type base64Object struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSON gives the string or the object.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return encode(string(b))
	}
	return encode(base64Object{b})
}

// UnmarshalJSON reads either form.
func (b *Bytes) UnmarshalJSON(raw []byte) error {
	v, ok := bytesValue(raw)
	if !ok {
		return fmt.Errorf("wants a text or {\"base64\": …}, got %s", quote(string(raw)))
	}
	*b = v.(Bytes)
	return nil
}

// spec is a schema's input made ready for checking.
type spec struct {
	method string
	fields []fieldSpec
	index  map[string]int
}

// fieldSpec is one field with its texts parsed. A value is a string, bool,
// int64, float64, time.Duration, Bytes, []string or map[string]string; for a
// type that we do not know, a json.RawMessage.
type fieldSpec struct {
	Field
	def, min, max any // nil: none; min and max of texts, lists and maps are int64
	pattern       *regexp.Regexp
}

func newSpec(s *Schema) (*spec, error) {
	if len(s.Fields) > maxFields {
		return nil, fmt.Errorf("%s: %d fields are more than %d", quote(s.Name), len(s.Fields), maxFields)
	}
	sp := &spec{method: s.Name, fields: make([]fieldSpec, len(s.Fields)), index: make(map[string]int, len(s.Fields))}
	for i, f := range s.Fields {
		if _, twice := sp.index[f.Name]; twice || !nameShape.MatchString(f.Name) {
			return nil, fmt.Errorf("%s: field name %s is there twice or malformed", quote(s.Name), quote(f.Name))
		}
		sp.index[f.Name] = i
		fs, err := newFieldSpec(f)
		if err != nil {
			return nil, fmt.Errorf("%s: field %s: %w", quote(s.Name), f.Name, err)
		}
		sp.fields[i] = fs
	}
	return sp, nil
}

func newFieldSpec(f Field) (fieldSpec, error) {
	fs := fieldSpec{Field: f}
	var err error
	if fs.min, err = fs.bound("min", f.Min); err != nil {
		return fs, err
	}
	if fs.max, err = fs.bound("max", f.Max); err != nil {
		return fs, err
	}
	if len(f.Enum) > 0 && !fs.texts() {
		return fs, fmt.Errorf("type %s cannot have an enum", quote(f.Type))
	}
	if f.Pattern != "" {
		if !fs.texts() || len(f.Pattern) > maxPattern {
			return fs, fmt.Errorf("pattern of %d bytes, or not for a text", len(f.Pattern))
		}
		if fs.pattern, err = regexp.Compile(`^(?:` + f.Pattern + `)$`); err != nil {
			return fs, fmt.Errorf("pattern: %v", err)
		}
	}
	if f.Default != "" {
		if f.Required {
			return fs, fmt.Errorf("it is required and has a default")
		}
		switch f.Type {
		case "[]string", "map[string]string", "bytes":
			return fs, fmt.Errorf("type %s cannot have a default", f.Type)
		}
		def, ok := fs.parseText(f.Default)
		if !ok || !fs.holds(def) {
			return fs, fmt.Errorf("default %s: wants %s", quote(f.Default), fs.wants())
		}
		fs.def = def
	}
	return fs, nil
}

// texts says that enum and pattern make sense.
func (f *fieldSpec) texts() bool { return f.Type == "string" || f.Type == "[]string" }

func (f *fieldSpec) bound(which, text string) (any, error) {
	if text == "" {
		return nil, nil
	}
	count := Field{Type: f.Type}
	switch f.Type {
	case "string", "bytes", "[]string", "map[string]string":
		count.Type = "int"
	case "int", "float", "duration":
	default:
		return nil, fmt.Errorf("type %s cannot have a %s", quote(f.Type), which)
	}
	v, ok := (&fieldSpec{Field: count}).parseText(text)
	if !ok {
		return nil, fmt.Errorf("%s is %s", which, quote(text))
	}
	return v, nil
}

// parseText reads a scalar, or one element of a list, as a person types it.
func (f *fieldSpec) parseText(s string) (any, bool) {
	switch f.Type {
	case "string", "[]string":
		return s, utf8.ValidString(s)
	case "bytes":
		return Bytes(s), true
	case "bool":
		return s == "true", s == "true" || s == "false"
	case "int":
		v, err := strconv.ParseInt(s, 10, 64)
		return v, err == nil
	case "float":
		v, err := strconv.ParseFloat(s, 64)
		return v, err == nil && v-v == 0 // neither infinite nor NaN
	case "duration":
		v, err := time.ParseDuration(s)
		return v, err == nil
	}
	return json.RawMessage(s), json.Valid([]byte(s))
}

// holds checks a value against min, max, enum and pattern.
func (f *fieldSpec) holds(v any) bool {
	switch v := v.(type) {
	case int64:
		return within(v, f.min, f.max)
	case float64:
		return within(v, f.min, f.max)
	case time.Duration:
		return within(v, f.min, f.max)
	case Bytes:
		return within(int64(len(v)), f.min, f.max)
	case string:
		return within(int64(len(v)), f.min, f.max) && f.textHolds(v)
	case []string:
		return within(int64(len(v)), f.min, f.max) && !slices.ContainsFunc(v, func(s string) bool { return !f.textHolds(s) })
	case map[string]string:
		return within(int64(len(v)), f.min, f.max)
	}
	return true
}

func (f *fieldSpec) textHolds(s string) bool {
	if len(f.Enum) > 0 && !slices.Contains(f.Enum, s) {
		return false
	}
	return f.pattern == nil || f.pattern.MatchString(s)
}

func within[T int64 | float64 | time.Duration](v T, low, high any) bool {
	if l, ok := low.(T); ok && v < l {
		return false
	}
	h, ok := high.(T)
	return !ok || v <= h
}

// wants says in words what the field takes.
func (f *fieldSpec) wants() string {
	s := map[string]string{
		"string": "a text", "bytes": `a text or {"base64": "…"}`, "bool": "true or false", "int": "a whole number",
		"float": "a number", "duration": "a duration such as 1m30s", "[]string": "a list of texts",
		"map[string]string": "entries KEY=VALUE, each key once",
	}[f.Type]
	if s == "" {
		s = f.Type
	}
	unit := map[string]string{"string": " bytes", "bytes": " bytes", "[]string": " entries", "map[string]string": " entries"}[f.Type]
	switch {
	case f.Min != "" && f.Max != "":
		s += fmt.Sprintf(", %s to %s%s", f.Min, f.Max, unit)
	case f.Min != "":
		s += fmt.Sprintf(", at least %s%s", f.Min, unit)
	case f.Max != "":
		s += fmt.Sprintf(", at most %s%s", f.Max, unit)
	}
	if len(f.Enum) > 0 {
		s += ", one of " + strings.Join(f.Enum, ", ")
	}
	if f.Pattern != "" {
		s += ", of the form " + f.Pattern
	}
	return s
}

// refuse is the error about one field's value, given as JSON or as a word.
func (s *spec) refuse(f *fieldSpec, given string) error {
	if f.Secret {
		given = "a secret value"
	} else {
		given = quote(given)
	}
	return s.invalid("field %q: got %s; wants %s", f.Name, given, f.wants())
}

func (s *spec) invalid(format string, args ...any) error {
	return call.Errorf(call.Invalid, "%s: %s", s.method, clip(fmt.Sprintf(format, args...), MaxDetail-call.MaxMethod-2))
}

// known lists the fields for an error's next step.
func (s *spec) known() string {
	if len(s.fields) == 0 {
		return "it takes none"
	}
	names := make([]string, len(s.fields))
	for i := range s.fields {
		names[i] = s.fields[i].Name
	}
	return "known: " + strings.Join(names, ", ")
}

// quote shows what was given, at most about 60 bytes of it.
func quote(s string) string { return strconv.Quote(clip(s, 60)) }

// bytesValue reads either form of Bytes.
func bytesValue(raw []byte) (any, bool) {
	if kindOf(raw) == '"' {
		var s string
		return decodeInto(raw, &s, func() any { return Bytes(s) })
	}
	m, problem := members(raw)
	if problem != "" || len(m) != 1 || m[0].name != "base64" || kindOf(m[0].value) != '"' {
		return nil, false
	}
	var s string
	if err := json.Unmarshal(m[0].value, &s); err != nil {
		return nil, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	return Bytes(b), err == nil && !strings.ContainsAny(s, "\r\n")
}

func decodeInto[T any](raw []byte, to *T, value func() any) (any, bool) {
	if err := json.Unmarshal(raw, to); err != nil {
		return nil, false
	}
	return value(), true
}

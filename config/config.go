// Package config reads a daemon's configuration file: one YAML document, read
// strictly. What is wrong is said with line and key.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxSize bounds a configuration file in bytes.
const MaxSize = 1 << 20

// Error says where a file is wrong.
type Error struct {
	Path string
	Line int    // 1 is the first; 0: unknown
	Key  string // as written in the file; empty: none in particular
	Err  error
}

// Error gives `minion.yaml:3: key "pinn": unknown; …`.
func (e *Error) Error() string {
	s := e.Path
	if e.Line > 0 {
		s += ":" + strconv.Itoa(e.Line)
	}
	if e.Key != "" {
		s += fmt.Sprintf(": key %q", e.Key)
	}
	return s + ": " + e.Err.Error()
}

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

// Load reads the file at path into a T, a struct with yaml tags. Unknown keys,
// wrong types and a second document are an *Error. The values have been read,
// not judged: that is for T's owner, after flags have had their say.
func Load[T any](path string) (T, error) {
	var none T
	f, err := os.Open(path)
	if err != nil {
		return none, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return none, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return Parse[T](path, b)
}

// Parse is Load for text already read; path is for the errors.
func Parse[T any](path string, b []byte) (T, error) {
	var v, none T
	if len(b) > MaxSize {
		return none, &Error{Path: path, Err: fmt.Errorf("it has more than %d bytes", MaxSize)}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	dec.KnownFields(true)
	if err := dec.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return none, located(path, err, reflect.TypeFor[T]())
	}
	var rest yaml.Node
	if err := dec.Decode(&rest); !errors.Is(err, io.EOF) {
		return none, &Error{Path: path, Line: rest.Line, Err: errors.New("a second document; one file holds one")}
	}
	return v, nil
}

// located turns the decoder's text into line, key and reason.
func located(path string, err error, t reflect.Type) error {
	text := err.Error()
	if e, ok := errors.AsType[*yaml.TypeError](err); ok && len(e.Errors) > 0 {
		text = e.Errors[0]
	}
	out := &Error{Path: path, Err: errors.New(strings.TrimPrefix(text, "yaml: "))}
	m := regexp.MustCompile(`line (\d+): (.*)`).FindStringSubmatch(text)
	if m == nil {
		return out
	}
	out.Line, _ = strconv.Atoi(m[1]) // digits, by the expression
	out.Err = errors.New(m[2])
	if u := regexp.MustCompile(`^field (\S+) (?:not found|already set) in type (\S+)`).FindStringSubmatch(m[2]); u != nil {
		out.Key = u[1]
		out.Err = errors.New("unknown, or given twice; the keys are " + strings.Join(keysOf(t, u[2]), ", "))
	}
	return out
}

// keysOf lists the keys of the struct called name within t.
func keysOf(t reflect.Type, name string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "-" {
			continue
		}
		if t.String() == name {
			keys = append(keys, key)
		} else if found := keysOf(f.Type, name); found != nil {
			return found
		}
	}
	return keys
}

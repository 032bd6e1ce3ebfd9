package module

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"dominion/call"
)

// A RawFunc carries out a method that is no Go function. args is a JSON object
// that the schema accepts, with the defaults of what was left out. The answer is
// foreign: Run holds it against the schema's output.
type RawFunc func(ctx context.Context, env *Env, args []byte) (answer []byte, err error)

// Declared makes a method of a schema, whose name is without the module's. As
// with Func, mistakes are reported by NewTable.
func Declared(s Schema, run RawFunc) Method {
	s = s.clone()
	m := Method{name: s.Name, doc: s.Doc, effect: s.Effect, declared: &s, raw: run}
	if s.Timeout != "" {
		d, err := time.ParseDuration(s.Timeout)
		if m.options.Timeout = d; err == nil && d == 0 {
			m.options.Timeout = -1 // none
		}
	}
	return m
}

// compileDeclared is compile for a method made by Declared.
func (m Method) compileDeclared(moduleDoc string) (*compiled, error) {
	if err := checkDeclared(m.declared); err != nil {
		return nil, fmt.Errorf("method %s: %w", m.name, err)
	}
	c := &compiled{schema: m.declared.clone()}
	c.schema.Name, c.schema.ModuleDoc, c.schema.Timeout = m.name, moduleDoc, m.Timeout().String()
	var err error
	if c.spec, err = newSpec(&c.schema); err != nil {
		return nil, fmt.Errorf("method %w", err)
	}
	return c, nil
}

// runDeclared carries out a declared method with values that were decoded.
func (m Method) runDeclared(ctx context.Context, env *Env, c *compiled, values []any) ([]byte, error) {
	if m.raw == nil {
		return nil, m.internal(env, "it has nothing to run", nil)
	}
	for i := range values {
		if values[i] == nil {
			values[i] = c.spec.fields[i].def
		}
	}
	args, err := c.spec.object(values)
	if err != nil {
		return nil, err
	}
	answer, err := m.invokeDeclared(ctx, env, args)
	if err != nil {
		return nil, classify(ctx, err)
	}
	out, err := c.schema.Answer(answer)
	if err != nil {
		return nil, call.Errorf(call.Failed, "%s", clip(fmt.Sprintf("%s: %v", m.name, err), MaxDetail))
	}
	return out, nil
}

func (m Method) invokeDeclared(ctx context.Context, env *Env, args []byte) (answer []byte, err error) {
	defer m.recovered(env, &err)
	return m.raw(ctx, env, args)
}

// Answer checks an answer from outside, at most MaxOutput bytes of JSON, against
// the schema's output and gives it in one form: without spaces, fields in the
// schema's order, so that equal answers of many machines are equal bytes. No
// bytes at all count as {} when the output has no fields. The error says what is
// wrong, and where.
func (s Schema) Answer(b []byte) ([]byte, error) {
	b = bytes.TrimSpace(b)
	if len(b) > MaxOutput {
		return nil, fmt.Errorf("the answer has %d bytes, more than %d", len(b), MaxOutput)
	}
	if len(b) == 0 {
		if len(s.Output) > 0 {
			return nil, fmt.Errorf("there is no answer; wants a JSON object")
		}
		return []byte("{}"), nil
	}
	if err := checkText(b); err != nil {
		return nil, fmt.Errorf("the answer %s: %v", quote(string(b)), err)
	}
	var out bytes.Buffer
	if err := answerObject(&out, s.Output, b); err != nil {
		return nil, fmt.Errorf("the answer: %w", err)
	}
	if out.Len() > MaxOutput {
		return nil, fmt.Errorf("the answer has %d bytes, more than %d", out.Len(), MaxOutput)
	}
	return out.Bytes(), nil
}

func answerObject(out *bytes.Buffer, fields []Field, raw json.RawMessage) error {
	list, problem := members(raw)
	if problem != "" {
		return fmt.Errorf("%s", problem)
	}
	have := make(map[string]json.RawMessage, len(list))
	for _, m := range list {
		if !slices.ContainsFunc(fields, func(f Field) bool { return f.Name == m.name }) {
			return fmt.Errorf("field %s is not in the schema's output", quote(m.name))
		}
		have[m.name] = m.value
	}
	out.WriteByte('{')
	first := true
	for i := range fields {
		f := &fields[i]
		v, ok := have[f.Name]
		if !ok {
			continue
		}
		if !first {
			out.WriteByte(',')
		}
		first = false
		out.WriteString(`"` + f.Name + `":`)
		if err := answerValue(out, f.Type, f.Fields, v); err != nil {
			return fmt.Errorf("field %s: %w", f.Name, err)
		}
	}
	out.WriteByte('}')
	return nil
}

func answerValue(out *bytes.Buffer, typ string, fields []Field, raw json.RawMessage) error {
	wrong := func() error { return fmt.Errorf("got %s; wants %s", quote(string(raw)), typ) }
	if of, ok := strings.CutPrefix(typ, "[]"); ok {
		var list []json.RawMessage
		if kindOf(raw) != '[' || json.Unmarshal(raw, &list) != nil {
			return wrong()
		}
		return answerList(out, of, fields, list)
	}
	if of, ok := strings.CutPrefix(typ, "map[string]"); ok {
		list, problem := members(raw)
		if problem != "" {
			return wrong()
		}
		return answerMap(out, of, fields, list)
	}
	kind := kindOf(raw)
	ok := false
	switch typ {
	case "object":
		if kind != '{' {
			return wrong()
		}
		return answerObject(out, fields, raw)
	case "string", "time":
		var s string
		if kind != '"' || json.Unmarshal(raw, &s) != nil {
			return wrong()
		}
		if typ == "time" {
			if _, err := time.Parse(time.RFC3339, s); err != nil {
				return wrong()
			}
		}
		return answerText(out, s)
	case "bool":
		ok = kind == 't' || kind == 'f'
	case "int":
		_, signed := strconv.ParseInt(string(raw), 10, 64)
		_, unsigned := strconv.ParseUint(string(raw), 10, 64)
		ok = signed == nil || unsigned == nil
	case "float":
		_, err := strconv.ParseFloat(string(raw), 64)
		ok = kind == '0' && err == nil
	case "bytes":
		_, ok = bytesValue(raw)
	case "any":
		ok = true
	}
	if !ok {
		return wrong()
	}
	return json.Compact(out, raw)
}

func answerList(out *bytes.Buffer, of string, fields []Field, list []json.RawMessage) error {
	out.WriteByte('[')
	for i, v := range list {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := answerValue(out, of, fields, bytes.TrimSpace(v)); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	out.WriteByte(']')
	return nil
}

func answerMap(out *bytes.Buffer, of string, fields []Field, list []member) error {
	byName := make(map[string]json.RawMessage, len(list))
	for _, m := range list {
		byName[m.name] = m.value
	}
	out.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(byName)) {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := answerText(out, name); err != nil {
			return err
		}
		out.WriteByte(':')
		if err := answerValue(out, of, fields, byName[name]); err != nil {
			return fmt.Errorf("%s: %w", quote(name), err)
		}
	}
	out.WriteByte('}')
	return nil
}

func answerText(out *bytes.Buffer, s string) error {
	b, err := encode(s)
	out.Write(b)
	return err
}

package funcd

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"dominion/call"
	"dominion/module"
	"dominion/xmlrpc"
)

// native makes a method of the minion's table one of this face: arguments go to
// the fields of its input in their order.
func native(m module.Method) *Method {
	schema := m.Schema()
	out := &Method{Name: baseName(schema.Name), Doc: schema.Doc, Timeout: m.Timeout(), loose: true}
	if out.Timeout == 0 {
		out.Timeout = -1
	}
	for _, f := range schema.Fields {
		out.Args = append(out.Args, argOf(f))
		out.Secret = out.Secret || f.Secret
	}
	out.Run = func(ctx context.Context, env *Env, args []any) (any, error) {
		doc, err := fieldsOf(schema, args)
		if err != nil {
			return nil, err
		}
		me := &module.Env{Machine: env.Machine, Job: env.ID, Operator: env.Caller.String(), Version: env.Version, Log: env.log}
		if env.Log != nil {
			stdout, stderr := env.Log.writer(), env.Log.writer()
			defer stdout.flush()
			defer stderr.flush()
			me.Stdout, me.Stderr = io.Writer(stdout), io.Writer(stderr)
		}
		answer, err := m.Run(ctx, me, doc)
		if err != nil {
			return nil, err
		}
		return fromJSON(answer)
	}
	return out
}

// argOf describes a field in Func's words.
func argOf(f module.Field) Arg {
	a := Arg{Name: f.Name, Doc: f.Doc, Optional: !f.Required, Options: f.Enum, Validator: f.Pattern, Type: "string"}
	switch f.Type {
	case "int", "float":
		a.Type = f.Type
	case "bool":
		a.Type = "boolean"
	case "[]string":
		a.Type = "list"
	case "map[string]string":
		a.Type = "hash"
	}
	switch a.Type {
	case "int":
		a.Default, a.Min, a.Max = whole(f.Default), whole(f.Min), whole(f.Max)
	case "float":
		a.Default, a.Min, a.Max = double(f.Default), double(f.Min), double(f.Max)
	case "boolean":
		if f.Default != "" {
			a.Default = f.Default == "true"
		}
	case "string":
		if f.Default != "" {
			a.Default = f.Default
		}
		if f.Type == "string" {
			a.Min, a.Max = whole(f.Min), whole(f.Max)
		}
	}
	return a
}

// whole reads a bound of a schema; nil when there is none.
func whole(s string) any {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil
	}
	return number(v)
}

func double(s string) any {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil
	}
	return v
}

// number gives an int, or a Long for one of more than 32 bits.
func number(v int64) any {
	if v < -1<<31 || v > 1<<31-1 {
		return xmlrpc.Long(v)
	}
	return int(v)
}

// fieldsOf makes the JSON object of a method's input: one argument for each field,
// in the schema's order, a nil for one that is left out. A single struct whose
// members are all names of fields gives them by name, unless the first field is a
// map. Values that do not fit are left to the schema to refuse.
func fieldsOf(schema module.Schema, args []any) ([]byte, error) {
	values := make(map[string]json.RawMessage, len(args))
	give := func(f module.Field, v any) error {
		raw, err := fieldJSON(f, v)
		if err != nil {
			return call.Errorf(call.Invalid, "%s: field %q: %v", schema.Name, f.Name, err)
		}
		if raw != nil {
			values[f.Name] = raw
		}
		return nil
	}
	if named, ok := byName(schema, args); ok {
		for _, f := range schema.Fields {
			if err := give(f, named[f.Name]); err != nil {
				return nil, err
			}
		}
		return json.Marshal(values)
	}
	if len(args) > len(schema.Fields) {
		return nil, &Exception{typeArguments, fmt.Sprintf("%s() takes at most %d arguments (%d given)", baseName(schema.Name), len(schema.Fields), len(args))}
	}
	for i, v := range args {
		if err := give(schema.Fields[i], v); err != nil {
			return nil, err
		}
	}
	return json.Marshal(values)
}

func byName(schema module.Schema, args []any) (map[string]any, bool) {
	if len(args) != 1 || len(schema.Fields) == 0 || schema.Fields[0].Type == "map[string]string" {
		return nil, false
	}
	m, ok := args[0].(map[string]any)
	for name := range m {
		if _, known := schema.Field(name); !known {
			return nil, false
		}
	}
	return m, ok
}

// fieldJSON writes one value for a field; nil for nil. func's command line sends
// every argument as a text, so a text for a field of another type is read as a
// person would type it.
func fieldJSON(f module.Field, v any) (json.RawMessage, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		if raw := typed(f.Type, v); raw != nil {
			return raw, nil
		}
	case int:
		switch f.Type {
		case "bool":
			if v == 0 || v == 1 {
				return json.Marshal(v == 1)
			}
		case "duration":
			return json.Marshal((time.Duration(v) * time.Second).String())
		}
	case []byte:
		if f.Type == "string" && utf8.Valid(v) {
			return json.Marshal(string(v))
		}
	}
	plain, err := toJSON(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(plain)
}

// typed reads a text for a field of another type; nil: it stays a text.
func typed(kind, text string) json.RawMessage {
	switch kind {
	case "int":
		if v, err := strconv.ParseInt(text, 10, 64); err == nil {
			return strconv.AppendInt(nil, v, 10)
		}
	case "float":
		if v, err := strconv.ParseFloat(text, 64); err == nil && v-v == 0 {
			return strconv.AppendFloat(nil, v, 'g', -1, 64)
		}
	case "bool":
		switch text = strings.ToLower(text); text {
		case "true", "false":
			return json.RawMessage(text)
		}
	}
	return nil
}

// toJSON gives what encoding/json writes for a value.
func toJSON(v any) (any, error) {
	switch v := v.(type) {
	case []byte:
		return module.Bytes(v), nil
	case xmlrpc.DateTime:
		return string(v), nil
	case xmlrpc.Long:
		return int64(v), nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			var err error
			if out[i], err = toJSON(e); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			var err error
			if out[k], err = toJSON(e); err != nil {
				return nil, err
			}
		}
		return out, nil
	case float64:
		if v-v != 0 {
			return nil, fmt.Errorf("%v is no number", v)
		}
	}
	return v, nil
}

// fromJSON gives the value of a method's answer. Numbers of more than 32 bits
// become Longs, which Python reads and Func could not send; bytes that are no text
// become base64.
func fromJSON(doc []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read the method's answer: %w", err)
	}
	return plain(v), nil
}

func plain(v any) any {
	switch v := v.(type) {
	case string:
		return xmlrpc.Text(v)
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return number(n)
		}
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return f
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
		return v
	case map[string]any:
		if s, ok := v["base64"].(string); ok && len(v) == 1 {
			if b, err := base64.StdEncoding.DecodeString(s); err == nil {
				return b
			}
		}
		for k := range v {
			v[k] = plain(v[k])
		}
		return v
	}
	return v
}

func baseName(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// split cuts a name on the wire at its last dot.
func split(name string) (mod, method string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 || i == len(name)-1 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

// sortedUnique sorts names and drops doubles.
func sortedUnique(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

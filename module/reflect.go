package module

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	timeType     = reflect.TypeFor[time.Time]()
	bytesType    = reflect.TypeFor[Bytes]()
	rawType      = reflect.TypeFor[json.RawMessage]()
)

// inputFields reads the fields of an input struct, those of embedded structs
// among them, and where each lies.
func inputFields(t reflect.Type) ([]Field, [][]int, error) {
	if t.Kind() != reflect.Struct {
		return nil, nil, fmt.Errorf("%s is not a struct", t)
	}
	var fields []Field
	var paths [][]int
	for _, sf := range reflect.VisibleFields(t) {
		if flattened(sf) {
			continue
		}
		f, err := describe(sf)
		if err != nil {
			return nil, nil, err
		}
		if err := inputType(&f, sf.Type); err != nil {
			return nil, nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		fields = append(fields, f)
		paths = append(paths, sf.Index)
	}
	return fields, paths, nil
}

// flattened says that sf is an embedded struct whose fields stand for it.
func flattened(sf reflect.StructField) bool {
	_, named := sf.Tag.Lookup("json")
	return sf.Anonymous && !named && sf.Type.Kind() == reflect.Struct
}

func describe(sf reflect.StructField) (Field, error) {
	name, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
	switch {
	case sf.Anonymous:
		return Field{}, fmt.Errorf("field %s: only a struct without a json name can be embedded", sf.Name)
	case !sf.IsExported():
		return Field{}, fmt.Errorf("field %s is not exported", sf.Name)
	case !nameShape.MatchString(name):
		return Field{}, fmt.Errorf("field %s: json name %q: wants lower-case letters, digits and underscores", sf.Name, name)
	case options != "" && options != "omitempty" && options != "omitzero":
		return Field{}, fmt.Errorf("field %s: json option %q is not allowed", name, options)
	case sf.Tag.Get("doc") == "":
		return Field{}, fmt.Errorf("field %s has no doc", name)
	}
	f := Field{
		Name: name, Doc: sf.Tag.Get("doc"), Default: sf.Tag.Get("default"),
		Min: sf.Tag.Get("min"), Max: sf.Tag.Get("max"), Pattern: sf.Tag.Get("pattern"),
	}
	for key, to := range map[string]*bool{"required": &f.Required, "secret": &f.Secret} {
		switch v := sf.Tag.Get(key); v {
		case "", "false":
		case "true":
			*to = true
		default:
			return Field{}, fmt.Errorf("field %s: %s is %q; wants true or false", name, key, v)
		}
	}
	if e := sf.Tag.Get("enum"); e != "" {
		f.Enum = strings.Split(e, ",")
	}
	return f, nil
}

// inputType names the type of an input field and gives small integers the
// bounds that their Go type has.
func inputType(f *Field, t reflect.Type) error {
	switch {
	case t == durationType:
		f.Type = "duration"
		return nil
	case t == bytesType:
		f.Type = "bytes"
		return nil
	}
	switch k := t.Kind(); k {
	case reflect.String:
		f.Type = "string"
	case reflect.Bool:
		f.Type = "bool"
	case reflect.Float64:
		f.Type = "float"
	case reflect.Int, reflect.Int64, reflect.Int8, reflect.Int16, reflect.Int32:
		f.Type = "int"
		if bits := t.Bits(); bits < 64 {
			defaultBound(&f.Min, -1<<(bits-1))
			defaultBound(&f.Max, 1<<(bits-1)-1)
		}
	case reflect.Uint, reflect.Uint64, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		f.Type = "int"
		defaultBound(&f.Min, 0)
		if bits := t.Bits(); bits < 64 {
			defaultBound(&f.Max, 1<<bits-1)
		}
	case reflect.Slice:
		if t.Elem().Kind() != reflect.String {
			return fmt.Errorf("type %s cannot be an input", t)
		}
		f.Type = "[]string"
	case reflect.Map:
		if t.Key().Kind() != reflect.String || t.Elem().Kind() != reflect.String {
			return fmt.Errorf("type %s cannot be an input", t)
		}
		f.Type = "map[string]string"
	default:
		return fmt.Errorf("type %s cannot be an input", t)
	}
	return nil
}

func defaultBound(to *string, v int64) {
	if *to == "" {
		*to = strconv.FormatInt(v, 10)
	}
}

// outputFields describes what encoding/json will write for t.
func outputFields(t reflect.Type, depth int) ([]Field, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%s nests deeper than %d", t, maxNesting)
	}
	var fields []Field
	for _, sf := range reflect.VisibleFields(t) {
		if flattened(sf) {
			continue
		}
		f, err := describe(sf)
		if err != nil {
			return nil, err
		}
		if f.Type, f.Fields, err = outputType(sf.Type, depth); err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		fields = append(fields, f)
	}
	return fields, nil
}

func outputType(t reflect.Type, depth int) (string, []Field, error) {
	switch t {
	case timeType:
		return "time", nil, nil
	case bytesType:
		return "bytes", nil, nil
	case rawType:
		return "any", nil, nil
	case durationType:
		return "", nil, fmt.Errorf("type %s would be written as a number: use seconds or a text", t)
	}
	switch t.Kind() {
	case reflect.String:
		return "string", nil, nil
	case reflect.Bool:
		return "bool", nil, nil
	case reflect.Float64:
		return "float", nil, nil
	case reflect.Int, reflect.Int64, reflect.Int8, reflect.Int16, reflect.Int32,
		reflect.Uint, reflect.Uint64, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return "int", nil, nil
	case reflect.Pointer:
		return outputType(t.Elem(), depth)
	case reflect.Struct:
		f, err := outputFields(t, depth+1)
		return "object", f, err
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "", nil, fmt.Errorf("type %s would be written as base64: use module.Bytes", t)
		}
		name, f, err := outputType(t.Elem(), depth)
		return "[]" + name, f, err
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			break
		}
		name, f, err := outputType(t.Elem(), depth)
		return "map[string]" + name, f, err
	}
	return "", nil, fmt.Errorf("type %s cannot be an output", t)
}

// set fills an In struct. Values are those of spec.decode: nil leaves a field
// at its default, or its zero value.
func (c *compiled) set(in reflect.Value, values []any) {
	for i, v := range values {
		if v == nil {
			v = c.spec.fields[i].def
		}
		if v == nil {
			continue
		}
		to := in.FieldByIndex(c.paths[i])
		switch v := v.(type) {
		case int64:
			if to.CanUint() {
				to.SetUint(uint64(v))
			} else {
				to.SetInt(v)
			}
		default: // the kinds agree: inputType named the type that decode used
			to.Set(reflect.ValueOf(v).Convert(to.Type()))
		}
	}
}

package module

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Schema describes one method. The package documentation lists its keys.
type Schema struct {
	Name      string  `json:"name"` // "service.status"
	Doc       string  `json:"doc"`
	ModuleDoc string  `json:"module_doc,omitempty"`
	Effect    Effect  `json:"effect"`
	Timeout   string  `json:"timeout"` // a Go duration; "0s": none
	Fields    []Field `json:"fields,omitempty"`
	Output    []Field `json:"output,omitempty"`
}

// Field describes one field of an input or output. Default, Min and Max are
// in the form a person would type.
type Field struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Doc      string   `json:"doc"`
	Required bool     `json:"required,omitempty"`
	Default  string   `json:"default,omitempty"`
	Min      string   `json:"min,omitempty"`
	Max      string   `json:"max,omitempty"`
	Enum     []string `json:"enum,omitempty"`
	Pattern  string   `json:"pattern,omitempty"`
	Secret   bool     `json:"secret,omitempty"`
	Fields   []Field  `json:"fields,omitempty"` // of an object, or of the objects in a list or map
}

// Limits of schemas read from elsewhere.
const (
	MaxSchemas = 8 << 20 // bytes of JSON
	maxFields  = 256     // of one method's input or output
	maxPattern = 1 << 10 // bytes
	maxNesting = 8       // objects within objects
)

// ErrSchema is wrapped by every error about schemas that cannot be used.
var ErrSchema = errors.New("bad method schema")

// ParseSchemas reads a JSON list of schemas, at most MaxSchemas bytes, as the
// overlord's API gives it. Unknown keys are ignored and types that this
// program does not know are kept (their values are checked by the machine
// alone), so that an older program can use a newer one's schemas. Every error
// wraps ErrSchema.
func ParseSchemas(b []byte) ([]Schema, error) {
	if len(b) > MaxSchemas {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrSchema, len(b), MaxSchemas)
	}
	if err := checkText(b); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSchema, err)
	}
	var out []Schema
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSchema, err)
	}
	for i := range out {
		if _, err := newSpec(&out[i]); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrSchema, err)
		}
	}
	return out, nil
}

// EncodeSchemas is the inverse of ParseSchemas.
func EncodeSchemas(s []Schema) ([]byte, error) {
	if s == nil {
		s = []Schema{}
	}
	b, err := encode(s)
	if err != nil {
		return nil, fmt.Errorf("encode method schemas: %w", err)
	}
	return b, nil
}

// Validate checks a JSON object of arguments as Method.Validate does, from
// the schema alone.
func (s Schema) Validate(args []byte) error {
	sp, err := newSpec(&s)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrSchema, err)
	}
	_, err = sp.decode(args)
	return err
}

// Field finds an input field by name.
func (s Schema) Field(name string) (Field, bool) {
	i := slices.IndexFunc(s.Fields, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return s.Fields[i], true
}

// clone keeps callers from changing a table's schema through its slices.
func (s Schema) clone() Schema {
	s.Fields, s.Output = cloneFields(s.Fields), cloneFields(s.Output)
	return s
}

func cloneFields(in []Field) []Field {
	out := slices.Clone(in)
	for i := range out {
		out[i].Enum = slices.Clone(out[i].Enum)
		out[i].Fields = cloneFields(out[i].Fields)
	}
	return out
}

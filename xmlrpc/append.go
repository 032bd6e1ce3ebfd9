package xmlrpc

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
)

const header = "<?xml version='1.0'?>\n"

// Append writes a <methodCall> behind dst. The error wraps ErrValue.
func (c Call) Append(dst []byte) ([]byte, error) {
	if !methodName(c.Method) {
		return nil, fmt.Errorf("%w: method name %.40q", ErrValue, c.Method)
	}
	w := writer{b: append(dst, header+"<methodCall>\n<methodName>"...)}
	w.text(c.Method)
	w.raw("</methodName>\n<params>\n")
	for _, v := range c.Params {
		w.raw("<param>\n")
		if err := w.value(v, 1); err != nil {
			return nil, err
		}
		w.raw("</param>\n")
	}
	w.raw("</params>\n</methodCall>\n")
	return w.b, w.whole(len(dst))
}

// AppendAnswer writes a <methodResponse> with a value behind dst. The error wraps
// ErrValue.
func AppendAnswer(dst []byte, v any) ([]byte, error) {
	w := writer{b: append(dst, header+"<methodResponse>\n<params>\n<param>\n"...)}
	if err := w.value(v, 1); err != nil {
		return nil, err
	}
	w.raw("</param>\n</params>\n</methodResponse>\n")
	return w.b, w.whole(len(dst))
}

// AppendFault writes a <methodResponse> with a fault behind dst. What XML cannot
// carry of its text is replaced.
func AppendFault(dst []byte, f Fault) []byte {
	if !carries(f.Text) {
		f.Text = strconv.QuoteToASCII(f.Text)
	}
	w := writer{b: append(dst, header+"<methodResponse>\n<fault>\n"...)}
	code := min(max(f.Code, minInt), maxInt)
	// Neither has a value that cannot be written.
	_ = w.value(map[string]any{"faultCode": code, "faultString": f.Text}, 1)
	w.raw("</fault>\n</methodResponse>\n")
	return w.b
}

type writer struct {
	b      []byte
	values int
}

func (w *writer) raw(s string) { w.b = append(w.b, s...) }

func (w *writer) whole(from int) error {
	if n := len(w.b) - from; n > MaxDocument {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrValue, n, MaxDocument)
	}
	return nil
}

func (w *writer) value(v any, depth int) error {
	if w.values++; w.values > MaxValues || len(w.b) > 2*MaxDocument {
		return fmt.Errorf("%w: more than %d values, or %d bytes", ErrValue, MaxValues, MaxDocument)
	}
	if depth > MaxDepth {
		return fmt.Errorf("%w: more than %d values within each other", ErrValue, MaxDepth)
	}
	w.raw("<value>")
	if err := w.typed(v, depth); err != nil {
		return err
	}
	w.raw("</value>\n")
	return nil
}

func (w *writer) typed(v any, depth int) error {
	switch v := v.(type) {
	case nil:
		w.raw("<nil/>")
	case bool:
		w.raw("<boolean>")
		if v {
			w.raw("1</boolean>")
		} else {
			w.raw("0</boolean>")
		}
	case int:
		if v < minInt || v > maxInt {
			return fmt.Errorf("%w: %w: %d", ErrValue, ErrRange, v)
		}
		w.raw("<int>")
		w.b = strconv.AppendInt(w.b, int64(v), 10)
		w.raw("</int>")
	case Long:
		w.raw("<i8>")
		w.b = strconv.AppendInt(w.b, int64(v), 10)
		w.raw("</i8>")
	case float64:
		w.raw("<double>")
		w.double(v)
		w.raw("</double>")
	case string:
		if !carries(v) {
			return fmt.Errorf("%w: a text with characters that XML cannot carry", ErrValue)
		}
		w.raw("<string>")
		w.text(v)
		w.raw("</string>")
	case []byte:
		w.raw("<base64>")
		w.b = base64.StdEncoding.AppendEncode(w.b, v)
		w.raw("</base64>")
	case DateTime:
		if !dateShape.MatchString(string(v)) {
			return fmt.Errorf("%w: %.40q is no date and time", ErrValue, string(v))
		}
		w.raw("<dateTime.iso8601>" + string(v) + "</dateTime.iso8601>")
	case []any:
		return w.array(v, depth)
	case map[string]any:
		return w.members(v, depth)
	default:
		return fmt.Errorf("%w: a %T", ErrValue, v)
	}
	return nil
}

func (w *writer) array(list []any, depth int) error {
	w.raw("<array><data>\n")
	for _, e := range list {
		if err := w.value(e, depth+1); err != nil {
			return err
		}
	}
	w.raw("</data></array>")
	return nil
}

func (w *writer) members(m map[string]any, depth int) error {
	w.raw("<struct>\n")
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !carries(name) || len(name) > maxMember {
			return fmt.Errorf("%w: the name of a member, %.40q", ErrValue, name)
		}
		w.raw("<member>\n<name>")
		w.text(name)
		w.raw("</name>\n")
		if err := w.value(m[name], depth+1); err != nil {
			return err
		}
		w.raw("</member>\n")
	}
	w.raw("</struct>")
	return nil
}

// double writes no exponent: the specification knows none.
func (w *writer) double(v float64) {
	switch {
	case math.IsNaN(v):
		w.raw("nan")
	case math.IsInf(v, 1):
		w.raw("inf")
	case math.IsInf(v, -1):
		w.raw("-inf")
	default:
		w.b = strconv.AppendFloat(w.b, v, 'f', -1, 64)
	}
}

// text escapes what XML gives a meaning to.
func (w *writer) text(s string) {
	from := 0
	for i := range len(s) {
		var with string
		switch s[i] {
		case '&':
			with = "&amp;"
		case '<':
			with = "&lt;"
		case '>':
			with = "&gt;"
		case '\r':
			with = "&#13;"
		default:
			continue
		}
		w.b = append(append(w.b, s[from:i]...), with...)
		from = i + 1
	}
	w.b = append(w.b, s[from:]...)
}

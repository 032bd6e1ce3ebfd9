package xmlrpc

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ParseCall reads a <methodCall>. The error wraps ErrMalformed.
func ParseCall(doc []byte) (Call, error) {
	p, err := newParser(doc)
	if err != nil {
		return Call{}, err
	}
	c, err := p.call()
	if err == nil {
		err = p.end()
	}
	if err != nil {
		return Call{}, malformed(err)
	}
	return c, nil
}

// ParseAnswer reads a <methodResponse>: its value, or a fault, which is an error
// of type *Fault. Any other error wraps ErrMalformed.
func ParseAnswer(doc []byte) (any, error) {
	p, err := newParser(doc)
	if err != nil {
		return nil, err
	}
	v, fault, err := p.answer()
	if err == nil {
		err = p.end()
	}
	switch {
	case err != nil:
		return nil, malformed(err)
	case fault != nil:
		return nil, fault
	}
	return v, nil
}

func malformed(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %v", ErrMalformed, err)
}

// parser walks through one document.
type parser struct {
	d      *xml.Decoder
	values int
	depth  int
}

func newParser(doc []byte) (*parser, error) {
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrMalformed, len(doc), MaxDocument)
	}
	return &parser{d: xml.NewDecoder(bytes.NewReader(doc))}, nil
}

// token gives the next start or end of an element, or text. What has no place in
// XML-RPC is an error.
func (p *parser) token() (xml.Token, error) {
	for {
		t, err := p.d.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if t.Name.Space != "" || len(t.Attr) > 0 {
				return nil, fmt.Errorf("<%.40s> has a name space or attributes", t.Name.Local)
			}
			return t, nil
		case xml.EndElement, xml.CharData:
			return t, nil
		case xml.Directive:
			return nil, errors.New("a document type or another directive")
		case xml.ProcInst:
			if t.Target != "xml" {
				return nil, fmt.Errorf("a processing instruction %.40q", t.Target)
			}
		}
	}
}

// tag gives the next start or end of an element; the text before it must be
// blank.
func (p *parser) tag() (name string, start bool, err error) {
	for {
		t, err := p.token()
		if err != nil {
			return "", false, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			return t.Name.Local, true, nil
		case xml.EndElement:
			return t.Name.Local, false, nil
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return "", false, fmt.Errorf("text %.40q between elements", t)
			}
		}
	}
}

// open wants the start of one element.
func (p *parser) open(want string) error {
	name, start, err := p.tag()
	if err == nil && (!start || name != want) {
		err = fmt.Errorf("%s in place of <%s>", shown(name, start), want)
	}
	return err
}

// close wants the end of the element that is open.
func (p *parser) close() error {
	name, start, err := p.tag()
	if err == nil && start {
		err = fmt.Errorf("%s where an element should end", shown(name, start))
	}
	return err
}

func shown(name string, start bool) string {
	if start {
		return fmt.Sprintf("<%.40s>", name)
	}
	return fmt.Sprintf("</%.40s>", name)
}

// end wants nothing more.
func (p *parser) end() error {
	name, start, err := p.tag()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%s after the end", shown(name, start))
	}
	return err
}

// text reads to the end of the element that is open, in which there is only text.
func (p *parser) text() (string, error) {
	var b strings.Builder
	for {
		t, err := p.token()
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.CharData:
			b.Write(t)
		case xml.EndElement:
			return b.String(), nil
		case xml.StartElement:
			return "", fmt.Errorf("<%.40s> in a text", t.Name.Local)
		}
	}
}

func (p *parser) call() (c Call, err error) {
	if err := p.open("methodCall"); err != nil {
		return c, err
	}
	if err := p.open("methodName"); err != nil {
		return c, err
	}
	if c.Method, err = p.text(); err != nil {
		return c, err
	}
	if c.Method = strings.TrimSpace(c.Method); !methodName(c.Method) {
		return c, fmt.Errorf("method name %.40q", c.Method)
	}
	name, start, err := p.tag()
	switch {
	case err != nil || !start:
		return c, err
	case name != "params":
		return c, fmt.Errorf("<%.40s> in place of <params>", name)
	}
	for {
		more, err := p.item("param")
		if err != nil {
			return c, err
		}
		if !more {
			return c, p.close()
		}
		v, err := p.value()
		if err != nil {
			return c, err
		}
		c.Params = append(c.Params, v)
		if err := p.close(); err != nil {
			return c, err
		}
	}
}

// item says whether another element of this name begins, and with it its value,
// or the list ends.
func (p *parser) item(want string) (bool, error) {
	name, start, err := p.tag()
	switch {
	case err != nil || !start:
		return false, err
	case name != want:
		return false, fmt.Errorf("<%.40s> in place of <%s>", name, want)
	case want == "value":
		return true, nil
	}
	return true, p.open("value")
}

func (p *parser) answer() (v any, f *Fault, err error) {
	if err := p.open("methodResponse"); err != nil {
		return nil, nil, err
	}
	name, start, err := p.tag()
	switch {
	case err != nil:
		return nil, nil, err
	case start && name == "fault":
		f, err = p.fault()
	case start && name == "params":
		if err = p.open("param"); err == nil {
			if err = p.open("value"); err == nil {
				v, err = p.value()
			}
		}
		if err == nil {
			err = p.close() // param
		}
	default:
		err = fmt.Errorf("%s in a response", shown(name, start))
	}
	if err == nil {
		err = p.close()
	}
	if err == nil {
		err = p.close()
	}
	return v, f, err
}

func (p *parser) fault() (*Fault, error) {
	if err := p.open("value"); err != nil {
		return nil, err
	}
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	m, _ := v.(map[string]any)
	code, ok := m["faultCode"].(int)
	text, also := m["faultString"].(string)
	if !ok || !also || len(m) != 2 {
		return nil, errors.New("a fault without its code and text")
	}
	return &Fault{Code: code, Text: text}, nil
}

// value reads what is in a <value> that is open, and its end.
func (p *parser) value() (any, error) {
	if p.values++; p.values > MaxValues {
		return nil, fmt.Errorf("more than %d values", MaxValues)
	}
	if p.depth++; p.depth > MaxDepth {
		return nil, fmt.Errorf("more than %d values within each other", MaxDepth)
	}
	defer func() { p.depth-- }()
	var bare strings.Builder
	for {
		t, err := p.token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.CharData:
			bare.Write(t)
		case xml.EndElement:
			return bare.String(), nil
		case xml.StartElement:
			if strings.TrimSpace(bare.String()) != "" {
				return nil, fmt.Errorf("text %.40q beside <%.40s>", bare.String(), t.Name.Local)
			}
			v, err := p.typed(t.Name.Local)
			if err != nil {
				return nil, err
			}
			return v, p.close()
		}
	}
}

// typed reads what is in an element that names a type, and its end.
func (p *parser) typed(name string) (any, error) {
	switch name {
	case "array":
		return p.array()
	case "struct":
		return p.members()
	}
	s, err := p.text()
	if err != nil {
		return nil, err
	}
	v, ok := scalar(name, s)
	if !ok {
		return nil, fmt.Errorf("%.40q in <%.40s>", s, name)
	}
	return v, nil
}

func scalar(name, s string) (v any, ok bool) {
	switch name {
	case "string":
		return s, true
	case "int", "i4":
		n, ok := parseWhole(s, 32)
		return int(n), ok
	case "i8":
		n, ok := parseWhole(s, 64)
		return Long(n), ok
	case "boolean":
		s = strings.TrimSpace(s)
		return s == "1", s == "0" || s == "1"
	case "double":
		return parseDouble(s)
	case "dateTime.iso8601":
		s = strings.TrimSpace(s)
		return DateTime(s), dateShape.MatchString(s)
	case "base64":
		// Python breaks lines, and ends with a line feed.
		b, err := base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(s), ""))
		return b, err == nil
	case "nil":
		return nil, strings.TrimSpace(s) == ""
	}
	return nil, false
}

func (p *parser) array() (any, error) {
	if err := p.open("data"); err != nil {
		return nil, err
	}
	list := []any{}
	for {
		more, err := p.item("value")
		if err != nil {
			return nil, err
		}
		if !more {
			return list, p.close()
		}
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

func (p *parser) members() (any, error) {
	m := map[string]any{}
	for {
		name, start, err := p.tag()
		switch {
		case err != nil:
			return nil, err
		case !start:
			return m, nil
		case name != "member":
			return nil, fmt.Errorf("<%.40s> in place of <member>", name)
		}
		if err := p.member(m); err != nil {
			return nil, err
		}
	}
}

func (p *parser) member(m map[string]any) error {
	if err := p.open("name"); err != nil {
		return err
	}
	name, err := p.text()
	if err != nil {
		return err
	}
	if _, twice := m[name]; twice || len(name) > maxMember {
		return fmt.Errorf("member %.40q is there twice or has %d bytes", name, len(name))
	}
	if err := p.open("value"); err != nil {
		return err
	}
	if m[name], err = p.value(); err != nil {
		return err
	}
	return p.close()
}

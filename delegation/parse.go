package delegation

// Parse reads the text of a map's file, leniently: see the package
// documentation. Map.Cuts names the places that were left out: a machine
// standing below itself, a key that is no machine name. Errors wrap ErrMap and
// name the line.
//
// The text is read by a parser of our own, since a general one makes a tree
// of everything before it can be counted: 64 MiB of braces become gigabytes.
func Parse(text []byte) (Map, error) {
	if len(text) > MaxFile {
		return Map{}, faultf("it has more than %d MiB", MaxFile>>20)
	}
	s, err := newScanner(string(text))
	if err != nil {
		return Map{}, err
	}
	if s.ahead.kind == end {
		return Map{}, faultf("it is empty; the map of no machines is \"--- {}\"")
	}
	p := &parser{scanner: s}
	if s.ahead.null() {
		return Map{}, p.unexpected("names with the machines below them")
	}
	top, err := p.node(1)
	if err != nil {
		return Map{}, err
	}
	if s.ahead.kind != end {
		return Map{}, p.unexpected("the end of the file, or a name that begins where its neighbours do")
	}
	return New(Node{Below: top})
}

// maxKey is how far from its start YAML looks for the colon of a name, in
// bytes, with a margin.
const maxKey = 1000

// parser reads nested mappings of names. Its functions take the depth of the
// names that they are to read, 1 for those at the top.
type parser struct {
	*scanner
	names int
}

func (p *parser) unexpected(want string) error {
	if p.ahead.kind == end {
		return lineErrorf(p.ahead.line, "the file ends where %s should be", want)
	}
	return lineErrorf(p.ahead.line, "%q stands where %s should be", p.ahead.shown(), want)
}

// enter counts a name.
func (p *parser) enter(t token, depth int) error {
	if p.names++; p.names > MaxNodes {
		return lineErrorf(t.line, "more than %d machines", MaxNodes)
	}
	if len(t.text) > maxKey {
		return lineErrorf(t.line, "a name of %d bytes", len(t.text))
	}
	if depth > MaxDepth {
		return lineErrorf(t.line, "more than %d levels", MaxDepth)
	}
	return nil
}

// keyed says whether the colon of a name is ahead.
func (p *parser) keyed(t token) bool {
	return p.ahead.kind == colon && p.ahead.line == t.line && p.ahead.col-t.col < maxKey
}

// node reads what stands on lines of its own.
func (p *parser) node(depth int) ([]Node, error) {
	t := p.ahead
	switch {
	case t.kind == opening:
		return p.braces(depth)
	case !t.word():
		return nil, p.unexpected("a name")
	}
	if _, err := p.next(); err != nil {
		return nil, err
	}
	if t.null() && p.ahead.kind != colon {
		return nil, nil
	}
	if !t.first {
		return nil, lineErrorf(t.line, "%q should be on a line of its own", t.shown())
	}
	return p.block(t, depth)
}

// block reads a mapping that is written one name a line; the first one was read.
func (p *parser) block(t token, depth int) ([]Node, error) {
	indent := t.col
	var nodes []Node
	for {
		if err := p.enter(t, depth); err != nil {
			return nil, err
		}
		if t.text == "~" && t.kind == plain {
			return nil, lineErrorf(t.line, "%q is not a machine name", t.text)
		}
		if !p.keyed(t) {
			return nil, lineErrorf(t.line, "%q needs a \":\" behind it, and below it or behind that its machines, or {} for none", t.shown())
		}
		if _, err := p.next(); err != nil {
			return nil, err
		}
		below, err := p.value(indent, depth+1)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, Node{Name: t.text, Below: below})
		switch {
		case p.ahead.kind == end || p.ahead.first && p.ahead.col < indent:
			return nodes, nil
		case !p.ahead.first:
			return nil, p.unexpected("the end of the line")
		case p.ahead.col > indent:
			return nil, lineErrorf(p.ahead.line, "%q is indented by %d; its neighbour %q by %d", p.ahead.shown(), p.ahead.col, t.shown(), indent)
		case !p.ahead.word():
			return nil, p.unexpected("a name")
		}
		if t, err = p.next(); err != nil {
			return nil, err
		}
	}
}

// value reads what is behind a colon, or on deeper lines after it.
func (p *parser) value(indent, depth int) ([]Node, error) {
	t := p.ahead
	switch {
	case t.kind == end || t.first && t.col <= indent:
		return nil, nil
	case t.first:
		return p.node(depth)
	case t.kind == opening:
		return p.braces(depth)
	case t.null():
		_, err := p.next()
		return nil, err
	}
	return nil, p.unexpected("{} or the end of the line")
}

// braces reads {name: {…}, …}.
func (p *parser) braces(depth int) ([]Node, error) {
	open, err := p.next()
	if err != nil {
		return nil, err
	}
	var nodes []Node
	for p.ahead.kind != closing {
		t := p.ahead
		if t.kind == end {
			return nil, lineErrorf(open.line, "the brace is not closed")
		}
		if !t.word() || t.text == "~" && t.kind == plain {
			return nil, p.unexpected("a name or \"}\"")
		}
		if err := p.enter(t, depth); err != nil {
			return nil, err
		}
		if _, err := p.next(); err != nil {
			return nil, err
		}
		below, err := p.entry(t, depth+1)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, Node{Name: t.text, Below: below})
		switch p.ahead.kind {
		case comma:
			if _, err := p.next(); err != nil {
				return nil, err
			}
		case closing:
		default:
			return nil, p.unexpected("\",\" or \"}\"")
		}
	}
	_, err = p.next()
	return nodes, err
}

// entry reads what is behind a name within braces.
func (p *parser) entry(t token, depth int) ([]Node, error) {
	if !p.keyed(t) {
		return nil, nil
	}
	if _, err := p.next(); err != nil {
		return nil, err
	}
	switch {
	case p.ahead.kind == opening:
		return p.braces(depth)
	case p.ahead.null():
		_, err := p.next()
		return nil, err
	case p.ahead.kind == comma || p.ahead.kind == closing:
		return nil, nil
	}
	return nil, p.unexpected("\"{\"")
}

package confd

import (
	"slices"
	"time"
)

// parser reads requests, one after the other, without garbage. What it read is
// good until the next one.
type parser struct {
	signer

	typ   Type
	rsalt []byte
	// The query: nothing (null), a text, or an object of the members below.
	kind           kind
	text           []byte
	link, ip       []byte
	hasLink, hasIP bool
	ips            [][]byte
	fields         []Field

	scratch []byte
}

// parse reads a request. Its errors are few and prepared: garbage is to cost
// little.
func (p *parser) parse(datagram []byte, now time.Time) error {
	e, err := p.open(datagram)
	if err != nil {
		return err
	}
	if err := p.message(e.msg); err != nil {
		return err
	}
	return inWindow(e.salt, now)
}

// inWindow reads the salt of a request: the sender's Unix time in decimal
// digits.
func inWindow(salt []byte, now time.Time) error {
	if len(salt) == 0 {
		return errSalt
	}
	var at int64
	for _, c := range salt {
		if c < '0' || c > '9' {
			return errSalt
		}
		if at = at*10 + int64(c-'0'); at > 1<<53 {
			return errSkew
		}
	}
	if d := at - now.Unix(); d > int64(MaxSkew/time.Second) || -d > int64(MaxSkew/time.Second) {
		return errSkew
	}
	return nil
}

// message reads the inner message.
func (p *parser) message(msg []byte) error {
	p.typ, p.kind, p.rsalt, p.text = 0, null, nil, nil
	// No string is longer decoded than it was, so nothing below moves the buffer.
	p.scratch = slices.Grow(p.scratch[:0], len(msg))
	seen, ok := p.members(msg, requestMembers, p.member)
	if !ok || seen&0b1011 != 0b1011 { // all but the query
		return errRequest
	}
	return nil
}

// member reads one of requestMembers.
func (p *parser) member(sc *scanner, i int) bool {
	switch i {
	case 0:
		_, ok := sc.number()
		return ok
	case 1:
		return p.readType(sc)
	case 2:
		return p.readQuery(sc)
	}
	var ok bool
	p.rsalt, ok = p.string(sc)
	return ok
}

// readType takes an integer that is a type; "1." and "1e0" are none.
func (p *parser) readType(sc *scanner) bool {
	n, ok := sc.number()
	if !ok || sc.b[sc.i-1] == '.' || len(n) > 2 {
		return false
	}
	if len(n) == 2 && n[0] == '-' {
		p.typ = 0
		return n[1] == '0'
	}
	for _, c := range n {
		if c < '0' || c > '9' {
			return false
		}
		p.typ = p.typ*10 + Type(c-'0')
	}
	return p.typ < types
}

// string reads a string, or the array of its characters, into the scratch.
func (p *parser) string(sc *scanner) ([]byte, bool) {
	from := len(p.scratch)
	var ok bool
	p.scratch, ok = sc.text(p.scratch)
	return p.scratch[from:len(p.scratch):len(p.scratch)], ok
}

func (p *parser) readQuery(sc *scanner) bool {
	switch sc.peek() {
	case 'n':
		return sc.word("null")
	case '"':
		var ok bool
		p.kind = text
		p.text, ok = p.string(sc)
		return ok
	case '{':
		return p.readSet(sc)
	}
	return false
}

// readSet reads the members of a query; null is as good as absent.
func (p *parser) readSet(sc *scanner) bool {
	p.kind, p.hasLink, p.hasIP = object, false, false
	p.ips, p.fields = p.ips[:0], p.fields[:0]
	var seen [4]bool
	return sc.members(func(key []byte) bool {
		if len(key) != 1 || key[0] < '0' || key[0] > '3' {
			return false
		}
		i := key[0] - '0'
		if seen[i] {
			return sc.skip(0)
		}
		seen[i] = true
		if sc.peek() == 'n' {
			return sc.word("null")
		}
		var ok bool
		switch i {
		case 0:
			p.hasLink = true
			p.link, ok = p.string(sc)
		case 1:
			p.hasIP = true
			p.ip, ok = p.string(sc)
		case 2:
			ok = sc.elements(func() bool {
				ip, ok := p.string(sc)
				p.ips = append(p.ips, ip)
				return ok
			})
		case 3:
			ok = sc.elements(func() bool { return p.readField(sc) })
		}
		return ok
	})
}

// readField takes a number that, rounded, is a field.
func (p *parser) readField(sc *scanner) bool {
	n, ok := sc.number()
	if !ok {
		return false
	}
	f, ok := rounded(string(n))
	p.fields = append(p.fields, Field(f))
	return ok && f >= 0 && f < fields
}

package confd

import "strconv"

// Role is the role of a node, the answer to TypeNodeRole.
type Role int

// The roles.
const (
	RoleMaster Role = iota
	RoleCandidate
	RoleOffline
	RoleDrained
	RoleRegular
)

func (r Role) String() string {
	switch r {
	case RoleMaster:
		return "master"
	case RoleCandidate:
		return "candidate"
	case RoleOffline:
		return "offline"
	case RoleDrained:
		return "drained"
	case RoleRegular:
		return "regular"
	}
	return "role " + strconv.Itoa(int(r))
}

// prepared is an inner message that is written already, as it is signed and as
// it stands in the datagram.
type prepared struct{ msg, escaped []byte }

func prepare(r Reply) prepared {
	r.Protocol = ProtocolVersion
	msg := r.message(nil)
	return prepared{msg, appendInner(make([]byte, 0, len(msg)+len(msg)/4), msg)}
}

func success(answer []byte, serial int64) prepared {
	return prepare(Reply{Status: StatusOK, Answer: answer, Serial: serial})
}

func failure(answer []byte) prepared { return prepare(Reply{Status: StatusError, Answer: answer}) }

// failureText is failure with a text.
func failureText(s string) prepared { return failure(appendText(nil, s)) }

// answerer answers requests from one version of the data at a time. It belongs
// to one goroutine.
type answerer struct {
	parser
	msg, escaped []byte
	part         []byte
}

// answer appends the reply to what was parsed last to dst: a datagram. It
// appends nothing where the original falls silent.
func (a *answerer) answer(dst []byte, s *state) []byte {
	p := a.look(s)
	if p == nil {
		return dst
	}
	if len(p.escaped) > MaxReply {
		p = new(tooLarge()) // not signed first: that is what costs
	}
	from := len(dst)
	dst = a.seal(dst, p.msg, p.escaped, a.rsalt)
	if len(dst)-from > MaxReply {
		p = new(tooLarge())
		dst = a.seal(dst[:from], p.msg, p.escaped, a.rsalt)
	}
	if len(dst)-from > MaxReply { // the salt alone fills it
		return dst[:from]
	}
	return dst
}

func tooLarge() prepared {
	return failureText("The answer is too large for a datagram, which holds " + strconv.Itoa(MaxReply) + " bytes")
}

// look finds the answer; nil is silence.
func (a *answerer) look(s *state) *prepared {
	c := s.cluster
	if c == nil {
		return &s.none
	}
	switch a.typ {
	case TypePing:
		return &c.ping
	case TypeNodeRole:
		return a.role(c)
	case TypePipByInstanceIP:
		return a.pipByIP(c)
	case TypeMaster:
		return a.masterOf(c)
	case TypeNodePips:
		return &c.pips
	case TypeCandidatePips:
		return &c.mcPips
	case TypeInstanceIPs:
		return a.instanceIPs(c)
	case TypeNodeDRBD:
		return a.drbd(c)
	case TypeNodeInstances:
		return a.nodeInstances(c)
	case TypeInstanceDisks:
		return a.instanceDisks(c)
	case TypeConfig:
		return a.configAt(c)
	default:
		return &c.collectors
	}
}

func (a *answerer) role(c *Cluster) *prepared {
	if a.kind != text {
		return a.noText()
	}
	if c.noMaster != nil {
		return c.noMaster
	}
	at := c.nodeIndex.findBytes(a.text)
	switch {
	case at < 0:
		return new(failureText(prerequisites("Node", string(a.text), at)))
	case string(a.text) == c.master:
		return &c.roles[RoleMaster]
	}
	return &c.roles[c.nodes[at].role]
}

func (a *answerer) pipByIP(c *Cluster) *prepared {
	if a.kind != object {
		return argument()
	}
	if !a.hasIP && len(a.ips) == 0 {
		return new(success([]byte("[]"), c.serial))
	}
	if !c.hasLinks {
		return nil
	}
	var l *link
	if a.hasLink {
		l = c.links[string(a.link)]
	} else {
		l = c.links[c.defaultLink]
	}
	find := func(ip []byte) *prepared {
		if l == nil {
			return nil
		}
		return l.byIP[string(ip)]
	}
	if a.hasIP {
		if p := find(a.ip); p != nil {
			return p
		}
		return unknownEntry()
	}
	return a.pipList(c, find)
}

// pipList answers for each address on its own: [status, answer, serial].
func (a *answerer) pipList(c *Cluster, find func(ip []byte) *prepared) *prepared {
	out := append(a.part[:0], '[')
	for i, ip := range a.ips {
		if i > 0 {
			out = append(out, ',')
		}
		pip, ok := []byte("0"), false
		if p := find(ip); p != nil {
			pip, ok = p.answer()
		}
		if !ok {
			out = append(out, "[1,0,0]"...)
			continue
		}
		out = append(append(out, "[0,"...), pip...)
		out = append(strconv.AppendInt(append(out, ','), c.serial, 10), ']')
	}
	a.part = append(out, ']')
	return a.write(a.part, c.serial)
}

// answer takes the answer out of a prepared reply again; false for an error.
func (p *prepared) answer() ([]byte, bool) {
	const head, errHead = `{"protocol":1,"status":0,"answer":`, `{"protocol":1,"status":1,"answer":`
	if len(p.msg) < len(head) || string(p.msg[:len(head)]) == errHead {
		return nil, false
	}
	sc := scanner{b: p.msg, i: len(head)}
	ok := sc.skip(0)
	return p.msg[len(head):sc.i], ok
}

func (a *answerer) masterOf(c *Cluster) *prepared {
	if a.kind == text {
		return argument()
	}
	if a.kind == null {
		if c.noMaster != nil {
			return c.noMaster
		}
		return &c.masterName
	}
	at := c.nodeIndex.find(c.cluster.member("master_node"))
	if at < 0 {
		return new(failureText(prereqError("Node", "name", c.cluster.member("master_node"), at)))
	}
	var list []string
	for _, f := range a.fields {
		switch f {
		case FieldName:
			list = append(list, c.master)
		case FieldIP:
			list = append(list, c.cluster.member("master_ip"))
		case FieldMasterPip:
			list = append(list, c.nodes[at].pip)
		}
	}
	return a.write(appendTexts(a.part[:0], list), c.serial)
}

func (a *answerer) instanceIPs(c *Cluster) *prepared {
	if a.kind == object {
		return new(failureText("Invalid query type"))
	}
	if !c.hasLinks {
		return nil
	}
	l := c.links[c.defaultLink]
	if a.kind == text {
		l = c.links[string(a.text)]
	}
	if l == nil {
		return new(success([]byte("[]"), c.serial))
	}
	return &l.ips
}

func (a *answerer) drbd(c *Cluster) *prepared {
	if a.kind != text {
		return a.noText()
	}
	at := c.nodeIndex.findBytes(a.text)
	if at < 0 {
		return new(failureText(prereqError("Node", "name", string(a.text), at)))
	}
	n := &c.nodes[at]
	if n.drbd.spoilt {
		return new(failureText(prereqError("Node", "name", n.drbd.lost, n.drbd.why)))
	}
	if len(n.drbd.entries) == 0 {
		return a.write([]byte("[]"), n.serial)
	}
	a.part = append(append(append(a.part[:0], '['), n.drbd.entries...), ']')
	return a.write(a.part, n.serial)
}

func (a *answerer) nodeInstances(c *Cluster) *prepared {
	if a.kind != text {
		return a.noText()
	}
	at := c.nodeIndex.findBytes(a.text)
	if at < 0 {
		return new(failureText("Node not found in the configuration: " + prereqError("Node", "name", string(a.text), at)))
	}
	n := &c.nodes[at]
	out := append(a.part[:0], '[')
	for i, list := range [][]int{n.primary, n.second} {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '[')
		for j, k := range list {
			if j > 0 {
				out = append(out, ',')
			}
			var ok bool
			if out, ok = c.instances[k].object.appendUpTo(out, MaxReply); !ok {
				a.part = out
				return new(tooLarge())
			}
		}
		out = append(out, ']')
	}
	a.part = append(out, ']')
	return a.write(a.part, n.serial)
}

func (a *answerer) instanceDisks(c *Cluster) *prepared {
	if a.kind != text {
		return a.noText()
	}
	at := c.instIndex.findBytes(a.text)
	if at < 0 {
		return new(failureText("Instance not found in the configuration: " + prereqError("Instance", "name", string(a.text), at)))
	}
	e := &c.instances[at]
	// The disks are those of the instance that the uuid inside the object leads to.
	if at = c.instIndex.find(e.uuid); at < 0 {
		return new(failureText("Could not retrieve disks: " + prereqError("Instance", "name", e.uuid, at)))
	}
	serial := e.serial
	e = &c.instances[at]
	if e.hasMissing {
		return new(failureText("Could not retrieve disks: " + prereqError("Disk", "uuid", e.missing, unknown)))
	}
	out := append(a.part[:0], '[')
	for i, d := range e.disks {
		if i > 0 {
			out = append(out, ',')
		}
		var ok bool
		if out, ok = d.appendUpTo(out, MaxReply); !ok {
			a.part = out
			return new(tooLarge())
		}
	}
	a.part = append(out, ']')
	return a.write(a.part, serial)
}

func (a *answerer) configAt(c *Cluster) *prepared {
	if a.kind != text {
		return a.noText()
	}
	v := c.config.walk(string(a.text))
	if v == nil {
		return argument()
	}
	var ok bool
	if a.part, ok = v.appendUpTo(a.part[:0], MaxReply); !ok {
		return new(tooLarge())
	}
	return a.write(a.part, c.serial)
}

// write makes a good answer that is not prepared; it is good until the next one.
func (a *answerer) write(answer []byte, serial int64) *prepared {
	r := Reply{Protocol: ProtocolVersion, Answer: answer, Serial: serial}
	a.msg = r.message(a.msg[:0])
	a.escaped = appendInner(a.escaped[:0], a.msg)
	return &prepared{a.msg, a.escaped}
}

func argument() *prepared { return new(failure(strconv.AppendInt(nil, ErrorArgument, 10))) }

func unknownEntry() *prepared { return new(failure(strconv.AppendInt(nil, ErrorUnknownEntry, 10))) }

// state is what a server answers from: data, or, without any, the same answer
// to everything.
type state struct {
	cluster *Cluster
	none    prepared
}

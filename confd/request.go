package confd

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Type is what a request asks for.
type Type int

// The types of requests, by the names of Ganeti's constants.
const (
	TypePing            Type = iota // CONFD_REQ_PING
	TypeNodeRole                    // CONFD_REQ_NODE_ROLE_BYNAME
	TypePipByInstanceIP             // CONFD_REQ_NODE_PIP_BY_INSTANCE_IP
	TypeMaster                      // CONFD_REQ_CLUSTER_MASTER
	TypeNodePips                    // CONFD_REQ_NODE_PIP_LIST
	TypeCandidatePips               // CONFD_REQ_MC_PIP_LIST
	TypeInstanceIPs                 // CONFD_REQ_INSTANCES_IPS_LIST
	TypeNodeDRBD                    // CONFD_REQ_NODE_DRBD
	TypeNodeInstances               // CONFD_REQ_NODE_INSTANCES
	TypeInstanceDisks               // CONFD_REQ_INSTANCE_DISKS
	TypeConfig                      // CONFD_REQ_CONFIG_QUERY
	TypeCollectors                  // CONFD_REQ_DATA_COLLECTORS
	types               = iota
)

// Request is one request as it stands on the wire. The functions NodeRole,
// Master and so on make them.
type Request struct {
	// Protocol is sent as it is; 0 stands for ProtocolVersion. Servers do not check it.
	Protocol int
	Type     Type
	Query    Query
	// Rsalt comes back as the salt of the reply. Empty: a client draws a new one.
	Rsalt string
}

// Query is the argument of a request: nothing, a text, or a set of members.
type Query struct {
	kind kind // null, text or object
	text string
	set  Set
}

// Set is the argument of TypePipByInstanceIP and TypeMaster.
type Set struct {
	// Link and IP are left out when nil. IPs counts only without IP.
	Link, IP *string
	IPs      []string
	Fields   []Field
}

// Field is one thing to know about the master.
type Field int

// The fields of the master.
const (
	FieldName Field = iota
	FieldIP
	FieldMasterPip
	fields = iota
)

// Text is a query by a name, a link or a path.
func Text(s string) Query { return Query{kind: text, text: s} }

// Of is a query by several members.
func Of(s Set) Query { return Query{kind: object, set: s} }

// ParseRequest reads and verifies a request. All errors wrap ErrMalformed. now
// is the receiver's clock; a request that was signed more than MaxSkew before
// or after it is malformed, too.
func ParseRequest(datagram, key []byte, now time.Time) (Request, error) {
	p := parser{signer: *newSigner(key)}
	if err := p.parse(datagram, now); err != nil {
		return Request{}, err
	}
	r := Request{Protocol: ProtocolVersion, Type: p.typ, Rsalt: string(p.rsalt), Query: Query{kind: p.kind, text: string(p.text)}}
	if p.kind == object {
		s := &r.Query.set
		if p.hasLink {
			s.Link = new(string(p.link))
		}
		if p.hasIP {
			s.IP = new(string(p.ip))
		}
		for _, ip := range p.ips {
			s.IPs = append(s.IPs, string(ip))
		}
		s.Fields = slices.Clone(p.fields)
	}
	return r, nil
}

// Append appends the request, signed at the time now, to dst: a datagram. It
// fails when that is larger than MaxRequest.
func (r *Request) Append(dst, key []byte, now time.Time) ([]byte, error) {
	from := len(dst)
	dst = newSigner(key).sealRequest(dst, r.message(nil), now)
	if len(dst)-from > MaxRequest {
		return dst[:from], fmt.Errorf("a request of %d bytes is too big; a datagram holds %d", len(dst)-from, MaxRequest)
	}
	return dst, nil
}

func (r *Request) message(dst []byte) []byte {
	protocol := r.Protocol
	if protocol == 0 {
		protocol = ProtocolVersion
	}
	dst = append(dst, `{"protocol": `...)
	dst = strconv.AppendInt(dst, int64(protocol), 10)
	dst = append(dst, `, "type": `...)
	dst = strconv.AppendInt(dst, int64(r.Type), 10)
	if r.Query.kind != null {
		dst = append(dst, `, "query": `...)
		dst = r.Query.append(dst)
	}
	dst = append(dst, `, "rsalt": `...)
	dst = appendText(dst, r.Rsalt)
	return append(dst, "}\n"...)
}

// append writes the query as Python does. A set's members come in the order
// link, IP, IPs, fields.
func (q *Query) append(dst []byte) []byte {
	if q.kind == text {
		return appendText(dst, q.text)
	}
	sep := ""
	member := func(name string) {
		dst = append(dst, sep...)
		dst = append(dst, name...)
		sep = ", "
	}
	dst = append(dst, '{')
	if q.set.Link != nil {
		member(`"0": `)
		dst = appendText(dst, *q.set.Link)
	}
	if q.set.IP != nil {
		member(`"1": `)
		dst = appendText(dst, *q.set.IP)
	}
	if len(q.set.IPs) > 0 {
		member(`"2": `)
		dst = appendList(dst, q.set.IPs, appendText[string])
	}
	if len(q.set.Fields) > 0 {
		member(`"3": `)
		dst = appendList(dst, q.set.Fields, func(b []byte, f Field) []byte { return strconv.AppendInt(b, int64(f), 10) })
	}
	return append(dst, '}')
}

func appendList[T any](dst []byte, list []T, one func([]byte, T) []byte) []byte {
	sep := "["
	for _, x := range list {
		dst = one(append(dst, sep...), x)
		sep = ", "
	}
	return append(dst, ']')
}

package confd

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Ask is a request together with the type of its answer.
type Ask[A any] struct {
	Request
	read func([]byte) (A, error)
}

// Answer reads the answer to the request. A reply with another status than
// StatusOK gives an *AnswerError; an answer of the wrong form an error that wraps
// ErrMalformed.
func (a *Ask[A]) Answer(r *Reply) (A, error) {
	var none A
	if r.Status != StatusOK {
		return none, answerError(r)
	}
	v, err := a.read(r.Answer)
	if err != nil {
		return none, fmt.Errorf("%w: answer: %w", ErrMalformed, err)
	}
	return v, nil
}

// AnswerError is what a server says is wrong with a request.
type AnswerError struct {
	Status Status
	// Code is ErrorUnknownEntry, ErrorInternal, ErrorArgument or another number;
	// -1 where the server gave a text.
	Code int
	Text string
}

func (e *AnswerError) Error() string {
	switch {
	case e.Text != "":
		return e.Text
	case e.Code == ErrorUnknownEntry:
		return "unknown entry"
	case e.Code == ErrorArgument:
		return "wrong argument"
	case e.Code == ErrorInternal:
		return "internal error"
	}
	return fmt.Sprintf("status %d, error %d", e.Status, e.Code)
}

func answerError(r *Reply) *AnswerError {
	e := &AnswerError{Status: r.Status, Code: -1}
	if json.Unmarshal(r.Answer, &e.Text) == nil {
		return e
	}
	if json.Unmarshal(r.Answer, &e.Code) != nil {
		e.Code, e.Text = -1, string(r.Answer)
	}
	return e
}

// reads makes a reader of JSON of A's form.
func reads[A any](b []byte) (A, error) {
	var v A
	err := json.Unmarshal(b, &v)
	return v, err
}

func ask[A any](t Type, q Query) Ask[A] {
	return Ask[A]{Request: Request{Type: t, Query: q}, read: reads[A]}
}

// Ping asks for the version number of the configuration's format.
func Ping() Ask[int64] { return ask[int64](TypePing, Query{}) }

// NodeRole asks for the role of a node, by its name, the beginning of its name
// up to a dot, or its UUID. Only by its full name the master is told from other
// candidates.
func NodeRole(node string) Ask[Role] { return ask[Role](TypeNodeRole, Text(node)) }

// PipByInstanceIP asks for the primary address of the node that an instance runs
// on, by the instance's address on a link; nil is the cluster's default link.
func PipByInstanceIP(ip string, link *string) Ask[string] {
	return ask[string](TypePipByInstanceIP, Of(Set{IP: &ip, Link: link}))
}

// Pip is one answer of PipsByInstanceIPs.
type Pip struct {
	Status Status
	Pip    string // with StatusOK
	Serial int64
}

// UnmarshalJSON reads [status, answer, serial].
func (p *Pip) UnmarshalJSON(b []byte) error {
	var answer json.RawMessage
	if err := json.Unmarshal(b, &[]any{&p.Status, &answer, &p.Serial}); err != nil {
		return err
	}
	if p.Status == StatusOK {
		return json.Unmarshal(answer, &p.Pip)
	}
	return nil
}

// PipsByInstanceIPs is PipByInstanceIP for many addresses, answered in order.
func PipsByInstanceIPs(ips []string, link *string) Ask[[]Pip] {
	return ask[[]Pip](TypePipByInstanceIP, Of(Set{IPs: ips, Link: link}))
}

// Master asks for the name of the master node.
func Master() Ask[string] { return ask[string](TypeMaster, Query{}) }

// MasterFields asks for several things about the master, in that order.
func MasterFields(fields ...Field) Ask[[]string] {
	return ask[[]string](TypeMaster, Of(Set{Fields: fields}))
}

// NodePips asks for the primary addresses of all nodes.
func NodePips() Ask[[]string] { return ask[[]string](TypeNodePips, Query{}) }

// CandidatePips asks for the primary addresses of the master candidates.
func CandidatePips() Ask[[]string] { return ask[[]string](TypeCandidatePips, Query{}) }

// InstanceIPs asks for the addresses of instances on a link; nil is the
// cluster's default link.
func InstanceIPs(link *string) Ask[[]string] {
	q := Query{}
	if link != nil {
		q = Text(*link)
	}
	return ask[[]string](TypeInstanceIPs, q)
}

// Minor is one DRBD minor of a node.
type Minor struct {
	Node     string
	Minor    int64
	Instance string
	Disk     string // "disk/N", N its index in the instance
	Role     string // "primary" or "secondary"
	Peer     string // the other node
}

// UnmarshalJSON reads the six in their order.
func (m *Minor) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&m.Node, &m.Minor, &m.Instance, &m.Disk, &m.Role, &m.Peer})
}

// NodeDRBD asks for the DRBD minors of a node.
func NodeDRBD(node string) Ask[[]Minor] { return ask[[]Minor](TypeNodeDRBD, Text(node)) }

// Instance is what an answer says of an instance; more is in the JSON.
type Instance struct {
	Name        string   `json:"name"`
	UUID        string   `json:"uuid"`
	PrimaryNode string   `json:"primary_node"` // a UUID
	OS          string   `json:"os"`
	Hypervisor  string   `json:"hypervisor"`
	AdminState  string   `json:"admin_state"`
	Disks       []string `json:"disks"` // UUIDs
	Serial      int64    `json:"serial_no"`
}

// Instances are those of a node.
type Instances struct{ Primary, Secondary []Instance }

// UnmarshalJSON reads [primary, secondary].
func (i *Instances) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&i.Primary, &i.Secondary})
}

// NodeInstances asks for the instances whose primary or secondary node a node is.
func NodeInstances(node string) Ask[Instances] {
	return ask[Instances](TypeNodeInstances, Text(node))
}

// Disk is what an answer says of a disk; more is in the JSON.
type Disk struct {
	UUID     string `json:"uuid"`
	Name     string `json:"name"`
	Kind     string `json:"dev_type"`
	Size     int64  `json:"size"` // in MiB
	Mode     string `json:"mode"`
	Logical  []any  `json:"logical_id"` // for DRBD it holds the secret
	Children []Disk `json:"children"`
	Serial   int64  `json:"serial_no"`
}

// InstanceDisks asks for the disks of an instance.
func InstanceDisks(instance string) Ask[[]Disk] {
	return ask[[]Disk](TypeInstanceDisks, Text(instance))
}

// Config asks for a part of the configuration by its path: /cluster/tags/0, with
// ~1 for a slash and ~0 for a tilde in a name.
func Config(path string) Ask[json.RawMessage] {
	return ask[json.RawMessage](TypeConfig, Text(path))
}

// Collector is the state of one data collector.
type Collector struct {
	Active   bool  `json:"active"`
	Interval int64 `json:"interval"` // microseconds
}

// Collectors asks for the data collectors, by name.
func Collectors() Ask[map[string]Collector] {
	return ask[map[string]Collector](TypeCollectors, Query{})
}

// UnmarshalJSON reads a role that there is.
func (r *Role) UnmarshalJSON(b []byte) error {
	var n int
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	if n < int(RoleMaster) || n > int(RoleRegular) {
		return errors.New("no role has the number " + string(b))
	}
	*r = Role(n)
	return nil
}

package job

import (
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"dominion/api/fleetpb"
	"dominion/call"
)

// Request is a signed order with what travels beside it.
type Request struct {
	Signed   call.Signed
	Salt     []byte
	Args     []byte        // JSON object
	Unknown  []string      // named by the operator, known to nobody; reported, not sent
	Timeout  time.Duration // of each call once it runs; zero: none
	Stream   bool          // live output is wanted
	Wait     bool          // machines that are away get the call when they are back, until the order's expiry
	Read     bool          // the method only reads: running it twice does no harm
	Created  time.Time     // when the job was made, by our clock; zero: now
	Target   string        // as the operator wrote it, for people
	Operator string        // name, from the channel

	Whom
	Scope *Scope // of Whom, made before; nil: it is made now
	// Clashing are those of Unknown that machines with different keys bear.
	Clashing []string
	// ID is what the job is called here; zero: as in the order.
	ID call.JobID
	// Nominal is the time-out as the operator gave it, for people; zero: Timeout.
	Nominal time.Duration
}

// Plan is a checked request: what every machine is sent.
type Plan struct {
	Request
	*Scope
	Order  *call.Order
	shared []byte // encoded fleetpb.Call without leaf index, proof and time-out
}

// NewPlan checks that the request's parts belong to each other: the arguments
// and salt to the order's digest, the names to its root and count. Whose
// signature it is, is for the caller to check. Errors are *call.Error.
func NewPlan(r Request) (*Plan, error) {
	o, err := call.ParseOrder(r.Signed.Order)
	if err != nil {
		return nil, call.Errorf(call.BadOrder, "%v", err)
	}
	if len(r.Salt) != call.SaltSize || len(r.Args) > call.MaxArgs {
		return nil, call.Errorf(call.Invalid, "salt of %d and arguments of %d bytes; want %d and at most %d",
			len(r.Salt), len(r.Args), call.SaltSize, call.MaxArgs)
	}
	if call.Digest(r.Salt, r.Args) != o.ArgsDigest {
		return nil, call.Errorf(call.BadOrder, "the arguments are not those of the order")
	}
	scope := r.Scope
	if scope == nil {
		if scope, err = NewScope(r.Whom); err != nil {
			return nil, err
		}
	}
	if scope.Tree.Len() != o.Count || scope.Tree.Root() != o.Root {
		return nil, call.Errorf(call.BadOrder, "the %d machines sent are not the %d of the order", scope.Tree.Len(), o.Count)
	}
	for _, n := range r.Unknown {
		if _, dup := scope.Tree.Index(n); dup {
			return nil, call.Errorf(call.Invalid, "%q is both a machine of the order and unknown", n)
		}
	}
	if r.Created.IsZero() {
		r.Created = time.Now()
	}
	if r.ID.IsZero() {
		r.ID = o.Job
	}
	if r.Nominal == 0 {
		r.Nominal = r.Timeout
	}
	slices.Sort(r.Unknown)
	r.Unknown = slices.Compact(r.Unknown)
	shared, err := proto.Marshal(&fleetpb.Call{
		Method: o.Method, Args: r.Args, Salt: r.Salt, Order: r.Signed.Order, Signature: r.Signed.Signature,
		OperatorCert: r.Signed.Cert, Stream: r.Stream,
	})
	if err != nil {
		return nil, call.Errorf(call.Invalid, "encode the call: %v", err)
	}
	return &Plan{Request: r, Scope: scope, Order: o, shared: shared}, nil
}

// unknownWhy says what is wrong with a name of Unknown.
func (p *Plan) unknownWhy(name string) string {
	switch {
	case p.ways == nil:
		return detailNoName
	case slices.Contains(p.Clashing, name):
		return detailClash
	}
	return detailNoMap
}

// Call gives the body of the CALL frame of machine i of Machines in two parts, whose
// concatenation is one fleetpb.Call: what all machines share, and what is this
// one's (appended to own[:0]). remaining is the time left for running; zero: no limit.
func (p *Plan) Call(i int, remaining time.Duration, own []byte) (shared, part []byte) {
	var room [24][]byte // as many hashes as MaxMachines needs, and some
	own = own[:0]
	if p.leaf != nil {
		i = int(p.leaf[i])
	}
	if remaining > 0 {
		own = protowire.AppendTag(own, 3, protowire.VarintType)
		own = protowire.AppendVarint(own, uint64(max(remaining.Milliseconds(), 1)))
	}
	own = protowire.AppendTag(own, 8, protowire.VarintType)
	own = protowire.AppendVarint(own, uint64(i))
	for _, h := range p.Tree.Proof(room[:0], i) {
		own = protowire.AppendTag(own, 9, protowire.BytesType)
		own = protowire.AppendBytes(own, h)
	}
	return p.shared, own
}

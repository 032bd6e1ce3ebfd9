package minion

import (
	"crypto/ecdsa"
	"crypto/x509"
	"maps"
	"sync"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/module"
	"dominion/pki"
	"dominion/policy"
)

// maxOperators bounds the cache of verified operator certificates.
const maxOperators = 256

// A verifier decides whether this machine carries out a call. The checks run
// in the order of the methods below, and the first that fails decides the
// code. Its fields above mu never change.
type verifier struct {
	name  string // of this machine, from its certificate
	trust *pki.Trust
	jobs  memory

	mu        sync.RWMutex
	methods   *module.Table
	policy    *policy.Policy // nil: everything is allowed
	revoked   *pki.RevocationList
	operators map[string]*operator // by DER, only those that verified; emptied when revoked changes
}

// memory is what is known of jobs that came before. *books is the real one.
type memory interface {
	// Check says whether a job is new: the error is a *call.Error with Repeated
	// or Expired.
	Check(job call.JobID, expiry, now time.Time) error
	// Birth is when this memory began; zero when no overlord has told.
	Birth() time.Time
}

// operator is a certificate that verified under the root.
type operator struct {
	name    string
	leaf    *x509.Certificate
	key     *ecdsa.PublicKey
	revoked bool
	reason  string // of the revocation
}

// sessionView is what a verification needs to know of the session on which the
// call came.
type sessionView struct {
	audit error         // why the overlord's audit log is not accepted; nil: it is
	skew  time.Duration // this machine's clock less the overlord's, as far as known
	peer  string        // the overlord's name
}

// verdict is a call that may run, or as much of it as was understood before it
// was refused.
type verdict struct {
	order    *call.Order       // nil: its encoding does not hold
	operator string            // empty: the certificate does not hold
	cert     *x509.Certificate // the operator's; set with operator
	method   module.Method     // set when all checks passed
}

// verify runs every check. The error is a *call.Error.
func (v *verifier) verify(c *fleetpb.Call, s sessionView, now time.Time) (verdict, error) {
	var d verdict
	o, err := checkEncoding(c)
	if err != nil {
		return d, err
	}
	op, err := v.checkOperator(c.OperatorCert, s, now)
	if err != nil {
		return d, err
	}
	if op.revoked {
		d.order = o
		return d, call.Errorf(call.Revoked, "the certificate of operator/%s was revoked: %s", op.name, op.reason)
	}
	if err := call.VerifySignature(op.key, c.Order, c.Signature); err != nil {
		return d, call.Errorf(call.BadOrder, "%v", err)
	}
	// From here on the order is the operator's own word.
	d.order, d.operator, d.cert = o, op.name, op.leaf
	if call.Digest(c.Salt, c.Args) != o.ArgsDigest {
		return d, call.Errorf(call.BadOrder, "the arguments are not those that operator/%s signed", op.name)
	}
	if err := call.VerifyName(v.name, leafIndex(c.LeafIndex), o.Count, o.Root, c.Proof); err != nil {
		return d, call.Errorf(call.BadOrder, "%v", err)
	}
	if err := checkTime(o, s, now); err != nil {
		return d, err
	}
	if err := v.jobs.Check(o.Job, o.Expiry, now); err != nil {
		return d, err
	}
	if s.audit != nil {
		return d, call.Errorf(call.AuditRefused, "the audit log of overlord/%s is not accepted: %v", s.peer, s.audit)
	}
	if err := v.allowed(op.name, o.Method); err != nil {
		return d, err
	}
	m, ok := v.table().Lookup(o.Method)
	if !ok {
		return d, call.Errorf(call.NotFound, "this machine has no method %s", o.Method)
	}
	if err := m.Validate(c.Args); err != nil {
		return d, err
	}
	if err := v.oldEnough(m, o); err != nil {
		return d, err
	}
	d.method = m
	return d, nil
}

// oldEnough refuses an order that is older than this machine's memory of jobs,
// for such an order may have run under another. What only reads may run twice.
func (v *verifier) oldEnough(m module.Method, o *call.Order) error {
	if m.Effect() == module.Read {
		return nil
	}
	switch birth := v.jobs.Birth(); {
	case birth.IsZero():
		return call.Errorf(call.Unavailable, "no overlord has told this machine yet when its journal began, so an older order could run twice")
	case o.IssuedAt.Before(birth):
		return call.Errorf(call.TooYoung, "this machine's journal began at %s and the order was issued at %s: it may have run under an earlier journal; order it again",
			birth.UTC().Format(time.RFC3339Nano), o.IssuedAt.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// still asks again, before a call begins that had to wait, for what may have
// changed since it was verified. The error is a *call.Error.
func (v *verifier) still(d verdict) error {
	if reason, revoked := v.revocations().Revoked(d.cert); revoked {
		return call.Errorf(call.Revoked, "the certificate of operator/%s was revoked while the call waited: %s", d.operator, reason)
	}
	return v.allowed(d.operator, d.order.Method)
}

// allowed asks this machine's policy.
func (v *verifier) allowed(operator, method string) error {
	if v.currentPolicy().Allow(operator, method, v.name) {
		return nil
	}
	return call.Errorf(call.Denied, "this machine's policy does not let operator/%s call %s", operator, method)
}

// checkEncoding reads the order and refuses a call that says something else.
func checkEncoding(c *fleetpb.Call) (*call.Order, error) {
	o, err := call.ParseOrder(c.Order)
	if err != nil {
		return nil, call.Errorf(call.BadOrder, "%v", err)
	}
	switch {
	case c.Method != o.Method:
		return nil, call.Errorf(call.BadOrder, "the call names another method than the order, %s", o.Method)
	case len(c.Salt) != call.SaltSize:
		return nil, call.Errorf(call.BadOrder, "a salt of %d bytes, not %d", len(c.Salt), call.SaltSize)
	case len(c.Args) > call.MaxArgs:
		return nil, call.Errorf(call.BadOrder, "%d bytes of arguments are more than %d", len(c.Args), call.MaxArgs)
	}
	return o, nil
}

// checkOperator verifies the certificate under the root, with the role
// operator, and its dates against this machine's clock.
func (v *verifier) checkOperator(der []byte, s sessionView, now time.Time) (*operator, error) {
	op, err := v.operator(der)
	if err != nil {
		return nil, call.Errorf(call.BadOrder, "the operator's certificate does not hold: %v", err)
	}
	// The beginning is backdated by pki; the tolerance covers the end.
	if now.Before(op.leaf.NotBefore.Add(-call.Tolerance)) || now.After(op.leaf.NotAfter.Add(call.Tolerance)) {
		if skewed(s.skew) {
			return nil, skewError(s)
		}
		return nil, call.Errorf(call.BadOrder, "the certificate of operator/%s is valid from %s until %s, and this clock shows %s",
			op.name, stamp(op.leaf.NotBefore), stamp(op.leaf.NotAfter), stamp(now))
	}
	return op, nil
}

// operator gives a verified certificate, from the cache when it was seen before.
func (v *verifier) operator(der []byte) (*operator, error) {
	v.mu.RLock()
	op := v.operators[string(der)]
	revoked := v.revoked
	v.mu.RUnlock()
	if op != nil {
		return op, nil
	}
	// Dates are checked by the caller at each use: the cache outlives them.
	ver, err := v.trust.VerifyRaw([][]byte{der}, time.Time{})
	if err != nil {
		return nil, err
	}
	if ver.Identity.Role != pki.Operator {
		return nil, call.Errorf(call.BadOrder, "%s is no operator", ver.Identity)
	}
	key, ok := ver.Leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, call.Errorf(call.BadOrder, "its key is a %T", ver.Leaf.PublicKey)
	}
	op = &operator{name: ver.Identity.Name, leaf: ver.Leaf, key: key}
	if revoked != nil {
		op.reason, op.revoked = revoked.Revoked(ver.Leaf)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.revoked != revoked { // replaced meanwhile: do not keep what was decided under the older list
		if op.reason, op.revoked = v.revoked.Revoked(ver.Leaf); op.revoked {
			return op, nil
		}
	}
	if v.operators == nil {
		v.operators = make(map[string]*operator)
	}
	if len(v.operators) >= maxOperators { // any will do: a fleet has fewer operators
		for der := range maps.Keys(v.operators) {
			delete(v.operators, der)
			break
		}
	}
	v.operators[string(der)] = op
	return op, nil
}

// setRevoked takes a newer list into use and forgets what was decided under
// the older.
func (v *verifier) setRevoked(l *pki.RevocationList) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revoked = l
	v.operators = nil
}

// revocations gives the list in use; nil when there is none yet.
func (v *verifier) revocations() *pki.RevocationList {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.revoked
}

func (v *verifier) setPolicy(p *policy.Policy) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.policy = p
}

func (v *verifier) setTable(t *module.Table) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.methods = t
}

// table gives the methods that this machine has now.
func (v *verifier) table() *module.Table {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.methods
}

func (v *verifier) currentPolicy() *policy.Policy {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.policy
}

// checkTime decides by this machine's clock. Where the order's own times do not
// tell a wrong clock from a late call, the overlord's clock, learnt at HELLO,
// does; it can only make an order fail.
func checkTime(o *call.Order, s sessionView, now time.Time) error {
	err := o.CheckTime(now)
	if call.CodeOf(err) == call.ClockSkew {
		return err
	}
	fresh := now.Sub(o.IssuedAt).Abs() <= call.Tolerance // the operator's clock agrees with ours
	if !fresh && skewed(s.skew) {
		return skewError(s)
	}
	return err
}

func skewed(d time.Duration) bool { return d.Abs() > call.Tolerance }

func skewError(s sessionView) error {
	way := "ahead of"
	if s.skew < 0 {
		way = "behind"
	}
	return call.Errorf(call.ClockSkew, "this clock is %s %s that of overlord/%s; at most %s is allowed",
		s.skew.Abs().Round(time.Second), way, s.peer, call.Tolerance)
}

// leafIndex keeps a number that fits no tree out of the int's sign.
func leafIndex(i uint64) int {
	if i > call.MaxMachines {
		return -1
	}
	return int(i)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

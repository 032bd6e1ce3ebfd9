package call

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"dominion/api/canonical"
	"dominion/api/fleetpb"
)

// Limits of an order. Source: the protocol document, docs/protocol/session.md.
const (
	OrderPrefix = "dominion-order-v1" // signed before the order's bytes
	MaxOrder    = 1024                // bytes of an encoded order
	MaxArgs     = 512 << 10           // bytes of JSON arguments
	SaltSize    = 16                  // bytes
	MaxMethod   = 128                 // bytes of "module.method"
	MaxMachines = 1 << 20             // machines in one order
	MaxLife     = 7 * 24 * time.Hour  // from issue to expiry
	Tolerance   = 5 * time.Minute     // between the clocks of operator and minion
)

// ErrOrder is wrapped by every error about an order that does not hold.
var ErrOrder = errors.New("bad order")

// Order is what an operator signs: one method with its arguments' digest, for
// exactly the machines under Root, within a time.
type Order struct {
	Job        JobID
	Method     string            // "module.method"
	ArgsDigest [sha256.Size]byte // Digest(salt, args)
	IssuedAt   time.Time         // whole milliseconds, like the other two
	NotBefore  time.Time
	Expiry     time.Time // a call must start before it
	Count      int       // machines
	Confirmed  int       // machines that the operator confirmed knowingly: Count, or zero when not asked
	Root       [sha256.Size]byte
}

// Digest binds arguments to an order without telling them: SHA-256(salt || args).
func Digest(salt, args []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(salt)
	h.Write(args)
	return [sha256.Size]byte(h.Sum(nil))
}

// Marshal gives the exact bytes that are signed.
func (o *Order) Marshal() []byte {
	b, err := canonical.Marshal(&fleetpb.Order{
		Job: o.Job[:], Method: o.Method, ArgsDigest: o.ArgsDigest[:],
		IssuedAtMs: o.IssuedAt.UnixMilli(), NotBeforeMs: o.NotBefore.UnixMilli(), ExpiryMs: o.Expiry.UnixMilli(),
		Count: uint64(o.Count), Root: o.Root[:], Confirmed: uint64(o.Confirmed),
	})
	if err != nil {
		panic(err) // only a method that is not UTF-8, which Sign refuses
	}
	return b
}

// ParseOrder reads signed bytes. It accepts exactly what Marshal writes;
// every error wraps ErrOrder.
func ParseOrder(b []byte) (*Order, error) {
	if len(b) > MaxOrder {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrOrder, len(b), MaxOrder)
	}
	f := fields{rest: b}
	job, method, digest := f.bytes(1), f.bytes(2), f.bytes(3)
	issued, notBefore, expiry := int64(f.varint(4)), int64(f.varint(5)), int64(f.varint(6))
	count, root, confirmed := f.varint(7), f.bytes(8), f.varint(9)
	if f.bad || len(f.rest) > 0 {
		return nil, fmt.Errorf("%w: not in canonical form", ErrOrder)
	}
	o := &Order{
		Method: string(method), IssuedAt: time.UnixMilli(issued), NotBefore: time.UnixMilli(notBefore), Expiry: time.UnixMilli(expiry),
	}
	if len(job) != len(o.Job) || len(digest) != len(o.ArgsDigest) || len(root) != len(o.Root) {
		return nil, fmt.Errorf("%w: a field has the wrong length", ErrOrder)
	}
	copy(o.Job[:], job)
	copy(o.ArgsDigest[:], digest)
	copy(o.Root[:], root)
	if count == 0 || count > MaxMachines {
		return nil, fmt.Errorf("%w: %d machines", ErrOrder, count)
	}
	if confirmed > MaxMachines { // what an int may not hold
		return nil, fmt.Errorf("%w: %d machines confirmed", ErrOrder, confirmed)
	}
	o.Count, o.Confirmed = int(count), int(confirmed)
	if err := o.check(); err != nil {
		return nil, err
	}
	return o, nil
}

// fields reads a protobuf message in the one way in which it is written: fields
// in ascending order, each at most once, none with its zero value, numbers in as
// few bytes as they need.
type fields struct {
	rest []byte
	bad  bool
}

// next says whether the next field is this one; it is behind it then.
func (f *fields) next(num protowire.Number, t protowire.Type) bool {
	if tag := byte(num)<<3 | byte(t); len(f.rest) == 0 || f.rest[0] != tag { // for numbers up to 15
		return false
	}
	f.rest = f.rest[1:]
	return true
}

func (f *fields) number() uint64 {
	v, n := protowire.ConsumeVarint(f.rest)
	if n < 0 || n != protowire.SizeVarint(v) || v == 0 {
		f.bad, f.rest = true, nil
		return 0
	}
	f.rest = f.rest[n:]
	return v
}

// varint gives zero for a field that is not there.
func (f *fields) varint(num protowire.Number) uint64 {
	if !f.next(num, protowire.VarintType) {
		return 0
	}
	return f.number()
}

// bytes gives nil for a field that is not there; they alias the message.
func (f *fields) bytes(num protowire.Number) []byte {
	if !f.next(num, protowire.BytesType) {
		return nil
	}
	n := f.number()
	if n > uint64(len(f.rest)) {
		f.bad, f.rest = true, nil
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (o *Order) check() error {
	if err := CheckMethod(o.Method); err != nil {
		return fmt.Errorf("%w: %w", ErrOrder, err)
	}
	if o.Confirmed != 0 && o.Confirmed != o.Count {
		return fmt.Errorf("%w: %d machines, and %d confirmed", ErrOrder, o.Count, o.Confirmed)
	}
	if !o.Expiry.After(o.NotBefore) || o.Expiry.Sub(o.IssuedAt) > MaxLife {
		return fmt.Errorf("%w: valid from %s until %s", ErrOrder, stamp(o.NotBefore), stamp(o.Expiry))
	}
	return nil
}

// CheckMethod refuses what is not "module.method" in lower-case letters,
// digits and underscores.
func CheckMethod(s string) error {
	module, method, ok := strings.Cut(s, ".")
	if !ok || len(s) > MaxMethod || !word(module) || !word(method) {
		return fmt.Errorf("%q is not a method; write it as module.method", s)
	}
	return nil
}

func word(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// CheckTime says whether a call may start at now on a machine whose clock is
// allowed to differ by Tolerance. The error is an *Error: ClockSkew names the
// difference, Expired that the time is over.
func (o *Order) CheckTime(now time.Time) error {
	if early := o.NotBefore.Sub(now); early > Tolerance {
		return Errorf(ClockSkew, "the order is valid from %s and this clock shows %s: it is %s behind the operator's; at most %s is allowed",
			stamp(o.NotBefore), stamp(now), early.Round(time.Second), Tolerance)
	}
	if late := now.Sub(o.Expiry); late > 0 {
		if late <= Tolerance {
			return nil
		}
		return Errorf(Expired, "the order expired at %s and this clock shows %s (%s later)", stamp(o.Expiry), stamp(now), late.Round(time.Second))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Signed is an order with what proves whose it is.
type Signed struct {
	Order     []byte // Order.Marshal
	Signature []byte // ECDSA P-256, ASN.1
	Cert      []byte // the operator's certificate, DER
}

// Sign signs an order with an operator's key, whose certificate (DER) travels along.
func Sign(o *Order, key crypto.Signer, cert []byte) (Signed, error) {
	if err := o.check(); err != nil {
		return Signed{}, err
	}
	b := o.Marshal()
	sum := signedSum(b)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return Signed{}, fmt.Errorf("sign order: %w", err)
	}
	return Signed{Order: b, Signature: sig, Cert: cert}, nil
}

// VerifySignature checks the signature alone; whose key it is, is for pki to say.
func VerifySignature(pub *ecdsa.PublicKey, order, signature []byte) error {
	sum := signedSum(order)
	if !ecdsa.VerifyASN1(pub, sum[:], signature) {
		return fmt.Errorf("%w: the signature does not match", ErrOrder)
	}
	return nil
}

func signedSum(order []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(OrderPrefix))
	h.Write(order)
	return [sha256.Size]byte(h.Sum(nil))
}

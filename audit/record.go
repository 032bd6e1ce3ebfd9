package audit

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"dominion/api/auditpb"
	"dominion/api/canonical"
)

// Record is one leaf of the overlord's log.
type Record = auditpb.Record

// MinionRecord is one leaf of a minion's own log.
type MinionRecord = auditpb.MinionRecord

// Limits of an encoded leaf. An order's record holds the folded names of up to
// call.MaxMachines machines, therefore the size.
const (
	MaxRecord       = 16 << 20 // bytes of an overlord's leaf
	MaxMinionRecord = 64 << 10 // bytes of a minion's leaf
)

// ActionDropped is the action of the record which says that the outputs of a
// closed job, its subject, were removed to make room.
const ActionDropped = "results.dropped"

// ActionClosed is the action of the record which says with which counts the job
// that is its subject was closed; its digest is that of ClosedJob.
const ActionClosed = "closed"

// ErrRecord is wrapped by every error about a leaf that is malformed.
var ErrRecord = errors.New("malformed audit record")

// Encode gives the bytes of a leaf: ascending field numbers, nothing unknown.
// The error wraps ErrRecord: too large, or a text that is not UTF-8.
func Encode(r *Record) ([]byte, error) { return encode(r, MaxRecord) }

// Decode reads a leaf. It accepts exactly what Encode writes; every error
// wraps ErrRecord.
func Decode(b []byte) (*Record, error) {
	r := new(Record)
	if err := decode(b, r, MaxRecord); err != nil {
		return nil, err
	}
	return r, nil
}

// EncodeMinion gives the bytes of a minion's leaf, like Encode.
func EncodeMinion(r *MinionRecord) ([]byte, error) { return encode(r, MaxMinionRecord) }

// DecodeMinion reads a minion's leaf, like Decode.
func DecodeMinion(b []byte) (*MinionRecord, error) {
	r := new(MinionRecord)
	if err := decode(b, r, MaxMinionRecord); err != nil {
		return nil, err
	}
	return r, nil
}

func encode(m proto.Message, limit int) ([]byte, error) {
	if unknown(m.ProtoReflect()) {
		return nil, fmt.Errorf("%w: it has a field that this version does not know", ErrRecord)
	}
	b, err := canonical.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrRecord, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrRecord, len(b), limit)
	}
	return b, nil
}

func decode(b []byte, m proto.Message, limit int) error {
	if len(b) > limit {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrRecord, len(b), limit)
	}
	if err := canonical.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %v", ErrRecord, err)
	}
	return nil
}

// unknown says whether m or a message in it holds fields of another version.
func unknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && !f.IsList() && !f.IsMap() {
			found = found || unknown(v.Message())
		}
		return !found
	})
	return found
}

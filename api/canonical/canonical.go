// Package canonical gives messages that are signed or hashed one encoding:
// fields in ascending order, nothing that this version does not know.
package canonical

import (
	"bytes"
	"errors"

	"google.golang.org/protobuf/proto"
)

// ErrForm says that bytes decode, but are not what Marshal writes.
var ErrForm = errors.New("not in canonical form")

// Marshal encodes a message. One that holds fields of another version gets an
// encoding that Unmarshal refuses.
func Marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// Unmarshal accepts exactly what Marshal writes; the error is ErrForm or that of
// protobuf.
func Unmarshal(b []byte, m proto.Message) error {
	// What is unknown is dropped, and then missing from the encoding below.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		return err
	}
	again, err := Marshal(m)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return ErrForm
	}
	return nil
}

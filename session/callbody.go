package session

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"dominion/api/fleetpb"
)

// Limits of what a CALL costs beside the bytes that its receiver counts.
const (
	maxProof = 64      // nodes: a slice for each empty one is twelve times what it takes in the frame
	maxExtra = 4 << 10 // bytes of a body that a call may hold without a use for them
)

// decodeCall reads the body of a CALL as proto.Unmarshal would, with a sixth of its
// allocations: a machine decodes one for every order. What it gives aliases body,
// unless most of that is of no use: a call may wait for long, and its receiver counts
// what is in it, not what a peer put beside it. The error wraps ErrProtocol.
func decodeCall(body []byte) (*fleetpb.Call, error) {
	c := new(fleetpb.Call)
	for rest := body; len(rest) > 0; {
		num, t, n := protowire.ConsumeTag(rest)
		if num > protowire.MaxValidNumber {
			return nil, fmt.Errorf("%w: %s: field number %d", ErrProtocol, TypeCall, num)
		}
		if n < 0 {
			return nil, badCall(n)
		}
		rest = rest[n:]
		switch t {
		case protowire.BytesType:
			b, n := protowire.ConsumeBytes(rest)
			if n < 0 {
				return nil, badCall(n)
			}
			rest = rest[n:]
			if num == 9 && len(c.Proof) == maxProof {
				return nil, fmt.Errorf("%w: %s: a proof of more than %d nodes", ErrProtocol, TypeCall, maxProof)
			}
			if !callBytes(c, num, b[:len(b):len(b)]) {
				return nil, fmt.Errorf("%w: %s: the method is not UTF-8", ErrProtocol, TypeCall)
			}
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(rest)
			if n < 0 {
				return nil, badCall(n)
			}
			rest = rest[n:]
			callNumber(c, num, v)
		default: // of a field that we do not know
			n := protowire.ConsumeFieldValue(num, t, rest)
			if n < 0 {
				return nil, badCall(n)
			}
			rest = rest[n:]
		}
	}
	release(c, len(body))
	return c, nil
}

// release copies what a call aliases when that is the smaller part of a body of size
// bytes.
func release(c *fleetpb.Call, size int) {
	fields := []*[]byte{&c.Args, &c.Salt, &c.Order, &c.Signature, &c.OperatorCert}
	used := 0
	for _, f := range fields {
		used += len(*f)
	}
	for _, b := range c.Proof {
		used += len(b)
	}
	if size-used <= max(used, maxExtra) {
		return
	}
	for _, f := range fields {
		*f = bytes.Clone(*f)
	}
	for i, b := range c.Proof {
		c.Proof[i] = bytes.Clone(b)
	}
}

func badCall(n int) error {
	return fmt.Errorf("%w: %s: %v", ErrProtocol, TypeCall, protowire.ParseError(n))
}

// callBytes sets a field; false when it does not hold.
func callBytes(c *fleetpb.Call, num protowire.Number, b []byte) bool {
	switch num {
	case 1:
		if !utf8.Valid(b) {
			return false
		}
		c.Method = string(b)
	case 2:
		c.Args = b
	case 4:
		c.Salt = b
	case 5:
		c.Order = b
	case 6:
		c.Signature = b
	case 7:
		c.OperatorCert = b
	case 9:
		if c.Proof == nil {
			c.Proof = make([][]byte, 0, 16) // of 65,536 machines
		}
		c.Proof = append(c.Proof, b)
	}
	return true
}

func callNumber(c *fleetpb.Call, num protowire.Number, v uint64) {
	switch num {
	case 3:
		c.TimeoutMs = v
	case 8:
		c.LeafIndex = v
	case 10:
		c.Stream = protowire.DecodeBool(v)
	}
}

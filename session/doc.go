// Package session is fleet/1: calls, pings and output streams between an
// overlord and a minion over one TLS 1.3 connection that either side may dial.
//
// Every frame is
//
//	offset  size  field
//	0       4     length of the body in bytes, big endian
//	4       1     type
//	5       8     id, big endian
//	13      n     body, a protobuf message of api/fleetpb (DATA: plain bytes)
//
// and these are the types:
//
//	type     no  id      body           at most   sent by
//	HELLO    1   0       Hello          1 MiB     both, once; the minion's side first
//	CALL     2   call    Call           1 MiB     both
//	RESULT   3   call    Result         264 KiB   who got the CALL
//	ACK      4   call    Ack            64 KiB    both
//	OPEN     5   stream  Open           1 KiB     both; the sender of the data
//	DATA     6   stream  bytes, not 0   32 KiB    who sent OPEN
//	CREDIT   7   stream  Credit         16 B      who got OPEN
//	CLOSE    8   stream  Close          1 KiB     both
//	CANCEL   9   call    Cancel         1 KiB     who sent the CALL
//	PING     10  any     anything       64 B      both
//	PONG     11  as PING as PING        64 B      who got the PING
//	GOAWAY   12  0       Goaway         1 KiB     both
//	         128 to 255  anything       64 KiB    nobody yet; read and dropped
//
// docs/protocol/session.md adds the exchange, limits and versions; DESIGN.md
// beside this file says how the package keeps them.
package session

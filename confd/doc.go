// Package confd asks and answers facts about a cluster with the protocol of
// Ganeti's confd: one signed UDP datagram asks, one answers, and what enough
// candidates agree on is believed. It is compatible with Ganeti 3.0 in both
// directions, byte for byte where that matters. Programs of others may import it;
// it needs nothing but the standard library.
//
// A datagram is the four bytes of Magic and a JSON object:
//
//	member  type    in a request                    in a reply
//	msg     string  the inner message, as JSON      the same
//	salt    string  the sender's Unix time          the request's rsalt
//	hmac    string  HMAC-SHA1 over salt and msg, 40 hexadecimal digits
//
// The inner message of a request:
//
//	member    type                     meaning
//	protocol  number                   1; not looked at
//	type      integer                  what is asked for: a Type
//	query     absent, null, string     its argument; the members of an object
//	          or object                are "0" link, "1" address, "2" list of
//	                                   addresses, "3" list of fields
//	rsalt     string                   comes back as the reply's salt
//
// The inner message of a reply:
//
//	member    type     meaning
//	protocol  integer  1; not looked at
//	status    integer  0 good, 1 error
//	answer    any      of an error: a number or a text
//	serial    integer  version of the data; 0 for pings and errors
//
// The HMAC's key is all bytes of a file; whoever has it can ask, and can forge
// answers. There is no protection against a request that is sent again within
// MaxSkew. docs/protocol/confd.md has the exchange, the answers and the limits.
//
// Client does what Ganeti's ConfdClient does, and Client.Query, above it, waits for
// a quorum. Server answers from a Cluster, which ParseConfig makes of a config.data.
package confd

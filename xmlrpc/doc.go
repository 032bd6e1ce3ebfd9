// Package xmlrpc reads and writes XML-RPC (xmlrpc.com/spec.md, with <nil/> and
// <i8>) as Python's xmlrpc.client speaks it, which Func's programs use. It is a
// codec: it opens no connection.
//
// # Values
//
//	in XML                    in Go
//	<nil/>                    nil
//	<boolean>                 bool
//	<int>, <i4>               int, 32 bits
//	<i8>                      Long
//	<double>                  float64; inf, -inf and nan are written as Python writes them
//	<string>, or bare text    string
//	<base64>                  []byte
//	<dateTime.iso8601>        DateTime
//	<array>                   []any
//	<struct>                  map[string]any; written in the order of the names
//
// # Limits
//
// A document has at most MaxDocument bytes, MaxValues values and MaxDepth levels
// of values. It is UTF-8. It has no document type, no entity but the five of XML
// and character references, no attribute, no name space, and no member of a struct
// twice. Comments are skipped.
//
// XML cannot carry most control characters: see Text. A carriage return is written
// as a character reference, so that it arrives; one that a peer wrote as it is (as
// Python does) comes as a line feed, by the rules of XML.
package xmlrpc

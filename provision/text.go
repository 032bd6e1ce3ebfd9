package provision

import (
	"bytes"
	"net"
)

// cut gives at most n bytes of a text, as UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("?")))
}

// host gives the address of host:port.
func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "unknown"
	}
	return h
}

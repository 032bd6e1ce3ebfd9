package provision

import (
	"bytes"
	"net"
	"net/netip"
)

// cut gives at most n bytes of a text, as UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("?")))
}

// addrOr gives an address, or a word when there is none.
func addrOr(a netip.Addr, word string) string {
	if !a.IsValid() {
		return word
	}
	return a.String()
}

// host gives the address of host:port.
func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "unknown"
	}
	return h
}

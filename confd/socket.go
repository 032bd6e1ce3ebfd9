package confd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// socket reads datagrams and writes replies. One that listens on all addresses
// learns with each datagram which of them was asked, and replies from that: of
// itself the system would choose, and a client that asked another would not know
// who replies.
type socket struct {
	conn *net.UDPConn
	info bool
	oob  [64]byte
	n    int // bytes of oob that came with the last datagram
}

// Listen opens a UDP socket for Serve: HOST:PORT, and without HOST all addresses of
// both families. Any socket will do; one for all addresses that was opened otherwise
// may answer what comes before Serve from another address than was asked.
func Listen(ctx context.Context, addr string) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		_ = askInfo(raw) // without it the system chooses
		return nil
	}}
	conn, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for confd queries: %w", err)
	}
	return conn.(*net.UDPConn), nil // that is what udp gives
}

// askInfo makes a socket tell the address that was asked.
func askInfo(raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		// A socket of IPv6 tells of both families; one of IPv4 does not know the first option.
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO, 1)
		if failed != nil {
			failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_PKTINFO, 1)
		}
	})
	return errors.Join(err, failed)
}

// newSocket looks at what a socket is for.
func newSocket(conn *net.UDPConn) *socket {
	s := &socket{conn: conn}
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok || !local.IP.IsUnspecified() {
		return s
	}
	raw, err := conn.SyscallConn()
	s.info = err == nil && askInfo(raw) == nil
	return s
}

func (s *socket) read(b []byte) (int, netip.AddrPort, error) {
	if !s.info {
		return s.conn.ReadFromUDPAddrPort(b)
	}
	n, oobn, _, from, err := s.conn.ReadMsgUDPAddrPort(b, s.oob[:])
	s.n = oobn
	return n, from, err
}

// write replies to the last datagram that was read.
func (s *socket) write(b []byte, to netip.AddrPort) error {
	if !s.info || s.n == 0 {
		_, err := s.conn.WriteToUDPAddrPort(b, to)
		return err
	}
	anyInterface(s.oob[:s.n])
	_, _, err := s.conn.WriteMsgUDPAddrPort(b, s.oob[:s.n], to)
	return err
}

// anyInterface leaves to the routes through which interface a reply goes, unless
// its address means something on one interface only. What came with a datagram is,
// but for that, what is to go with the reply: struct in_pktinfo {int ifindex;
// in_addr spec_dst, addr} or struct in6_pktinfo {in6_addr addr; int ifindex}, behind
// a header that begins with its length in a machine word.
func anyInterface(oob []byte) {
	const head = syscall.SizeofCmsghdr
	if len(oob) < head+syscall.SizeofInet4Pktinfo {
		return
	}
	clearAt := head
	if len(oob) >= head+syscall.SizeofInet6Pktinfo {
		if addr, ok := netip.AddrFromSlice(oob[head : head+16]); ok && addr.IsLinkLocalUnicast() {
			return
		}
		clearAt = head + 16
	}
	clear(oob[clearAt : clearAt+4])
}

package confd

import (
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

// askInfo makes a socket for all addresses tell the one that was asked. Where the
// system cannot, replies leave from the one it chooses.
func askInfo(conn *net.UDPConn) bool {
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok || !local.IP.IsUnspecified() {
		return false
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		// A socket of IPv6 tells of both; one of IPv4 knows nothing of the first.
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO, 1)
		if failed != nil {
			failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_PKTINFO, 1)
		}
	})
	return err == nil && failed == nil
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

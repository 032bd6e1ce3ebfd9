package network

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dominion/module"
)

const maxTable = 64 << 20 // bytes of a table in /proc/net

// socket is a line of a table in /proc/net.
type socket struct {
	Port
	inode uint64
}

// The states of a socket that is listened on, or, for UDP, not connected
// (include/net/tcp_states.h).
const (
	tcpListen = 0x0a
	udpClosed = 0x07
)

func ports(ctx context.Context, _ *module.Env, in PortsIn) (Ports, error) {
	var all []socket
	for _, t := range []struct {
		file, protocol string
		state          uint64
	}{{"tcp", "tcp", tcpListen}, {"tcp6", "tcp", tcpListen}, {"udp", "udp", udpClosed}, {"udp6", "udp", udpClosed}} {
		if in.Protocol != "all" && in.Protocol != t.protocol {
			continue
		}
		text, err := table("/proc/self/net/" + t.file)
		if err != nil {
			return Ports{}, err
		}
		all = append(all, parseSockets(text, t.protocol, t.state)...)
	}
	all = slices.DeleteFunc(all, func(s socket) bool { return in.Port != 0 && s.Port.Port != in.Port })
	slices.SortFunc(all, func(a, b socket) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port.Port, b.Port.Port), cmp.Compare(a.Address, b.Address), cmp.Compare(a.inode, b.inode))
	})
	out := Ports{Ports: []Port{}, Cut: max(0, len(all)-maxPorts)}
	all = all[:min(len(all), maxPorts)]
	if err := holders(ctx, all); err != nil {
		return Ports{}, err
	}
	for _, s := range all {
		out.Ports = append(out.Ports, s.Port)
	}
	return out, nil
}

// table reads one; a kernel without IPv6 has none of it.
func table(file string) (string, error) {
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list ports: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTable+1))
	if err == nil && len(b) > maxTable {
		err = fmt.Errorf("%s has more than %d bytes", file, maxTable)
	}
	return string(b), err
}

// parseSockets reads /proc/net/tcp and its kin (proc(5)): of each line the
// local address, the state, the user and the inode.
func parseSockets(text, protocol string, state uint64) []socket {
	var all []socket
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		st, err := strconv.ParseUint(f[3], 16, 8)
		if err != nil || st != state {
			continue
		}
		addr, port, ok := parseEndpoint(f[1])
		uid, uidErr := strconv.ParseUint(f[7], 10, 32)
		inode, inodeErr := strconv.ParseUint(f[9], 10, 64)
		if ok && uidErr == nil && inodeErr == nil {
			all = append(all, socket{Port: Port{Protocol: protocol, Address: addr, Port: port, UID: uint32(uid)}, inode: inode})
		}
	}
	return all
}

// parseEndpoint reads "0100007F:0016": an address in words of four bytes, each
// in the machine's order, and a port.
func parseEndpoint(s string) (addr string, port int, ok bool) {
	a, p, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(a)
	n, portErr := strconv.ParseUint(p, 16, 16)
	if !ok || err != nil || portErr != nil || len(b) != 4 && len(b) != 16 {
		return "", 0, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	return ip.String(), int(n), ok
}

// holders finds the processes that hold the sockets: those that have one open.
func holders(ctx context.Context, all []socket) error {
	wanted := map[uint64][]int{}
	for i, s := range all {
		if s.inode != 0 {
			wanted[s.inode] = append(wanted[s.inode], i)
		}
	}
	pids, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, p := range pids {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || len(wanted) == 0 {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		dir := filepath.Join("/proc", p.Name())
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue // it ended, or is not ours to look into
		}
		for _, fd := range fds {
			to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			inode, ok := parseSocketLink(to)
			if err != nil || !ok {
				continue
			}
			for _, i := range wanted[inode] {
				all[i].PID, all[i].Program = pid, word(dir, "comm")
			}
			delete(wanted, inode) // the first is enough: others have it from it
		}
	}
	return nil
}

// parseSocketLink reads "socket:[123]".
func parseSocketLink(s string) (inode uint64, ok bool) {
	s, ok = strings.CutPrefix(s, "socket:[")
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return n, ok && err == nil
}

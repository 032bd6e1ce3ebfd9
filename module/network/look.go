package network

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dominion/module"
)

func addresses(_ context.Context, _ *module.Env, _ none) (Interfaces, error) {
	list, err := net.Interfaces()
	if err != nil {
		return Interfaces{}, fmt.Errorf("list interfaces: %w", err)
	}
	slices.SortFunc(list, func(a, b net.Interface) int { return cmp.Compare(a.Name, b.Name) })
	out := Interfaces{Interfaces: []Interface{}, Cut: max(0, len(list)-maxInterfaces)}
	for _, i := range list[:min(len(list), maxInterfaces)] {
		dir := filepath.Join("/sys/class/net", i.Name)
		x := Interface{
			Name: i.Name, Up: i.Flags&net.FlagUp != 0, State: cmp.Or(word(dir, "operstate"), "unknown"), MAC: i.HardwareAddr.String(), MTU: i.MTU,
			RxBytes: number(dir, "statistics/rx_bytes"), TxBytes: number(dir, "statistics/tx_bytes"),
			RxErrors: number(dir, "statistics/rx_errors"), TxErrors: number(dir, "statistics/tx_errors"),
		}
		if speed, err := strconv.Atoi(word(dir, "speed")); err == nil && speed > 0 {
			x.SpeedMbps = speed
		}
		addrs, err := i.Addrs()
		if err != nil {
			return Interfaces{}, fmt.Errorf("addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs[:min(len(addrs), maxAddresses)] {
			x.Addresses = append(x.Addresses, a.String())
		}
		out.Interfaces = append(out.Interfaces, x)
	}
	return out, nil
}

// word reads a file of sysfs; empty when it is not there, or cannot be read
// for an interface of this kind.
func word(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func number(dir, name string) uint64 {
	n, err := strconv.ParseUint(word(dir, name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func routes(_ context.Context, _ *module.Env, in RoutesIn) (Routes, error) {
	var all []Route
	for _, family := range []struct {
		name   string
		number int
	}{{"4", syscall.AF_INET}, {"6", syscall.AF_INET6}} {
		if in.Family != "all" && in.Family != family.name {
			continue
		}
		b, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, family.number)
		if err != nil {
			return Routes{}, fmt.Errorf("ask the kernel for routes of IPv%s: %w", family.name, err)
		}
		some, err := parseRoutes(b, family.number, interfaceName)
		if err != nil {
			return Routes{}, err
		}
		all = append(all, some...)
	}
	if !in.All {
		all = slices.DeleteFunc(all, func(r Route) bool { return r.Table != unix.RT_TABLE_MAIN })
	}
	slices.SortStableFunc(all, func(a, b Route) int {
		return cmp.Or(cmp.Compare(bits(a), bits(b)), cmp.Compare(a.To, b.To), cmp.Compare(a.Metric, b.Metric))
	})
	return Routes{Routes: append([]Route{}, all[:min(len(all), maxRoutes)]...), Cut: max(0, len(all)-maxRoutes)}, nil
}

// bits puts default routes before all others.
func bits(r Route) int {
	if p, err := netip.ParsePrefix(r.To); err == nil && p.Bits() == 0 {
		return 0
	}
	return 1
}

func interfaceName(index int) string {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return strconv.Itoa(index) // it went away
	}
	return i.Name
}

// parseRoutes reads the kernel's answer to RTM_GETROUTE (rtnetlink(7)).
func parseRoutes(b []byte, family int, name func(index int) string) ([]Route, error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	var all []Route
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != syscall.RTM_NEWROUTE || len(m.Data) < syscall.SizeofRtMsg || int(m.Data[0]) != family {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return nil, fmt.Errorf("routes: %w", err)
		}
		all = append(all, routesOf(m.Data, attrs, name)...)
	}
	return all, nil
}

// routesOf makes a route of a message whose head is struct rtmsg, or several
// when it has several next hops.
func routesOf(head []byte, attrs []syscall.NetlinkRouteAttr, name func(int) string) []Route {
	zero := netip.IPv4Unspecified()
	if head[0] == syscall.AF_INET6 {
		zero = netip.IPv6Unspecified()
	}
	r := Route{
		To: netip.PrefixFrom(zero, int(head[1])).String(), Table: uint32(head[4]),
		Origin: word8(origins, head[5]), Kind: word8(kinds, head[7]),
	}
	var hops []byte
	for _, a := range attrs {
		addr, isAddr := netip.AddrFromSlice(a.Value)
		switch a.Attr.Type {
		case syscall.RTA_DST:
			if isAddr {
				r.To = netip.PrefixFrom(addr, int(head[1])).String()
			}
		case syscall.RTA_GATEWAY:
			if isAddr {
				r.Via = addr.String()
			}
		case syscall.RTA_PREFSRC:
			if isAddr {
				r.Source = addr.String()
			}
		case syscall.RTA_OIF:
			if n, ok := native32(a.Value); ok {
				r.Interface = name(int(n))
			}
		case syscall.RTA_PRIORITY:
			r.Metric, _ = native32(a.Value)
		case syscall.RTA_TABLE:
			if n, ok := native32(a.Value); ok {
				r.Table = n
			}
		case syscall.RTA_MULTIPATH:
			hops = a.Value
		}
	}
	if len(hops) == 0 {
		return []Route{r}
	}
	return r.split(hops, name)
}

// split gives one route for each next hop: struct rtnexthop, eight bytes, and
// attributes, in rtnh_len bytes together.
func (r Route) split(hops []byte, name func(int) string) []Route {
	var all []Route
	for len(hops) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(hops))
		if n < unix.SizeofRtNexthop || n > len(hops) {
			break
		}
		hop := r
		hop.Interface = name(int(int32(binary.NativeEndian.Uint32(hops[4:]))))
		for attrs := hops[unix.SizeofRtNexthop:n]; len(attrs) >= 4; {
			size := int(binary.NativeEndian.Uint16(attrs))
			if size < 4 || size > len(attrs) {
				break
			}
			if addr, ok := netip.AddrFromSlice(attrs[4:size]); ok && binary.NativeEndian.Uint16(attrs[2:]) == syscall.RTA_GATEWAY {
				hop.Via = addr.String()
			}
			attrs = attrs[min((size+3)&^3, len(attrs)):]
		}
		all = append(all, hop)
		hops = hops[min((n+3)&^3, len(hops)):]
	}
	return all
}

func native32(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(b), true
}

// What rtnetlink(7) calls rtm_type and rtm_protocol.
var (
	kinds   = []string{"unspecified", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw", "nat"}
	origins = map[byte]string{0: "", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp", 186: "bgp", 188: "ospf"}
)

// word8 names a number, or gives it as one.
func word8[T []string | map[byte]string](names T, n byte) string {
	switch names := any(names).(type) {
	case []string:
		if int(n) < len(names) {
			return names[n]
		}
	case map[byte]string:
		if s, ok := names[n]; ok {
			return s
		}
	}
	return strconv.Itoa(int(n))
}

//go:build fleet

package network

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const inside = "DOMINION_INSIDE_NETWORK"

// TestFleetNetwork runs TestFleetInNamespace in a network of its own.
func TestFleetNetwork(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skipf("SKIPPED %s: it needs root, to make a network namespace", t.Name())
	}
	for _, tool := range []string{"unshare", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED %s: %v (Debian: util-linux, iproute2)", t.Name(), err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "--mount", "sh", "-c", `mount -t sysfs sysfs /sys && exec "$0" -test.v -test.run '^TestFleetInNamespace$'`, self)
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestFleetInNamespace")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestFleetInNamespace(t *testing.T) {
	if os.Getenv(inside) == "" {
		return // it runs as a part of TestFleetNetwork
	}
	for _, line := range []string{
		"link set lo up",
		"link add eth7 type veth peer name peer7",
		"link set peer7 up",
		"link set eth7 mtu 1400 up",
		"addr add 192.0.2.1/24 dev eth7",
		"addr add 2001:db8::1/64 dev eth7 nodad",
		"route add default via 192.0.2.254 metric 50 proto dhcp",
		"route add 198.51.100.0/24 via 192.0.2.253 src 192.0.2.1 proto static",
		"route add blackhole 203.0.113.0/24",
		"route add 10.0.0.0/8 nexthop via 192.0.2.7 dev eth7 nexthop via 192.0.2.8 dev eth7",
		"-6 route add default via 2001:db8::ffff",
		"route add 10.9.0.0/16 dev eth7 table 300",
		"link add down0 type veth peer name down1",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v %s", line, err, out)
		}
	}
	t.Run("addresses", inAddresses)
	t.Run("routes", inRoutes)
	t.Run("ports", inPorts)
	t.Run("check", inCheck)
}

func inAddresses(t *testing.T) {
	got, err := addresses(t.Context(), nil, none{})
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]Interface{}
	for _, i := range got.Interfaces {
		by[i.Name] = i
	}
	e := by["eth7"]
	slices.Sort(e.Addresses)
	if !e.Up || e.MTU != 1400 || len(e.MAC) != 17 || len(e.Addresses) != 3 || e.Addresses[0] != "192.0.2.1/24" || e.Addresses[1] != "2001:db8::1/64" {
		t.Errorf("eth7 is %+v", e)
	}
	if d := by["down0"]; d.Up || d.State != "down" {
		t.Errorf("down0 is %+v", d)
	}
	if lo := by["lo"]; !lo.Up || !slices.Contains(lo.Addresses, "127.0.0.1/8") {
		t.Errorf("lo is %+v", lo)
	}
}

func inRoutes(t *testing.T) {
	got, err := routes(t.Context(), nil, RoutesIn{Family: "4"})
	want := []Route{
		{To: "0.0.0.0/0", Via: "192.0.2.254", Interface: "eth7", Metric: 50, Kind: "unicast", Table: 254, Origin: "dhcp"},
		{To: "10.0.0.0/8", Via: "192.0.2.7", Interface: "eth7", Kind: "unicast", Table: 254, Origin: "boot"},
		{To: "10.0.0.0/8", Via: "192.0.2.8", Interface: "eth7", Kind: "unicast", Table: 254, Origin: "boot"},
		{To: "192.0.2.0/24", Interface: "eth7", Source: "192.0.2.1", Kind: "unicast", Table: 254, Origin: "kernel"},
		{To: "198.51.100.0/24", Via: "192.0.2.253", Interface: "eth7", Source: "192.0.2.1", Kind: "unicast", Table: 254, Origin: "static"},
		{To: "203.0.113.0/24", Kind: "blackhole", Table: 254, Origin: "boot"},
	}
	if d := cmp.Diff(want, got.Routes); d != "" || err != nil {
		t.Errorf("IPv4: %v (-want +got):\n%s", err, d)
	}
	got, err = routes(t.Context(), nil, RoutesIn{Family: "6"})
	if err != nil || len(got.Routes) == 0 || got.Routes[0].To != "::/0" || got.Routes[0].Via != "2001:db8::ffff" || got.Routes[0].Interface != "eth7" {
		t.Errorf("IPv6: %+v, %v", got, err)
	}
	got, err = routes(t.Context(), nil, RoutesIn{Family: "all", All: true})
	has := func(to, kind string, table uint32) bool {
		return slices.ContainsFunc(got.Routes, func(r Route) bool { return r.To == to && r.Kind == kind && r.Table == table })
	}
	if err != nil || !has("10.9.0.0/16", "unicast", 300) || !has("192.0.2.1/32", "local", 255) || !has("10.0.0.0/8", "unicast", 254) {
		t.Errorf("all: %+v, %v", got, err)
	}
}

func inPorts(t *testing.T) {
	ln, err := net.Listen("tcp4", "192.0.2.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ln6, err := net.Listen("tcp6", "[2001:db8::1]:7001")
	if err != nil {
		t.Fatal(err)
	}
	defer ln6.Close()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:7002")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	conn, err := net.Dial("tcp4", "192.0.2.1:7000") // a connection is no port that is listened on
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	comm, _ := os.ReadFile("/proc/self/comm")
	mine := func(protocol, address string, port int) Port {
		return Port{Protocol: protocol, Address: address, Port: port, PID: os.Getpid(), Program: strings.TrimSpace(string(comm))}
	}
	got, err := ports(t.Context(), nil, PortsIn{Protocol: "all"})
	want := []Port{mine("tcp", "192.0.2.1", 7000), mine("tcp", "2001:db8::1", 7001), mine("udp", "127.0.0.1", 7002)}
	if d := cmp.Diff(want, got.Ports); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if got, err = ports(t.Context(), nil, PortsIn{Protocol: "tcp", Port: 7001}); err != nil || len(got.Ports) != 1 {
		t.Errorf("one: %+v, %v", got, err)
	}
}

func inCheck(t *testing.T) {
	ln, err := net.Listen("tcp4", "192.0.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	echo, err := net.ListenPacket("udp4", "192.0.2.1:7100")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			if string(b[:n]) == "hello" {
				_, _ = echo.WriteTo(b[:n], from)
			}
		}
	}()
	open := ln.Addr().(*net.TCPAddr).Port
	for _, test := range []struct {
		in    CheckIn
		state string
	}{
		{CheckIn{Host: "192.0.2.1", Port: open, Protocol: "tcp", Seconds: 3}, "open"},
		{CheckIn{Host: "192.0.2.1", Port: 1, Protocol: "tcp", Seconds: 3}, "refused"},
		{CheckIn{Host: "2001:db8::1", Port: 1, Protocol: "tcp", Seconds: 3}, "refused"},
		{CheckIn{Host: "192.0.2.99", Port: 1, Protocol: "tcp", Seconds: 0.2}, "silent"}, // nobody is there
		{CheckIn{Host: "203.0.113.1", Port: 1, Protocol: "tcp", Seconds: 1}, "unreachable"},
		{CheckIn{Host: "no-such-name.invalid", Port: 1, Protocol: "tcp", Seconds: 0.3}, ""},
		{CheckIn{Host: "192.0.2.1", Port: 7100, Protocol: "udp", Seconds: 3, Payload: "hello"}, "open"},
		{CheckIn{Host: "192.0.2.1", Port: 7100, Protocol: "udp", Seconds: 0.2, Payload: "what"}, "silent"},
		{CheckIn{Host: "192.0.2.1", Port: 7101, Protocol: "udp", Seconds: 3, Payload: "hello"}, "refused"},
	} {
		began := time.Now()
		got, err := check(t.Context(), nil, test.in)
		if err != nil || test.state != "" && got.State != test.state || got.Reached != (got.State == "open") || time.Since(began) > 2500*time.Millisecond {
			t.Errorf("%+v: %+v, %v; want %s", test.in, got, err, test.state)
		}
		if test.state == "open" && got.Address != test.in.Host {
			t.Errorf("%s: address %s", fmt.Sprint(test.in), got.Address)
		}
	}
}

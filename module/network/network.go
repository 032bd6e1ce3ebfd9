// Package network shows a machine's network as the machine sees it: its
// addresses, routes and listening ports, and whether it reaches others.
package network

import (
	"dominion/module"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "network",
	Doc:  "The network as the machine sees it. Nothing is changed.",
	Methods: []module.Method{
		module.Func("addresses", "Lists interfaces and their addresses.", module.Read, addresses, module.MethodOptions{}),
		module.Func("routes", "Lists routes.", module.Read, routes, module.MethodOptions{}),
		module.Func("ports", "Lists ports on which programs listen, and which programs.", module.Read, ports, module.MethodOptions{}),
		module.Func("check", "Tries to reach a port of another machine.", module.Read, check, module.MethodOptions{}),
		module.Func("resolve", "Looks a name or an address up.", module.Read, resolve, module.MethodOptions{}),
	},
}

// Limits of answers.
const (
	maxInterfaces = 512
	maxAddresses  = 64 // of one interface
	maxRoutes     = 4000
	maxPorts      = 3000
	maxRecords    = 1000
)

type none struct{}

// Interfaces is the answer of addresses.
type Interfaces struct {
	Interfaces []Interface `json:"interfaces" doc:"the interfaces, by name; 512 at most"`
	Cut        int         `json:"cut,omitempty" doc:"interfaces that were left out"`
}

// Interface is a network interface.
type Interface struct {
	Name      string   `json:"name" doc:"its name"`
	Up        bool     `json:"up" doc:"whether it is switched on"`
	State     string   `json:"state" doc:"its operational state: up, down, unknown …"`
	MAC       string   `json:"mac,omitempty" doc:"hardware address"`
	MTU       int      `json:"mtu" doc:"bytes of the largest packet"`
	SpeedMbps int      `json:"speed_mbps,omitempty" doc:"speed of the link, where it has one"`
	Addresses []string `json:"addresses,omitempty" doc:"addresses with the length of their prefix; 64 at most"`
	RxBytes   uint64   `json:"rx_bytes" doc:"bytes received"`
	TxBytes   uint64   `json:"tx_bytes" doc:"bytes sent"`
	RxErrors  uint64   `json:"rx_errors,omitempty" doc:"packets received with errors"`
	TxErrors  uint64   `json:"tx_errors,omitempty" doc:"packets not sent because of errors"`
}

// RoutesIn is the input of routes.
type RoutesIn struct {
	Family string `json:"family" doc:"only routes of IPv4, or of IPv6" default:"all" enum:"all,4,6"`
	All    bool   `json:"all" doc:"also those of other tables than main, such as the kernel's own of local addresses"`
}

// Routes is the answer of routes.
type Routes struct {
	Routes []Route `json:"routes" doc:"the routes, the default ones first; 4000 at most"`
	Cut    int     `json:"cut,omitempty" doc:"routes that were left out"`
}

// Route is a route.
type Route struct {
	To        string `json:"to" doc:"the network; 0.0.0.0/0 and ::/0 are the default"`
	Via       string `json:"via,omitempty" doc:"the gateway; missing: directly"`
	Interface string `json:"interface,omitempty" doc:"the interface"`
	Source    string `json:"source,omitempty" doc:"preferred address of the sender"`
	Metric    uint32 `json:"metric,omitempty" doc:"its metric"`
	Kind      string `json:"kind" doc:"unicast, local, blackhole …"`
	Table     uint32 `json:"table" doc:"number of its table; 254 is main"`
	Origin    string `json:"origin,omitempty" doc:"who made it: kernel, boot, static, dhcp, ra or a number"`
}

// PortsIn is the input of ports.
type PortsIn struct {
	Protocol string `json:"protocol" doc:"only ports of this protocol" default:"all" enum:"all,tcp,udp"`
	Port     int    `json:"port" doc:"only this port; 0: all" default:"0" min:"0" max:"65535"`
}

// Ports is the answer of ports.
type Ports struct {
	Ports []Port `json:"ports" doc:"the ports, by protocol and number; 3000 at most"`
	Cut   int    `json:"cut,omitempty" doc:"ports that were left out"`
}

// Port is a port on which a program listens, or a UDP port that one has taken.
type Port struct {
	Protocol string `json:"protocol" doc:"tcp or udp"`
	Address  string `json:"address" doc:"the address; 0.0.0.0 and :: are all"`
	Port     int    `json:"port" doc:"its number"`
	UID      uint32 `json:"uid" doc:"number of the user whose it is"`
	PID      int    `json:"pid,omitempty" doc:"a process that holds it; missing when the agent may not see it, or the kernel holds it"`
	Program  string `json:"program,omitempty" doc:"name of that process"`
}

// CheckIn is the input of check.
type CheckIn struct {
	Host     string  `json:"host" doc:"name or address" required:"true" min:"1" max:"253" pattern:"[A-Za-z0-9_.:%-]+"`
	Port     int     `json:"port" doc:"the port" required:"true" min:"1" max:"65535"`
	Protocol string  `json:"protocol" doc:"how" default:"tcp" enum:"tcp,udp"`
	Seconds  float64 `json:"seconds" doc:"how long to wait" default:"3" min:"0.01" max:"50"`
	Payload  string  `json:"payload" doc:"what is sent by UDP; a server answers only to what it understands" max:"1400"`
}

// Checked is the answer of check.
type Checked struct {
	Reached bool    `json:"reached" doc:"whether the port answered"`
	State   string  `json:"state" doc:"open, refused (the machine says that nobody listens), silent (no answer in that time), unreachable or unresolved"`
	Address string  `json:"address,omitempty" doc:"the address that was tried"`
	Millis  float64 `json:"millis" doc:"how long it took, in milliseconds"`
	Detail  string  `json:"detail,omitempty" doc:"what went wrong"`
}

// ResolveIn is the input of resolve.
type ResolveIn struct {
	Name    string  `json:"name" doc:"a name, or an address for its names" required:"true" min:"1" max:"253" pattern:"[A-Za-z0-9_.:%-]+"`
	Type    string  `json:"type" doc:"what to look for; addresses are looked for in /etc/hosts too" default:"address" enum:"address,cname,mx,ns,txt,srv,ptr"`
	Server  string  `json:"server" doc:"a name server's address, with a port or without; when left out those of /etc/resolv.conf" max:"128" pattern:"[0-9A-Fa-f.:%\\[\\]a-z]*"`
	Seconds float64 `json:"seconds" doc:"how long to wait" default:"5" min:"0.01" max:"50"`
}

// Resolved is the answer of resolve.
type Resolved struct {
	Name    string   `json:"name" doc:"what was looked up"`
	Type    string   `json:"type" doc:"what for"`
	Found   bool     `json:"found" doc:"whether there is any"`
	Records []string `json:"records,omitempty" doc:"what was found, sorted; 1000 at most"`
}

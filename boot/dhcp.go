package boot

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// DHCP says what a site's DHCP server is to do for machines that boot. IPv4 only.
type DHCP struct {
	Network   netip.Prefix // required
	First     netip.Addr   // of the addresses that machines get, when they have none of their own; required
	Last      netip.Addr   // required
	Files     string       // host:port that serves /boot/; required
	Interface string       // to listen on; empty: all
	Router    netip.Addr   // zero: none
	DNS       []netip.Addr
	Domain    string
	// TFTPRoot is a folder with undionly.kpxe and ipxe.efi (Debian: ipxe), for
	// firmware without iPXE. Empty: all machines have iPXE, as virtual ones do.
	TFTPRoot string
	TFTP     netip.Addr // of the TFTP server; dnsmasq is one itself, ISC names its own host without it, Kea needs it
	Hosts    []Host
}

// Host is a machine that is known.
type Host struct {
	HWAddr string
	Name   string
	Addr   netip.Addr // zero: one of the range
}

// MaxHosts is how many bytes ParseHosts reads.
const MaxHosts = 16 << 20

// ParseHosts reads machines, one on a line: HARDWARE-ADDRESS NAME [ADDRESS]. What
// follows # does not count. Errors wrap ErrText and tell the line.
func ParseHosts(text []byte) ([]Host, error) {
	if len(text) > MaxHosts {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrText, MaxHosts)
	}
	var hosts []Host
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 2 || len(f) > 3 {
			return nil, fmt.Errorf("%w: line %d has %d words; wanted are a hardware address, a name and perhaps an address", ErrText, n, len(f))
		}
		hw, err := net.ParseMAC(f[0])
		if err != nil || len(hw) != 6 {
			return nil, fmt.Errorf("%w: line %d: %.40q is no hardware address", ErrText, n, f[0])
		}
		h := Host{HWAddr: hw.String(), Name: f[1]}
		if !word(h.Name, ".-") {
			return nil, fmt.Errorf("%w: line %d: %.80q is no name", ErrText, n, f[1])
		}
		if len(f) == 3 {
			if h.Addr, err = netip.ParseAddr(f[2]); err != nil || !h.Addr.Is4() {
				return nil, fmt.Errorf("%w: line %d: %.80q is no IPv4 address", ErrText, n, f[2])
			}
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// Servers whose configuration DHCP.Config writes.
const (
	Dnsmasq = "dnsmasq"
	ISC     = "isc"
	Kea     = "kea"
)

// Config gives the configuration for one of the servers. Errors wrap ErrText.
func (d DHCP) Config(server string) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	switch server {
	case Dnsmasq:
		return d.dnsmasq(), nil
	case ISC:
		return d.isc(), nil
	case Kea:
		if d.TFTPRoot != "" && !d.TFTP.IsValid() {
			return nil, fmt.Errorf("%w: Kea names no TFTP server by itself; give its address", ErrText)
		}
		return d.kea()
	}
	return nil, fmt.Errorf("%w: there is no configuration for %.40q, but for dnsmasq, isc and kea", ErrText, server)
}

func (d DHCP) check() error {
	if !d.Network.IsValid() || !d.Network.Addr().Is4() || d.Network != d.Network.Masked() {
		return fmt.Errorf("%w: %s is no IPv4 network", ErrText, d.Network)
	}
	if !d.Network.Contains(d.First) || !d.Network.Contains(d.Last) || d.Last.Less(d.First) {
		return fmt.Errorf("%w: %s-%s is no range of %s", ErrText, d.First, d.Last, d.Network)
	}
	if err := checkAddress("address of the files", d.Files); err != nil {
		return err
	}
	if d.Interface != "" && !word(d.Interface, ".-_") || d.Domain != "" && !word(d.Domain, ".-") || d.TFTPRoot != "" && !word(d.TFTPRoot, "/.-_") {
		return fmt.Errorf("%w: interface %q, domain %q or folder %q", ErrText, d.Interface, d.Domain, d.TFTPRoot)
	}
	for _, a := range append([]netip.Addr{d.Router, d.TFTP}, d.DNS...) {
		if a.IsValid() && !a.Is4() {
			return fmt.Errorf("%w: %s is no IPv4 address", ErrText, a)
		}
	}
	names, macs, addrs := map[string]bool{}, map[string]bool{}, map[netip.Addr]bool{}
	for _, h := range d.Hosts {
		hw, err := net.ParseMAC(h.HWAddr)
		if err != nil || len(hw) != 6 || !word(h.Name, ".-") || h.Addr.IsValid() && !d.Network.Contains(h.Addr) {
			return fmt.Errorf("%w: machine %.80q %.80q %s", ErrText, h.HWAddr, h.Name, h.Addr)
		}
		if names[h.Name] || macs[hw.String()] || h.Addr.IsValid() && addrs[h.Addr] {
			return fmt.Errorf("%w: machine %s %s is there twice, or its address", ErrText, h.HWAddr, h.Name)
		}
		names[h.Name], macs[hw.String()], addrs[h.Addr] = true, true, true
	}
	return nil
}

func mac(s string) string {
	hw, _ := net.ParseMAC(s) // checked
	return hw.String()
}

func (d DHCP) mask() string {
	return net.IP(net.CIDRMask(d.Network.Bits(), 32)).String()
}

// script is what iPXE is told to load; iPXE puts the address of its interface in.
func (d DHCP) script() string { return "http://" + d.Files + "/boot/ipxe?mac=${netX/mac}" }

func joined(addrs []netip.Addr, sep string) string {
	var s []string
	for _, a := range addrs {
		s = append(s, a.String())
	}
	return strings.Join(s, sep)
}

func (d DHCP) dnsmasq() []byte {
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("# dnsmasq: machines that boot from Dominion")
	if d.Interface != "" {
		line("interface=%s\nbind-interfaces", d.Interface)
	}
	line("dhcp-range=%s,%s,%s,1h", d.First, d.Last, d.mask())
	line("dhcp-authoritative")
	if d.Router.IsValid() {
		line("dhcp-option=option:router,%s", d.Router)
	} else {
		line("dhcp-option=option:router")
	}
	if len(d.DNS) > 0 {
		line("dhcp-option=option:dns-server,%s", joined(d.DNS, ","))
	}
	if d.Domain != "" {
		line("domain=%s", d.Domain)
	}
	line("# iPXE says so in its request; everything else gets iPXE first.")
	line("dhcp-match=set:ipxe,175")
	line("dhcp-boot=tag:ipxe,%s", d.script())
	if d.TFTPRoot != "" {
		line("enable-tftp\ntftp-root=%s", d.TFTPRoot)
		line("dhcp-match=set:efi,option:client-arch,7\ndhcp-match=set:efi,option:client-arch,9")
		line("dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe\ndhcp-boot=tag:!ipxe,tag:efi,ipxe.efi")
	}
	for _, h := range d.Hosts {
		if h.Addr.IsValid() {
			line("dhcp-host=%s,%s,%s", mac(h.HWAddr), h.Addr, h.Name)
		} else {
			line("dhcp-host=%s,%s", mac(h.HWAddr), h.Name)
		}
	}
	return []byte(s.String())
}

func (d DHCP) isc() []byte {
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("# ISC dhcpd: machines that boot from Dominion")
	line("authoritative;\noption client-arch code 93 = unsigned integer 16;")
	line("subnet %s netmask %s {\n  range %s %s;", d.Network.Addr(), d.mask(), d.First, d.Last)
	if d.Router.IsValid() {
		line("  option routers %s;", d.Router)
	}
	if len(d.DNS) > 0 {
		line("  option domain-name-servers %s;", joined(d.DNS, ", "))
	}
	if d.Domain != "" {
		line("  option domain-name %q;", d.Domain)
	}
	line("  if exists user-class and option user-class = \"iPXE\" {\n    filename %q;", d.script())
	if d.TFTPRoot != "" {
		line("  } elsif option client-arch = 7 or option client-arch = 9 {\n    filename \"ipxe.efi\";\n  } else {\n    filename \"undionly.kpxe\";")
	}
	line("  }")
	if d.TFTPRoot != "" && d.TFTP.IsValid() {
		line("  next-server %s;", d.TFTP)
	}
	line("}")
	for _, h := range d.Hosts {
		fixed := ""
		if h.Addr.IsValid() {
			fixed = " fixed-address " + h.Addr.String() + ";"
		}
		line("host %s { hardware ethernet %s;%s option host-name %q; }", h.Name, mac(h.HWAddr), fixed, h.Name)
	}
	return []byte(s.String())
}

// kea is JSON as Kea's own tools take it, without comments.
func (d DHCP) kea() ([]byte, error) {
	type object = map[string]any
	options := []object{}
	option := func(name, data string) { options = append(options, object{"name": name, "data": data}) }
	if d.Router.IsValid() {
		option("routers", d.Router.String())
	}
	if len(d.DNS) > 0 {
		option("domain-name-servers", joined(d.DNS, ", "))
	}
	if d.Domain != "" {
		option("domain-name", d.Domain)
	}
	classes := []object{{"name": "ipxe", "test": "substring(option[77].hex,0,4) == 'iPXE'", "boot-file-name": d.script()}}
	if d.TFTPRoot != "" {
		efi := object{"name": "efi", "test": "not member('ipxe') and (option[93].hex == 0x0007 or option[93].hex == 0x0009)", "boot-file-name": "ipxe.efi"}
		bios := object{"name": "bios", "test": "not member('ipxe') and not member('efi')", "boot-file-name": "undionly.kpxe"}
		if d.TFTP.IsValid() {
			efi["next-server"], bios["next-server"] = d.TFTP.String(), d.TFTP.String()
		}
		classes = append(classes, efi, bios)
	}
	hosts := []object{}
	for _, h := range d.Hosts {
		r := object{"hw-address": mac(h.HWAddr), "hostname": h.Name}
		if h.Addr.IsValid() {
			r["ip-address"] = h.Addr.String()
		}
		hosts = append(hosts, r)
	}
	interfaces := []string{"*"}
	if d.Interface != "" {
		interfaces = []string{d.Interface}
	}
	b, err := json.MarshalIndent(object{"Dhcp4": object{
		"interfaces-config": object{"interfaces": interfaces},
		"valid-lifetime":    3600,
		"client-classes":    classes,
		"subnet4": []object{{
			"id": 1, "subnet": d.Network.String(), "option-data": options, "reservations": hosts,
			"pools": []object{{"pool": d.First.String() + " - " + d.Last.String()}},
		}},
	}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return append(b, '\n'), nil
}

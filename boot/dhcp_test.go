package boot

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func site() DHCP {
	return DHCP{
		Network: netip.MustParsePrefix("192.0.2.0/24"), First: netip.MustParseAddr("192.0.2.100"), Last: netip.MustParseAddr("192.0.2.199"),
		Files: "192.0.2.1:51237", Interface: "eth1", Router: netip.MustParseAddr("192.0.2.254"),
		DNS: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}, Domain: "example.org",
		TFTPRoot: "/srv/tftp", TFTP: netip.MustParseAddr("192.0.2.1"),
		Hosts: []Host{{HWAddr: "52:54:00:AA:00:01", Name: "n0001", Addr: netip.MustParseAddr("192.0.2.11")}, {HWAddr: "52:54:00:aa:00:02", Name: "n0002"}},
	}
}

const dnsmasqText = `# dnsmasq: machines that boot from Dominion
interface=eth1
bind-interfaces
dhcp-range=192.0.2.100,192.0.2.199,255.255.255.0,1h
dhcp-authoritative
dhcp-option=option:router,192.0.2.254
dhcp-option=option:dns-server,192.0.2.2,192.0.2.3
domain=example.org
# iPXE says so in its request; everything else gets iPXE first.
dhcp-match=set:ipxe,175
dhcp-boot=tag:ipxe,http://192.0.2.1:51237/boot/ipxe?mac=${netX/mac}
enable-tftp
tftp-root=/srv/tftp
dhcp-match=set:efi,option:client-arch,7
dhcp-match=set:efi,option:client-arch,9
dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe
dhcp-boot=tag:!ipxe,tag:efi,ipxe.efi
dhcp-host=52:54:00:aa:00:01,192.0.2.11,n0001
dhcp-host=52:54:00:aa:00:02,n0002
`

const iscText = `# ISC dhcpd: machines that boot from Dominion
authoritative;
option client-arch code 93 = unsigned integer 16;
subnet 192.0.2.0 netmask 255.255.255.0 {
  range 192.0.2.100 192.0.2.199;
  option routers 192.0.2.254;
  option domain-name-servers 192.0.2.2, 192.0.2.3;
  option domain-name "example.org";
  if exists user-class and option user-class = "iPXE" {
    filename "http://192.0.2.1:51237/boot/ipxe?mac=${netX/mac}";
  } elsif option client-arch = 7 or option client-arch = 9 {
    filename "ipxe.efi";
  } else {
    filename "undionly.kpxe";
  }
  next-server 192.0.2.1;
}
host n0001 { hardware ethernet 52:54:00:aa:00:01; fixed-address 192.0.2.11; option host-name "n0001"; }
host n0002 { hardware ethernet 52:54:00:aa:00:02; option host-name "n0002"; }
`

func TestConfig(t *testing.T) {
	for server, want := range map[string]string{Dnsmasq: dnsmasqText, ISC: iscText} {
		got, err := site().Config(server)
		if err != nil || string(got) != want {
			t.Errorf("%s: %v, got\n%s\nwant\n%s", server, err, got, want)
		}
	}
	got, err := site().Config(Kea)
	if err != nil {
		t.Fatal(err)
	}
	var kea struct {
		Dhcp4 struct {
			Classes []struct {
				Name string `json:"name"`
				Test string `json:"test"`
				File string `json:"boot-file-name"`
			} `json:"client-classes"`
			Subnets []struct {
				Subnet string                  `json:"subnet"`
				Pools  []struct{ Pool string } `json:"pools"`
				Hosts  []map[string]string     `json:"reservations"`
			} `json:"subnet4"`
		}
	}
	if err := json.Unmarshal(got, &kea); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	d := kea.Dhcp4
	if len(d.Classes) != 3 || d.Classes[0].File != "http://192.0.2.1:51237/boot/ipxe?mac=${netX/mac}" || d.Subnets[0].Pools[0].Pool != "192.0.2.100 - 192.0.2.199" || d.Subnets[0].Hosts[0]["ip-address"] != "192.0.2.11" {
		t.Errorf("kea: %s", got)
	}
}

// The real dnsmasq takes what we print.
func TestDnsmasq(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("SKIPPED dnsmasq is missing; tools/setup.sh installs it")
	}
	plain := site()
	plain.Interface, plain.Domain, plain.TFTPRoot, plain.DNS, plain.Router, plain.Hosts = "", "", "", nil, netip.Addr{}, nil
	for name, d := range map[string]DHCP{"with everything": site(), "with nothing": plain} {
		text, err := d.Config(Dnsmasq)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "conf")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), dnsmasq, "--test", "-C", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	tests := map[string]func(*DHCP){
		"no network":                 func(d *DHCP) { d.Network = netip.Prefix{} },
		"IPv6":                       func(d *DHCP) { d.Network = netip.MustParsePrefix("2001:db8::/64") },
		"not the network's first":    func(d *DHCP) { d.Network = netip.MustParsePrefix("192.0.2.1/24") },
		"a range elsewhere":          func(d *DHCP) { d.Last = netip.MustParseAddr("192.0.3.1") },
		"a range backwards":          func(d *DHCP) { d.First, d.Last = d.Last, d.First },
		"no files":                   func(d *DHCP) { d.Files = "" },
		"an interface with a line":   func(d *DHCP) { d.Interface = "eth0\nuser=x" },
		"a domain with a line":       func(d *DHCP) { d.Domain = "a\nb" },
		"a folder with a blank":      func(d *DHCP) { d.TFTPRoot = "/a b" },
		"a machine with a bad name":  func(d *DHCP) { d.Hosts[0].Name = "a b" },
		"a machine with a bad MAC":   func(d *DHCP) { d.Hosts[0].HWAddr = "x" },
		"a machine elsewhere":        func(d *DHCP) { d.Hosts[0].Addr = netip.MustParseAddr("10.0.0.1") },
		"two machines with one name": func(d *DHCP) { d.Hosts[1].Name = "n0001" },
		"two machines with one MAC":  func(d *DHCP) { d.Hosts[1].HWAddr = "52:54:00:aa:00:01" },
		"a name server of IPv6":      func(d *DHCP) { d.DNS[0] = netip.MustParseAddr("::1") },
	}
	for name, change := range tests {
		d := site()
		change(&d)
		for _, server := range []string{Dnsmasq, ISC, Kea} {
			if _, err := d.Config(server); !errors.Is(err, ErrText) {
				t.Errorf("%s, %s: %v; want an error", name, server, err)
			}
		}
	}
	if _, err := site().Config("dhcpcd"); !errors.Is(err, ErrText) {
		t.Errorf("for another server: %v", err)
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("# machines\n52:54:00:AA:00:01 n0001 192.0.2.11 # the first\n\n52-54-00-aa-00-02 n0002\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		hosts, err := ParseHosts(b)
		if err != nil {
			if !errors.Is(err, ErrText) {
				t.Fatalf("error %v does not wrap ErrText", err)
			}
			return
		}
		var s strings.Builder
		for _, h := range hosts {
			s.WriteString(h.HWAddr + " " + h.Name)
			if h.Addr.IsValid() {
				s.WriteString(" " + h.Addr.String())
			}
			s.WriteString("\n")
		}
		again, err := ParseHosts([]byte(s.String()))
		if err != nil || !slices.Equal(hosts, again) {
			t.Fatalf("accepted %q, and not %q: %v", b, s.String(), err)
		}
	})
}

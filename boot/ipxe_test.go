package boot

import (
	"errors"
	"strings"
	"testing"
)

const (
	testPin   = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	testNonce = "aa112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

func provision() IPXE {
	return IPXE{
		Kind: Provision, Files: "192.0.2.1:51237", HWAddr: "52:54:00:12:34:AB", Node: "n0001", VNFS: "debian13",
		Server: "192.0.2.1:51235", Pin: testPin, Nonce: testNonce, Args: "console=ttyS0 quiet",
	}
}

func TestScript(t *testing.T) {
	tests := []struct {
		name string
		in   IPXE
		want string
	}{
		{"provision", provision(), `#!ipxe
echo dominion: n0001 (52:54:00:12:34:ab) is provisioned
imgfree
kernel http://192.0.2.1:51237/boot/kernel/debian13 initrd=initramfs dominion.mac=52:54:00:12:34:ab dominion.server=192.0.2.1:51235 dominion.pin=` + testPin + ` dominion.nonce=` + testNonce + ` dominion.ip=${netX/ip} console=ttyS0 quiet || goto again
initrd --name initramfs http://192.0.2.1:51237/boot/initramfs/debian13 || goto again
boot || goto again
:again
echo dominion: that did not work
sleep 15
chain --replace --autofree http://192.0.2.1:51237/boot/ipxe?mac=52:54:00:12:34:ab || exit 1
`},
		{"local", IPXE{Kind: Local, Files: "dc1:51237", HWAddr: "52:54:00:12:34:56", Node: "n0001"}, `#!ipxe
echo dominion: n0001 (52:54:00:12:34:56) boots from its own disk
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x80 || exit 1
`},
		{"hold", IPXE{Kind: Hold, Files: "[2001:db8::1]:51237", HWAddr: "52:54:00:12:34:56", Why: "waiting\n#!ipxe ${x} || reboot & \"'"}, `#!ipxe
echo dominion: 52:54:00:12:34:56 is held: waiting!ipxe x  reboot
sleep 15
chain --replace --autofree http://[2001:db8::1]:51237/boot/ipxe?mac=52:54:00:12:34:56 || exit 1
`},
	}
	for _, tt := range tests {
		got, err := tt.in.Script()
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %v, got\n%s\nwant\n%s", tt.name, err, got, tt.want)
		}
	}
}

func TestScriptRefuses(t *testing.T) {
	tests := map[string]func(*IPXE){
		"no kind":             func(b *IPXE) { b.Kind = "" },
		"no address":          func(b *IPXE) { b.Files = "" },
		"no port":             func(b *IPXE) { b.Server = "dc1" },
		"a port that is none": func(b *IPXE) { b.Server = "dc1:x" },
		"a zone":              func(b *IPXE) { b.Files = "[fe80::1%eth0]:1" },
		"an address with a line end": func(b *IPXE) {
			b.Files = "dc1\nreboot:1"
		},
		"a name with a blank":          func(b *IPXE) { b.Node = "n 1" },
		"a VNFS that goes up":          func(b *IPXE) { b.VNFS = ".." },
		"a VNFS with a slash":          func(b *IPXE) { b.VNFS = "a/b" },
		"a nonce with a blank":         func(b *IPXE) { b.Nonce = "a b" },
		"no pin":                       func(b *IPXE) { b.Pin = "" },
		"words with a variable":        func(b *IPXE) { b.Args = "x=${net0/ip}" },
		"words with a line end":        func(b *IPXE) { b.Args = "a\nreboot" },
		"words with a command":         func(b *IPXE) { b.Args = "a || reboot" },
		"too many words":               func(b *IPXE) { b.Args = strings.Repeat("x", 1025) },
		"an address of eight octets":   func(b *IPXE) { b.HWAddr = "00:11:22:33:44:55:66:77" },
		"a hardware address with more": func(b *IPXE) { b.HWAddr = "52:54:00:12:34:56 x" },
	}
	for name, change := range tests {
		b := provision()
		change(&b)
		if got, err := b.Script(); !errors.Is(err, ErrText) {
			t.Errorf("%s: %v, %q; want an error", name, err, got)
		}
	}
}

// No text of any field adds a line or a command.
func FuzzScript(f *testing.F) {
	f.Add("provision", "192.0.2.1:51237", "52:54:00:12:34:56", "n1", "why", "deb", "dc1:51235", testPin, testNonce, "quiet")
	f.Add("hold", "dc1:1", "52:54:00:12:34:56", "", "a\nb", "", "", "", "", "")
	f.Add("local", "dc1:1", "52-54-00-12-34-56", "n1", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, kind, files, mac, node, why, vnfs, server, pin, nonce, args string) {
		got, err := IPXE{Kind: Kind(kind), Files: files, HWAddr: mac, Node: node, Why: why, VNFS: vnfs, Server: server, Pin: pin, Nonce: nonce, Args: args}.Script()
		if err != nil {
			if !errors.Is(err, ErrText) {
				t.Fatalf("error %v does not wrap ErrText", err)
			}
			return
		}
		lines := map[string]int{"provision": 10, "hold": 4, "local": 4}[kind]
		pipes := map[string]int{"provision": 4, "hold": 1, "local": 2}[kind]
		s := string(got)
		if strings.Count(s, "\n") != lines || strings.Count(s, "||") != pipes || strings.ContainsAny(s, "\r\x00\t") {
			t.Fatalf("the script is %q", s)
		}
		if strings.Count(s, "$") != map[string]int{"provision": 1, "hold": 0, "local": 1}[kind] {
			t.Fatalf("a variable in %q", s)
		}
	})
}

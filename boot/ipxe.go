package boot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Kind is what a machine does when it boots.
type Kind string

// What a machine can do.
const (
	Provision Kind = "provision" // load kernel and initramfs, and ask for its script
	Local     Kind = "local"     // its own disk
	Hold      Kind = "hold"      // wait, and ask again
)

// IPXE says what an iPXE script is for. Texts are checked: none can add a command.
type IPXE struct {
	Kind   Kind
	Files  string // host:port that serves /boot/; required
	HWAddr string // of the interface that booted; required
	Node   string // its name, for the screen; empty: none is shown
	Why    string // with Hold: for people; what is not printable ASCII is left out

	// What follows is for Provision.
	VNFS   string // whose kernel and initramfs; empty: the default ones
	Server string // host:port of provision/1, for dominion.server=; required
	Pin    string // for dominion.pin=; required
	Nonce  string // for dominion.nonce=; required
	Args   string // more words for the kernel
}

// ErrText is wrapped by every error about a text that may not stand where it
// should.
var ErrText = errors.New("not usable for a boot")

// HoldTime is how many seconds a machine that is held waits before it asks again.
const HoldTime = 15

// Script gives the text. Errors wrap ErrText.
func (b IPXE) Script() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	b.HWAddr = strings.ToLower(b.HWAddr) // as the kernel shows it
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	who := b.HWAddr
	if b.Node != "" {
		who = b.Node + " (" + b.HWAddr + ")"
	}
	line("#!ipxe")
	switch b.Kind {
	case Local:
		line("echo dominion: %s boots from its own disk", who)
		// Firmware of today goes on with the next device; a BIOS is told to.
		line("iseq ${platform} efi && exit 1 ||")
		line("sanboot --no-describe --drive 0x80 || exit 1")
	case Hold:
		line("echo dominion: %s is held: %s", who, printable(b.Why))
		b.again(line)
	default:
		of := ""
		if b.VNFS != "" {
			of = "/" + b.VNFS
		}
		args := "initrd=initramfs dominion.mac=" + b.HWAddr + " dominion.server=" + b.Server + " dominion.pin=" + b.Pin + " dominion.nonce=" + b.Nonce
		args += " dominion.ip=${netX/ip}" // the nonce is bound to it, so the same address is asked for again
		if b.Args != "" {
			args += " " + b.Args
		}
		line("echo dominion: %s is provisioned", who)
		line("imgfree")
		line("kernel http://%s/boot/kernel%s %s || goto again", b.Files, of, args)
		line("initrd --name initramfs http://%s/boot/initramfs%s || goto again", b.Files, of)
		line("boot || goto again")
		line(":again")
		line("echo dominion: that did not work")
		b.again(line)
	}
	return []byte(s.String()), nil
}

// again asks anew after a while; when not even that works, firmware goes on.
func (b IPXE) again(line func(string, ...any)) {
	line("sleep %d", HoldTime)
	line("chain --replace --autofree http://%s/boot/ipxe?mac=%s || exit 1", b.Files, b.HWAddr)
}

func (b IPXE) check() error {
	if err := checkAddress("address of the files", b.Files); err != nil {
		return err
	}
	if hw, err := net.ParseMAC(b.HWAddr); err != nil || len(hw) != 6 {
		return fmt.Errorf("%w: hardware address %.40q", ErrText, b.HWAddr)
	}
	if b.Node != "" && !word(b.Node, ".-_") {
		return fmt.Errorf("%w: name %.80q", ErrText, b.Node)
	}
	switch b.Kind {
	case Local, Hold:
		return nil
	case Provision:
	default:
		return fmt.Errorf("%w: a node does not boot %.40q", ErrText, b.Kind)
	}
	if b.VNFS != "" && (!word(b.VNFS, ".-_") || b.VNFS[0] == '.') {
		return fmt.Errorf("%w: VNFS %.80q", ErrText, b.VNFS)
	}
	if err := checkAddress("address of the server", b.Server); err != nil {
		return err
	}
	if !word(b.Pin, ":") || !word(b.Nonce, "-_=") {
		return fmt.Errorf("%w: the pin %.80q, or the nonce", ErrText, b.Pin)
	}
	return CheckArgs(b.Args)
}

// CheckArgs says whether words for a kernel may stand in a script: printable
// ASCII, and nothing that iPXE takes for its own.
func CheckArgs(args string) error {
	for _, c := range []byte(args) {
		if c < ' ' || c > '~' || strings.IndexByte("${}|&#\\", c) >= 0 {
			return fmt.Errorf("%w: words for the kernel %.200q", ErrText, args)
		}
	}
	if len(args) > 1024 {
		return fmt.Errorf("%w: %d bytes of words for the kernel", ErrText, len(args))
	}
	return nil
}

// checkAddress takes HOST:PORT only.
func checkAddress(what, s string) error {
	host, port, err := net.SplitHostPort(s)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
		return fmt.Errorf("%w: %s %.80q is not HOST:PORT", ErrText, what, s)
	}
	if _, err := netip.ParseAddr(host); err != nil && !word(host, ".-") {
		return fmt.Errorf("%w: %s %.80q", ErrText, what, s)
	}
	if strings.Contains(host, "%") {
		return fmt.Errorf("%w: %s %.80q has a zone", ErrText, what, s)
	}
	return nil
}

// word says that s has letters, digits, and some others, and is not empty.
func word(s, others string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(others, c) >= 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// printable keeps what iPXE takes for plain text.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("${}|&#\\\"'", r) {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), 200)])
}

package overlord

import (
	"fmt"
	"strings"

	"dominion/provision"
)

// ipxe writes the script that a node's firmware runs.
func ipxe(b provision.BootScript) []byte {
	var s strings.Builder
	s.WriteString("#!ipxe\n")
	switch b.Boot {
	case provision.BootLocal:
		s.WriteString("sanboot --no-describe --drive 0x80 || exit\n")
	case provision.BootProvision:
		fmt.Fprintf(&s, "kernel http://%s/boot/kernel/%s dominion.pin=%s dominion.server=%s dominion.nonce=%s dominion.mac=%s initrd=initramfs || goto again\n",
			b.Files, b.VNFS, b.Pin, b.Server, b.Nonce, b.HWAddr)
		fmt.Fprintf(&s, "initrd --name initramfs http://%s/boot/initramfs/%s || goto again\nboot || goto again\n", b.Files, b.VNFS)
		fmt.Fprintf(&s, ":again\nsleep 10\nchain http://%s/boot/ipxe?mac=%s\n", b.Files, b.HWAddr)
	default:
		fmt.Fprintf(&s, "echo Dominion: %s\nsleep 10\nchain http://%s/boot/ipxe?mac=%s\n", b.Why, b.Files, b.HWAddr)
	}
	return []byte(s.String())
}

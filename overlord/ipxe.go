package overlord

import (
	"dominion/boot"
	"dominion/provision"
)

// ipxe gives what writes the script that a node's firmware runs; args are more
// words for its kernel.
func ipxe(args string) func(provision.BootScript) []byte {
	return func(b provision.BootScript) []byte {
		text, err := boot.IPXE{
			Kind: boot.Kind(b.Boot), Files: b.Files, HWAddr: b.HWAddr, Node: b.Node, Why: b.Why,
			VNFS: b.VNFS, Server: b.Server, Pin: b.Pin, Nonce: b.Nonce, Args: args,
		}.Script()
		if err != nil { // what is in it was checked when it was stored
			return []byte("#!ipxe\necho dominion: no script can be written for this machine\nsleep 60\nexit 1\n")
		}
		return text
	}
}

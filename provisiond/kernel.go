package provisiond

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// kernelArgs are the words of the kernel's command line that are ours.
type kernelArgs struct {
	pin     string
	servers []string
	nonce   string
	mac     string // lower case, with colons
}

// Bounds of the kernel's command line.
const (
	maxCmdline = 64 << 10
	maxNonce   = 256
	maxServers = 16
)

// errCmdline is wrapped by every error about the kernel's command line.
var errCmdline = errors.New("bad kernel command line")

// parseCmdline reads the words dominion.* of a kernel's command line. Of a word
// that is there twice the last one counts, as in the kernel; words of others are
// not looked at.
func parseCmdline(line string) (kernelArgs, error) {
	var k kernelArgs
	if len(line) > maxCmdline {
		return k, fmt.Errorf("%w: it has %d bytes", errCmdline, len(line))
	}
	for word := range strings.FieldsSeq(line) {
		name, v, ok := strings.Cut(strings.ReplaceAll(word, `"`, ""), "=")
		if !ok || !strings.HasPrefix(name, "dominion.") {
			continue
		}
		switch strings.TrimPrefix(name, "dominion.") {
		case "pin":
			k.pin = v
		case "nonce":
			if len(v) > maxNonce || !plainWord(v) {
				return kernelArgs{}, fmt.Errorf("%w: dominion.nonce is no nonce", errCmdline)
			}
			k.nonce = v
		case "mac":
			mac, err := parseMAC(v)
			if err != nil {
				return kernelArgs{}, fmt.Errorf("%w: dominion.mac: %v", errCmdline, err)
			}
			k.mac = mac
		case "server":
			k.servers = nil
			for s := range strings.SplitSeq(v, ",") {
				if s != "" {
					k.servers = append(k.servers, s)
				}
			}
			if len(k.servers) > maxServers {
				return kernelArgs{}, fmt.Errorf("%w: dominion.server names %d servers", errCmdline, len(k.servers))
			}
		}
	}
	return k, nil
}

// parseMAC reads a hardware address of six bytes, of any case, with colons or
// hyphens.
func parseMAC(s string) (string, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%.40q is no hardware address of six bytes", s)
	}
	return hw.String(), nil
}

// plainWord says that a text is not empty and has only what needs no quotes
// anywhere: a shell, systemd, a header and a URL take it as it is.
func plainWord(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("._:-+/=@[]%,", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

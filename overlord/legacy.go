package overlord

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// fileLegacyAddress says where the old protocol is, while the overlord runs.
const fileLegacyAddress = "legacy_address"

// arpTable is where Linux shows what it knows by ARP.
const arpTable = "/proc/net/arp"

// neighbour looks up hardware addresses in a table such as /proc/net/arp:
//
//	IP address       HW type     Flags       HW address            Mask     Device
//	10.1.0.7         0x1         0x2         52:54:00:00:00:07     *        eth0
func neighbour(table string) func(netip.Addr) (string, bool) {
	const (
		ether    = "0x1"
		complete = 2 // ATF_COM
	)
	return func(addr netip.Addr) (string, bool) {
		f, err := os.Open(table)
		if err != nil {
			return "", false
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			w := strings.Fields(lines.Text())
			if len(w) < 4 || w[1] != ether {
				continue
			}
			flags, err := strconv.ParseUint(w[2], 0, 32)
			if a, aerr := netip.ParseAddr(w[0]); aerr == nil && err == nil && a == addr && flags&complete != 0 {
				return w[3], true
			}
		}
		return "", false
	}
}

// listenLegacy opens the port of the old protocol, if it is spoken.
func (o *Overlord) listenLegacy() (net.Listener, error) {
	if o.prov == nil || o.prov.cfg.LegacyListen == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", o.prov.cfg.LegacyListen)
	if err != nil {
		return nil, fmt.Errorf("listen for the old protocol of nodes: %w", err)
	}
	if err := o.dir.WriteFile(fileLegacyAddress, []byte(ln.Addr().String()+"\n")); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// serveLegacy speaks the old protocol until ctx ends.
func (o *Overlord) serveLegacy(ctx context.Context, ln net.Listener) error {
	o.log.Warn("the old protocol is spoken: it proves nobody, and hides nothing", "address", ln.Addr().String(), "rules", defaulted(o.prov.cfg.Rules, "documented"))
	return ignoreClosed(o.prov.service.ServeLegacy(ctx, ln, time.Duration(o.cfg.Grace)))
}

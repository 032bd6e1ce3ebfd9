package overlord

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// Of what Linux knows by ARP only what is complete counts, and only Ethernet.
func TestNeighbour(t *testing.T) {
	table := filepath.Join(t.TempDir(), "arp")
	const text = `IP address       HW type     Flags       HW address            Mask     Device
10.1.0.7         0x1         0x2         52:54:00:00:00:07     *        eth0
10.1.0.8         0x1         0x0         00:00:00:00:00:00     *        eth0
10.1.0.9         0x20        0x2         80:00:00:48:fe:80     *        ib0
10.1.0.70        0x1         0x6         52:54:00:00:00:70     *        eth0

10.1.0.5 0x1 0x2
nonsense         0x1         0x2         52:54:00:00:00:99     *        eth0
10.1.0.6         0x1         x           52:54:00:00:00:06     *        eth0
`
	if err := os.WriteFile(table, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"10.1.0.7": "52:54:00:00:00:07", "10.1.0.70": "52:54:00:00:00:70", "10.1.0.8": "", "10.1.0.9": "", "10.1.0.5": "", "10.1.0.6": "", "10.1.0.1": "", "::1": "",
	} {
		if got, ok := neighbour(table)(netip.MustParseAddr(addr)); got != want || ok != (want != "") {
			t.Errorf("%s is %q, %v; want %q", addr, got, ok, want)
		}
	}
	if got, ok := neighbour(filepath.Join(t.TempDir(), "none"))(netip.MustParseAddr("10.1.0.7")); ok {
		t.Errorf("without a table: %q", got)
	}
	if _, err := os.Stat(arpTable); err != nil {
		t.Skipf("SKIPPED %s is missing: %v", arpTable, err)
	}
	if got, ok := neighbour(arpTable)(netip.MustParseAddr("192.0.2.250")); ok {
		t.Errorf("of this host: %q", got)
	}
}

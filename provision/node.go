package provision

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"dominion/nodescript"
)

// Boot is what a node does when it boots by network.
type Boot string

// What a node can do.
const (
	BootProvision Boot = "provision" // it runs the scripts of state init
	BootLocal     Boot = "local"     // it boots from its own disk
	BootHold      Boot = "hold"      // it waits, and asks again
)

// Valid says whether b is one of the three.
func (b Boot) Valid() bool { return b == BootProvision || b == BootLocal || b == BootHold }

// StateInit is the state in which a node is provisioned. It is the one that a
// nonce opens, and the one in which a node becomes known.
const StateInit = "init"

// Node is a machine known to provisioning.
type Node struct {
	Name        string
	HWAddr      string // as ParseHWAddr gives it
	Group       string // its primary group; empty: none
	VNFS        string // its capsule; empty: none
	Enabled     bool
	Debug       int // 0 to 9
	Boot        Boot
	Description string
	Created     time.Time
	Source      netip.Addr // of its first contact; invalid: an operator added it
	Approved    time.Time  // zero: it is held
	ApprovedBy  string     // an operator, or "rule"
	Addr        netip.Addr // of its last contact
	State       string     // that it asked for last; empty: none
	Contact     time.Time  // zero: never
	Script      []byte     // SHA-256 of the last script that it was given; empty: none
	Failure     string     // why that one could not be assembled, so that it got a report instead
	Claim       netip.Addr // who wanted to boot as this node while it booted; invalid: nobody
	ClaimAt     time.Time
	Ended       Run
}

// Run is how a node's last run of a script ended, as it says itself.
type Run struct {
	State  string
	At     time.Time // zero: nothing was reported yet
	Exit   int
	Took   time.Duration
	Detail string
}

// held says whether nobody approved the node yet.
func (n *Node) held() bool { return n.Approved.IsZero() }

// forScripts gives what node scripts are told of a node.
func (n *Node) forScripts(master string) nodescript.Node {
	addr := ""
	if n.Addr.IsValid() {
		addr = n.Addr.String()
	}
	return nodescript.Node{
		Name: n.Name, ID: n.HWAddr, Group: n.Group, VNFS: n.VNFS, Enabled: n.Enabled, Debug: n.Debug, Addr: addr, Master: master,
	}
}

// Nonce opens the state init to one boot of one node, from one address.
type Nonce struct {
	Node    string
	Hash    [32]byte // SHA-256 of its text
	Source  netip.Addr
	Created time.Time
	Expires time.Time
	Claimed time.Time // when its join token was asked for; zero: it was not
	Token   string    // id of that
	Used    time.Time // when that token was used, and the nonce with it; zero: it was not
}

// open says whether the nonce still opens anything.
func (n *Nonce) open(now time.Time) bool { return n.Used.IsZero() && now.Before(n.Expires) }

// ErrHWAddr is wrapped by every error about a hardware address.
var ErrHWAddr = errors.New("not a hardware address")

// ParseHWAddr reads the hardware address of one Ethernet interface, six octets
// with colons or hyphens between them, and gives it with capitals and colons.
// Addresses of groups, and all zeros, are nobody's.
func ParseHWAddr(s string) (string, error) {
	const form = 17 // bytes
	if len(s) != form || strings.Contains(s, ".") {
		return "", fmt.Errorf("%w: %.40q; want six octets, AA:BB:CC:DD:EE:FF", ErrHWAddr, s)
	}
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%w: %.40q; want six octets, AA:BB:CC:DD:EE:FF", ErrHWAddr, s)
	}
	if hw[0]&1 != 0 {
		return "", fmt.Errorf("%w: %.40q is the address of a group of machines", ErrHWAddr, s)
	}
	if [6]byte(hw) == ([6]byte{}) {
		return "", fmt.Errorf("%w: %.40q is nobody's", ErrHWAddr, s)
	}
	return strings.ToUpper(hw.String()), nil
}

// maxVNFS is the length of the longest name of a capsule, in bytes.
const maxVNFS = 128

// ParseVNFS checks the name of a capsule, which is that of a folder: letters,
// digits, "-", "_" and ".", the first not ".". Empty: none.
func ParseVNFS(s string) (string, error) {
	if len(s) > maxVNFS || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "-") {
		return "", fmt.Errorf("%.140q is not a VNFS: at most %d bytes, the first a letter or a digit", s, maxVNFS)
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			continue
		}
		return "", fmt.Errorf("%.140q is not a VNFS: it holds %q", s, s[i:i+1])
	}
	return s, nil
}

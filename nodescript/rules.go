package nodescript

import (
	"errors"
	"fmt"
	"strings"
)

// Rules say which scripts run, and what their failures mean.
type Rules uint8

// The sets of rules; the zero value is Documented.
const (
	Documented Rules = iota // every executable script of every folder, in the order of their names; a failure stops
	Perceus193              // as Perceus 1.9.3 did; a failure is ignored
)

// ErrWord is wrapped by the errors about words of a configuration.
var ErrWord = errors.New("unknown word")

// ParseRules reads "documented" or "perceus-1.9.3"; an empty word is Documented.
func ParseRules(s string) (Rules, error) {
	switch s {
	case "", "documented":
		return Documented, nil
	case "perceus-1.9.3":
		return Perceus193, nil
	}
	return 0, fmt.Errorf("rules %q: %w; use documented or perceus-1.9.3", s, ErrWord)
}

// String gives the word that ParseRules reads.
func (r Rules) String() string {
	if r == Perceus193 {
		return "perceus-1.9.3"
	}
	return "documented"
}

// OnFailure says what happens after a script failed, was killed, or exceeded
// its time.
type OnFailure uint8

// What happens after a failure.
const (
	ByRules OnFailure = iota // Stop under Documented, Ignore under Perceus193
	Stop                     // the node gets a script that reports the failure, and nothing else
	Ignore                   // what it printed stays, and the next one runs
)

// ParseOnFailure reads "stop" or "ignore"; an empty word is ByRules.
func ParseOnFailure(s string) (OnFailure, error) {
	switch s {
	case "":
		return ByRules, nil
	case "stop":
		return Stop, nil
	case "ignore":
		return Ignore, nil
	}
	return 0, fmt.Errorf("on failure %q: %w; use stop or ignore", s, ErrWord)
}

// String gives the word that ParseOnFailure reads.
func (o OnFailure) String() string { return [...]string{"", "stop", "ignore"}[o] }

// under gives what holds under rules.
func (o OnFailure) under(r Rules) OnFailure {
	switch {
	case o != ByRules:
		return o
	case r == Perceus193:
		return Ignore
	}
	return Stop
}

// Bounds of what is asked for.
const (
	MaxState = 64  // bytes of a state
	maxField = 255 // bytes of a name that is a folder (NAME_MAX)
	maxValue = 4096
)

// ErrRequest is wrapped by every error about a request that no folder could be
// meant by.
var ErrRequest = errors.New("not a request for a node script")

// ParseState checks the word of a state: letters, digits, _ and, not at its
// beginning, -; at most MaxState bytes. It is the name of a folder.
func ParseState(s string) (string, error) {
	if s == "" || len(s) > MaxState || s[0] == '-' {
		return "", fmt.Errorf("%w: %.80q is not a state: it has 1 to %d bytes and begins with a letter, digit or _", ErrRequest, s, MaxState)
	}
	for i := range len(s) {
		if c := s[i]; c != '_' && c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return "", fmt.Errorf("%w: %q is not a state: it holds %q", ErrRequest, s, s[i:i+1])
		}
	}
	return s, nil
}

// Node is what is known of a node that asks.
type Node struct {
	Name    string // required; a machine's name (call.ParseName)
	ID      string // its hardware address, AA:BB:CC:DD:EE:FF
	Group   string // its primary group; empty: it has none
	VNFS    string // its capsule; empty: it has none
	Enabled bool
	Debug   int    // 0 to 9
	Addr    string // its address; under Perceus193 the scripts never see it
	// Master is the overlord's address as the node reached it: VNFSMASTER where
	// the configuration names no other.
	Master string
}

// check refuses what could name another folder than its own, or could not
// stand in an environment.
func (n Node) check() error {
	for _, f := range []struct {
		what, value string
		required    bool
	}{{"name", n.Name, true}, {"group", n.Group, false}, {"VNFS", n.VNFS, false}} {
		switch {
		case f.value == "" && f.required:
			return fmt.Errorf("%w: the node's %s is empty", ErrRequest, f.what)
		case len(f.value) > maxField:
			return fmt.Errorf("%w: the node's %s has %d bytes, more than %d", ErrRequest, f.what, len(f.value), maxField)
		case bare(f.value) == ".", bare(f.value) == "..", strings.ContainsFunc(f.value, func(r rune) bool { return r == '/' || r < 0x20 || r == 0x7f }):
			return fmt.Errorf("%w: the node's %s %q cannot be the name of a folder", ErrRequest, f.what, f.value)
		}
	}
	for _, v := range []string{n.ID, n.Addr, n.Master} {
		if err := checkValue(v); err != nil {
			return err
		}
	}
	if n.Debug < 0 || n.Debug > 9 {
		return fmt.Errorf("%w: debug %d: use 0 to 9", ErrRequest, n.Debug)
	}
	return nil
}

func checkRequest(n Node, state string) error {
	if _, err := ParseState(state); err != nil {
		return err
	}
	return n.check()
}

// bare is a name as Perceus looks for its folder: without blanks. Other white
// space no name has (Node.check).
func bare(s string) string { return strings.ReplaceAll(s, " ", "") }

// checkValue refuses what a program's environment could not hold.
func checkValue(v string) error {
	if len(v) > maxValue || strings.ContainsRune(v, 0) {
		return fmt.Errorf("%w: the value %.40q holds a zero byte, or more than %d bytes", ErrRequest, v, maxValue)
	}
	return nil
}

// as gives the node as scripts see it under rules. Perceus takes the value 0
// of a field for an empty one.
func (n Node) as(r Rules) Node {
	if r == Perceus193 {
		n.Addr = ""
		for _, f := range []*string{&n.Group, &n.VNFS} {
			if *f == "0" {
				*f = ""
			}
		}
	}
	return n
}

// folders are those whose scripts may run for the node, relative to the state's
// own, in the order in which equal names run, or replace each other.
func (n Node) folders(r Rules) []string {
	if r == Perceus193 {
		// An empty field leaves the folder that holds the others' folders, and
		// the files that lie in it.
		n = n.as(r)
		return []string{"vnfs/" + bare(n.VNFS), "all", "group/" + bare(n.Group), "node/" + bare(n.Name)}
	}
	folders := []string{"all"}
	for _, f := range [][2]string{{"vnfs/", n.VNFS}, {"group/", n.Group}, {"node/", n.Name}} {
		if f[1] != "" {
			folders = append(folders, f[0]+f[1])
		}
	}
	return folders
}

// Transfer says how nodes get files: the configuration's vnfs part.
type Transfer struct {
	Method string // VNFSMETHOD: http or nfs
	Master string // VNFSMASTER; empty: the node's Master
	Prefix string // VNFSPREFIX
}

// scriptPath is the PATH of every node script.
const scriptPath = "/bin:/usr/bin:/sbin:/usr/sbin"

// environment is all that a script finds in its environment.
func environment(r Rules, n Node, state, statedir string, t Transfer) []string {
	n = n.as(r)
	enabled, debug, master := "", "", t.Master
	if n.Enabled {
		enabled = "1"
	}
	if n.Debug > 0 {
		debug = fmt.Sprint(n.Debug)
	}
	if master == "" {
		master = n.Master
	}
	return []string{
		"PATH=" + scriptPath,
		"STATE=" + state, "NODENAME=" + n.Name, "VNFS=" + n.VNFS, "ENABLED=" + enabled, "DEBUG=" + debug,
		"GROUPNAME=" + n.Group, "NODEID=" + strings.ToUpper(n.ID), "IPADDR=" + n.Addr, "STATEDIR=" + statedir,
		"VNFSMETHOD=" + t.Method, "VNFSMASTER=" + master, "VNFSPREFIX=" + t.Prefix,
	}
}

package provisiond

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Defaults of the options.
const (
	defaultPort  = "51235"
	defaultShell = "/bin/sh"
	defaultState = "/var/lib/dominion/minion"
	maxInterval  = 366 * 24 * 3600 // seconds
)

const usage = `usage: provisiond [options] SERVER[,SERVER...] STATE [ARG...]

Asks an overlord for the script of this node in STATE, and runs it.
SERVER is HOST or HOST:PORT; "-" means dominion.server= of the kernel's command line.

  -i N          stay, as a daemon, and ask every N seconds; 0: once
  -p PORT       of servers that are given without one (51235)
  -r            take the servers in random order
  -s CMD        that reads the script on its standard input (/bin/sh)
  -d            debug: tell everything, and stay in the foreground
  -v            tell of faults
  -h            this text
  --foreground  stay in the foreground
  --pin PIN     of the fleet's root, sha256:…
  --state DIR   state directory of the minion, for its certificate (/var/lib/dominion/minion)
`

// options are a command line that was read.
type options struct {
	interval   time.Duration // zero: once
	port       string
	random     bool
	shell      string
	debug      bool
	verbose    bool
	help       bool
	foreground bool
	pin        string
	stateDir   string

	servers []string // as given; "-" is one of them
	state   string
	args    []string
}

// errUsage is wrapped by every error about the command line.
var errUsage = errors.New("wrong usage")

// parseOptions reads the command line as getopt does: one-letter options may be
// joined ("-dv", "-i300"), options may come after words, and "--" ends them.
func parseOptions(args []string) (options, error) {
	o := options{port: defaultPort, shell: defaultShell, stateDir: defaultState}
	var words []string
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			words = append(words, args...)
			args = nil
		case strings.HasPrefix(a, "--"):
			rest, err := o.long(a[2:], args)
			if err != nil {
				return o, err
			}
			args = rest
		case len(a) > 1 && a[0] == '-':
			rest, err := o.short(a[1:], args)
			if err != nil {
				return o, err
			}
			args = rest
		default:
			words = append(words, a)
		}
	}
	if o.help {
		return o, nil
	}
	if len(words) < 2 {
		return o, fmt.Errorf("%w: give a server and a state", errUsage)
	}
	o.state, o.args = words[1], words[2:]
	for s := range strings.SplitSeq(words[0], ",") {
		if s != "" {
			o.servers = append(o.servers, s)
		}
	}
	if len(o.servers) == 0 {
		return o, fmt.Errorf("%w: %q names no server", errUsage, words[0])
	}
	return o, nil
}

func (o *options) short(letters string, args []string) ([]string, error) {
	for i, c := range letters {
		switch c {
		case 'r':
			o.random = true
		case 'd':
			o.debug = true
		case 'v':
			o.verbose = true
		case 'h':
			o.help = true
		case 'i', 'p', 's':
			v := letters[i+1:]
			if v == "" {
				if len(args) == 0 {
					return nil, fmt.Errorf("%w: -%c wants a value", errUsage, c)
				}
				v, args = args[0], args[1:]
			}
			return args, o.value(c, v)
		default:
			return nil, fmt.Errorf("%w: there is no option -%c", errUsage, c)
		}
	}
	return args, nil
}

func (o *options) value(c rune, v string) error {
	switch c {
	case 'i':
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n > maxInterval {
			return fmt.Errorf("%w: -i %q is no number of seconds", errUsage, v)
		}
		o.interval = time.Duration(n) * time.Second
	case 'p':
		if n, err := strconv.ParseUint(v, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%w: -p %q is no port", errUsage, v)
		}
		o.port = v
	case 's':
		o.shell = v
	}
	return nil
}

func (o *options) long(a string, args []string) ([]string, error) {
	name, v, given := strings.Cut(a, "=")
	var to *string
	switch name {
	case "help", "foreground":
		if given {
			return nil, fmt.Errorf("%w: --%s takes no value", errUsage, name)
		}
		o.help = o.help || name == "help"
		o.foreground = o.foreground || name == "foreground"
		return args, nil
	case "pin":
		to = &o.pin
	case "state":
		to = &o.stateDir
	default:
		return nil, fmt.Errorf("%w: there is no option --%s", errUsage, name)
	}
	if !given {
		if len(args) == 0 {
			return nil, fmt.Errorf("%w: --%s wants a value", errUsage, name)
		}
		v, args = args[0], args[1:]
	}
	*to = v
	return args, nil
}

package minion

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dominion/call"
	"dominion/confd"
	"dominion/config"
	"dominion/minion/candidate"
	"dominion/module/site"
	"dominion/pki"
)

// DefaultState is the agent's state directory when nothing else is said.
const DefaultState = "/var/lib/dominion/minion"

// DefaultConfig is the agent's configuration file when nothing else is said.
const DefaultConfig = "/etc/dominion/minion.yaml"

// Config says how the agent of one machine runs: the keys of minion.yaml.
// Every key may be left out; the zero Config with an overlord and a pin is
// enough.
type Config struct {
	// Name of this machine: DNS labels, lower-cased. Empty: the full host name.
	Name string `yaml:"name"`
	// State is the directory of keys, certificates and logs, made with mode
	// 0700. Empty: /var/lib/dominion/minion.
	State string `yaml:"state"`
	// Overlords are dialled, host:port (51235 when the port is left out); a
	// session is kept with each. Empty is allowed only with Listen, for a
	// machine that has enrolled before.
	Overlords []string `yaml:"overlords"`
	// Pin is the digest of the fleet's root key, "sha256:…", as `dominion pin`
	// prints it. Needed to enrol; afterwards the root is kept in the state
	// directory and a pin given here must still match it.
	Pin string `yaml:"pin"`
	// TokenFile holds a join token, on a line of its own; it is read only while
	// there is no certificate. Empty: wait until an operator signs the request.
	TokenFile string `yaml:"token_file"`
	// Listen is an address (":51234") on which overlords may dial this machine.
	// Empty: none may.
	Listen string `yaml:"listen"`
	// Policy is a file that says which operators may call what here; it is
	// final for this machine. Empty: policy.yaml in the state directory, if
	// there is one. A file named here must exist.
	Policy string `yaml:"policy"`
	// LogLevel is debug, info, warn or error. Empty: info.
	LogLevel string `yaml:"log_level"`
	// MaxRunning bounds the calls that run at a time. Zero: 64.
	MaxRunning int `yaml:"max_running"`
	// MaxQueued bounds the calls that wait to run; more are refused as busy.
	// Zero: 1,024.
	MaxQueued int `yaml:"max_queued"`

	// ModulesDir is the directory of the site's own modules (docs/external-modules.md),
	// absolute. It, and all above it, must not be writable by others than root and the
	// agent's user. Empty: /etc/dominion/modules.d.
	ModulesDir string `yaml:"modules_dir"`
	// ModulesPush lets operators install and remove those modules by orders
	// (module.install). False: they come by other means alone.
	ModulesPush bool `yaml:"modules_push"`
	// ModulesMemory bounds the private memory of each process of such a module, in MiB.
	// Zero: 512.
	ModulesMemory int `yaml:"modules_memory_mb"`

	// Confd says how this machine answers confd queries while it is a candidate.
	Confd Confd `yaml:"confd"`
	// Func says whether programs written for Func may call this machine.
	Func Func `yaml:"func"`

	// Token is a join token given by other means than a file; it wins over TokenFile.
	Token string `yaml:"-"`
	// Version of the agent, shown by agent.version and in HELLO. Empty: "devel".
	Version string `yaml:"-"`
	// Reload, when not nil, makes Run read the policy again each time it yields.
	Reload <-chan os.Signal `yaml:"-"`
	// Now, when not nil, is this machine's clock.
	Now func() time.Time `yaml:"-"`
	// Ready, when not nil, is called once the agent listens and begins to enrol
	// and to connect, with the address it listens on (nil: it does not).
	Ready func(listening net.Addr) `yaml:"-"`
}

// Confd is the part of a configuration about answering confd queries.
type Confd struct {
	// Listen is a UDP address, HOST:PORT or HOST with port 1814, or "off": this
	// machine is then no candidate, whatever the overlord says. Empty: ":1814", all
	// addresses.
	Listen string `yaml:"listen"`
}

// Func is the part of a configuration about the Func face: XML-RPC on the port of
// Listen, for whom access lists in Func's format name.
type Func struct {
	// Enabled turns it on. It needs Listen and ACLDir.
	Enabled bool `yaml:"enabled"`
	// ACLDir is the directory of access lists, files named *.acl, an absolute path. Only
	// root, or the agent's user, may write it. They are read again when they change.
	ACLDir string `yaml:"acl_dir"`
	// OverlordOverride lets the overlords that this machine is enrolled with call
	// everything, whatever the access lists say, as Func did.
	OverlordOverride bool `yaml:"overlord_override"`
}

// check says what is wrong.
func (f Func) check(listen string) error {
	switch {
	case !f.Enabled:
		return nil
	case listen == "":
		return errors.New("func: enabled: it is served on the port of listen, which is empty; give listen: :51234")
	case f.ACLDir == "":
		return errors.New("func: acl_dir: it is empty, and without access lists nobody may call anything")
	case !filepath.IsAbs(f.ACLDir):
		return fmt.Errorf("func: acl_dir: %q is no absolute path", f.ACLDir)
	}
	return nil
}

// Address gives the address with the defaults filled in, or candidate.Off.
func (c Confd) Address() (string, error) {
	if c.Listen == candidate.Off {
		return c.Listen, nil
	}
	port := strconv.Itoa(confd.DefaultPort)
	if c.Listen == "" {
		return ":" + port, nil
	}
	addr, err := withPort(c.Listen, port)
	if err != nil {
		return "", fmt.Errorf("confd: listen: %w", err)
	}
	return addr, nil
}

// LoadConfig reads a configuration file; see package config for its errors.
// The result has been read, not checked: flags may still change it, and Check
// or Run then says what is wrong.
func LoadConfig(path string) (Config, error) { return config.Load[Config](path) }

// settings is a Config that has been checked.
type settings struct {
	name          string
	state         string
	overlords     []string // host:port
	pin           string   // empty: taken from root.crt
	token         string
	tokenFile     string
	listen        string
	confd         string // or candidate.Off
	funcACL       string // directory; empty: there is no Func face
	funcOverride  bool
	policy        string
	policyMust    bool // the policy file was named and must exist
	level         slog.Level
	running       int
	queued        int
	modulesDir    string
	modulesPush   bool
	modulesMemory uint64 // bytes
	version       string
	now           func() time.Time
}

// Check says whether the configuration can be run, naming the key at fault.
func (c Config) Check() error {
	_, err := c.check()
	return err
}

// Level is the log level asked for.
func (c Config) Level() (slog.Level, error) { return parseLevel(c.LogLevel) }

func (c Config) check() (settings, error) {
	s := settings{
		state: c.State, token: c.Token, tokenFile: c.TokenFile, policy: c.Policy, policyMust: c.Policy != "",
		version: c.Version, pin: c.Pin, now: c.Now,
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.setName(c.Name); err != nil {
		return settings{}, err
	}
	if s.state == "" {
		s.state = DefaultState
	}
	if s.policy == "" {
		s.policy = filepath.Join(s.state, "policy.yaml")
	}
	if s.version == "" {
		s.version = "devel"
	}
	for _, a := range c.Overlords {
		addr, err := withPort(a, "51235")
		if err != nil {
			return settings{}, fmt.Errorf("overlords: %w", err)
		}
		s.overlords = append(s.overlords, addr)
	}
	if c.Listen != "" {
		addr, err := withPort(c.Listen, "51234")
		if err != nil {
			return settings{}, fmt.Errorf("listen: %w", err)
		}
		s.listen = addr
	}
	var err error
	if s.confd, err = c.Confd.Address(); err != nil {
		return settings{}, err
	}
	if err = c.Func.check(s.listen); err != nil {
		return settings{}, err
	}
	if c.Func.Enabled {
		s.funcACL, s.funcOverride = filepath.Clean(c.Func.ACLDir), c.Func.OverlordOverride
	}
	if len(s.overlords) == 0 && s.listen == "" {
		return settings{}, errors.New("overlords: none is named; give --overlord HOST:51235, or listen for one")
	}
	if s.pin != "" {
		if err := pki.CheckPin(s.pin); err != nil {
			return settings{}, fmt.Errorf("pin: %w", err)
		}
	}
	if s.level, err = parseLevel(c.LogLevel); err != nil {
		return settings{}, err
	}
	if s.running, err = bound("max_running", c.MaxRunning, defaultRunning, 10_000); err != nil {
		return settings{}, err
	}
	if s.queued, err = bound("max_queued", c.MaxQueued, defaultQueued, 100_000); err != nil {
		return settings{}, err
	}
	if err := s.setModules(c); err != nil {
		return settings{}, err
	}
	return s, nil
}

func (s *settings) setModules(c Config) error {
	s.modulesDir, s.modulesPush = c.ModulesDir, c.ModulesPush
	if s.modulesDir == "" {
		s.modulesDir = site.DefaultDir
	}
	if !filepath.IsAbs(s.modulesDir) {
		return fmt.Errorf("modules_dir: %q is not absolute", s.modulesDir)
	}
	mb, err := bound("modules_memory_mb", c.ModulesMemory, site.DefaultMemory>>20, 1<<20)
	s.modulesMemory = uint64(mb) << 20
	return err
}

func (s *settings) setName(name string) error {
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name: it is not given and the host name is not known: %w", err)
		}
		name = host
	}
	n, err := call.ParseName(name)
	if err != nil {
		return fmt.Errorf("name: %w", err)
	}
	s.name = n
	return nil
}

func parseLevel(s string) (slog.Level, error) {
	if s == "" {
		return slog.LevelInfo, nil
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("log_level: %q is none of debug, info, warn, error", s)
	}
	return l, nil
}

func bound(key string, v, def, highest int) (int, error) {
	switch {
	case v == 0:
		return def, nil
	case v < 0 || v > highest:
		return 0, fmt.Errorf("%s: %d is not between 1 and %d", key, v, highest)
	}
	return v, nil
}

// withPort gives host:port, adding the usual port when there is none.
func withPort(addr, port string) (string, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		host, p = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"), port
		if _, err := netip.ParseAddr(host); err != nil && strings.Contains(host, ":") {
			return "", fmt.Errorf("%q is not host:port", addr)
		}
	}
	if addr == "" || strings.ContainsAny(host, " \t\r\n/@?#") {
		return "", fmt.Errorf("%q is not host:port", addr)
	}
	if _, err := net.LookupPort("tcp", p); err != nil {
		return "", fmt.Errorf("%q: %q is not a port", addr, p)
	}
	return net.JoinHostPort(host, p), nil
}

package overlord

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"dominion/call"
	"dominion/config"
	"dominion/minion"
	"dominion/pki"
)

// DefaultPort is where an overlord listens: sessions and the API.
const DefaultPort = "51235"

// DefaultState is where an overlord keeps its state unless told otherwise.
const DefaultState = "/var/lib/dominion/overlord"

// DefaultConfig is the configuration file that is read when none is named.
const DefaultConfig = "/etc/dominion/overlord.yaml"

// Config is overlord.yaml. Every key may be left out.
type Config struct {
	// Directory of keys, store and socket; made with mode 0700. Default /var/lib/dominion/overlord.
	State string `yaml:"state"`
	// Name in the overlord's certificate, a DNS name. Default: this host's name. Fixed by the first start:
	// afterwards it may be left out, and another is refused.
	Name string `yaml:"name"`
	// Address of sessions and API, host:port. Default ":51235". Port 0 lets the kernel choose; STATE/address tells.
	Listen string `yaml:"listen"`
	// More DNS names and IP addresses by which clients reach this overlord; they enter its certificate.
	Names []string `yaml:"names"`
	// Rules that sign minions' requests at once.
	Autosign []AutosignRule `yaml:"autosign"`
	// Policy file; default STATE/policy.yaml. Without the file every enrolled operator may do everything.
	Policy string `yaml:"policy"`
	// Loopback address of /metrics without a certificate; default: none, /metrics is on the API with an operator's certificate.
	MetricsListen string `yaml:"metrics_listen"`
	// Least urgent messages logged: debug, info, warn or error. Default info.
	LogLevel string `yaml:"log_level"`
	// How long calls may go on after SIGTERM, a duration. Default 30s.
	Grace Duration `yaml:"grace"`
	// Jobs that may run at once; a further order is refused as busy. Default 1000.
	MaxJobs int `yaml:"max_jobs"`

	// A change on more machines than this needs their number confirmed, as does every method that destroys. Default 100.
	Guard int `yaml:"guard"`
	// Orders go to machines below sub-overlords too, by the map, unless the command says --delegate=false. Default false.
	Delegate bool `yaml:"delegate"`

	// Programs that know who is in groups, named in targets as @SOURCE/GROUP.
	Groups GroupsConfig `yaml:"groups"`

	// Address of the overlord above this one, host:port (51235 when the port is left out). Only with a state
	// directory that is fresh, or that was made so: this overlord then never has the root's key. Default: none.
	Parent string `yaml:"parent"`
	// Digest of the fleet's root key, "sha256:…", as `dominion pin` prints it at the parent. Required with parent.
	Pin string `yaml:"pin"`
	// File with a token that `dominion token create --role overlord` made; it is read only while there is no
	// certificate. Default: wait until an operator signs the request.
	TokenFile string `yaml:"token_file"`

	// How the agent inside a sub-overlord answers confd queries while it is a candidate of its parent.
	Confd minion.Confd `yaml:"confd"`
	// Files that are passed on to machines and sub-overlords, in STATE/blobs.
	Blobs BlobConfig `yaml:"blobs"`
	// The site's own modules of the agent inside a sub-overlord, as in minion.yaml: their directory, default
	// /etc/dominion/modules.d; whether orders may change them, default false; MiB of memory of each process, default 512.
	ModulesDir    string `yaml:"modules_dir"`
	ModulesPush   bool   `yaml:"modules_push"`      // see modules_dir
	ModulesMemory int    `yaml:"modules_memory_mb"` // see modules_dir
	// Machines that are made from bare metal.
	Provision ProvisionConfig `yaml:"provision"`

	// Token is a join token given by other means than a file; it wins over TokenFile.
	Token string `yaml:"-"`
	// Version of the program, shown to clients. Empty: "devel".
	Version string `yaml:"-"`
	// Reload, when not nil, makes Run read the policy again each time it yields,
	// and what Reread gives: autosign rules and log level.
	Reload <-chan os.Signal `yaml:"-"`
	// Reread gives the configuration as it is now; nil: there is no file.
	Reread func() (Config, error) `yaml:"-"`
	// Level, when not nil, is set to the log level of the configuration.
	Level *slog.LevelVar `yaml:"-"`
	// Ready, when not nil, is called once the API answers, with its address.
	Ready func(address string) `yaml:"-"`

	hostNamed bool // Name is only the host's, for want of another
}

// BlobConfig is the key blobs of overlord.yaml.
type BlobConfig struct {
	// How much is kept, such as 500M or 20G; what was not used for the longest time goes first. Default 20G.
	Max Bytes `yaml:"max"`
}

// AutosignRule signs the requests of minions whose name and address fit.
type AutosignRule struct {
	// Names as in a target: globs and ranges, comma-separated. Required.
	Names string `yaml:"names"`
	// Networks (CIDR) the request must come from; default: any.
	Networks []string `yaml:"networks"`
}

// GroupsConfig is the key groups of overlord.yaml.
type GroupsConfig struct {
	// Directory of the programs, each a source of its file's name. They run as this overlord's user and must not be
	// writable by others. Default /etc/dominion/groups.d; it need not exist.
	Dir string `yaml:"dir"`
	// For how long an answer holds that does not say so itself, a duration. Default 1m.
	Life Duration `yaml:"life"`
	// How long a program may take, a duration. Default 10s.
	Timeout Duration `yaml:"timeout"`
}

func (c GroupsConfig) check() error {
	if c.Dir != "" && !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("groups: dir: %q is not an absolute path", c.Dir)
	}
	return nil
}

// Duration is a time.Duration written as "30s" or "5m".
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return fmt.Errorf("line %d: %q is not a duration such as 30s", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

// LoadConfig reads a configuration file; see package config for its errors.
// The result has been read, not checked: flags may still change it, and Check
// or Run then says what is wrong.
func LoadConfig(path string) (Config, error) { return config.Load[Config](path) }

// Check says whether the configuration can be run, naming the key at fault.
func (c Config) Check() error {
	_, err := c.settle()
	return err
}

// settle gives the configuration with defaults filled in, or names the key
// that cannot be used.
func (c Config) settle() (Config, error) {
	c.State = defaulted(c.State, DefaultState)
	c.Listen = defaulted(c.Listen, ":"+DefaultPort)
	c.LogLevel = defaulted(c.LogLevel, "info")
	if c.Grace == 0 {
		c.Grace = Duration(30 * time.Second)
	}
	if c.MaxJobs == 0 {
		c.MaxJobs = 1000
	}
	if c.Guard == 0 {
		c.Guard = 100
	}
	c.Version = defaulted(c.Version, "devel")
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return c, fmt.Errorf("log_level: %q is not debug, info, warn or error", c.LogLevel)
	}
	if c.Level != nil {
		c.Level.Set(level)
	}
	if c.MaxJobs < 0 {
		return c, fmt.Errorf("max_jobs: %d is less than 1", c.MaxJobs)
	}
	if c.Blobs.Max < 0 {
		return c, fmt.Errorf("blobs.max: %d is less than 0", c.Blobs.Max)
	}
	if c.Guard < 0 {
		return c, fmt.Errorf("guard: %d is less than 1", c.Guard)
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("name: ask the host for its name: %w", err)
		}
		c.Name, c.hostNamed = host, true
	}
	name, err := call.ParseName(c.Name)
	if err != nil {
		return c, fmt.Errorf("name: %w", err)
	}
	c.Name = name
	for _, a := range []struct{ key, value string }{{"listen", c.Listen}, {"metrics_listen", c.MetricsListen}} {
		if _, _, err := net.SplitHostPort(a.value); a.value != "" && err != nil {
			return c, fmt.Errorf("%s: %q is not host:port", a.key, a.value)
		}
	}
	if host, _, _ := net.SplitHostPort(c.MetricsListen); c.MetricsListen != "" && !loopback(host) {
		return c, fmt.Errorf("metrics_listen: %q is not a loopback address; elsewhere /metrics is on the API, for operators", c.MetricsListen)
	}
	for _, n := range c.Names {
		if _, err := netip.ParseAddr(n); err == nil {
			continue
		}
		if _, err := call.ParseName(n); err != nil {
			return c, fmt.Errorf("names: %q is neither an address nor a DNS name", n)
		}
	}
	if err := c.settleParent(); err != nil {
		return c, err
	}
	if err := c.Provision.settle(c.State); err != nil {
		return c, err
	}
	return c, errors.Join(c.Groups.check(), c.checkAutosign())
}

// settleParent checks what is said of the parent, and of the agent that serves it.
func (c *Config) settleParent() error {
	if _, err := c.Confd.Address(); err != nil {
		return err
	}
	if c.Parent == "" {
		if c.Pin != "" || c.TokenFile != "" {
			return fmt.Errorf("pin, token_file: they are for an overlord with a parent; give its address too")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(c.Parent); err != nil {
		c.Parent = net.JoinHostPort(strings.Trim(c.Parent, "[]"), DefaultPort)
	}
	if host, _, err := net.SplitHostPort(c.Parent); err != nil || host == "" || strings.ContainsAny(host, " \t\r\n/@?#") {
		return fmt.Errorf("parent: %q is not host:port", c.Parent)
	}
	if c.Pin == "" {
		return fmt.Errorf("pin: with a parent the pin of the fleet's root is needed; dominion pin prints it there")
	}
	if err := pki.CheckPin(c.Pin); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

func (c Config) checkAutosign() error {
	for i, r := range c.Autosign {
		if r.Names == "" {
			return fmt.Errorf("autosign rule %d: names is missing", i+1)
		}
		for _, n := range r.Networks {
			if _, err := netip.ParsePrefix(n); err != nil {
				return fmt.Errorf("autosign rule %d: networks: %q is not a network such as 10.0.0.0/8", i+1, n)
			}
		}
	}
	return nil
}

func defaulted(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

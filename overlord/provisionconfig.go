package overlord

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"dominion/boot"
	"dominion/nodescript"
	"dominion/provision"
)

// DefaultBootPort is where firmware asks: plain HTTP.
const DefaultBootPort = "51237"

// ProvisionConfig is the key provision of overlord.yaml.
type ProvisionConfig struct {
	// Provision machines. Default false: the other keys are only checked.
	Enabled bool `yaml:"enabled"`
	// Directory of node scripts, capsules and files. Default perceus/ in the state directory. It is refused if it is
	// the state directory, or contains it.
	Statedir string `yaml:"statedir"`
	// By which rules scripts are chosen: documented or perceus-1.9.3. Default documented.
	Rules string `yaml:"rules"`
	// What a failing script does: stop or ignore. Default: as the rules say.
	OnFailure string `yaml:"on_failure"`
	// Absolute path of the shell for node scripts that say #!/bin/sh. Default: none, they run as they are.
	Shell string `yaml:"shell"`
	// The states in which nodes may ask for scripts; init must be among them. Default [init, ready].
	States []string `yaml:"states"`
	// How nodes get files.
	VNFS VNFSConfig `yaml:"vnfs"`
	// Address of /boot, plain HTTP, host:port. Default ":51237". Port 0 lets the kernel choose; STATE/boot_address tells.
	Listen string `yaml:"listen"`
	// More words for the command line of the kernels that nodes boot, such as console=ttyS0. Default: none.
	KernelArgs string `yaml:"kernel_args"`
	// Address of the old plain-text protocol, host:port; the old clients ask at port 987. It proves nobody and hides
	// nothing: see docs/security.md. Default: none, it is not spoken. STATE/legacy_address tells.
	LegacyListen string `yaml:"legacy_listen"`
	// Nodes that are approved at first contact: all, or a list of {mac, network}. Default: none, an operator approves them.
	Approve ApproveRules `yaml:"approve"`
	// How nodes are named at first contact: a run of # stands for a number. Default n####.
	Names string `yaml:"names"`
	// The lowest of these numbers. Default 0.
	FirstNumber int `yaml:"first_number"`
}

// VNFSConfig is the key vnfs in provision.
type VNFSConfig struct {
	// http or nfs. Default http.
	Method string `yaml:"method"`
	// Address from which nodes get files. Default: the overlord's as the node reached it.
	Master string `yaml:"master"`
	// What stands before the paths of files. Default: nothing.
	Prefix string `yaml:"prefix"`
}

// ApproveRules are the rules by which nodes are approved. In YAML the word all
// is a rule that covers every node.
type ApproveRules []ApproveRule

// ApproveRule covers nodes whose hardware address and network both fit.
type ApproveRule struct {
	// Glob of hardware addresses, such as "52:54:00:*". Default: any.
	MAC string `yaml:"mac"`
	// Network (CIDR) that the node asks from. Default: any.
	Network string `yaml:"network"`
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (a *ApproveRules) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Value != "all" {
			return fmt.Errorf("line %d: approve: %q is neither all nor a list of {mac, network}", n.Line, n.Value)
		}
		*a = ApproveRules{{MAC: "*"}}
		return nil
	}
	for _, item := range n.Content { // a node's decoder does not know that keys are to be known
		for i := 0; item.Kind == yaml.MappingNode && i+1 < len(item.Content); i += 2 {
			if k := item.Content[i]; k.Value != "mac" && k.Value != "network" {
				return fmt.Errorf("line %d: field %s not found in type overlord.ApproveRule", k.Line, k.Value)
			}
		}
	}
	return n.Decode((*[]ApproveRule)(a))
}

// settle fills in defaults and checks; state is the state directory.
func (c *ProvisionConfig) settle(state string) error {
	c.Statedir = defaulted(c.Statedir, filepath.Join(state, "perceus"))
	c.Listen = defaulted(c.Listen, ":"+DefaultBootPort)
	c.Names = defaulted(c.Names, "n####")
	c.VNFS.Method = defaulted(c.VNFS.Method, "http")
	if c.States == nil {
		c.States = []string{provision.StateInit, "ready"}
	}
	if _, _, err := net.SplitHostPort(c.LegacyListen); c.LegacyListen != "" && err != nil {
		return fmt.Errorf("provision.legacy_listen: %q is not host:port, such as :987", c.LegacyListen)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("provision.listen: %q is not host:port", c.Listen)
	}
	if err := boot.CheckArgs(c.KernelArgs); err != nil {
		return fmt.Errorf("provision.kernel_args: %w", err)
	}
	if _, err := nodescript.ParseRules(c.Rules); err != nil {
		return fmt.Errorf("provision.rules: %w", err)
	}
	if _, err := nodescript.ParseOnFailure(c.OnFailure); err != nil {
		return fmt.Errorf("provision.on_failure: %w", err)
	}
	if c.Shell != "" && !filepath.IsAbs(c.Shell) {
		return fmt.Errorf("provision.shell: %q is not an absolute path", c.Shell)
	}
	if c.VNFS.Method != "http" && c.VNFS.Method != "nfs" {
		return fmt.Errorf("provision.vnfs.method: %q is not http or nfs", c.VNFS.Method)
	}
	if err := c.checkStates(); err != nil {
		return err
	}
	if err := c.pattern().Check(); err != nil {
		return fmt.Errorf("provision.names: %w", err)
	}
	if _, err := c.rules(); err != nil {
		return err
	}
	if !c.Enabled {
		return nil
	}
	return outsideState(c.Statedir, state)
}

func (c *ProvisionConfig) checkStates() error {
	init := false
	for _, s := range c.States {
		if _, err := nodescript.ParseState(s); err != nil {
			return fmt.Errorf("provision.states: %w", err)
		}
		init = init || s == provision.StateInit
	}
	if !init {
		return errors.New("provision.states: init is missing; nodes are provisioned in it")
	}
	return nil
}

func (c *ProvisionConfig) pattern() provision.Pattern {
	return provision.Pattern{Text: c.Names, First: c.FirstNumber}
}

// rules gives the rules of approval in provision's words.
func (c *ProvisionConfig) rules() ([]provision.Rule, error) {
	out := make([]provision.Rule, len(c.Approve))
	for i, r := range c.Approve {
		if r == (ApproveRule{}) {
			return nil, fmt.Errorf("provision.approve: rule %d is empty; to approve every node say approve: all", i+1)
		}
		if _, err := path.Match(strings.ToUpper(r.MAC), ""); err != nil {
			return nil, fmt.Errorf("provision.approve: rule %d: mac: %q is not a glob", i+1, r.MAC)
		}
		out[i].MAC = r.MAC
		if r.Network == "" {
			continue
		}
		p, err := netip.ParsePrefix(r.Network)
		if err != nil {
			return nil, fmt.Errorf("provision.approve: rule %d: network: %q is not a network such as 10.0.0.0/8", i+1, r.Network)
		}
		out[i].Network = p.Masked()
	}
	return out, nil
}

// outsideState refuses a directory of files that is the state directory, or
// contains it, by whatever name: nodes would read keys.
func outsideState(statedir, state string) error {
	files, err := realPath(statedir)
	if err != nil {
		return fmt.Errorf("provision.statedir: %w", err)
	}
	keys, err := realPath(state)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	rel, err := filepath.Rel(files, keys)
	if err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return fmt.Errorf("provision.statedir: %s is the state directory %s, or contains it: nodes would read the overlord's keys", statedir, state)
	}
	own, err := filepath.Rel(keys, files)
	if err != nil || own == ".." || strings.HasPrefix(own, "../") {
		return nil
	}
	if head, _, _ := strings.Cut(own, "/"); head == "ca" || head == "minion" {
		return fmt.Errorf("provision.statedir: %s holds the overlord's own files", statedir)
	}
	return nil
}

// realPath gives an absolute path without symbolic links, also of what does
// not exist yet.
func realPath(p string) (string, error) {
	p, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(p)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	if _, lerr := os.Lstat(p); lerr == nil {
		return "", fmt.Errorf("%s is a symbolic link that leads nowhere", p)
	}
	up, err := realPath(filepath.Dir(p))
	return filepath.Join(up, filepath.Base(p)), err
}

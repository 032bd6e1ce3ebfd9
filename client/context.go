package client

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"dominion/call"
	"dominion/pki"
)

// DefaultPort is the overlord's port when an address names none.
const DefaultPort = "51235"

// The files of a context's directory.
const (
	keyFile     = "key.pem"     // PKCS#8, 0600
	newKeyFile  = "key.new.pem" // of a login that is not finished
	certFile    = "cert.pem"    // the operator's certificate, then the root's
	rootFile    = "root.crt"
	configFile  = "config.yaml"
	currentFile = "current" // beside the contexts: the name of the one in use
)

// Context is an operator's identity towards one fleet, kept in a directory of
// its own below ContextsDir.
type Context struct {
	Name     string // of the directory
	Overlord string // host:port
	Pin      string // of the fleet's root
	Operator string // name in the certificate

	dir string // its directory

	mu   sync.Mutex // covers cert
	cert tls.Certificate
}

// contextConfig is config.yaml.
type contextConfig struct {
	Overlord string `yaml:"overlord"` // host:port of the overlord
	Pin      string `yaml:"pin"`      // sha256:… of the root's public key
	Operator string `yaml:"operator"` // name in the operator's certificate
}

// ContextsDir is where contexts live unless an Endpoint says otherwise:
// "dominion" in the user's configuration directory, ~/.config by default.
func ContextsDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the directory of operators' contexts: %w", err)
	}
	return filepath.Join(dir, "dominion"), nil
}

// Address completes an overlord's address with the default port and checks it.
func Address(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), DefaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || !hostOK(host) {
		return "", call.Errorf(call.Invalid, "%q is not an address; write HOST or HOST:PORT", s)
	}
	return net.JoinHostPort(host, port), nil
}

// hostOK takes IP addresses and what may be a host's name.
func hostOK(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	odd := func(r rune) bool {
		return r != '.' && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	return host != "" && strings.IndexFunc(host, odd) < 0
}

// FindContext reads the context called name; without a name the one whose
// overlord is at addr, and without either the current one. addr beside a name
// stands for the address that the context keeps. The error wraps
// fs.ErrNotExist when there is no such context.
func FindContext(dir, name, addr string) (*Context, error) {
	if addr != "" {
		var err error
		if addr, err = Address(addr); err != nil {
			return nil, err
		}
	}
	current, err := currentContext(dir)
	if err != nil {
		return nil, err
	}
	switch {
	case name != "":
		c, err := readContext(dir, name)
		if err == nil && addr != "" {
			c.Overlord = addr
		}
		return c, err
	case addr != "":
		return contextFor(dir, current, addr)
	case current == "":
		return nil, &missingError{call.Errorf(call.NotFound, "there is no current context in %s; make one with: dominion login", dir)}
	}
	return readContext(dir, current)
}

// missingError is a *call.Error that is also fs.ErrNotExist.
type missingError struct{ err *call.Error }

func (e *missingError) Error() string   { return e.err.Error() }
func (e *missingError) Unwrap() []error { return []error{e.err, fs.ErrNotExist} }

// contextFor finds the context of an address, the current one first.
func contextFor(dir, current, addr string) (*Context, error) {
	names, err := Contexts(dir)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(names, func(a, b string) int { // the current one first
		return cmp.Compare(fmt.Sprint(a != current), fmt.Sprint(b != current))
	})
	for _, n := range names {
		if c, err := readContext(dir, n); err == nil && c.Overlord == addr {
			return c, nil
		}
	}
	return nil, &missingError{call.Errorf(call.NotFound,
		"no context in %s is for the overlord at %s; make one with: dominion login --overlord %s --pin PIN NAME; with --context NAME one of another overlord of the same fleet is used", dir, addr, addr)}
}

// Contexts lists the names of the contexts in dir, sorted; none when there is
// no such directory.
func Contexts(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list contexts: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, err := call.ParseName(e.Name()); err == nil && e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func currentContext(dir string) (string, error) {
	b, err := readFile(dir, currentFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the current context: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func contextPath(dir, name string) (string, error) {
	clean, err := call.ParseName(name)
	if err != nil {
		return "", call.Errorf(call.Invalid, "context %q: use letters, digits, hyphens and dots", name)
	}
	return filepath.Join(dir, clean), nil
}

func readContext(dir, name string) (*Context, error) {
	path, err := contextPath(dir, name)
	if err != nil {
		return nil, err
	}
	b, err := readFile(path, configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &missingError{call.Errorf(call.NotFound, "there is no context %q in %s; make one with: dominion login", name, dir)}
	}
	if err != nil {
		return nil, fmt.Errorf("read context %s: %w", name, err)
	}
	var cfg contextConfig
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil {
		return nil, fmt.Errorf("read context %s: %s: %w", name, configFile, err)
	}
	c := &Context{Name: filepath.Base(path), Pin: cfg.Pin, Operator: cfg.Operator, dir: path}
	if c.Overlord, err = Address(cfg.Overlord); err != nil {
		return nil, fmt.Errorf("read context %s: overlord: %w", name, err)
	}
	if err := pki.CheckPin(cfg.Pin); err != nil {
		return nil, fmt.Errorf("read context %s: pin: %w", name, err)
	}
	return c, nil
}

// load reads key and certificate and checks that they belong together and to
// the context. The trust it gives is held to the context's root.
func (c *Context) load() (*pki.Trust, error) {
	wrap := func(err error) error {
		return fmt.Errorf("read context %s: %w; dominion login makes it anew", c.Name, err)
	}
	d, err := pki.OpenDir(c.dir)
	if err != nil {
		return nil, wrap(err)
	}
	defer d.Close() // only read from
	key, err := d.LoadKey(keyFile)
	if err != nil {
		return nil, wrap(err)
	}
	chain, err := readCerts(d, certFile)
	if err != nil {
		return nil, wrap(err)
	}
	root, err := readCerts(d, rootFile)
	if err != nil {
		return nil, wrap(err)
	}
	if pki.Pin(root[0]) != c.Pin {
		return nil, wrap(fmt.Errorf("%s is not the root that %s pins", rootFile, configFile))
	}
	trust, err := pki.NewTrust(root[0])
	if err != nil {
		return nil, wrap(err)
	}
	if err := c.set(trust, key, chain); err != nil {
		return nil, wrap(err)
	}
	return trust, nil
}

// set takes a chain for the context's key into use.
func (c *Context) set(trust *pki.Trust, key *ecdsa.PrivateKey, chain []*x509.Certificate) error {
	v, err := trust.Verify(chain, time.Time{}) // dates are looked at by renew, which can say what to do
	if err != nil {
		return err
	}
	want := pki.Identity{Role: pki.Operator, Name: c.Operator}
	if v.Identity != want {
		return fmt.Errorf("the certificate is of %s, not of %s", v.Identity, want)
	}
	if !key.PublicKey.Equal(v.Leaf.PublicKey) {
		return errors.New("the certificate is of another key")
	}
	cert := tls.Certificate{PrivateKey: key, Leaf: v.Leaf}
	for _, x := range chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cert = cert
	return nil
}

func (c *Context) certificate() tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cert
}

func readCerts(d *pki.Dir, name string) ([]*x509.Certificate, error) {
	b, err := d.ReadFile(name)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCerts(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}

// readFile reads one file of a directory that may not be there.
func readFile(dir, name string) ([]byte, error) {
	if _, err := os.Stat(dir); err != nil { // OpenDir would make it
		return nil, err
	}
	d, err := pki.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() // only read from
	return d.ReadFile(name)
}

// writeFile replaces one file of a directory.
func writeFile(dir, name string, data []byte) error {
	d, err := pki.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close() // WriteFile has synced
	return d.WriteFile(name, data)
}

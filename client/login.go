package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"connectrpc.com/connect"
	"go.yaml.in/yaml/v3"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/pki"
)

// PrepareLogin makes the directory of a context and the key that its
// certificate will be asked for. A login that was not finished goes on with
// the key it had, so that a request that waits for its signature is not lost.
func PrepareLogin(dir, name string) (*ecdsa.PrivateKey, error) {
	path, err := contextPath(dir, name)
	if err != nil {
		return nil, err
	}
	wrap := func(err error) error { return fmt.Errorf("make context %s: %w", name, err) }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, wrap(err)
	}
	d, err := pki.OpenDir(path)
	if err != nil {
		return nil, wrap(err)
	}
	defer d.Close() // LoadOrCreateKey has synced
	key, err := d.LoadOrCreateKey(newKeyFile)
	if err != nil {
		return nil, wrap(err)
	}
	return key, nil
}

// FinishLogin writes the context that PrepareLogin began, with the chain that
// was granted for its key (leaf first, root last), and makes it the current
// one. oc's Name, Overlord, Pin and Operator must be set.
func FinishLogin(dir string, oc *Context, chain []*x509.Certificate) error {
	path, err := contextPath(dir, oc.Name)
	if err != nil {
		return err
	}
	wrap := func(err error) error { return fmt.Errorf("write context %s: %w", oc.Name, err) }
	cfg, err := yaml.Marshal(contextConfig{Overlord: oc.Overlord, Pin: oc.Pin, Operator: oc.Operator})
	if err != nil {
		return wrap(err)
	}
	d, err := pki.OpenDir(path)
	if err != nil {
		return wrap(err)
	}
	defer d.Close() // WriteFile has synced
	key, err := d.LoadKey(newKeyFile)
	if err != nil {
		return wrap(err)
	}
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		return wrap(err)
	}
	root := chain[len(chain)-1]
	trust, err := pki.NewTrust(root)
	if err != nil {
		return wrap(err)
	}
	if pki.Pin(root) != oc.Pin {
		return wrap(errors.New("the granted chain does not end in the pinned root"))
	}
	if err := oc.set(trust, key, chain); err != nil {
		return wrap(err)
	}
	// The certificate goes last: a context is whole when it fits its key.
	for _, f := range []struct {
		name string
		data []byte
	}{{rootFile, pki.MarshalCerts(root)}, {configFile, cfg}, {keyFile, keyPEM}, {certFile, pki.MarshalCerts(chain...)}} {
		if err := d.WriteFile(f.name, f.data); err != nil {
			return wrap(err)
		}
	}
	if err := d.Remove(newKeyFile); err != nil {
		return wrap(err)
	}
	return UseContext(dir, oc.Name)
}

// UseContext makes a context the current one.
func UseContext(dir, name string) error {
	if err := writeFile(dir, currentFile, []byte(name+"\n")); err != nil {
		return fmt.Errorf("make context %s the current one: %w", name, err)
	}
	return nil
}

// renew asks for a fresh certificate when two thirds of the old one's life are
// over. While the old one is valid, a renewal that does not work is only worth
// a warning.
func (c *Conn) renew(ctx context.Context, now time.Time) error {
	leaf := c.context.certificate().Leaf
	if now.Before(pki.RenewAt(leaf)) {
		return nil
	}
	if now.After(leaf.NotAfter) {
		return call.Errorf(call.Denied, "the certificate of operator %s expired on %s; get a token with: dominion operator add %s, and use it with: dominion login",
			c.context.Operator, leaf.NotAfter.UTC().Format(time.RFC3339), c.context.Operator)
	}
	err := c.renewNow(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return err
	}
	c.warning = fmt.Sprintf("the operator's certificate could not be renewed, it ends on %s: %v", leaf.NotAfter.UTC().Format(time.RFC3339), err)
	return nil
}

func (c *Conn) renewNow(ctx context.Context) error {
	cert := c.context.certificate()
	key, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the operator's key is not ECDSA")
	}
	csr, err := pki.NewRequest(pki.Identity{Role: pki.Operator, Name: c.context.Operator}, key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialWait, fmt.Errorf("no answer within %s", dialWait))
	defer cancel()
	resp, err := c.Admin.RenewOperator(ctx, connect.NewRequest(&apipb.RenewOperatorRequest{Csr: csr}))
	if err != nil {
		return err
	}
	chain, err := pki.ParseChain(resp.Msg.GetChain())
	if err != nil {
		return err
	}
	if err := c.context.set(c.trust, key, chain); err != nil {
		return err
	}
	return writeFile(c.context.dir, certFile, pki.MarshalCerts(chain...))
}

package minion

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"dominion/call"
	"dominion/pki"
)

// Files of the state directory beside those of Save.
const (
	fileRoot      = "root.crt"
	fileOverlords = "overlords" // JSON: dialled address to overlord
	dirCerts      = "certs"     // OVERLORD.crt: leaf, issuing CA, root
)

// Times of renewal.
const (
	renewLook  = time.Hour        // at least so often the clock is looked at: it may have jumped
	renewRetry = 10 * time.Minute // after a renewal that did not succeed, with up to as much jitter
	renewTime  = time.Minute      // for the overlord to answer
)

// credential is a certificate that one overlord granted.
type credential struct {
	overlord string
	chain    []*x509.Certificate // leaf, issuing CA, root
	tls      *tls.Certificate
}

func (c *credential) leaf() *x509.Certificate { return c.chain[0] }

// loadTrust takes the root from the state directory, or else the pin.
func (d *daemon) loadTrust() error {
	b, err := d.dir.ReadFile(fileRoot)
	if errors.Is(err, fs.ErrNotExist) {
		if d.cfg.pin == "" {
			return errors.New("pin: this machine has not enrolled yet; give the root's pin, as `dominion pin` prints it on the overlord")
		}
		d.trust, err = pki.TrustPin(d.cfg.pin)
		return err
	}
	if err != nil {
		return err
	}
	certs, err := pki.ParseCerts(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", fileRoot, err)
	}
	if d.trust, err = pki.NewTrust(certs[0]); err != nil {
		return fmt.Errorf("read %s: %w", fileRoot, err)
	}
	if d.cfg.pin != "" && d.cfg.pin != d.trust.Pin() {
		return fmt.Errorf("pin: this machine enrolled under the root %s and the configuration says %s; to enrol with another fleet, use another state directory",
			d.trust.Pin(), d.cfg.pin)
	}
	return nil
}

// loadCredentials reads the certificates of earlier enrolments. One that does
// not hold is set aside and asked for again.
func (d *daemon) loadCredentials() error {
	d.certs, d.overlords = make(map[string]*credential), make(map[string]string)
	names, err := d.dir.List(dirCerts)
	if err != nil {
		return err
	}
	for _, file := range names {
		overlord, ok := strings.CutSuffix(file, ".crt")
		if !ok {
			continue
		}
		b, err := d.dir.ReadFile(dirCerts + "/" + file)
		if err != nil {
			return err
		}
		c, err := d.credentialOf(overlord, b)
		if err != nil {
			d.log.Error("certificate not usable; asking for another", "file", file, "err", err)
			continue
		}
		d.certs[overlord] = c
	}
	b, err := d.dir.ReadFile(fileOverlords)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &d.overlords); err != nil {
		return fmt.Errorf("read %s: %w", fileOverlords, err)
	}
	return nil
}

func (d *daemon) credentialOf(overlord string, b []byte) (*credential, error) {
	certs, err := pki.ParseCerts(b)
	if err != nil {
		return nil, err
	}
	return d.credential(overlord, certs)
}

// credential checks that a chain is for our name and key under our root; dates
// are not looked at.
func (d *daemon) credential(overlord string, certs []*x509.Certificate) (*credential, error) {
	v, err := d.trust.Verify(certs, time.Time{})
	if err != nil {
		return nil, err
	}
	if want := (pki.Identity{Role: pki.Minion, Name: d.cfg.name}); v.Identity != want {
		return nil, fmt.Errorf("the certificate is of %s and this is %s", v.Identity, want)
	}
	if !d.key.PublicKey.Equal(v.Leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key than minion.key")
	}
	c := &credential{overlord: overlord, chain: []*x509.Certificate{v.Leaf, v.Issuer, v.Root}}
	c.tls = &tls.Certificate{PrivateKey: d.key, Leaf: v.Leaf}
	for _, x := range c.chain {
		c.tls.Certificate = append(c.tls.Certificate, x.Raw)
	}
	return c, nil
}

// keepCredential writes a chain to the disk and takes it into use.
func (d *daemon) keepCredential(c *credential) error {
	if err := d.dir.WriteFile(dirCerts+"/"+c.overlord+".crt", pki.MarshalCerts(c.chain...)); err != nil {
		return err
	}
	if _, err := d.dir.Root().Stat(fileRoot); errors.Is(err, fs.ErrNotExist) {
		if err := d.dir.WriteFile(fileRoot, pki.MarshalCerts(c.chain[2])); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.certs[c.overlord] = c
	return nil
}

// keepAddress remembers which overlord answers at an address.
func (d *daemon) keepAddress(addr, overlord string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.overlords[addr] = overlord
	b, err := json.Marshal(d.overlords)
	if err != nil {
		return fmt.Errorf("encode %s: %w", fileOverlords, err)
	}
	return d.dir.WriteFile(fileOverlords, b)
}

// enrolledWith gives the overlords whose certificates are at hand, sorted.
func (d *daemon) enrolledWith() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for n := range d.certs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// at gives the overlord of an address and our certificate from it; nil when
// the machine must enrol there first.
func (d *daemon) at(addr string) *credential {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.certs[d.overlords[addr]]
}

// anyCertificate is what this machine shows to an overlord that dials. Who
// dials is not known yet: a machine that is enrolled with several overlords
// can be dialled by the first by name only.
func (d *daemon) anyCertificate() (*tls.Certificate, error) {
	for _, n := range d.enrolledWith() {
		d.mu.Lock()
		c := d.certs[n]
		d.mu.Unlock()
		return c.tls, nil
	}
	return nil, errors.New("this machine has not enrolled yet")
}

// renewals asks for fresh certificates at two thirds of their lives, or as soon
// after it as there is a session.
func (d *daemon) renewals(ctx context.Context) {
	for {
		wait := renewLook
		for _, overlord := range d.enrolledWith() {
			due := time.Until(d.renewAt(overlord))
			if due <= 0 {
				due = d.tryRenewal(ctx, overlord)
			}
			wait = min(wait, due)
		}
		timer := time.NewTimer(wait + rand.N(time.Second))
		select {
		case <-timer.C:
		case <-d.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// tryRenewal gives the time after which to look again.
func (d *daemon) tryRenewal(ctx context.Context, overlord string) time.Duration {
	if d.agent.Done(overlord) == nil {
		return renewLook // the next session wakes us
	}
	if err := d.renew(ctx, overlord); err != nil {
		if ctx.Err() == nil {
			d.log.Warn("certificate not renewed; trying again", "overlord", overlord, "err", err)
		}
		return renewRetry + rand.N(renewRetry)
	}
	return renewLook
}

func (d *daemon) renewAt(overlord string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return pki.RenewAt(d.certs[overlord].leaf())
}

// renew gets and keeps a fresh certificate, and ends the session so that the
// next one uses it.
func (d *daemon) renew(ctx context.Context, overlord string) error {
	ctx, stop := context.WithTimeoutCause(ctx, renewTime, fmt.Errorf("no answer within %s", renewTime))
	defer stop()
	csr, err := pki.NewRequest(pki.Identity{Role: pki.Minion, Name: d.cfg.name}, d.key)
	if err != nil {
		return err
	}
	chain, err := d.agent.Renew(ctx, overlord, csr)
	if err != nil {
		return err
	}
	certs, err := pki.ParseChain(chain)
	if err != nil {
		return fmt.Errorf("renew with overlord/%s: %w", overlord, err)
	}
	c, err := d.credential(overlord, certs)
	if err != nil {
		return fmt.Errorf("renew with overlord/%s: %w", overlord, err)
	}
	d.mu.Lock()
	old := d.certs[overlord].leaf()
	d.mu.Unlock()
	if !c.leaf().NotAfter.After(old.NotAfter) {
		return fmt.Errorf("renew with overlord/%s: the new certificate ends at %s, no later than the old one", overlord, stamp(c.leaf().NotAfter))
	}
	if err := d.keepCredential(c); err != nil {
		return err
	}
	d.log.Info("certificate renewed", "overlord", overlord, "until", stamp(c.leaf().NotAfter))
	if l := d.agent.link(overlord); l != nil {
		l.session.Close(call.OK, "certificate renewed; connecting again")
	}
	return nil
}

// sleep waits; false when ctx ended first.
func sleep(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, nil
}

package minion

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"

	"dominion/enrol"
	"dominion/pki"
)

const maxToken = 4 << 10 // bytes of a token file

// An asker asks one overlord for a certificate until it has one, or asking is
// of no more use. enrol.Ask is the real one.
type asker func(ctx context.Context, o enrol.Options) (*enrol.Granted, error)

// enrol gets a certificate from the overlord at an address and takes it into use.
func (d *daemon) enrol(ctx context.Context, addr string) error {
	token, err := d.token()
	if err != nil {
		return err
	}
	var said string
	d.log.Info("asking for a certificate", "address", addr, "name", d.cfg.name, "fingerprint", pki.Fingerprint(d.key.Public()), "with_token", token != "")
	g, err := d.ask(ctx, enrol.Options{
		Address: addr, Pin: d.trust.Pin(), Identity: pki.Identity{Role: pki.Minion, Name: d.cfg.name},
		Key: crypto.Signer(d.key), Token: token,
		Progress: func(p enrol.Progress) { said = d.progress(addr, p, said) },
	})
	if err != nil {
		return err
	}
	c, err := d.credential(g.Overlord, g.Chain)
	if err != nil {
		return fmt.Errorf("take certificate from %s: %w", addr, err)
	}
	if err := d.keepCredential(c); err != nil {
		return err
	}
	if err := d.keepAddress(addr, g.Overlord); err != nil {
		return err
	}
	d.agent.AddOverlord(g.Overlord)
	if len(g.Revocations) > 0 {
		if _, err := d.agent.takeRevocations(g.Revocations); err != nil {
			d.log.Warn("revocation list not taken", "overlord", g.Overlord, "err", err)
		}
	}
	d.log.Info("enrolled", "overlord", g.Overlord, "name", d.cfg.name, "until", stamp(c.leaf().NotAfter))
	if d.cfg.now().After(c.leaf().NotAfter) {
		return fmt.Errorf("the certificate that overlord/%s grants ended at %s and this clock shows %s; is this clock right?",
			g.Overlord, stamp(c.leaf().NotAfter), stamp(d.cfg.now()))
	}
	return nil
}

// progress logs a step of enrolment when it says something new.
func (d *daemon) progress(addr string, p enrol.Progress, said string) string {
	if p.Err != nil {
		if text := p.Err.Error(); text != said {
			d.log.Warn("overlord not reached; asking again", "address", addr, "err", p.Err)
			return text
		}
		return said
	}
	if p.Detail != said {
		d.log.Info("waiting for an operator to sign", "address", addr, "detail", p.Detail, "fingerprint", p.Fingerprint)
	}
	return p.Detail
}

// token gives the join token; empty when there is none.
func (d *daemon) token() (string, error) {
	if d.cfg.token != "" || d.cfg.tokenFile == "" {
		return d.cfg.token, nil
	}
	b, err := readBounded(d.cfg.tokenFile, maxToken)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("read token: %w", errors.New("the file does not hold one token on one line"))
	}
	return token, nil
}

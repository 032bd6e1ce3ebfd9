package overlord

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"dominion/api/apipb"
	"dominion/enrol"
	"dominion/minion"
	"dominion/pki"
)

// Files of a sub-overlord's state directory beside the others.
const (
	fileParent = "parent"  // JSON: parent
	fileLogCrt = "log.crt" // the root's statement about the log key
	dirAgent   = "minion"  // of the agent that is embedded
)

const maxTokenFile = 4 << 10 // bytes

// parent is the overlord above this one. What is exported is kept on disk.
type parent struct {
	Address  string `json:"address"`             // host:port
	Pin      string `json:"pin"`                 // of the root
	Name     string `json:"name,omitempty"`      // empty until it has granted our certificate
	RootHost string `json:"root_host,omitempty"` // who holds the root's key, as the parent said

	agent  *minion.Embedded
	reload chan os.Signal // of one: to the agent

	renewing sync.Mutex // held while certificates are asked for and kept

	adopting sync.Mutex // held while a revocation list is taken from the agent
	unstored bool       // the list in force is not in the store; covered by adopting
}

// openParent says whether a state directory is a sub-overlord's, and makes a fresh
// one so when cfg names a parent; nil: it is not.
func openParent(dir *pki.Dir, cfg Config) (*parent, error) {
	b, err := dir.ReadFile(fileParent)
	if errors.Is(err, fs.ErrNotExist) {
		if cfg.Parent == "" {
			return nil, nil
		}
		if err := fresh(dir); err != nil {
			return nil, err
		}
		p := newParent()
		p.Address, p.Pin = cfg.Parent, cfg.Pin
		return p, p.save(dir)
	}
	if err != nil {
		return nil, err
	}
	p := newParent()
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileParent, err)
	}
	switch {
	case cfg.Parent == "":
	case cfg.Pin != p.Pin:
		return nil, fmt.Errorf("pin: this state directory (%s) belongs to an overlord under the root %s, not %s; to join another fleet, give a fresh one with --state",
			dir.Path(), p.Pin, cfg.Pin)
	case cfg.Parent != p.Address:
		p.Address = cfg.Parent
		return p, p.save(dir)
	}
	return p, nil
}

func newParent() *parent { return &parent{reload: make(chan os.Signal, 1)} }

// fresh refuses a state directory in which an overlord has been.
func fresh(dir *pki.Dir) error {
	for _, name := range []string{fileRootKey, fileRootCert, fileIssuingKey, fileTLSKey, fileTLSCert, fileLogKey, fileStore} {
		switch _, err := dir.Root().Stat(name); {
		case err == nil:
			return fmt.Errorf("parent: the state directory %s holds an overlord of its own already (%s); --parent is for a fresh one: give another with --state, or start without --parent",
				dir.Path(), name)
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("look into the state directory: %w", err)
		}
	}
	return nil
}

func (p *parent) save(dir *pki.Dir) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode %s: %w", fileParent, err)
	}
	return dir.WriteFile(fileParent, b)
}

// status is what the API shows; nil for an overlord without a parent.
func (p *parent) status() *apipb.Parent {
	if p == nil {
		return nil
	}
	since, ok := p.agent.Connected()
	return &apipb.Parent{Name: p.Name, Address: p.Address, Connected: ok, SinceMs: ms(since)}
}

// rootHost names the overlord that holds the root's key; empty when that is not known.
func (o *Overlord) rootHost() string {
	if o.parent != nil {
		return o.parent.RootHost
	}
	return o.cfg.Name
}

// rootHostPB is empty where the root's key is.
func (o *Overlord) rootHostPB() string {
	if o.parent != nil {
		return o.parent.RootHost
	}
	return ""
}

// loadSubKeys reads the keys of a sub-overlord, and makes those that are missing.
// Its certificates are there once it has enrolled; otherwise rootCert is nil.
func loadSubKeys(dir *pki.Dir, c Config) (*keys, error) {
	k := &keys{dir: dir, name: c.Name}
	k.former.Store(new([]*x509.Certificate))
	key, err := dir.LoadOrCreateKey(fileTLSKey)
	if err != nil {
		return nil, err
	}
	issuingKey, err := dir.LoadOrCreateKey(fileIssuingKey)
	if err != nil {
		return nil, err
	}
	if err := k.loadLogKey(); err != nil {
		return nil, err
	}
	k.sub = &subKeys{tls: key, issuing: issuingKey}
	return k, k.loadSubCerts()
}

// subKeys are a sub-overlord's keys, which stay as long as it does: the root grants
// fresh certificates for them.
type subKeys struct {
	tls, issuing *ecdsa.PrivateKey
}

// loadSubCerts reads what the root granted. tls.crt is written last: without it
// the rest is asked for again.
func (k *keys) loadSubCerts() error {
	if _, err := k.dir.Root().Stat(fileTLSCert); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var root, issuing, leaf []*x509.Certificate
	for _, f := range []struct {
		name string
		to   *[]*x509.Certificate
	}{{fileRootCert, &root}, {fileIssuingCert, &issuing}, {fileTLSCert, &leaf}} {
		b, err := k.dir.ReadFile(f.name)
		if err != nil {
			return err
		}
		if *f.to, err = pki.ParseCerts(b); err != nil {
			return fmt.Errorf("read %s: %w", f.name, err)
		}
	}
	if !k.sub.tls.PublicKey.Equal(leaf[0].PublicKey) || !k.sub.issuing.PublicKey.Equal(issuing[0].PublicKey) {
		return fmt.Errorf("%s or %s does not belong to its key; restore it from back-up", fileTLSCert, fileIssuingCert)
	}
	if err := pki.VerifyIssuing(root[0], issuing[0]); err != nil {
		return fmt.Errorf("read %s: %w", fileIssuingCert, err)
	}
	k.useSub(root[0], leaf[0], issuing[0])
	return nil
}

// useSub takes certificates into use. The root is that of the first ones: what
// is granted later was verified under it.
func (k *keys) useSub(root, leaf, issuing *x509.Certificate) {
	if k.rootCert == nil {
		k.rootCert = root
	}
	k.issuing.Store(&pki.Authority{Cert: issuing, Key: k.sub.issuing})
	k.server.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw, root.Raw}, PrivateKey: k.sub.tls, Leaf: leaf})
}

// keepSub writes what the root granted, and takes it into use.
func (k *keys) keepSub(g pki.OverlordGrant) error {
	for _, f := range []struct {
		name string
		b    []byte
	}{
		{fileRootCert, pki.MarshalCerts(g.Root)},
		{fileIssuingCert, pki.MarshalCerts(g.Issuing, g.Root)},
		{fileLogCrt, g.LogKey},
		{fileTLSCert, pki.MarshalCerts(g.Leaf, g.Root)}, // last: see loadSubCerts
	} {
		if err := k.dir.WriteFile(f.name, f.b); err != nil {
			return err
		}
	}
	k.useSub(g.Root, g.Leaf, g.Issuing)
	return nil
}

// subRequest asks the root for everything that a sub-overlord needs from it.
func (o *Overlord) subRequest() (pki.OverlordRequest, error) {
	pub, _ := o.keys.logKey.Public().(ed25519.PublicKey)
	return pki.NewOverlordRequest(o.cfg.Name, o.keys.sub.tls, o.keys.sub.issuing, pub, o.keep.logID())
}

// join gets this sub-overlord's certificates from its parent, unless it has them.
// It waits as long as that takes.
func (o *Overlord) join(ctx context.Context) error {
	if len(o.cfg.Names) > 0 {
		o.log.Warn("the certificate of a sub-overlord has its name alone; names: of the configuration do nothing", "name", o.cfg.Name)
	}
	if o.keys.rootCert == nil {
		if err := o.enrolWithParent(ctx); err != nil {
			return err
		}
	}
	cert, err := o.dir.ReadFile(fileLogCrt)
	if err != nil {
		return err
	}
	k, err := pki.OpenLogKey(o.keys.rootCert, cert)
	if err != nil {
		return fmt.Errorf("read %s: %w", fileLogCrt, err)
	}
	if k.LogID != o.keep.logID() || !k.PublicKey.Equal(o.keys.logKey.Public()) {
		return fmt.Errorf("read %s: it is about another log (%s); restore store.db, log.key and log.crt together", fileLogCrt, k.LogID)
	}
	o.keep.logKeyCert = cert
	return nil
}

func (o *Overlord) enrolWithParent(ctx context.Context) error {
	token, err := o.joinToken()
	if err != nil {
		return err
	}
	req, err := o.subRequest()
	if err != nil {
		return err
	}
	var said string
	o.log.Info("asking the parent for this overlord's certificates", "parent", o.parent.Address, "name", o.cfg.Name,
		"fingerprint", pki.Fingerprint(o.keys.sub.tls.Public()), "with_token", token != "")
	g, err := enrol.Ask(ctx, enrol.Options{
		Address: o.parent.Address, Pin: o.parent.Pin, Identity: pki.Identity{Role: pki.Overlord, Name: o.cfg.Name},
		Key: crypto.Signer(o.keys.sub.tls), Token: token, Overlord: &req,
		Progress: func(p enrol.Progress) { said = o.tellJoining(p, said) },
	})
	if err != nil {
		return err
	}
	o.parent.Name, o.parent.RootHost = g.Overlord, g.RootHost
	if err := o.parent.save(o.dir); err != nil {
		return err
	}
	if len(g.Revocations) > 0 {
		list, err := pki.ParseRevocations(g.Root, g.Revocations)
		if err != nil {
			return err
		}
		if _, err := o.keep.adopt(ctx, g.Root, g.Revocations, list, "overlord/"+g.Overlord); err != nil {
			return err
		}
	}
	err = o.keys.keepSub(pki.OverlordGrant{Leaf: g.Chain[0], Issuing: g.Issuing, Root: g.Root, LogKey: g.LogKey})
	if err != nil {
		return err
	}
	o.log.Info("enrolled", "parent", g.Overlord, "root_host", g.RootHost, "until", g.Chain[0].NotAfter)
	return nil
}

// tellJoining logs a step of enrolment when it says something new.
func (o *Overlord) tellJoining(p enrol.Progress, said string) string {
	text := p.Detail
	if p.Err != nil {
		text = p.Err.Error()
	}
	switch {
	case text == said:
	case p.Err != nil:
		o.log.Warn("parent not reached; asking again", "parent", o.parent.Address, "error", p.Err)
	default:
		o.log.Info("waiting for an operator to sign", "parent", o.parent.Address, "detail", p.Detail, "fingerprint", p.Fingerprint)
	}
	return text
}

// joinToken gives the token for the first start; empty when there is none.
func (o *Overlord) joinToken() (string, error) {
	if o.cfg.Token != "" || o.cfg.TokenFile == "" {
		return o.cfg.Token, nil
	}
	f, err := os.Open(o.cfg.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("read token: %s does not hold one token on one line", o.cfg.TokenFile)
	}
	return token, nil
}

// embed makes this overlord's own agent, which is a machine of the parent, and
// gives each the newer of their revocation lists.
func (o *Overlord) embed(ctx context.Context) error {
	p := o.parent
	agent, err := minion.NewEmbedded(minion.Embed{ //nolint:contextcheck // a call that an earlier process left is ended for its sake, not for ctx's
		Name: o.cfg.Name, State: filepath.Join(o.dir.Path(), dirAgent), Parent: p.Name, Address: p.Address, Trust: o.trust, Key: o.keys.sub.tls,
		Certificate: o.keys.server.Load, OnRevocations: o.onParentList, Host: host{o}, Confd: o.cfg.Confd,
		ModulesDir: o.cfg.ModulesDir, ModulesPush: o.cfg.ModulesPush, ModulesMemory: o.cfg.ModulesMemory, Version: o.cfg.Version, Reload: p.reload, Log: o.log.With("part", "agent"),
	})
	if err != nil {
		return err
	}
	p.agent = agent
	if signed := agent.Revocations(); len(signed) > 0 {
		list, err := pki.ParseRevocations(o.keys.rootCert, signed)
		if err != nil {
			return fmt.Errorf("read the agent's revocation list: %w", err)
		}
		if list.Number() > o.revoked().Number() {
			o.store(ctx, signed, list) // a log that is damaged takes nothing, and has to be looked at
			o.takeRevocations(&revocations{list: list, signed: signed})
		}
	}
	if signed := o.revokedBytes(); len(signed) > 0 {
		if err := agent.TakeRevocations(signed); err != nil {
			return fmt.Errorf("give the agent the revocation list: %w", err)
		}
	}
	return nil
}

// Times of a sub-overlord's renewals.
const (
	renewAgain = 10 * time.Minute // after one that did not succeed
	renewTime  = time.Minute      // for the answer
)

// renewals asks the root, through the parent, for fresh certificates at two
// thirds of their lives.
func (o *Overlord) renewals(ctx context.Context) error {
	whenDue(ctx, o.keys.renewAt, func() error {
		err := o.renewSub(ctx)
		if err != nil && ctx.Err() == nil {
			o.log.Warn("certificates of this overlord not renewed; trying again", "until", o.keys.server.Load().Leaf.NotAfter, "error", err)
		}
		return err
	})
	return nil
}

// whenDue renews when it is due until ctx ends, and again after renewAgain when that
// did not succeed. The clock is looked at once in renewEvery: it may have jumped.
func whenDue(ctx context.Context, due func() time.Time, renew func() error) {
	for wait := time.Duration(0); ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case now := <-timer.C:
			if !now.Before(due()) && renew() != nil {
				wait = renewAgain
			} else {
				wait = min(renewEvery, max(time.Until(due()), time.Minute))
			}
		}
	}
}

// renewAt is when the first of a sub-overlord's certificates is due.
func (k *keys) renewAt() time.Time { return firstDue(k.server.Load().Leaf, k.issuing.Load().Cert) }

func firstDue(leaf, issuing *x509.Certificate) time.Time {
	a, b := pki.RenewAt(leaf), pki.RenewAt(issuing)
	if a.Before(b) {
		return a
	}
	return b
}

// newer refuses a grant that ends before what is at hand, or that is what is at hand
// when that is due: whoever passes answers on may give an older one.
func (k *keys) newer(g pki.OverlordGrant, now time.Time) error {
	due := k.renewAt()
	switch {
	case g.Leaf.NotAfter.Before(k.server.Load().Leaf.NotAfter) || g.Issuing.NotAfter.Before(k.issuing.Load().Cert.NotAfter):
		return errors.New("the certificates that came end before those at hand")
	case !now.Before(due) && !firstDue(g.Leaf, g.Issuing).After(due):
		return errors.New("the certificates that came are no fresher than those at hand")
	}
	return nil
}

package overlord

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"dominion/pki"
)

// localOperator is the operator as whom root on the overlord's host gives orders.
const localOperator = "root"

// Files of the state directory (design, section 16).
const (
	fileRootKey, fileRootCert         = "ca/root.key", "ca/root.crt"
	fileIssuingKey, fileIssuingCert   = "ca/issuing.key", "ca/issuing.crt"
	fileTLSKey, fileTLSCert           = "tls.key", "tls.crt"
	fileOperatorKey, fileOperatorCert = "operator.key", "operator.crt"
	fileFormer                        = "ca/former.crt" // issuing CAs before this one that have not expired
	fileLogKey                        = "log.key"
	fileCheckpoint                    = "checkpoint"
	fileStore                         = "store.db"
	fileSocket                        = "overlord.sock"
	fileAddress                       = "address"
	filePolicy                        = "policy.yaml"
)

// keys are the overlord's own keys and certificates.
type keys struct {
	dir  *pki.Dir
	name string
	dns  []string
	ips  []net.IP

	root     *pki.Authority    // nil at a sub-overlord
	rootCert *x509.Certificate // nil until a sub-overlord has enrolled
	logKey   ed25519.PrivateKey
	issuing  atomic.Pointer[pki.Authority]
	former   atomic.Pointer[[]*x509.Certificate]
	server   atomic.Pointer[tls.Certificate] // chain: leaf, root
	sub      *subKeys                        // nil where the root's key is
	opCert   atomic.Pointer[x509.Certificate]
}

// loadKeys reads the keys of a state directory, and makes those that are
// missing: all of them at the first start. now decides what is due for renewal.
func loadKeys(dir *pki.Dir, c Config, now time.Time) (*keys, error) {
	k := &keys{dir: dir, name: c.Name}
	k.dns, k.ips = sans(c)
	if err := k.loadRoot(now); err != nil {
		return nil, err
	}
	k.rootCert = k.root.Cert
	if err := k.loadLogKey(); err != nil {
		return nil, err
	}
	return k, k.renew(now)
}

// sans gives what the overlord's certificate is good for besides its role.
func sans(c Config) (dns []string, ips []net.IP) {
	names := slices.Clone(c.Names)
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	names = append(names, c.Name, "localhost", "127.0.0.1", "::1")
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, n)
		}
	}
	slices.Sort(dns)
	return slices.Compact(dns), ips
}

func (k *keys) loadRoot(now time.Time) error {
	key, cert, err := k.pair(fileRootKey, fileRootCert)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errHalf) && k.unused() {
		root, err := pki.NewRoot(now)
		if err != nil {
			return err
		}
		k.root = root
		return k.write(fileRootKey, fileRootCert, root.Key, root.Cert)
	}
	if err != nil {
		return err
	}
	k.root = &pki.Authority{Cert: cert, Key: key}
	return nil
}

// unused says that no store was ever opened here: nothing was signed yet that
// anybody has seen.
func (k *keys) unused() bool {
	_, err := k.dir.Root().Stat(fileStore)
	return errors.Is(err, fs.ErrNotExist)
}

// errHalf says that a key and its certificate do not belong together, as after
// a crash between the two writes. What can be made anew is.
var errHalf = errors.New("half of a pair")

// pair reads a key and its certificate. The error wraps fs.ErrNotExist only
// when neither is there.
func (k *keys) pair(keyFile, certFile string) (crypto.Signer, *x509.Certificate, error) {
	kb, err := k.dir.ReadFile(keyFile)
	cb, cerr := k.dir.ReadFile(certFile)
	if missing := errors.Is(err, fs.ErrNotExist); missing != errors.Is(cerr, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: one of %s and %s is missing; restore it from back-up", errHalf, keyFile, certFile)
	}
	if err = errors.Join(err, cerr); err != nil {
		return nil, nil, err
	}
	key, err := pki.ParseKey(kb)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", keyFile, err)
	}
	certs, err := pki.ParseCerts(cb)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", certFile, err)
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, nil, fmt.Errorf("%w: %s does not belong to %s", errHalf, keyFile, certFile)
	}
	return key, certs[0], nil
}

func (k *keys) write(keyFile, certFile string, key crypto.Signer, certs ...*x509.Certificate) error {
	b, err := pki.MarshalKey(key)
	if err != nil {
		return fmt.Errorf("write %s: %w", keyFile, err)
	}
	if err := k.dir.WriteFile(keyFile, b); err != nil {
		return err
	}
	return k.dir.WriteFile(certFile, pki.MarshalCerts(certs...))
}

func (k *keys) loadLogKey() error {
	b, err := k.dir.ReadFile(fileLogKey)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("make log key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("make log key: %w", err)
		}
		k.logKey = key
		return k.dir.WriteFile(fileLogKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	if err != nil {
		return err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fmt.Errorf("read %s: no PEM block", fileLogKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("read %s: %w", fileLogKey, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return fmt.Errorf("read %s: a %T is no Ed25519 key", fileLogKey, key)
	}
	k.logKey = ed
	return nil
}

// renew makes what is missing or two thirds through its life: issuing CA,
// server certificate, root's operator certificate. It is called at the start
// and once an hour.
func (k *keys) renew(now time.Time) error {
	if err := k.renewIssuing(now); err != nil {
		return fmt.Errorf("renew the issuing CA: %w", err)
	}
	leaf, key, err := k.renewLeaf(fileTLSKey, fileTLSCert, pki.Template{
		Identity: pki.Identity{Role: pki.Overlord, Name: k.name}, DNS: k.dns, IPs: k.ips,
	}, now)
	if err != nil {
		return fmt.Errorf("renew the overlord's certificate: %w", err)
	}
	k.server.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw, k.root.Cert.Raw}, PrivateKey: key, Leaf: leaf})
	op, _, err := k.renewLeaf(fileOperatorKey, fileOperatorCert, pki.Template{
		Identity: pki.Identity{Role: pki.Operator, Name: localOperator},
	}, now)
	if err != nil {
		return fmt.Errorf("renew root's operator certificate: %w", err)
	}
	k.opCert.Store(op)
	return nil
}

func (k *keys) renewIssuing(now time.Time) error {
	if err := k.loadFormer(now); err != nil {
		return err
	}
	key, cert, err := k.pair(fileIssuingKey, fileIssuingCert)
	if err == nil && now.Before(pki.RenewAt(cert)) {
		k.issuing.Store(&pki.Authority{Cert: cert, Key: key})
		return nil
	}
	if err == nil {
		if err := k.retire(cert); err != nil {
			return err
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errHalf) {
		return err
	}
	fresh, err := pki.NewKey()
	if err != nil {
		return err
	}
	if cert, err = k.root.NewIssuing(k.name, fresh.Public(), now); err != nil {
		return err
	}
	// Used once it is on the disk: machines that a lost one signed would be
	// refused until their certificates end.
	if err := k.write(fileIssuingKey, fileIssuingCert, fresh, cert, k.root.Cert); err != nil {
		return err
	}
	k.issuing.Store(&pki.Authority{Cert: cert, Key: fresh})
	return nil
}

// loadFormer reads the issuing CAs before this one whose minions still count.
func (k *keys) loadFormer(now time.Time) error {
	var valid []*x509.Certificate
	b, err := k.dir.ReadFile(fileFormer)
	if err == nil {
		certs, err := pki.ParseCerts(b)
		if err != nil {
			return fmt.Errorf("read %s: %w", fileFormer, err)
		}
		for _, c := range certs {
			if now.Before(c.NotAfter) {
				valid = append(valid, c)
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	k.former.Store(&valid)
	return nil
}

// retire keeps an issuing CA that is about to be replaced. One that is kept
// already, as after a renewal that failed, is not kept twice.
func (k *keys) retire(cert *x509.Certificate) error {
	if slices.ContainsFunc(*k.former.Load(), cert.Equal) {
		return nil
	}
	all := append(slices.Clone(*k.former.Load()), cert)
	if err := k.dir.WriteFile(fileFormer, pki.MarshalCerts(all...)); err != nil {
		return err
	}
	k.former.Store(&all)
	return nil
}

// issuerOf gives the issuing CA of ours that signed a leaf, or nil.
func (k *keys) issuerOf(leaf *x509.Certificate) *x509.Certificate {
	if c := k.issuing.Load().Cert; bytes.Equal(c.SubjectKeyId, leaf.AuthorityKeyId) {
		return c
	}
	for _, c := range *k.former.Load() {
		if bytes.Equal(c.SubjectKeyId, leaf.AuthorityKeyId) {
			return c
		}
	}
	return nil
}

// renewLeaf gives a leaf under the root that is fresh and says what t says.
func (k *keys) renewLeaf(keyFile, certFile string, t pki.Template, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	key, cert, err := k.pair(keyFile, certFile)
	if err == nil && now.Before(pki.RenewAt(cert)) && says(cert, t) {
		return cert, key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errHalf) {
		return nil, nil, err
	}
	fresh, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	t.PublicKey = fresh.Public()
	if cert, err = k.root.Sign(t, now); err != nil {
		return nil, nil, err
	}
	return cert, fresh, k.write(keyFile, certFile, fresh, cert, k.root.Cert)
}

func says(cert *x509.Certificate, t pki.Template) bool {
	id, err := pki.IdentityOf(cert)
	return err == nil && id == t.Identity && slices.Equal(cert.DNSNames, t.DNS) &&
		slices.EqualFunc(cert.IPAddresses, t.IPs, func(a, b net.IP) bool { return a.Equal(b) })
}

func (k *keys) pin() string { return pki.Pin(k.rootCert) }

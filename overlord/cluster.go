package overlord

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/cluster"
	"dominion/store"
)

// clusterVersion is one version of the cluster data. It is never changed.
type clusterVersion struct {
	serial     uint64
	doc        *cluster.Document
	made       time.Time
	header     []byte // signed: see cluster.Sign
	data       []byte // the document, compressed
	key        []byte // of confd; empty while there has been no candidate
	candidates []string
}

// clusterKeeper has the version of the cluster data that is in force, and makes
// the next ones.
type clusterKeeper struct {
	o       *Overlord
	now     atomic.Pointer[clusterVersion] // nil: there is none
	problem atomic.Pointer[string]         // why what is stored cannot be used; nil: it can
	kick    chan struct{}                  // of one: the inventory may have changed
	turn    chan struct{}                  // of one, and full while a version is made

	// Of whose turn it is.
	signer *x509.Certificate
	newest uint64 // the highest serial in the store
	spare  []byte // the key, while there is no version

	inventor inventor
}

// clusterNow gives the version in force; nil: there is no cluster.
func (o *Overlord) clusterNow() *clusterVersion { return o.cluster.now.Load() }

// clusterRaise makes a version above a serial that a candidate has proved to have
// been in force, as after a restore from back-up. When there is one already it
// does nothing.
func (o *Overlord) clusterRaise(ctx context.Context, above uint64, why string) error {
	if v := o.clusterNow(); v == nil || v.serial > above {
		return nil
	}
	_, _, err := o.cluster.change(ctx, clusterChange{
		actor: o.actor(), action: "cluster.raise", subject: "cluster", detail: fmt.Sprintf("above %d: %s", above, why),
		make: func(v *clusterVersion) (*cluster.Document, error) {
			if v == nil || v.serial > above {
				return nil, nil
			}
			return v.doc.Apply(time.Now(), cluster.Raise(above))
		},
	})
	return err
}

// actor is how the audit log names the overlord itself.
func (o *Overlord) actor() string { return "overlord/" + o.cfg.Name }

// load reads what is stored. Data that cannot be used are no reason not to start:
// commands say so, and an import mends it.
func (k *clusterKeeper) load(ctx context.Context, o *Overlord) error {
	k.o, k.kick, k.turn = o, make(chan struct{}, 1), make(chan struct{}, 1)
	if err := k.inventor.load(ctx, o); err != nil {
		return err
	}
	row, err := k.o.keep.db.ClusterVersion(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	key, err := k.o.keep.db.ClusterKey(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	k.newest = row.Serial
	v, signer, err := k.open(row, key)
	if err != nil {
		k.problem.Store(new(fmt.Sprintf("the stored cluster data cannot be used: %v; restore a back-up, or give other data with: dominion cluster import --replace FILE", err)))
		k.o.log.Error("stored cluster data cannot be used", "serial", row.Serial, "error", err)
		if h, err := cluster.Verify(k.o.trust, row.Header, time.Time{}); err == nil && h.KeyDigest == cluster.KeyDigest(key) {
			k.spare = key // clients and candidates have it
		}
		return nil
	}
	k.signer = signer
	k.now.Store(v)
	return nil
}

// open checks a stored version: it is what this overlord signed.
func (k *clusterKeeper) open(row store.ClusterVersion, key []byte) (*clusterVersion, *x509.Certificate, error) {
	h, err := cluster.Verify(k.o.trust, row.Header, time.Time{})
	if err != nil {
		return nil, nil, err
	}
	if h.Signer != k.o.cfg.Name || h.Serial != row.Serial {
		return nil, nil, fmt.Errorf("%w: version %d of %s in the place of version %d", cluster.ErrSnapshot, h.Serial, h.Signer, row.Serial)
	}
	if h.KeyDigest != cluster.KeyDigest(key) {
		return nil, nil, fmt.Errorf("%w: the stored key is another", cluster.ErrSnapshot)
	}
	doc, err := h.Unpack(row.Data)
	if err != nil {
		return nil, nil, err
	}
	d, err := cluster.Parse(doc)
	if err != nil {
		return nil, nil, err
	}
	if d.Serial() != row.Serial {
		return nil, nil, fmt.Errorf("%w: the document has the serial %d", cluster.ErrSnapshot, d.Serial())
	}
	return &clusterVersion{serial: h.Serial, doc: d, made: h.Made, header: row.Header, data: row.Data, key: key, candidates: h.Candidates}, h.Leaf, nil
}

// clusterChange is one change and how it is recorded.
type clusterChange struct {
	actor, action, subject, detail string
	// make gives the next document. v is the version in force; nil: none. The
	// same document, or none, is no change.
	make func(v *clusterVersion) (*cluster.Document, error)
	key  []byte                                       // a new key; nil: the one that is there, or one that is made when it is needed
	mend bool                                         // allowed although what is stored cannot be used
	tell func(before, after *cluster.Document) string // more detail; nil: none
}

// errNoCluster is for what needs one.
func errNoCluster() error {
	return call.Errorf(call.NotFound, "there is no cluster yet; make one with: dominion cluster set-master NODE, or dominion cluster import FILE")
}

// change makes a version, puts it in force and tells the candidates. It gives the
// version that is in force then, and whether it is new. When ctx ends it may have
// been made all the same.
func (k *clusterKeeper) change(ctx context.Context, c clusterChange) (v *clusterVersion, changed bool, err error) {
	if err := k.take(ctx); err != nil {
		return nil, false, err
	}
	defer k.give()
	if p := k.problem.Load(); p != nil && !c.mend {
		return nil, false, call.Errorf(call.Unavailable, "%s", *p)
	}
	v = k.now.Load()
	doc, err := c.make(v)
	if err != nil {
		if errors.Is(err, cluster.ErrDocument) || errors.Is(err, cluster.ErrSnapshot) {
			err = call.Errorf(call.Invalid, "%v", err)
		}
		return v, false, err
	}
	if doc == nil || v != nil && doc == v.doc {
		return v, false, nil
	}
	next, signer, err := k.sign(v, doc, c.key)
	if err != nil {
		return v, false, err
	}
	if err := k.store(ctx, v, next, c); err != nil {
		return v, false, err
	}
	k.newest, k.signer = next.serial, signer
	k.now.Store(next)
	k.problem.Store(nil)
	k.o.log.Info("cluster data changed", "serial", next.serial, "action", c.action, "candidates", len(next.candidates))
	k.o.candidates.announce(next)
	return next, true, nil
}

// sign makes a version of a document. v is the one before; nil: none.
func (k *clusterKeeper) sign(v *clusterVersion, doc *cluster.Document, key []byte) (*clusterVersion, *x509.Certificate, error) {
	next := &clusterVersion{serial: doc.Serial(), doc: doc, made: time.UnixMilli(time.Now().UnixMilli()), key: key, candidates: doc.Candidates()}
	if key == nil {
		next.key = k.keyBefore(v)
	}
	if len(next.key) == 0 && len(next.candidates) > 0 {
		next.key = newClusterKey()
	}
	if len(next.candidates) > cluster.MaxCandidates {
		return nil, nil, call.Errorf(call.TooMany, "%d candidates are more than %d", len(next.candidates), cluster.MaxCandidates)
	}
	var err error
	if next.data, err = cluster.Pack(doc.Bytes()); err != nil {
		return nil, nil, call.Errorf(call.TooMany, "%v", err)
	}
	signer, err := k.signHeader(next)
	return next, signer, err
}

// keyBefore gives the key that is in force; empty: none.
func (k *clusterKeeper) keyBefore(v *clusterVersion) []byte {
	if v == nil {
		return k.spare
	}
	return v.key
}

// signHeader signs a version with today's certificate.
func (k *clusterKeeper) signHeader(v *clusterVersion) (*x509.Certificate, error) {
	h := cluster.Header{Cluster: v.doc.UUID(), Serial: v.serial, Made: v.made, KeyDigest: cluster.KeyDigest(v.key), Candidates: v.candidates}
	h.SetData(v.doc.Bytes(), v.data)
	cert := k.o.keys.server.Load()
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T signs nothing", cert.PrivateKey)
	}
	var err error
	v.header, err = cluster.Sign(h, key, cert.Leaf)
	if errors.Is(err, cluster.ErrSnapshot) {
		err = call.Errorf(call.Invalid, "%v", err)
	}
	return cert.Leaf, err
}

// store makes a version durable, with its audit record.
func (k *clusterKeeper) store(ctx context.Context, v, next *clusterVersion, c clusterChange) error {
	detail := fmt.Sprintf("serial %d: %s", next.serial, c.detail)
	if c.tell != nil {
		var before *cluster.Document
		if v != nil {
			before = v.doc
		}
		detail += c.tell(before, next.doc)
	}
	fresh := !bytes.Equal(k.keyBefore(v), next.key)
	if fresh && len(next.key) > 0 && c.key == nil {
		detail += "; a key was made"
	}
	h := cluster.Header{}
	h.SetData(next.doc.Bytes(), next.data)
	return k.o.keep.db.Update(ctx, func(tx *store.Tx) error {
		record, err := tx.Audit(&auditpb.Record{Actor: c.actor, Action: c.action, Subject: cutText(c.subject, 1000), Detail: cutText(detail, 4000), Digest: h.Digest[:]})
		if err != nil {
			return err
		}
		if fresh {
			if err := tx.SetClusterKey(ctx, next.key, next.made); err != nil {
				return err
			}
		}
		return tx.AddClusterVersion(ctx, store.ClusterVersion{Serial: next.serial, Record: record, Made: next.made, Header: next.header, Data: next.data})
	})
}

// newClusterKey makes a key of confd: the bytes of a file that Ganeti's daemon
// would read, line end included.
func newClusterKey() []byte {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	return append(hex.AppendEncode(nil, b[:]), '\n')
}

// take waits for the turn to make a version.
func (k *clusterKeeper) take(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another change of the cluster: %w", context.Cause(ctx))
	}
}

func (k *clusterKeeper) give() { <-k.turn }

// clusterHeader stores another signature of a version.
func (k *keep) clusterHeader(ctx context.Context, serial uint64, header []byte) error {
	return k.db.Update(ctx, func(tx *store.Tx) error { return tx.SetClusterHeader(ctx, serial, header) })
}

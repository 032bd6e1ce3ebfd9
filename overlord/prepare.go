package overlord

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
	"dominion/store"
	"dominion/target"
)

// prepare makes of an open store a daemon that can serve.
func (o *Overlord) prepare(ctx context.Context) error {
	o.metrics = newMetrics(o)
	o.prepareSessions()
	if err := o.prepareRegistrar(ctx); err != nil {
		return err
	}
	if o.parent != nil {
		if err := o.embed(ctx); err != nil {
			return err
		}
	}
	if err := o.loadFleet(ctx); err != nil {
		return err
	}
	if err := o.cluster.load(ctx, o); err != nil {
		return err
	}
	if err := o.openBlobs(); err != nil {
		return err
	}
	if err := o.prepareProvision(); err != nil {
		return err
	}
	if o.keep.auditProblem() != "" {
		return nil // open jobs stay open: nothing can be written
	}
	return o.findOpen(ctx)
}

func (o *Overlord) prepareRegistrar(ctx context.Context) error {
	r, err := enrol.New(enrol.Config{
		Store: enrolStore{o.keep.db}, RootCert: o.keys.rootCert, Root: o.keys.root, Issuing: o.keys.issuing.Load(),
		Overlord: o.cfg.Name, LogID: o.keep.logID(), RootHost: o.rootHost, Relay: o.relayOr(), RelayRevoke: o.relayRevokeOr(),
		Glob: func(pattern string) (func(string) bool, error) {
			p, err := target.Glob(pattern)
			return p.Match, err
		},
		OnRevoked: o.onRevoked, OnGranted: o.onGranted, Log: o.log,
	})
	if err != nil {
		return err
	}
	o.registrar = r
	if err := r.SetAutosign(autosignRules(o.cfg.Autosign)); err != nil {
		return err
	}
	row, err := o.keep.db.Revocations(ctx)
	if errors.Is(err, store.ErrNotFound) {
		o.revlist.Store(&revocations{list: pki.NewRevocations()})
		return nil
	}
	if err != nil {
		return err
	}
	list, err := pki.ParseRevocations(o.keys.rootCert, row.Signed)
	if err != nil {
		return fmt.Errorf("read revocation list: %w", err)
	}
	o.revlist.Store(&revocations{list: list, signed: row.Signed})
	return nil
}

// onRevoked puts a new list in force: at the API at once, then at every
// minion, and it ends the sessions of those revoked.
func (o *Overlord) onRevoked(signed []byte, list *pki.RevocationList, ids []pki.Identity) {
	newest := o.takeRevocations(&revocations{list: list, signed: signed})
	o.log.Info("revocation list changed", "number", list.Number(), "revoked", fmt.Sprint(ids))
	o.background.Go(func() {
		if newest { // a later list holds this one's entries, and was sent
			o.pushRevocations()
		}
		o.dropRevoked(ids)
	})
}

// takeRevocations puts a list in force; false when a later one is.
func (o *Overlord) takeRevocations(r *revocations) bool {
	for {
		old := o.revlist.Load()
		if old.list.Number() >= r.list.Number() {
			return false
		}
		if o.revlist.CompareAndSwap(old, r) {
			return true
		}
	}
}

// onGranted makes a machine known that has enrolled, before it connects.
func (o *Overlord) onGranted(id pki.Identity) {
	switch id.Role {
	case pki.Minion:
		o.fleet.enrolled(id.Name)
	case pki.Overlord:
		o.fleet.enrolledSub(id.Name)
	}
	o.cluster.look()
}

// dropRevoked forgets the machines that have no certificate left that counts,
// and ends their sessions, whatever certificate they began with.
func (o *Overlord) dropRevoked(ids []pki.Identity) {
	certs, err := o.keep.current(o.life)
	if err != nil {
		o.log.Error("revoked machines not forgotten", "error", err)
		return
	}
	for _, id := range ids {
		if _, ok := certs[id.Name]; !ok && (id.Role == pki.Minion || id.Role == pki.Overlord) {
			o.catalogue.forget(id.Name)
			if s := o.fleet.forget(id.Name); s != nil {
				s.Close(call.Revoked, "the certificate was revoked")
			}
		}
	}
	o.cluster.look()
}

// cutExpired ends the sessions of machines whose certificate has ended: an
// agent renews it long before, and begins a new session with the new one.
func (o *Overlord) cutExpired(now time.Time) {
	for _, s := range o.fleet.all() {
		if end := s.PeerCert().NotAfter; now.After(end) {
			o.log.Warn("session cut: the machine's certificate expired", "machine", s.Peer().Name, "expired", end)
			s.Close(call.Denied, "the certificate of this machine expired")
		}
	}
}

// loadFleet makes the machines known that have a certificate that counts.
func (o *Overlord) loadFleet(ctx context.Context) error {
	certs, err := o.keep.current(ctx)
	if err != nil {
		return err
	}
	rows, err := o.keep.db.Minions(ctx, false)
	if err != nil {
		return err
	}
	names, dial := make([]string, 0, len(certs)), make(map[string]string)
	for n := range certs {
		names = append(names, n)
	}
	for _, r := range rows {
		if _, ok := certs[r.Name]; ok && r.DialAddress != "" {
			dial[r.Name] = r.DialAddress
		}
	}
	o.fleet.load(names, dial)
	for n, c := range certs {
		if c.Identity.Role == pki.Overlord {
			o.fleet.enrolledSub(n)
		}
	}
	return nil
}

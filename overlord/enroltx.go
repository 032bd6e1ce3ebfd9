package overlord

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"dominion/api/auditpb"
	"dominion/enrol"
	"dominion/pki"
	"dominion/store"
)

// enrolStore gives a Registrar the store in its own words.
type enrolStore struct{ db *store.DB }

// Update implements enrol.Store.
func (s enrolStore) Update(ctx context.Context, fn func(enrol.Tx) error) error {
	return s.db.Update(ctx, func(tx *store.Tx) error { return fn(enrolTx{ctx, tx}) })
}

// enrolTx is one transaction. It lives as long as the function that got it, so
// it may hold the context that its methods need.
type enrolTx struct {
	ctx context.Context //nolint:containedctx // see above
	tx  *store.Tx
}

// Certs implements enrol.CertTx.
func (t enrolTx) Certs(id pki.Identity) ([]enrol.Cert, error) {
	rows, err := t.tx.CertsOf(t.ctx, string(id.Role), id.Name)
	if err != nil {
		return nil, err
	}
	return fromCerts(rows), nil
}

// PutCert implements enrol.CertTx.
func (t enrolTx) PutCert(c enrol.Cert) error {
	return t.tx.PutCert(t.ctx, store.Cert{
		Serial: c.Serial, Role: string(c.Identity.Role), Name: c.Identity.Name, Fingerprint: c.Fingerprint, DER: c.DER,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, GrantedBy: c.GrantedBy, Granted: c.NotBefore.Add(pki.Backdate), Revoked: c.Revoked, Reason: c.Reason,
	})
}

func fromCerts(rows []store.Cert) []enrol.Cert {
	out := make([]enrol.Cert, len(rows))
	for i, r := range rows {
		out[i] = enrol.Cert{
			Identity: pki.Identity{Role: pki.Role(r.Role), Name: r.Name}, Serial: r.Serial, Fingerprint: r.Fingerprint, DER: r.DER,
			NotBefore: r.NotBefore, NotAfter: r.NotAfter, GrantedBy: r.GrantedBy, Revoked: r.Revoked, Reason: r.Reason,
		}
	}
	return out
}

// certs gives every certificate that was granted.
func (k *keep) certs(ctx context.Context) ([]enrol.Cert, error) {
	rows, err := k.db.Certs(ctx, "")
	if err != nil {
		return nil, err
	}
	return fromCerts(rows), nil
}

// Token implements enrol.TokenTx.
func (t enrolTx) Token(id string) (enrol.Token, bool, error) {
	row, err := t.tx.Token(t.ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return enrol.Token{}, false, nil
	}
	if err != nil {
		return enrol.Token{}, false, err
	}
	tok, err := fromToken(row)
	return tok, err == nil, err
}

// Tokens implements enrol.TokenTx.
func (t enrolTx) Tokens() ([]enrol.Token, error) {
	rows, err := t.tx.Tokens(t.ctx)
	if err != nil {
		return nil, err
	}
	out := make([]enrol.Token, len(rows))
	for i, r := range rows {
		if out[i], err = fromToken(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func fromToken(r store.Token) (enrol.Token, error) {
	t := enrol.Token{
		ID: r.ID, Name: r.Pattern, Role: pki.Role(r.Role), Uses: uint64(r.Uses), Used: uint64(r.Used), Created: r.Created,
		CreatedBy: r.CreatedBy, Expires: r.Expires, Replace: r.Replace,
	}
	if copy(t.Hash[:], r.Hash) != len(t.Hash) {
		return t, fmt.Errorf("token %s has a hash of %d bytes", r.ID, len(r.Hash))
	}
	for _, n := range r.Networks {
		p, err := netip.ParsePrefix(n)
		if err != nil {
			return t, fmt.Errorf("token %s: %w", r.ID, err)
		}
		t.Networks = append(t.Networks, p)
	}
	return t, nil
}

// PutToken implements enrol.TokenTx.
func (t enrolTx) PutToken(tok enrol.Token) error {
	row := store.Token{
		ID: tok.ID, Hash: tok.Hash[:], Pattern: tok.Name, Role: string(tok.Role), Uses: int(tok.Uses), Used: int(tok.Used),
		Expires: tok.Expires, Replace: tok.Replace, CreatedBy: tok.CreatedBy, Created: tok.Created,
	}
	for _, n := range tok.Networks {
		row.Networks = append(row.Networks, n.String())
	}
	if err := t.tx.PutToken(t.ctx, row); err != nil || row.Used == 0 {
		return err
	}
	return t.tx.UseNonce(t.ctx, row.ID, time.Now()) // a token's use ends the boot that it was given to
}

// DeleteToken implements enrol.TokenTx.
func (t enrolTx) DeleteToken(id string) error { return t.tx.DeleteToken(t.ctx, id) }

// Pending implements enrol.PendingTx.
func (t enrolTx) Pending(id pki.Identity, fingerprint string) (enrol.Pending, bool, error) {
	row, err := t.tx.PendingOf(t.ctx, string(id.Role), id.Name, fingerprint)
	if errors.Is(err, store.ErrNotFound) {
		return enrol.Pending{}, false, nil
	}
	return fromPending(row), err == nil, err
}

// PendingAll implements enrol.PendingTx.
func (t enrolTx) PendingAll() ([]enrol.Pending, error) {
	rows, err := t.tx.Pendings(t.ctx)
	if err != nil {
		return nil, err
	}
	out := make([]enrol.Pending, len(rows))
	for i, r := range rows {
		out[i] = fromPending(r)
	}
	return out, nil
}

func fromPending(r store.Pending) enrol.Pending {
	source, _ := netip.ParseAddr(r.Source) // an address that was not known is kept as ""
	return enrol.Pending{
		Identity: pki.Identity{Role: pki.Role(r.Role), Name: r.Name}, Fingerprint: r.Fingerprint, CSR: r.CSR, Source: source,
		First: r.First, Last: r.Last, Conflict: r.Conflict, Rejected: r.Rejected,
	}
}

// PutPending implements enrol.PendingTx.
func (t enrolTx) PutPending(p enrol.Pending) error {
	return t.tx.PutPending(t.ctx, store.Pending{
		Role: string(p.Identity.Role), Name: p.Identity.Name, Fingerprint: p.Fingerprint, CSR: p.CSR, Source: addrText(p.Source),
		First: p.First, Last: p.Last, Conflict: p.Conflict, Rejected: p.Rejected,
	})
}

// DeletePending implements enrol.PendingTx.
func (t enrolTx) DeletePending(id pki.Identity, fingerprint string) error {
	return t.tx.DeletePending(t.ctx, string(id.Role), id.Name, fingerprint)
}

// Audit implements enrol.RecordTx.
func (t enrolTx) Audit(r *auditpb.Record) error {
	_, err := t.tx.Audit(r)
	return err
}

// metaLog and the id of an audit log are the store's name for the overlord that
// the log was certified for.
const metaLog = "log/"

// LogOwner implements enrol.OverlordTx.
func (t enrolTx) LogOwner(logID string) (string, error) {
	name, err := t.tx.Meta(t.ctx, metaLog+logID)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return name, err
}

// SetLogOwner implements enrol.OverlordTx.
func (t enrolTx) SetLogOwner(logID, overlord string) error {
	return t.tx.SetMeta(t.ctx, metaLog+logID, overlord)
}

// metaBound and the fingerprint of an overlord's key are the store's name for what
// it holds to, in JSON.
const metaBound = "bound/"

// Bound implements enrol.OverlordTx.
func (t enrolTx) Bound(fingerprint string) (b enrol.Bound, ok bool, err error) {
	text, err := t.tx.Meta(t.ctx, metaBound+fingerprint)
	if errors.Is(err, store.ErrNotFound) {
		return b, false, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &b)
	}
	return b, err == nil, err
}

// PutBound implements enrol.OverlordTx.
func (t enrolTx) PutBound(fingerprint string, b enrol.Bound) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return t.tx.SetMeta(t.ctx, metaBound+fingerprint, string(text))
}

// metaRecovered and the id of an audit log are the store's name for the root's last
// statement about it, in base64.
const metaRecovered = "recovered/"

// Recovered implements enrol.OverlordTx.
func (t enrolTx) Recovered(logID string) ([]byte, error) {
	text, err := t.tx.Meta(t.ctx, metaRecovered+logID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(text)
}

// PutRecovered implements enrol.OverlordTx.
func (t enrolTx) PutRecovered(logID string, statement []byte) error {
	return t.tx.SetMeta(t.ctx, metaRecovered+logID, base64.StdEncoding.EncodeToString(statement))
}

// metaSub and a name stand in the store for a sub-overlord of this overlord.
const metaSub = "sub/"

// PutSub implements enrol.OverlordTx.
func (t enrolTx) PutSub(name string) error { return t.tx.SetMeta(t.ctx, metaSub+name, name) }

// Revocations implements enrol.RecordTx.
func (t enrolTx) Revocations() ([]byte, error) {
	l, err := t.tx.Revocations(t.ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return l.Signed, err
}

// PutRevocations implements enrol.RecordTx.
func (t enrolTx) PutRevocations(number uint64, signed []byte) error {
	return t.tx.PutRevocations(t.ctx, store.Revocations{Number: number, Signed: signed, Issued: time.Now()})
}

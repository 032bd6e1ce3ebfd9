package enrol_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/enrol"
	"dominion/pki"
)

// memory is a store whose transactions are copies.
type memory struct {
	mu   sync.Mutex
	data tables
	fail error // of the next Audit
}

type tables struct {
	certs   map[string]enrol.Cert
	tokens  map[string]enrol.Token
	pending map[string]enrol.Pending
	records []*auditpb.Record
	number  uint64
	revoked []byte
	writes  int
	logs    map[string]string
	subs    map[string]bool
	bound   map[string]enrol.Bound

	recovered map[string][]byte
}

func (m *memory) Update(ctx context.Context, fn func(enrol.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := &memoryTx{tables: m.data, fail: m.fail}
	tx.certs, tx.tokens, tx.pending = maps.Clone(m.data.certs), maps.Clone(m.data.tokens), maps.Clone(m.data.pending)
	tx.logs, tx.subs = maps.Clone(m.data.logs), maps.Clone(m.data.subs)
	tx.bound, tx.recovered = maps.Clone(m.data.bound), maps.Clone(m.data.recovered)
	tx.records = slices.Clone(m.data.records)
	if tx.certs == nil {
		tx.certs, tx.tokens, tx.pending = map[string]enrol.Cert{}, map[string]enrol.Token{}, map[string]enrol.Pending{}
		tx.logs, tx.subs = map[string]string{}, map[string]bool{}
		tx.bound, tx.recovered = map[string]enrol.Bound{}, map[string][]byte{}
	}
	if err := fn(tx); err != nil {
		return err
	}
	m.data = tx.tables
	return nil
}

type memoryTx struct {
	tables
	fail error
}

func (t *memoryTx) Certs(id pki.Identity) ([]enrol.Cert, error) {
	var out []enrol.Cert
	for _, c := range t.certs {
		if c.Identity == id {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b enrol.Cert) int { return b.NotBefore.Compare(a.NotBefore) })
	return out, nil
}

func (t *memoryTx) PutCert(c enrol.Cert) error {
	t.writes++
	t.certs[c.Serial] = c
	return nil
}

func (t *memoryTx) Token(id string) (enrol.Token, bool, error) {
	tok, ok := t.tokens[id]
	return tok, ok, nil
}

func (t *memoryTx) Tokens() ([]enrol.Token, error) { return slices.Collect(maps.Values(t.tokens)), nil }

func (t *memoryTx) PutToken(tok enrol.Token) error {
	t.writes++
	t.tokens[tok.ID] = tok
	return nil
}

func (t *memoryTx) DeleteToken(id string) error {
	t.writes++
	delete(t.tokens, id)
	return nil
}

func (t *memoryTx) Pending(id pki.Identity, fp string) (enrol.Pending, bool, error) {
	p, ok := t.pending[id.String()+fp]
	return p, ok, nil
}

func (t *memoryTx) PendingAll() ([]enrol.Pending, error) {
	return slices.Collect(maps.Values(t.pending)), nil
}

func (t *memoryTx) PutPending(p enrol.Pending) error {
	t.writes++
	t.pending[p.Identity.String()+p.Fingerprint] = p
	return nil
}

func (t *memoryTx) DeletePending(id pki.Identity, fp string) error {
	if _, ok := t.pending[id.String()+fp]; ok {
		t.writes++
		delete(t.pending, id.String()+fp)
	}
	return nil
}

func (t *memoryTx) Audit(r *auditpb.Record) error {
	if t.fail != nil {
		return t.fail
	}
	if _, err := proto.Marshal(r); err != nil { // a detail that is not UTF-8
		return err
	}
	if len(r.Detail) > 4<<10 {
		return errors.New("a detail over 4 KiB")
	}
	t.writes++
	t.records = append(t.records, r)
	return nil
}

func (t *memoryTx) LogOwner(logID string) (string, error) { return t.logs[logID], nil }

func (t *memoryTx) SetLogOwner(logID, overlord string) error {
	t.logs[logID] = overlord
	return nil
}

func (t *memoryTx) Bound(fingerprint string) (enrol.Bound, bool, error) {
	b, ok := t.bound[fingerprint]
	return b, ok, nil
}

func (t *memoryTx) PutBound(fingerprint string, b enrol.Bound) error {
	t.bound[fingerprint] = b
	return nil
}

func (t *memoryTx) Recovered(logID string) ([]byte, error) { return t.recovered[logID], nil }

func (t *memoryTx) PutRecovered(logID string, statement []byte) error {
	t.recovered[logID] = statement
	return nil
}

func (t *memoryTx) PutSub(name string) error {
	t.subs[name] = true
	return nil
}

func (t *memoryTx) Revocations() ([]byte, error) { return t.revoked, nil }

func (t *memoryTx) PutRevocations(number uint64, signed []byte) error {
	if number <= t.number {
		return errors.New("the number of the list does not grow")
	}
	t.number, t.revoked = number, signed
	return nil
}

// world is a fleet with its registrar on a clock of its own.
type world struct {
	*enrol.Registrar
	t       testing.TB
	cfg     enrol.Config
	store   *memory
	root    *pki.Authority
	issuing *pki.Authority

	mu   sync.Mutex
	time time.Time
	cut  []string // identities whose sessions were to be cut
	list *pki.RevocationList
}

func newWorld(t testing.TB, change func(*enrol.Config)) *world {
	t.Helper()
	w := &world{t: t, store: &memory{}, time: time.Now().Truncate(time.Second)}
	var err error
	if w.root, err = pki.NewRoot(w.time); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	cert, err := w.root.NewIssuing("dc1", key.Public(), w.time)
	if err != nil {
		t.Fatal(err)
	}
	w.issuing = &pki.Authority{Cert: cert, Key: key}
	cfg := enrol.Config{
		Store: w.store, RootCert: w.root.Cert, Root: w.root, Issuing: w.issuing, Now: w.now, Glob: glob,
		OnRevoked: w.onRevoked, Retry: 200 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	w.cfg = cfg
	if w.Registrar, err = enrol.New(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

// glob stands in for the fleet's own patterns.
func glob(pattern string) (func(string) bool, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	return func(name string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	}, nil
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *world) onRevoked(signed []byte, list *pki.RevocationList, ids []pki.Identity) {
	parsed, err := pki.ParseRevocations(w.root.Cert, signed)
	if err != nil || parsed.Number() != list.Number() {
		w.t.Errorf("announced list: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = list
	for _, id := range ids {
		w.cut = append(w.cut, id.String())
	}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csr(t testing.TB, id string, key crypto.Signer) []byte {
	t.Helper()
	der, err := pki.NewRequest(ident(t, id), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func ident(t testing.TB, s string) pki.Identity {
	t.Helper()
	id, err := pki.ParseIdentity(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

var home = netip.MustParseAddr("192.0.2.7")

// ask sends a request for id from home.
func (w *world) ask(id string, key crypto.Signer, token string) (enrol.Decision, error) {
	return w.askFrom(home, id, key, token)
}

func (w *world) askFrom(source netip.Addr, id string, key crypto.Signer, token string) (enrol.Decision, error) {
	role, _, _ := strings.Cut(id, "/")
	return w.Request(w.t.Context(), enrol.Request{CSR: csr(w.t, id, key), Role: role, Token: token, Source: source})
}

// must fails the test unless the decision has the state.
func (w *world) must(want enrol.State) func(enrol.Decision, error) enrol.Decision {
	w.t.Helper()
	return func(d enrol.Decision, err error) enrol.Decision {
		w.t.Helper()
		if err != nil || d.State != want {
			w.t.Fatalf("Request = %d %q, %v; want state %d", d.State, d.Detail, err, want)
		}
		if want == enrol.StateGranted {
			w.verify(d.Chain, d.Identity.String())
		}
		return d
	}
}

// verify checks a granted chain as its owner would.
func (w *world) verify(chain [][]byte, id string) *x509.Certificate {
	w.t.Helper()
	trust, err := pki.TrustPin(pki.Pin(w.root.Cert))
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := trust.VerifyRaw(chain, w.now())
	if err != nil || v.Identity.String() != id {
		w.t.Fatalf("granted to %v, %v; want %s", v.Identity, err, id)
	}
	return v.Leaf
}

func (w *world) token(spec enrol.TokenSpec) string {
	w.t.Helper()
	text, _, err := w.CreateToken(w.t.Context(), "operator/alice", spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// actions gives the audit log as "action subject".
func (w *world) actions() []string {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	var out []string
	for _, r := range w.store.data.records {
		out = append(out, r.Action+" "+r.Subject)
	}
	return out
}

func wantCode(t testing.TB, err error, want call.Code, has string) {
	t.Helper()
	if call.CodeOf(err) != want || err == nil || !strings.Contains(err.Error(), has) {
		t.Errorf("error %v has code %v; want %v with %q", err, call.CodeOf(err), want, has)
	}
}

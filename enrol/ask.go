package enrol

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apierr"
	"dominion/api/apipb"
	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/pki"
)

// Limits of the asking side.
const (
	askTime     = 30 * time.Second // of one request
	minRetry    = 200 * time.Millisecond
	maxRetry    = 5 * time.Minute
	maxResponse = 1 << 20 // bytes
	maxDetail   = 1 << 10 // bytes shown of what the overlord says
)

// Options say what Ask asks for.
type Options struct {
	Address  string        // host:port of the overlord's API; required
	Pin      string        // of the fleet's root; required
	Identity pki.Identity  // required
	Key      crypto.Signer // ECDSA P-256; required
	Token    string        // empty: wait for an operator
	// Overlord is what an overlord asks for beside its certificate; with that role
	// required. Its CSR is the one that is sent, and must be of Key.
	Overlord *pki.OverlordRequest
	// Attempts bounds failures in a row to reach the overlord or to be let in when
	// it is busy; zero: no limit. Waiting for an operator is no failure.
	Attempts int
	// Progress is told of every answer and failure, from Ask's goroutine. Nil: nobody.
	Progress func(Progress)
}

// Progress is one step of Ask.
type Progress struct {
	Detail      string        // what the overlord said; text from outside
	Err         error         // the attempt failed and is repeated; nil: the request waits
	Fingerprint string        // of the key, to compare with `dominion cert pending`
	Retry       time.Duration // until the next attempt
}

// Granted is a certificate, verified under the pin.
type Granted struct {
	Chain       []*x509.Certificate // leaf, issuing CA of a minion, root
	Root        *x509.Certificate
	Overlord    string // name of the overlord that answered
	Revocations []byte // the signed list, verified; empty: none yet

	Issuing  *x509.Certificate // overlords: the issuing CA
	LogKey   []byte            // overlords: the root's statement about the log key
	RootHost string            // overlords: who holds the root's key, by the word of the overlord that answered
}

// ErrRejected is wrapped when an operator, or the overlord, refuses for good.
var ErrRejected = errors.New("the request was rejected")

// Ask asks for a certificate until it has one. It believes only an overlord
// whose certificate the pinned root signed itself, without regard to dates,
// and takes only a certificate for its own key and identity.
//
// It ends early when ctx does, when the server is no such overlord
// (pki.ErrUntrusted), when the request is rejected (ErrRejected), and on errors
// with a code that asking again cannot change: Invalid, Denied.
func Ask(ctx context.Context, o Options) (*Granted, error) {
	trust, err := pki.TrustPin(o.Pin)
	if err != nil {
		return nil, fmt.Errorf("ask %s for a certificate: %w", o.Address, err)
	}
	csr, err := pki.NewRequest(o.Identity, o.Key)
	if err != nil {
		return nil, fmt.Errorf("ask %s for a certificate: %w", o.Address, err)
	}
	a := &asker{Options: o, trust: trust, fingerprint: pki.Fingerprint(o.Key.Public())}
	transport := &http.Transport{
		TLSClientConfig:        a.tlsConfig(),
		ForceAttemptHTTP2:      true,
		DisableKeepAlives:      true, // the next request is seconds away
		MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	hc := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a.client = apipbconnect.NewEnrolServiceClient(hc, "https://"+o.Address, connect.WithReadMaxBytes(maxResponse))
	a.request = &apipb.EnrolRequest{Csr: csr, Role: string(o.Identity.Role), Token: o.Token}
	if r := o.Overlord; r != nil {
		a.request.Csr = r.CSR
		a.request.Overlord = &apipb.OverlordRequest{IssuingCsr: r.IssuingCSR, LogKey: r.LogKey, LogId: r.LogID, Signature: r.Signature}
	}
	g, err := a.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s for a certificate: %w", o.Address, err)
	}
	return g, nil
}

type asker struct {
	Options
	trust       *pki.Trust
	client      apipbconnect.EnrolServiceClient
	request     *apipb.EnrolRequest
	fingerprint string
	overlord    atomic.Pointer[string] // name of the server of the newest connection
}

func (a *asker) run(ctx context.Context) (*Granted, error) {
	failures := 0
	for {
		resp, err := a.once(ctx)
		if err == nil && resp.State != apipb.EnrolResponse_PENDING {
			return a.finish(resp)
		}
		p := Progress{Err: err, Fingerprint: a.fingerprint, Retry: DefaultRetry}
		if err != nil {
			failures++
			if final(err) || ctx.Err() != nil || a.Attempts > 0 && failures >= a.Attempts {
				return nil, err
			}
		} else {
			failures = 0
			p.Detail = clip(resp.Detail)
			p.Retry = retry(resp.RetryAfterMs)
		}
		if a.Progress != nil {
			a.Progress(p)
		}
		if err := sleep(ctx, p.Retry+rand.N(p.Retry/10)); err != nil {
			return nil, err
		}
	}
}

// once makes one request.
func (a *asker) once(ctx context.Context) (*apipb.EnrolResponse, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTime, fmt.Errorf("no answer within %s", askTime))
	defer cancel()
	resp, err := a.client.Request(ctx, connect.NewRequest(a.request))
	if err != nil {
		return nil, fromPeer(ctx, err)
	}
	return resp.Msg, nil
}

// retry bounds what the overlord asks us to wait.
func retry(ms uint64) time.Duration {
	if ms == 0 {
		return DefaultRetry
	}
	return min(max(time.Duration(min(ms, 1<<31))*time.Millisecond, minRetry), maxRetry)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// final says whether asking again is of no use.
func final(err error) bool {
	if errors.Is(err, pki.ErrUntrusted) {
		return true
	}
	e, ok := errors.AsType[*call.Error](err)
	return ok && (e.Code == call.Invalid || e.Code == call.Denied)
}

// fromPeer gives the overlord's error its code back; other failures stay as
// they are.
func fromPeer(ctx context.Context, err error) error {
	if errors.Is(err, pki.ErrUntrusted) {
		return err
	}
	if e := apierr.FromPeer(err); e != nil {
		e.Detail = clip(e.Detail)
		return e
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func clip(s string) string {
	if len(s) > maxDetail {
		return s[:maxDetail] + "…"
	}
	return s
}

// finish checks what was granted.
func (a *asker) finish(resp *apipb.EnrolResponse) (*Granted, error) {
	switch resp.State {
	case apipb.EnrolResponse_REJECTED:
		return nil, fmt.Errorf("%w: %s", ErrRejected, clip(resp.Detail))
	case apipb.EnrolResponse_GRANTED:
	default:
		return nil, fmt.Errorf("the overlord answered with state %d, which this version does not know", resp.State)
	}
	v, err := a.trust.VerifyRaw(resp.Chain, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("verify what was granted: %w", err)
	}
	if v.Identity != a.Identity {
		return nil, fmt.Errorf("%w: it was granted to %s, not to %s", pki.ErrUntrusted, v.Identity, a.Identity)
	}
	if pki.FingerprintOf(v.Leaf) != a.fingerprint {
		return nil, fmt.Errorf("%w: it was granted to another key", pki.ErrUntrusted)
	}
	g := &Granted{Chain: []*x509.Certificate{v.Leaf}, Root: v.Root, Overlord: *a.overlord.Load(), Revocations: resp.Revocations}
	if v.Issuer != v.Root {
		g.Chain = append(g.Chain, v.Issuer)
	}
	g.Chain = append(g.Chain, v.Root)
	if a.Overlord != nil {
		og, err := a.Overlord.VerifyGrant(a.trust, resp.Chain, resp.Issuing, resp.LogKey, time.Time{})
		if err != nil {
			return nil, fmt.Errorf("verify what was granted: %w", err)
		}
		g.Issuing, g.LogKey = og.Issuing, og.LogKey
		if name, err := call.ParseName(resp.RootHost); err == nil {
			g.RootHost = name
		}
	}
	if len(resp.Revocations) > 0 {
		if _, err := pki.ParseRevocations(v.Root, resp.Revocations); err != nil {
			return nil, fmt.Errorf("verify what was granted: %w", err)
		}
	}
	return g, nil
}

// tlsConfig believes overlords under the pin. Host names and dates are not
// looked at: the pin and the role say more, and the clock may be wrong.
func (a *asker) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies the chain under the pinned root
		VerifyConnection: func(cs tls.ConnectionState) error {
			v, err := a.trust.Verify(cs.PeerCertificates, time.Time{})
			if err == nil && v.Identity.Role != pki.Overlord {
				err = fmt.Errorf("%w: the server shows the certificate of %s", pki.ErrUntrusted, v.Identity)
			}
			if err != nil {
				return fmt.Errorf("the server is no overlord of this fleet: %w", err)
			}
			a.overlord.Store(&v.Identity.Name)
			return nil
		},
	}
}

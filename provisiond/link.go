package provisiond

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"dominion/pki"
)

// Times and sizes of the exchange.
const (
	dialTime   = 2 * time.Second // as the old client
	tlsTime    = 20 * time.Second
	headerTime = 5 * time.Minute // an overlord runs every node script before it answers
	idleTime   = time.Minute     // without a byte
	askTime    = 10 * time.Minute
	maxScript  = 32 << 20
	maxAnswer  = 64 << 10 // of JSON
	maxDetail  = 300      // bytes of a refusal's text that are told
)

const stateInit = "init"

// identity is what a node shows of itself.
type identity struct {
	HWAddr   []string `json:"hwaddr"` // lower case; the first is the one that booted
	State    string   `json:"state"`
	Nonce    string   `json:"nonce,omitempty"` // state init
	Pin      string   `json:"pin"`
	StateDir string   `json:"state_dir,omitempty"` // of the minion; other states
}

// refusal is an answer of an overlord that is not the one wished for.
type refusal struct {
	status int
	code   string
	detail string
}

func (r *refusal) Error() string {
	s := fmt.Sprintf("refused with status %d", r.status)
	if r.code != "" {
		s += " (" + r.code + ")"
	}
	if r.detail != "" {
		s += ": " + r.detail
	}
	return s
}

// final says that this server will not say anything else when it is asked again
// at once.
func (r *refusal) final() bool {
	return r.status < 500 && r.status != http.StatusTooManyRequests && r.status != http.StatusRequestTimeout
}

// link is the way to overlords: one HTTP client that believes nobody else.
type link struct {
	identity
	trust  *pki.Trust
	client *http.Client
}

func newLink(id identity) (*link, error) {
	trust, err := pki.TrustPin(id.Pin)
	if err != nil {
		return nil, fmt.Errorf("the pin: %w", err)
	}
	l := &link{identity: id, trust: trust}
	l.client = &http.Client{
		Transport: &http.Transport{
			DialTLSContext:         l.dial,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        5 * time.Second,
			ResponseHeaderTimeout:  headerTime,
			MaxResponseHeaderBytes: 32 << 10,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return l, nil
}

func (l *link) close() { l.client.CloseIdleConnections() }

func (l *link) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}
	raw, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, tlsTime, fmt.Errorf("no TLS within %s", tlsTime))
	defer cancel()
	conn := tls.Client(raw, l.tlsConfig())
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", addr, err)
	}
	return conn, nil
}

// tlsConfig is for one connection. Which certificate is shown depends on which
// overlord the server is, and it is verified before.
func (l *link) tlsConfig() *tls.Config {
	var overlord string
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"http/1.1"},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies the chain under the pinned root
		VerifyConnection: func(cs tls.ConnectionState) error {
			v, err := l.verify(cs, time.Now())
			overlord = v.Identity.Name
			return err
		},
	}
	if l.State != stateInit {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return minionCertificate(l.StateDir, overlord)
		}
	}
	return cfg
}

// verify believes overlords directly under the root. In init, as in enrolment,
// dates are not looked at.
func (l *link) verify(cs tls.ConnectionState, now time.Time) (pki.Verified, error) {
	if l.State == stateInit {
		now = time.Time{}
	}
	v, err := l.trust.Verify(cs.PeerCertificates, now)
	if err == nil && v.Identity.Role != pki.Overlord {
		err = fmt.Errorf("%w: the server shows the certificate of %s", pki.ErrUntrusted, v.Identity)
	}
	if err != nil {
		return pki.Verified{}, fmt.Errorf("the server is no overlord of this fleet: %w", err)
	}
	return v, nil
}

// post sends JSON and gives the answer when its status is the one wanted. The
// caller closes the body.
func (l *link) post(ctx context.Context, server, path string, msg any, want int) (*http.Response, error) {
	body, err := json.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+server+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", server, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.client.Do(req)
	if err != nil {
		return nil, cause(ctx, err)
	}
	if resp.StatusCode != want {
		defer resp.Body.Close()
		return nil, readRefusal(resp)
	}
	return resp, nil
}

// cause prefers whose limit ended ctx.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func readRefusal(resp *http.Response) *refusal {
	r := &refusal{status: resp.StatusCode}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return r
	}
	r.code, r.detail = parseRefusal(b)
	return r
}

// parseRefusal reads {"code": …, "detail": …} as far as it is that. What it gives
// is short and printable.
func parseRefusal(b []byte) (code, detail string) {
	var msg struct {
		Code   any    `json:"code"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(b, &msg) != nil {
		return "", ""
	}
	if msg.Code != nil {
		code = printable(fmt.Sprint(msg.Code))
	}
	return code, printable(msg.Detail)
}

func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxDetail {
		s = strings.ToValidUTF8(s[:maxDetail], "") + "…"
	}
	return s
}

// minionCertificate reads the certificate that this machine's minion has from an
// overlord, or else one from another that may share its store.
func minionCertificate(dir, overlord string) (*tls.Certificate, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("the minion's certificate: %w", err)
	}
	defer root.Close()
	b, err := root.ReadFile("minion.key")
	if err != nil {
		return nil, fmt.Errorf("the minion's key: %w", err)
	}
	key, err := pki.ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("the minion's key: %w", err)
	}
	names := []string{}
	if overlord != "" {
		names = append(names, overlord+".crt")
	}
	if d, err := root.Open("certs"); err == nil {
		others, _ := d.Readdirnames(64) // what cannot be listed is not there
		_ = d.Close()
		names = append(names, others...)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".crt") {
			continue
		}
		b, err = root.ReadFile("certs/" + name)
		if err != nil {
			continue
		}
		certs, err := pki.ParseCerts(b)
		if err != nil || !key.PublicKey.Equal(certs[0].PublicKey) {
			continue
		}
		c := &tls.Certificate{PrivateKey: key, Leaf: certs[0]}
		for _, x := range certs {
			c.Certificate = append(c.Certificate, x.Raw)
		}
		return c, nil
	}
	return nil, fmt.Errorf("the minion's certificate: none below %s/certs is for its key; has it enrolled?", dir)
}

// minionPin gives the pin of the root under which the minion enrolled.
func minionPin(dir string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	b, err := root.ReadFile("root.crt")
	if err != nil {
		return "", err
	}
	certs, err := pki.ParseCerts(b)
	if err != nil {
		return "", fmt.Errorf("read root.crt: %w", err)
	}
	return pki.Pin(certs[0]), nil
}

// errNotWhole is wrapped when a reply is not what its headers say.
var errNotWhole = errors.New("the reply did not arrive whole")

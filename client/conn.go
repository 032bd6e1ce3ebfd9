package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb/apipbconnect"
	"dominion/call"
	"dominion/module"
	"dominion/pki"
)

const (
	// DefaultState is the state directory of an overlord that names none.
	DefaultState = "/var/lib/dominion/overlord"
	// Socket is the name of the overlord's socket in its state directory.
	Socket = "overlord.sock"

	maxMessage = 64 << 20 // bytes of one message of the overlord; a million names fold to less
	maxURL     = 8 << 10  // bytes of a question that is asked with GET; a longer one is a POST
	dialWait   = 10 * time.Second
	alertWait  = 2 * time.Second // for a server to say why it refuses us

	pingAfter = 20 * time.Second // of silence on a TLS connection, then it is asked for a sign of life
	pingWait  = 15 * time.Second // for that sign
)

// Endpoint says where an overlord is. With State the overlord is on this host;
// with Overlord or Context it is reached with an operator's context; with none
// of them Dial takes the socket in DefaultState if this user can see it, and
// otherwise the current context.
type Endpoint struct {
	State    string // state directory of an overlord on this host
	Overlord string // host:port; the context is the one for that address unless Context names it
	Context  string // name of an operator's context
	Contexts string // directory of the contexts; empty: ContextsDir()
}

// Conn is a connection to an overlord's API. The services answer with
// *call.Error. It may be used by several goroutines.
type Conn struct {
	Fleet apipbconnect.FleetServiceClient
	Admin apipbconnect.AdminServiceClient
	Audit apipbconnect.AuditServiceClient
	Maps  apipbconnect.MapServiceClient
	// Cluster changes the data that candidates answer confd queries from;
	// ImportCluster, ExportCluster and ClusterKey are easier for what they do.
	Cluster apipbconnect.ClusterServiceClient
	Nodes   apipbconnect.NodeServiceClient

	where   string
	state   string     // not empty: over the socket in it
	context *Context   // not nil: with an operator's context
	trust   *pki.Trust // of the context
	warning string
	http    *http.Transport
	client  *http.Client // of http, for what is no service
	base    string       // of its requests

	patience *patience // not changed once the connection is used

	mu       sync.Mutex
	schemas  map[string]module.Schema   // of all methods, by name; nil: not asked yet
	versions map[string][]module.Schema // of the methods of sites, those that most machines have first
}

// Dial finds the overlord and prepares to speak to it. Over a context it
// renews the operator's certificate when two thirds of its life are over; that
// the overlord answers is otherwise known only with the first question.
func Dial(ctx context.Context, e Endpoint) (*Conn, error) {
	c, err := open(e)
	if err != nil {
		return nil, err
	}
	if c.context != nil {
		if err := c.renew(ctx, time.Now()); err != nil {
			_ = c.Close() // nothing was sent but the renewal
			return nil, err
		}
	}
	return c, nil
}

// open decides between socket and context.
func open(e Endpoint) (*Conn, error) {
	if e.State != "" && (e.Overlord != "" || e.Context != "") {
		return nil, call.Errorf(call.Invalid, "a state directory and an overlord's address were both given; the socket in the state directory needs no address")
	}
	if e.State != "" {
		return openSocket(e.State), nil
	}
	dir, err := e.contexts()
	if err != nil {
		return nil, err
	}
	if e.Overlord == "" && e.Context == "" {
		if _, err := os.Stat(filepath.Join(DefaultState, Socket)); err == nil {
			return openSocket(DefaultState), nil
		}
	}
	oc, err := FindContext(dir, e.Context, e.Overlord)
	switch {
	case errors.Is(err, fs.ErrNotExist) && e.Overlord == "" && e.Context == "":
		return openSocket(DefaultState), nil // its error names the socket that is missing
	case err != nil:
		return nil, err
	}
	return openContext(oc)
}

func (e Endpoint) contexts() (string, error) {
	if e.Contexts != "" {
		return e.Contexts, nil
	}
	return ContextsDir()
}

// openSocket speaks HTTP/1.1 over the overlord's socket: calls only stream
// towards us, and every stream has a connection to itself.
func openSocket(state string) *Conn {
	path := filepath.Join(state, Socket)
	var d net.Dialer
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialWait)
			defer cancel()
			conn, err := d.DialContext(ctx, "unix", path)
			if err != nil {
				return nil, socketError(path, err)
			}
			return conn, nil
		},
		DisableCompression: true,
	}
	return newConn(tr, "http://overlord", errorMapper{where: path}, func(c *Conn) { c.state = state })
}

func socketError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return call.Errorf(call.Unavailable, "there is no overlord's socket at %s; start one with: dominion overlord, or name another with --state DIR or --overlord ADDR", path)
	case errors.Is(err, fs.ErrPermission):
		return call.Errorf(call.Denied, "only root and the overlord's user may use %s; from another account use --overlord ADDR after: dominion login", path)
	}
	return call.Errorf(call.Unavailable, "no overlord answers at %s (%v); start it with: dominion overlord", path, err)
}

// openContext speaks TLS 1.3 with the operator's certificate. Host names are
// not looked at: the server is an overlord under the pinned root or refused.
func openContext(oc *Context) (*Conn, error) {
	trust, err := oc.load()
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := oc.certificate()
			return &cert, nil
		},
		InsecureSkipVerify:     true, //nolint:gosec // VerifyConnection does it, stricter: role, root and signer
		VerifyConnection:       trust.VerifyOverlord(""),
		SessionTicketsDisabled: true,
	}
	tr := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialWait}).DialContext,
		TLSClientConfig:     cfg,
		TLSHandshakeTimeout: dialWait,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
		// An overlord whose process is stopped keeps its connections.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWait},
	}
	alert := func(ctx context.Context) error { return readAlert(ctx, oc.Overlord, cfg) }
	return newConn(tr, "https://"+oc.Overlord, errorMapper{where: oc.Overlord, alert: alert}, func(c *Conn) { c.context, c.trust = oc, trust }), nil
}

// readAlert connects and sends nothing, so that what the server says about our
// certificate is not lost: with HTTP/2 a server speaks first. Its error is nil
// when the server is content, or slow.
func readAlert(ctx context.Context, addr string, cfg *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, alertWait)
	defer cancel()
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close() // nothing was sent
	if err := conn.SetReadDeadline(time.Now().Add(alertWait)); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

func newConn(tr *http.Transport, base string, mapper errorMapper, set func(*Conn)) *Conn {
	c := &Conn{where: mapper.where, http: tr, patience: defaultPatience()}
	mapper.patience = c.patience
	set(c)
	hc := &http.Client{
		Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.client, c.base = hc, base
	opts := []connect.ClientOption{
		connect.WithReadMaxBytes(maxMessage), connect.WithInterceptors(mapper), connect.WithHTTPGet(), connect.WithHTTPGetMaxURLSize(maxURL, true),
		connect.WithAcceptCompression("gzip", nil, nil), // results are streamed, and mostly local
	}
	c.Fleet = apipbconnect.NewFleetServiceClient(hc, base, opts...)
	c.Admin = apipbconnect.NewAdminServiceClient(hc, base, opts...)
	c.Audit = apipbconnect.NewAuditServiceClient(hc, base, opts...)
	c.Maps = apipbconnect.NewMapServiceClient(hc, base, opts...)
	c.Cluster = apipbconnect.NewClusterServiceClient(hc, base, opts...)
	c.Nodes = apipbconnect.NewNodeServiceClient(hc, base, opts...)
	return c
}

// Where names the overlord for people: the path of its socket, or its address.
func (c *Conn) Where() string { return c.where }

// Local says whether the overlord is on this host and reached by its socket.
func (c *Conn) Local() bool { return c.state != "" }

// Close ends the connection. Streams being read end with an error.
func (c *Conn) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Warning says what did not work while connecting and can wait, such as the
// renewal of a certificate that is still valid; empty: nothing.
func (c *Conn) Warning() string { return c.warning }

// signer gives the operator's key and certificate (DER) for orders.
func (c *Conn) signer() (crypto.Signer, []byte, error) {
	if c.context != nil {
		cert := c.context.certificate()
		key, ok := cert.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, nil, fmt.Errorf("context %s: its key cannot sign", c.context.Name)
		}
		return key, cert.Certificate[0], nil
	}
	keyPEM, err := os.ReadFile(filepath.Join(c.state, "operator.key"))
	if err != nil {
		return nil, nil, localOperatorError(err)
	}
	certPEM, err := os.ReadFile(filepath.Join(c.state, "operator.crt"))
	if err != nil {
		return nil, nil, localOperatorError(err)
	}
	key, err := pki.ParseKey(keyPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("read the local operator's key in %s: %w", c.state, err)
	}
	certs, err := pki.ParseCerts(certPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("read the local operator's certificate in %s: %w", c.state, err)
	}
	return key, certs[0].Raw, nil
}

func localOperatorError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return call.Errorf(call.Denied, "no operator's key on this host (%v); give orders with --overlord ADDR after: dominion login", err)
	}
	return fmt.Errorf("read the local operator's key: %w", err)
}

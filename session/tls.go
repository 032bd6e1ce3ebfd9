package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// TLSOptions are what both ends of fleet/1 need.
type TLSOptions struct {
	// Certificate gives our own, leaf first; asked at each handshake, so that a
	// renewed one is used. Required.
	Certificate func() (*tls.Certificate, error)
	// Verify decides whether the peer is who it may be: its chain, role, name and
	// revocation. It is the only check there is: crypto/tls proves no more than
	// that the peer holds the key of PeerCertificates[0]. Required.
	Verify func(tls.ConnectionState) error
}

// ErrALPN refuses a peer that does not speak fleet/1.
var ErrALPN = errors.New("the peer does not speak " + ALPN)

// ServerTLS is the configuration of the side that is dialled, for connections
// that offer fleet/1: TLS 1.3, a client certificate, no session tickets.
func ServerTLS(opt TLSOptions) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}, SessionTicketsDisabled: true,
		DynamicRecordSizingDisabled: true, // a frame of up to 16 KiB is one record, and so one system call
		ClientAuth:                  tls.RequireAnyClientCert,
		GetCertificate:              func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return opt.Certificate() },
		VerifyConnection:            verifyFleet(opt.Verify),
	}
}

// ClientTLS is the configuration of the side that dials. It shows its leaf
// alone: the peer knows the CA that signed it, and keeps what it is sent in
// memory for the whole session (measured: 5 KB for each certificate of a chain).
func ClientTLS(opt TLSOptions) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}, SessionTicketsDisabled: true,
		DynamicRecordSizingDisabled: true,
		InsecureSkipVerify:          true, // names are URIs here: VerifyConnection does it
		GetClientCertificate:        func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return leafOf(opt.Certificate()) },
		VerifyConnection:            verifyFleet(opt.Verify),
	}
}

func leafOf(c *tls.Certificate, err error) (*tls.Certificate, error) {
	if err != nil || len(c.Certificate) < 2 {
		return c, err
	}
	leaf := *c
	leaf.Certificate = c.Certificate[:1]
	return &leaf, nil
}

// httpTLS is the configuration for everything that does not offer fleet/1: a
// client certificate is asked for, and verified if one is given.
func httpTLS(opt TLSOptions) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return opt.Certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			return opt.Verify(cs)
		},
	}
}

// funcTLS is the configuration for clients of the Func face. Of TLS 1.2 only what
// is still good: forward secrecy and authenticated encryption. There is no
// renegotiation and there are no tickets, so who a connection belongs to never
// changes.
func funcTLS(opt TLSOptions) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		ClientAuth:     tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return opt.Certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the peer has no certificate")
			}
			return opt.Verify(cs)
		},
	}
}

func verifyFleet(verify func(tls.ConnectionState) error) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != ALPN {
			return ErrALPN
		}
		if len(cs.PeerCertificates) == 0 {
			return errors.New("the peer has no certificate")
		}
		return verify(cs)
	}
}

// choose picks the configuration by what the client's hello offers.
func choose(fleet, http *tls.Config) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			switch {
			case slices.Contains(hello.SupportedProtos, ALPN):
				return fleet, nil
			case http != nil:
				return http, nil
			}
			return nil, ErrALPN
		},
	}
}

const dialTimeout = 10 * time.Second // for TCP and TLS together

// Dial connects to addr ("host:port") and completes the handshake, within 10 s.
// cfg comes from ClientTLS. The result is ready for New.
func Dial(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	type dialled struct {
		conn *tls.Conn
		err  error
	}
	// On a stack of its own: the caller's goroutine reads the session afterwards.
	result := make(chan dialled, 1)
	go func() {
		c, err := dial(ctx, addr, cfg)
		result <- dialled{c, err}
	}()
	d := <-result
	return d.conn, d.err
}

func dial(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %s", dialTimeout))
	defer cancel()
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	tcp, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, orCause(ctx, err))
	}
	conn := tls.Client(Wrap(tcp, true), cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = tcp.Close()
		return nil, fmt.Errorf("handshake with %s: %w", addr, orCause(ctx, err))
	}
	return conn, nil
}

// orCause prefers the reason for which ctx ended.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

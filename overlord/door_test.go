package overlord

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"dominion/pki"
)

// shaken gives connections with their handshake done, as a session.Listener does.
type shaken struct {
	net.Listener
	config *tls.Config
}

func (l shaken) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := tls.Server(c, l.config)
	return t, t.Handshake()
}

// connTo opens a connection of HTTP.
func connTo(t *testing.T, s *httptest.Server, cert *tls.Certificate) *tls.Conn {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}} // the client's side is not what is tested
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	c, err := tls.Dial("tcp", s.Listener.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// alive says whether a connection still answers.
func alive(c *tls.Conn) bool {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false
	}
	buf := make([]byte, 1024)
	n, err := c.Read(buf)
	return err == nil && n > 0
}

func TestStrangersAreBounded(t *testing.T) {
	d := &door{max: 3, operator: func([]*x509.Certificate) bool { return true }}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }))
	s.Config.ConnState = d.state
	root, err := pki.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{root.Cert.Raw}, PrivateKey: root.Key} // any will do: d believes it
	s.Listener = shaken{s.Listener, &tls.Config{ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{cert}}}
	s.Start()
	defer s.Close()
	operator := connTo(t, s, &cert)
	if !alive(operator) {
		t.Fatal("the operator is not served")
	}
	var strangers []*tls.Conn
	for range 5 {
		c := connTo(t, s, nil)
		if !alive(c) {
			t.Fatal("a stranger is not served")
		}
		strangers = append(strangers, c)
	}
	for i, c := range strangers {
		if got, want := alive(c), i >= 2; got != want {
			t.Errorf("stranger %d is served: %v; want %v", i, got, want)
		}
	}
	if !alive(operator) {
		t.Error("the operator had to go")
	}
	for _, c := range strangers {
		c.Close()
	}
	for late := time.Now().Add(10 * time.Second); ; {
		d.mu.Lock()
		n, m := d.strangers.Len(), len(d.places)
		d.mu.Unlock()
		if n == 0 && m == 0 {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("%d strangers in the list and %d in the table after all left", n, m)
		}
	}
}

func TestShownCertificatesAreBounded(t *testing.T) {
	small, large := &x509.Certificate{Raw: make([]byte, 1000)}, &x509.Certificate{Raw: make([]byte, maxShown+1)}
	for _, test := range []struct {
		name  string
		certs []*x509.Certificate
		ok    bool
	}{
		{"a chain", []*x509.Certificate{small, small, small}, true},
		{"too many", []*x509.Certificate{small, small, small, small}, false},
		{"too large", []*x509.Certificate{small, large}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := boundShown(tls.ConnectionState{PeerCertificates: test.certs}); (err == nil) != test.ok {
				t.Errorf("boundShown = %v; want ok %v", err, test.ok)
			}
		})
	}
}

// A reader that stops is let go, one that waits for news is not.
func TestPatience(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[http2], func(t *testing.T) {
			const patience = 200 * time.Millisecond
			ended := make(chan error, 1)
			news := make(chan struct{})
			mux := http.NewServeMux()
			mux.HandleFunc("/flood", func(w http.ResponseWriter, _ *http.Request) {
				b := make([]byte, 64<<10)
				for {
					if _, err := w.Write(b); err != nil {
						ended <- err
						return
					}
					http.NewResponseController(w).Flush() // the next Write tells
				}
			})
			mux.HandleFunc("/idle", func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "a")
				w.(http.Flusher).Flush()
				<-news
				_, _ = io.WriteString(w, "b")
			})
			s := httptest.NewUnstartedServer(withPatience(mux, patience))
			s.EnableHTTP2 = http2
			s.StartTLS()
			defer s.Close()
			flood, err := s.Client().Get(s.URL + "/flood")
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Error("the reader that takes nothing is waited for")
			}
			flood.Body.Close()
			idle, err := s.Client().Get(s.URL + "/idle")
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Body.Close()
			time.AfterFunc(5*patience, func() { close(news) })
			if b, err := io.ReadAll(idle.Body); err != nil || string(b) != "ab" {
				t.Errorf("after a pause without news: %q, %v", b, err)
			}
		})
	}
}

// A body that comes a byte at a time is not waited for.
func TestHurried(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[http2], func(t *testing.T) {
			read := make(chan error, 1)
			s := httptest.NewUnstartedServer(withPatience(hurried(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, err := io.ReadAll(r.Body)
				read <- err
			}), 200*time.Millisecond), time.Minute))
			s.EnableHTTP2 = http2
			s.StartTLS()
			defer s.Close()
			body, never := io.Pipe()
			defer never.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, body)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				if resp, err := s.Client().Do(req); err == nil {
					resp.Body.Close()
				}
			}()
			if _, err := never.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-read:
				if err == nil {
					t.Error("the body was read to its end, which never came")
				}
			case <-time.After(20 * time.Second):
				t.Error("the rest of the body is waited for")
			}
		})
	}
}

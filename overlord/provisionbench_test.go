//go:build bench

package overlord_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dominion/overlord"
	"dominion/provision"
)

// TestBudgetsCapsule prints how fast 20 nodes get a capsule of 1 GB, beside a
// plain file server of net/http, with TLS and without, on the same file, in the
// same run; servers and clients share this process and its processors. With
// -short it is 64 MB.
func TestBudgetsCapsule(t *testing.T) {
	const nodes = 20
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	s := newSite(t, func(c *overlord.ProvisionConfig) { c.Approve = overlord.ApproveRules{{MAC: "*"}} })
	s.put("vnfs/v/vnfs.img", "", 0o644)
	path := filepath.Join(s.statedir, "vnfs/v/vnfs.img")
	fill(t, path, size)
	machines := make([]*metal, nodes)
	for i := range machines {
		machines[i] = s.metal(fmt.Sprintf("52:54:00:00:02:%02X", i), fmt.Sprintf("127.0.2.%d", i+1), nil)
		machines[i].boot()
	}
	first := time.Now()
	machines[0].file(http.MethodHead, "vnfs/v/vnfs.img", nil)
	fmt.Printf("provision: digest of a capsule of %d MB, read for the first time: %v\n", size>>20, time.Since(first).Round(time.Millisecond))
	ours := all(t, machines, size, func(m *metal) (*http.Client, *http.Request) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.Address+provision.Path+"files/vnfs/v/vnfs.img", nil)
		if err != nil {
			t.Error(err)
		}
		req.Header.Set("Authorization", provision.Authorization(m.hwaddr, m.nonce))
		return m.secure, req
	})
	withTLS := all(t, machines, size, fileServer(t, filepath.Dir(path), true))
	plain := all(t, machines, size, fileServer(t, filepath.Dir(path), false))
	fmt.Printf("provision: a capsule of %d MB to %d nodes: %.0f MB/s; a plain file server with TLS %.0f MB/s (ratio %.2f), without TLS %.0f MB/s\n",
		size>>20, nodes, ours, withTLS, ours/withTLS, plain)
}

// fill makes a file of that size that is not all the same.
func fill(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	rand.Read(block)
	for range size >> 20 {
		if _, err := f.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

// all lets every machine fetch the file at once and gives MB a second together.
func all(t *testing.T, machines []*metal, size int64, request func(*metal) (*http.Client, *http.Request)) float64 {
	t.Helper()
	var wg sync.WaitGroup
	at := time.Now()
	for _, m := range machines {
		wg.Go(func() {
			client, req := request(m)
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	wg.Wait()
	return float64(size) * float64(len(machines)) / time.Since(at).Seconds() / 1e6
}

// fileServer starts the standard library's.
func fileServer(t *testing.T, dir string, withTLS bool) func(*metal) (*http.Client, *http.Request) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url, tr := "http://"+ln.Addr().String(), &http.Transport{}
	if withTLS {
		url = "https" + url[4:]
		ln = tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{selfSigned(t)}})
		tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	}
	srv := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() { tr.CloseIdleConnections(); srv.Close(); <-done })
	return func(*metal) (*http.Client, *http.Request) {
		req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, url+"/vnfs.img", bytes.NewReader(nil))
		if err != nil {
			t.Error(err)
		}
		return &http.Client{Transport: tr}, req
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

//go:build fleet

package main_test

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The README's line reads the API with curl, for operators and nobody else.
func testCurl(t *testing.T, binary string) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("SKIPPED Curl: curl is not installed")
	}
	s := startSite(t, binary, 2)
	operator := []string{"--cert", filepath.Join(s.state, "operator.crt"), "--key", filepath.Join(s.state, "operator.key")}
	minion := []string{"--cert", filepath.Join(s.dir, "m01", "certs", "overlord.crt"), "--key", filepath.Join(s.dir, "m01", "minion.key")}
	_, port, _ := strings.Cut(s.address, ":")
	list := func(host string, cert []string) (string, error) {
		return s.curl(append([]string{"-H", "Content-Type: application/json", "-d", "{}", "https://" + host + ":" + port + "/dominion.v1.FleetService/Minions"}, cert...)...)
	}
	host, err := exec.CommandContext(t.Context(), "hostname").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"localhost", "127.0.0.1", strings.TrimSpace(string(host))} {
		out, err := list(h, operator)
		if err != nil && h != "localhost" && strings.Contains(err.Error(), "Could not resolve") {
			t.Logf("%s: %v", h, err)
			continue
		}
		var doc struct {
			Minions []struct {
				Name      string
				Connected bool
			}
		}
		if jerr := json.Unmarshal([]byte(out), &doc); err != nil || jerr != nil {
			t.Fatalf("curl %s: %v, %v: %s", h, err, jerr, out)
		}
		if m := doc.Minions; len(m) != 2 || m[0].Name != "m01" || !m[0].Connected || m[1].Name != "m02" {
			t.Errorf("curl %s gives %s; want m01 and m02, connected", h, out)
		}
	}
	metrics := "https://127.0.0.1:" + port + "/metrics"
	for name, cert := range map[string][]string{"no certificate": nil, "a minion's certificate": minion} {
		out, err := list("127.0.0.1", cert)
		if err == nil || strings.Contains(out, "m02") {
			t.Errorf("with %s curl gives %v: %s; want it refused", name, err, out)
		}
		t.Logf("with %s: %v: %s", name, err, out)
		if out, err := s.curl(append([]string{metrics}, cert...)...); err == nil || strings.Contains(out, "dominion_") {
			t.Errorf("with %s /metrics gives %v: %s; want it refused", name, err, out)
		}
	}
	if out, err := s.curl(append([]string{metrics}, operator...)...); err != nil || !strings.Contains(out, "\ndominion_minions_connected 2\n") {
		t.Errorf("/metrics gives %v: %s; want dominion_minions_connected 2", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "curl", "-sS", "--max-time", "10", metrics).CombinedOutput(); err == nil {
		t.Errorf("without the root curl gives %s; want the server not believed", out)
	}
}

// curl fails as curl -f does: with the HTTP status that refuses it.
func (s *site) curl(words ...string) (string, error) {
	s.t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), "curl",
		append([]string{"-sS", "--fail-with-body", "--max-time", "20", "--cacert", filepath.Join(s.state, "ca", "root.crt")}, words...)...)
	var out, errs output
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = &curlError{errs.String(), err}
	}
	return out.String(), err
}

type curlError struct {
	text string
	err  error
}

func (e *curlError) Error() string { return strings.TrimSpace(e.text) }
func (e *curlError) Unwrap() error { return e.err }

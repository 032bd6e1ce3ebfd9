package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"dominion/fleettest"
	"dominion/overlord"
)

// cmdSite runs "site FILE": an overlord that provisions as the YAML in FILE says,
// on a port of its own. BOOT is its address for firmware.
func cmdSite(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: site FILE [STATEDIR]")
	}
	cfg, err := overlord.LoadConfig(ts.MkAbs(args[0]))
	ts.Check(err)
	cfg.Provision.Enabled, cfg.Provision.Listen = true, "127.0.0.1:0"
	if len(args) == 2 {
		cfg.Provision.Statedir = ts.MkAbs(args[1])
	}
	f := ts.Value(fleetKey{}).(*scriptFleet)
	f.Fleet = fleettest.Start(ts.Value(testKey{}).(testing.TB), cfg)
	boot, err := os.ReadFile(filepath.Join(f.State, "boot_address"))
	ts.Check(err)
	ts.Setenv("DOMINION_STATE", f.State)
	ts.Setenv("ADDR", f.Address)
	ts.Setenv("BOOT", strings.TrimSpace(string(boot)))
}

// cmdBoots runs "boots MAC FILE [ADDRESS]": a machine boots by network, from an
// address of loopback; FILE is the script that it gets.
func cmdBoots(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: boots MAC FILE [ADDRESS]")
	}
	dialer := new(net.Dialer)
	if len(args) == 3 {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(args[2])}
	}
	tr := &http.Transport{DialContext: dialer.DialContext}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://" + ts.Getenv("BOOT") + "/boot/ipxe?mac=" + args[0])
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

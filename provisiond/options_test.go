package provisiond

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseOptions(t *testing.T) {
	with := func(change func(*options)) options {
		o := options{port: defaultPort, shell: defaultShell, stateDir: defaultState, servers: []string{"dc1"}, state: "ready", args: []string{}}
		change(&o)
		return o
	}
	tests := []struct {
		line string
		want options
	}{
		{"dc1 ready", with(func(*options) {})},
		{"-i 300 dc1 ready", with(func(o *options) { o.interval = 300 * time.Second })},
		{"-dvi300 dc1 ready", with(func(o *options) { o.interval, o.debug, o.verbose = 300*time.Second, true, true })},
		{"-i 0 -r -p 99 -s cat dc1 ready", with(func(o *options) { o.random, o.port, o.shell = true, "99", "cat" })},
		{"dc1 ready a b nodeid=x -v", with(func(o *options) { o.args, o.verbose = []string{"a", "b", "nodeid=x"}, true })},
		{"dc1 -- ready -v", with(func(o *options) { o.args = []string{"-v"} })},
		{"--pin=P --state S dc1,,dc2, ready", with(func(o *options) { o.pin, o.stateDir, o.servers = "P", "S", []string{"dc1", "dc2"} })},
		{"- ready", with(func(o *options) { o.servers = []string{"-"} })},
	}
	for _, tt := range tests {
		got, err := parseOptions(strings.Fields(tt.line))
		if err != nil {
			t.Errorf("parseOptions(%q): %v", tt.line, err)
			continue
		}
		if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(options{})); d != "" {
			t.Errorf("parseOptions(%q): %s", tt.line, d)
		}
	}
	for _, line := range []string{"", "dc1", ", ready", "-x dc1 ready", "--x dc1 ready", "-i", "-i -1 dc1 ready", "-i x dc1 ready", "-p 0 dc1 ready", "-p 65536 dc1 ready", "--pin", "--help=1"} {
		if _, err := parseOptions(strings.Fields(line)); !errors.Is(err, errUsage) {
			t.Errorf("parseOptions(%q): %v; want wrong usage", line, err)
		}
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"dc1": "dc1:51235", "dc1:99": "dc1:99", "10.0.0.1": "10.0.0.1:51235", "::1": "[::1]:51235", "[::1]": "[::1]:51235", "[::1]:9": "[::1]:9",
	} {
		if got := address(in, defaultPort); got != want {
			t.Errorf("address(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestParseCmdline(t *testing.T) {
	tests := []struct {
		line string
		want kernelArgs
	}{
		{"quiet root=/dev/sda1 dominionx=1 dominion.other=2", kernelArgs{}},
		{"dominion.mac=52-54-00-AA-bb-CC dominion.pin=\"sha256:1\" dominion.server=a,b:1 dominion.nonce=ab\n", kernelArgs{pin: "sha256:1", servers: []string{"a", "b:1"}, nonce: "ab", mac: "52:54:00:aa:bb:cc"}},
		{"dominion.nonce=a dominion.nonce=b dominion.server=x dominion.server=y", kernelArgs{nonce: "b", servers: []string{"y"}}},
	}
	for _, tt := range tests {
		got, err := parseCmdline(tt.line)
		if err != nil {
			t.Errorf("parseCmdline(%q): %v", tt.line, err)
		}
		if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(kernelArgs{})); d != "" {
			t.Errorf("parseCmdline(%q): %s", tt.line, d)
		}
	}
	for _, line := range []string{"dominion.mac=x", "dominion.mac=00:11:22:33:44:55:66:77", "dominion.nonce=", "dominion.nonce=a;b", strings.Repeat("x", maxCmdline+1), "dominion.server=" + strings.Repeat("a,", 17)} {
		if _, err := parseCmdline(line); !errors.Is(err, errCmdline) {
			t.Errorf("parseCmdline(%.60q): %v; want an error", line, err)
		}
	}
}

//go:build fleet

package main_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dominion/fleettest"
)

// Configuration that does not hold is refused with line and key, and by the
// daemons as by config check.
func testBadConfiguration(t *testing.T, binary string) {
	s := newSite(t, binary)
	u := s.user("admin")
	overlord := s.write("overlord.yaml", "name: dc1\n# two\nlisten: 127.0.0.1:0\nlissten: 127.0.0.1:1\n")
	minion := s.write("minion.yaml", "name: web1\npinn: sha256:00\n")
	pin := "sha256:" + strings.Repeat("ab", 32)
	state := []string{"--state", filepath.Join(s.dir, "state")}
	daemon := func(words ...string) []string { return append(words, state...) }
	for _, words := range [][]string{{"config", "check", overlord}, daemon("overlord", "--config", overlord)} {
		u.run(words...).exits(2).silent().tells(overlord+":4: ", `"lissten"`, "listen")
	}
	for _, words := range [][]string{{"config", "check", minion}, daemon("minion", "--config", minion)} {
		u.run(words...).exits(2).silent().tells(minion+":2: ", `"pinn"`, "token_file")
	}
	for _, x := range []struct{ text, says string }{
		{"listen: nowhere\n", `listen: "nowhere" is not host:port`},
		{"grace: soon\n", `:1: `},
		{"max_jobs: -1\n", "max_jobs: -1"},
		{"log_level: loud\n", `log_level: "loud"`},
		{"metrics_listen: 10.0.0.1:9100\n", "metrics_listen"},
		{"autosign:\n  - names: 'a'\n    networks: [nowhere]\n", "nowhere"},
		{"autosign:\n  - name: 'a'\n", `:2: `},
		{"listen: [\n", "overlord.yaml:"},
		{"--- \n---\nname: x\n", "second document"},
	} {
		f := s.write("overlord.yaml", x.text)
		u.run("config", "check", f).exits(2).tells(x.says)
		u.run(daemon("overlord", "--config", f)...).exits(2).tells(x.says)
	}
	missing := filepath.Join(s.dir, "missing.yaml")
	u.run("config", "check", "--kind", "overlord", missing).exits(1).tells(missing, "no such file")
	u.run(daemon("overlord", "--config", missing)...).exits(1).tells(missing, "no such file")
	u.run(daemon("minion", "--config", missing)...).exits(1).tells(missing, "no such file")
	u.run("config", "check", "--kind", "minion", s.write("good.yaml", "name: web1\noverlords: [dc1]\npin: "+pin+"\n")).exits(0).prints("good.yaml: good")

	for _, words := range [][]string{
		{"overlord", "--listen", "nowhere"},
		{"overlord", "extra"},
		{"overlord", "--autosign", "a["},
		{"overlord", "--name", "../x"},
		{"minion", "--overlord", "127.0.0.1:1", "--pin", "short"},
		{"minion", "--pin", pin},
		{"minion", "--overlord", "a b", "--pin", pin},
		{"minion", "--overlord", "127.0.0.1:1", "--pin", pin, "--token-file", "-"},
	} {
		u.run(daemon(append(words, "--config", s.config)...)...).exits(2).silent()
	}
}

// Words that do not fit are refused before anything is sent.
func testBadWords(t *testing.T, binary string) {
	s := startSite(t, binary, 1)
	before := s.status().LogSize
	for _, x := range []struct {
		words []string
		says  string
	}{
		{[]string{"call", "m01", "test.add", "1", "two"}, "two"},
		{[]string{"call", "m01", "test.add", "a=1", "b=[]"}, "b"},
		{[]string{"call", "m01", "test.add", "1", "2", "3"}, "3"},
		{[]string{"call", "m01", "test.sleep", "long"}, "long"},
		{[]string{"call", "m01", "test.add", "--args", "{"}, "JSON"},
		{[]string{"call", "m01", "test.add", "--args", "@nosuch"}, "no such file"},
		{[]string{"call", "m01", "test.add", "--args", `{"a":1,"b":2,"c":3}`}, "c"},
		{[]string{"call", "m01", "test.nosuch"}, "test.nosuch"},
		{[]string{"call", "m01", "nosuch"}, "nosuch"},
		{[]string{"call", "m01"}, "method"},
		{[]string{"call", "m0[", "test.ping"}, "m0["},
		{[]string{"call", "m01", "test.ping", "--timeout", "soon"}, "soon"},
		{[]string{"call", "m01", "test.ping", "--timeout", "-1s"}, "-1s"},
		{[]string{"call", "m01", "test.ping", "--timeout", "5"}, "5"},
		{[]string{"ping", "m01", "--timeout", "0"}, "--timeout"},
		{[]string{"call", "m01", "test.ping", "-o", "xml"}, "xml"},
		{[]string{"call", "m01", "test.ping", "--limit", "-1"}, "--limit"},
		{[]string{"run", "m01"}, "command"},
		{[]string{"run", "m01", "--stdin", "nosuch", "--", "cat"}, "no such file"},
		{[]string{"run", "m01", "--env", "X", "--", "true"}, "KEY=VALUE"},
		{[]string{"token", "create"}, "--name"},
		{[]string{"token", "create", "--name", "x", "--for", "-1h"}, "--for"},
		{[]string{"login", "--overlord", s.address, "--pin", s.pin, "--token-file", "nosuch", "alice"}, "no such file"},
		{[]string{"nosuch"}, "nosuch"},
		{[]string{"call", "m01", "test.ping", "--nosuch"}, "--nosuch"},
	} {
		s.root.run(x.words...).exits(2).silent().tells(x.says)
	}
	if after := s.status().LogSize; after != before {
		t.Errorf("the audit log grew from %d to %d records; want nothing sent", before, after)
	}
	nowhere := s.user("nowhere", "DOMINION_STATE="+filepath.Join(s.dir, "nowhere"))
	nowhere.run("ping", "m01").exits(1).silent().tells("nowhere")

	// What a machine writes does not reach the terminal as it is.
	for _, words := range [][]string{
		{"run", "m01", "--", "printf", `\033]0;owned\007\033[31mred\r\n`},
		{"run", "m01", "--fold=false", "--", "printf", `\033]0;owned\007\033[31mred\r\n`},
		{"run", "m01", "-o", "json", "--", "printf", `\033]0;owned\007\033[31mred\r\n`},
		{"call", "m01", "test.echo", "\x1b[31mred\x07"},
		{"call", "m01", "test.fail", "\x1b[31mred\x07"},
	} {
		c := s.root.run(words...)
		if strings.ContainsAny(c.out.String()+c.err.String(), "\x1b\x07\r") || !strings.Contains(c.out.String()+c.err.String(), "red") {
			t.Errorf("%q prints %q and %q; want the text with its escapes made visible", words, c.out, c.err)
		}
	}
	if c := s.root.run("run", "m01", "--raw", "--", "printf", `\033[31m`).exits(0); c.out.String() != "\x1b[31m" {
		t.Errorf("--raw prints %q; want the bytes as they are", c.out)
	}
}

// Two daemons on one state directory, another name, and a policy that does not
// hold.
func testBadState(t *testing.T, binary string) {
	s := startSite(t, binary, 1)
	s.root.run("overlord", "--state", s.state, "--listen", "127.0.0.1:0", "--config", s.config).exits(1).tells(s.state, "in use by another process")
	s.root.run("minion", "--state", filepath.Join(s.dir, "m01"), "--name", "m01", "--overlord", s.address, "--pin", s.pin, "--config", s.config).
		exits(1).tells("m01", "in use by another process")
	other := filepath.Join(s.dir, "other")
	s.root.run("overlord", "--state", other, "--listen", s.address, "--config", s.config).exits(1).tells("address already in use")

	// The name is fixed by the first start; it need not be said again.
	s.overlord.stop()
	s.root.run("overlord", "--state", s.state, "--name", "other", "--listen", s.address, "--config", s.config).
		exits(1).tells(`name: this overlord is "overlord"`, `it cannot become "other"`)
	s.unnamed = true
	s.up()
	s.await(1)
	s.root.run("status", "-o", "json").exits(0).prints(`"name": "overlord"`)

	alice := s.login("alice")
	alice.run("call", "m01", "test.ping").exits(0)
	policy := filepath.Join("overlord", "policy.yaml")
	s.write(policy, "- {operators: alice, methods: 'test.*', targets: '*'}\n")
	s.hangup(`"msg":"configuration read again"`)
	alice.run("run", "m01", "--", "true").exits(1).tells("denied", "alice", "command.run")
	alice.run("call", "m01", "test.ping").exits(0)

	s.write(policy, "- {operators: alice, methods: 'test.*', target: '*'}\n")
	s.hangup("what was in force stays")
	alice.run("run", "m01", "--", "true").exits(1).tells("denied")
	alice.run("call", "m01", "test.ping").exits(0)
	alice.run("token", "create", "--name", "x").exits(1).tells("denied")

	s.overlord.stop()
	second := s.root.run("overlord", "--state", s.state, "--listen", s.address, "--config", s.config)
	second.exits(1).tells("policy.yaml", "line 1", `"target"`)
	s.write(policy, "[]\n")
	s.up()
	s.await(1)
	alice.run("call", "m01", "test.ping").exits(1).tells("denied")
	s.root.run("call", "m01", "test.ping").exits(0)
}

// hangup sends SIGHUP to the overlord and waits for what it says once more.
func (s *site) hangup(says string) {
	s.t.Helper()
	before := strings.Count(s.overlord.said(), says)
	s.overlord.signal(syscall.SIGHUP)
	fleettest.Until(s.t, "SIGHUP is answered with "+says, func() bool { return strings.Count(s.overlord.said(), says) > before })
}

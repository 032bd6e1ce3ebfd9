//go:build fleet

package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dominion/fleettest"
)

// funcPython calls a machine with Python's own xmlrpc.client, as docs/func.md says; only
// the machine's address is given, because there is no DNS here.
const funcPython = `
import http.client, ssl, sys, xmlrpc.client as x
addr, name, home = sys.argv[1:4]
class Connection(http.client.HTTPSConnection):
    def connect(self):
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=name)
class Transport(x.SafeTransport):
    def make_connection(self, host):
        if not self._connection[1]: self._connection = host, Connection(host, context=self.context)
        return self._connection[1]
context = ssl.create_default_context(cafile=home + "/root.crt")
context.load_cert_chain(home + "/cert.pem", home + "/key.pem")
s = x.ServerProxy("https://" + addr, transport=Transport(context=context), allow_none=True)
`

// A program of a site that ran Func calls a machine, on the port on which the overlord
// dials it; what it did is on both logs, also when the machine was killed meanwhile.
func testFuncFace(t *testing.T, binary string) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED FuncFace: python3 is not installed")
	}
	s := newSite(t, binary)
	s.up("--autosign", "m*")
	port, acl := fleettest.FreePort(t), filepath.Join(s.dir, "acl")
	if err := os.Mkdir(acl, 0o700); err != nil {
		t.Fatal(err)
	}
	s.write("acl/site.acl", "operator/al* = test.*, jobs.*\n")
	config := s.write("minion.yaml", fmt.Sprintf("listen: '%s'\nfunc: {enabled: true, acl_dir: %s}\n", port, acl))
	s.root.run("config", "check", config).exits(0).prints("good")
	m := s.minion("m01", "--config", config)
	s.await(1)
	m.stop()
	s.await(0)
	s.root.run("minions", "set", "m01", "address="+port).exits(0)
	m = s.agent("m01", "--config", config)
	s.await(1) // the overlord dials

	alice := s.user("alice", "DOMINION_TOKEN="+strings.TrimSpace(s.root.run("operator", "add", "alice").exits(0).out.String()))
	alice.run("login", "--overlord", s.address, "--pin", s.pin, "alice").exits(0)
	python := func(program, want string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "python3", "-c", funcPython+program, port, "m01", filepath.Join(alice.home, ".config/dominion/alice"))
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("python: %v\n%s\nwant %s", err, out, want)
		}
	}
	python(`print(s.test.add("foo", "bar"))
try: s.system.listMethods()
except x.Fault as f: print(f.faultString)
id = s.__getattr__("async").test.sleep(600)
print(s.jobs.job_status(id))`, "foobar\n<class 'func.minion.codes.AccessToMethodDenied'>:\n[0, -1]")
	s.root.run("call", "m01", "test.ping").exits(0) // sessions are as ever
	s.until("the overlord's log has the calls", func() bool {
		return strings.Count(s.root.run("audit", "list", "--actor", "minion/m01").exits(0).out.String(), " func.") == 4
	})
	s.root.run("audit", "list", "--action", "func.call").exits(0).prints("minion/m01", "operator/alice from 127.0.0.1:", "called test.add", "called test.sleep")
	s.root.run("audit", "list", "--action", "func.denied").exits(0).prints("called system.listMethods: denied")

	m.kill()
	s.await(0)
	m = s.agent("m01", "--config", config)
	s.await(1)
	python(`print(s.jobs.job_status("1.5-minion"), s.test.ping())`, "[2, 0] 1")
	s.until("the overlord's log has the last call", func() bool {
		return strings.Contains(s.root.run("audit", "list", "--action", "func.result").exits(0).out.String(), "test.ping: ok")
	})
	if out := s.root.run("audit", "list", "--action", "func.result").exits(0).out.String(); strings.Contains(out, "test.sleep") || strings.Count(out, "\n") != 2 {
		t.Errorf("the results of calls are\n%s\nwant those of test.add and test.ping", out)
	}
	s.root.run("audit", "verify", "--fleet").exits(0)
	m.stop()
}

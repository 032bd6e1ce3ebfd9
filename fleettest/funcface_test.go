package fleettest_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/fleettest"
	"dominion/minion"
)

// python calls a machine with Python's own client: s is a proxy with a certificate.
const python = `
import http.client, ssl, sys, xmlrpc.client as x
addr, name, ca, cert = sys.argv[1:5]
class Connection(http.client.HTTPSConnection):
    def connect(self):  # there is no DNS here: the name is checked, the address given
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=name)
class Transport(x.SafeTransport):
    def make_connection(self, host):
        if not self._connection[1]: self._connection = host, Connection(host, context=self.context)
        return self._connection[1]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert)
s = x.ServerProxy("https://" + addr, transport=Transport(context=context), allow_none=True)
`

// funcMachine is a minion with a Func face, and who calls it.
type funcMachine struct {
	t    *testing.T
	f    *fleettest.Fleet
	m    *fleettest.Minion
	cfg  minion.Config
	acl  string
	cert string // of the operator of this host
}

func newFuncMachine(t *testing.T, override bool) *funcMachine {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED: python3 is not installed")
	}
	f := fleettest.Start(t, fleettest.Config())
	dir := t.TempDir()
	m := &funcMachine{t: t, f: f, acl: filepath.Join(dir, "acl"), cert: filepath.Join(dir, "operator.pem")}
	if err := os.Mkdir(m.acl, 0o700); err != nil {
		t.Fatal(err)
	}
	m.write(filepath.Join(m.acl, "a.acl"), []byte("operator/* = test.*, facts.*, system.*, jobs.*\n"))
	m.join(m.cert, "operator.crt", "operator.key")
	m.cfg = minion.Config{
		State: filepath.Join(dir, "m01"), Listen: fleettest.FreePort(t), Overlords: []string{f.Address},
		Func: minion.Func{Enabled: true, ACLDir: m.acl, OverlordOverride: override},
	}
	m.m = f.Enrol("m01", m.cfg)
	f.Await(1)
	return m
}

func (m *funcMachine) write(path string, b []byte) {
	m.t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// join writes files of the overlord's state into one.
func (m *funcMachine) join(path string, files ...string) {
	m.t.Helper()
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(m.f.State, f))
		if err != nil {
			m.t.Fatal(err)
		}
		all = append(all, b...)
	}
	m.write(path, all)
}

func (m *funcMachine) try(cert, program string) (string, error) {
	cmd := exec.CommandContext(m.t.Context(), "python3", "-c", python+program, m.cfg.Listen, "m01", filepath.Join(m.cfg.State, "root.crt"), cert)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *funcMachine) python(program, want string) {
	m.t.Helper()
	if out, err := m.try(m.cert, program); err != nil || out != want {
		m.t.Errorf("python: %v\n%s\nwant %s", err, out, want)
	}
}

// audited gives the overlord's records of calls on the machine.
func (m *funcMachine) audited(ctx context.Context) []*auditpb.Record {
	m.t.Helper()
	stream, err := m.f.Conn.Audit.List(ctx, connect.NewRequest(&apipb.AuditListRequest{Actor: "minion/m01"}))
	if err != nil {
		m.t.Fatal(err)
	}
	defer stream.Close()
	var out []*auditpb.Record
	for stream.Receive() {
		r, err := audit.Decode(stream.Msg().GetBody())
		if err != nil {
			m.t.Fatal(err)
		}
		if strings.HasPrefix(r.Action, "func.") {
			out = append(out, r)
		}
	}
	if err := stream.Err(); err != nil {
		m.t.Fatal(err)
	}
	return out
}

// Programs call a machine, the machine's log has it before the call runs, and the
// overlord's log gets it once, also what was called while the overlord was away.
func TestFuncFaceIsAudited(t *testing.T) {
	m := newFuncMachine(t, false)
	m.python(`print(s.test.add(1, 2), s.test.explode()[0], s.facts.all()["agent_version"], "test.fail" in s.system.listMethods())
try: s.command.run(["id"])
except x.Fault as f: print(f.faultString)`, "3 REMOTE_ERROR devel True\n<class 'func.minion.codes.AccessToMethodDenied'>:")
	kinds := func() string {
		var out []string
		for _, r := range m.audited(t.Context()) {
			d, err := audit.DecodeMinion(r.MinionLeaf)
			if err != nil || sha256.Sum256(r.MinionLeaf) != [32]byte(r.Digest) || r.MinionIndex != int64(len(out)) ||
				!strings.HasPrefix(d.Caller, "operator/") || !strings.HasPrefix(d.Address, "127.0.0.1:") {
				t.Errorf("record %v: %v, %v", r, d, err)
			}
			out = append(out, strings.TrimPrefix(r.Action, "func.")+" "+d.Method)
		}
		return strings.Join(out, ", ")
	}
	const first = "call test.add, result test.add, call test.explode, result test.explode, call facts.all, result facts.all, call system.listMethods, denied command.run"
	m.f.Until("the overlord's log has the calls", func() bool { return kinds() == first })
	if d := m.audited(t.Context())[3].Detail; !strings.Contains(d, "called test.explode: failed: exceptions.Exception: khhhhhhaaaaaan!!!!!!, at 20") {
		t.Errorf("detail %q", d)
	}

	m.f.Down()
	m.python(`print(s.test.ping(), s.test.echo([None]))`, "1 [None]")
	if err := m.m.Stop(); err != nil {
		t.Fatal(err)
	}
	m.m = m.f.Enrol("m01", m.cfg) // its log, not its memory, knows what is to be told
	m.f.Up()
	const second = first + ", call test.ping, result test.ping, call test.echo, result test.echo"
	m.f.Until("the overlord's log has the calls of the meantime", func() bool { return kinds() == second })
	m.python(`print(s.test.ping())`, "1")
	m.f.Until("the overlord's log has the last", func() bool { return kinds() == second+", call test.ping, result test.ping" })
}

// A revoked operator's connection ends, and the overlord may call everything only
// when the machine says so.
func TestFuncFaceRevocationAndOverride(t *testing.T) {
	for _, override := range []bool{false, true} {
		t.Run(fmt.Sprint(override), func(t *testing.T) {
			m := newFuncMachine(t, override)
			overlord := filepath.Join(filepath.Dir(m.cert), "overlord.pem")
			m.join(overlord, "tls.crt", "tls.key")
			out, err := m.try(overlord, `print(s.test.ping())`)
			if override && (err != nil || out != "1") || !override && !strings.HasSuffix(out, "<class 'func.minion.codes.AccessToMethodDenied'>:\">") {
				t.Errorf("the overlord called: %v, %s", err, out)
			}
			if override {
				return
			}
			// Another machine calls, with the files that its agent has.
			m.write(filepath.Join(m.acl, "m02.acl"), []byte("minion/m02 = test.*\n"))
			caller := m.f.Enrol("m02", minion.Config{})
			m.f.Await(2)
			var pem []byte
			for _, f := range []string{"certs/overlord.crt", "minion.key"} {
				b, err := os.ReadFile(filepath.Join(caller.State, f))
				if err != nil {
					t.Fatal(err)
				}
				pem = append(pem, b...)
			}
			m.write(filepath.Join(m.acl, "m02.pem"), pem)
			cmd := exec.CommandContext(t.Context(), "python3", "-c", python+`
print(s.test.ping(), flush=True)
sys.stdin.readline()
c = s("transport")._connection[1]
c.sock.settimeout(2)
try: print("cut" if c.sock.recv(1) == b"" else "?")
except (ConnectionError, ssl.SSLError): print("cut")
try: print(s.test.ping())
except Exception as e: print("refused")
`, m.cfg.Listen, "m01", filepath.Join(m.cfg.State, "root.crt"), filepath.Join(m.acl, "m02.pem"))
			in, _ := cmd.StdinPipe()
			var said strings.Builder
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			m.f.Until("the call is on the overlord's log", func() bool {
				all := m.audited(t.Context())
				return len(all) > 1 && strings.HasPrefix(all[len(all)-1].Detail, "minion/m02 called test.ping: ok, at ")
			})
			if _, err := m.f.Conn.Admin.RevokeCert(t.Context(), connect.NewRequest(&apipb.RevokeCertRequest{Name: "m02", Reason: "stolen"})); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(in)
			if err := cmd.Wait(); err != nil || said.String() != "1\ncut\nrefused\n" {
				t.Errorf("python: %v\n%s", err, said.String())
			}
		})
	}
}

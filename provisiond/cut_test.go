package provisiond

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
	"dominion/minion"
)

// While connections to a real overlord are cut everywhere, in the middle of TLS
// records and between them, a script runs whole or not at all, and files arrive
// as they are.
func TestCuts(t *testing.T) {
	files := t.TempDir()
	big := bytes.Repeat([]byte("all of it or nothing\n"), 20_000)
	text := "#!/bin/sh\necho 'echo begin >>$DIR/runs'\nyes '# a line that does nothing' | head -n 4000\necho 'cd $DIR && rm -f big && getfile big && echo end >>$DIR/runs'\n"
	for name, content := range map[string][]byte{"nodescripts/ready/all/10-a": []byte(text), "big": big} {
		name = filepath.Join(files, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cfg := fleettest.Config()
	cfg.Provision.Enabled, cfg.Provision.Statedir, cfg.Provision.Listen = true, files, "127.0.0.1:0"
	f := fleettest.Start(t, cfg)
	if _, err := f.Conn.Nodes.AddNode(t.Context(), connect.NewRequest(&apipb.AddNodeRequest{Hwaddr: testMAC, Name: "m01"})); err != nil {
		t.Fatal(err)
	}
	state := f.Enrol("m01", minion.Config{}).State
	f.Await(1)
	w := &world{t: t, dir: t.TempDir(), macs: []string{testMAC}}
	proxy := fleettest.NewProxy(t, f.Address, 1)
	whole := 0
	for round := range 12 {
		// A handshake takes 5 to 7 records, the script some 8 after it, the file 27.
		proxy.CutAfter(4, 16+2*round)
		o := w.boot("", "-v", "--state", state, proxy.Address(), "ready")
		switch runs := w.runs(); {
		case o.exit == 0 && runs == "begin\nend\n":
			if got := w.read(filepath.Join(w.dir, "big")); got != string(big) {
				t.Fatalf("round %d: the file has %d bytes, or others; want %d", round, len(got), len(big))
			}
			whole++
		case o.exit == exitNoScript && runs == "": // it never arrived
		case o.exit == 1 && runs == "begin\n" && strings.Contains(o.errors, "getfile: big: "): // the file did not, ten times
		default:
			t.Fatalf("round %d: exit %d, the script left %q, %s", round, o.exit, runs, o.errors)
		}
		if err := os.RemoveAll(filepath.Join(w.dir, "runs")); err != nil {
			t.Fatal(err)
		}
	}
	if proxy.Cuts() < 12 || whole == 0 {
		t.Errorf("%d connections were cut, and %d of 12 scripts ran whole", proxy.Cuts(), whole)
	}
	t.Logf("%d connections cut, %d of 12 scripts ran whole", proxy.Cuts(), whole)
}

// runs is what a script left in the file of that name.
func (w *world) runs() string {
	b, err := os.ReadFile(filepath.Join(w.dir, "runs"))
	if err != nil {
		return ""
	}
	return string(b)
}

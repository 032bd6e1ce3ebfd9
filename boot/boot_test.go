//go:build boottest

package boot_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/client"
)

// bootTime is how long a machine may take from its power button to its answer,
// in software emulation on a machine that does other things.
const bootTime = 4 * time.Minute

// From a bare machine to an answer: two virtual machines without disks boot by
// iPXE from a real overlord, run init, fetch a capsule with getfile, become that
// system, and their minions enrol and answer. One is known before; the other is
// held at its first contact, and goes on by itself when it is approved.
func TestBoot(t *testing.T) {
	if !inside(t) {
		return
	}
	l := newLab(t)
	root, err := filepath.Abs(kernelRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(l.files, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.capsule("deb")
	l.run(l.binary, "boot", "build-initramfs", filepath.Join(l.files, "boot/initramfs"), "--root", root, "--copy-kernel", filepath.Join(l.files, "boot/kernel"))
	l.run(l.binary, "nodescript", "install", "--statedir", l.files)
	if err := os.CopyFS(filepath.Join(l.files, "nodescripts/init"), os.DirFS("../examples/nodescripts/init")); err != nil {
		t.Fatal(err)
	}
	l.overlord()
	l.dnsmasq()
	conn, err := client.Dial(t.Context(), client.Endpoint{State: l.state})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Nodes.AddNode(t.Context(), connect.NewRequest(&apipb.AddNodeRequest{Hwaddr: "52:54:00:00:00:01", Name: "n0001", Vnfs: "deb"})); err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	l.machine("tap1", "52:54:00:00:00:01")
	l.answers("n0001", began)

	began = time.Now()
	l.machine("tap2", "52:54:00:00:00:02")
	var held string
	l.await("the unknown machine to be held", bootTime, func() bool {
		resp, err := conn.Nodes.Nodes(t.Context(), connect.NewRequest(&apipb.NodesRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range resp.Msg.Nodes {
			if strings.EqualFold(n.Hwaddr, "52:54:00:00:00:02") && n.ApprovedMs == 0 {
				held = n.Name
			}
		}
		return held != ""
	})
	if _, err := conn.Nodes.SetNodes(t.Context(), connect.NewRequest(&apipb.SetNodesRequest{Target: held, Vnfs: new("deb")})); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Nodes.ApproveNodes(t.Context(), connect.NewRequest(&apipb.ApproveNodesRequest{Target: held})); err != nil {
		t.Fatal(err)
	}
	l.answers(held, began)
	l.audited("n0001", held)
}

// answers waits until a machine's minion answers a call, and says how long that took.
func (l *lab) answers(name string, began time.Time) {
	l.t.Helper()
	l.await(name+" to answer a call", bootTime, func() bool {
		_, err := l.try(l.binary, "--state", l.state, "call", name, "test.ping")
		return err == nil
	})
	took := time.Since(began)
	if got := strings.TrimSpace(l.dominion("run", "-o", "jsonl", name, "--", "hostname")); !strings.Contains(got, `"stdout":"`+name+`\n"`) {
		l.t.Errorf("hostname on %s gives %s", name, got)
	}
	l.t.Logf("%s answers a call %.1f s after its power button", name, took.Seconds())
}

// step is a record of the audit log.
type step struct {
	Time    time.Time `json:"time"`
	Action  string    `json:"action"`
	Subject string    `json:"subject"`
	Detail  string    `json:"detail"`
}

// audited looks for each step of a boot in the audit log, and prints when it was.
func (l *lab) audited(nodes ...string) {
	l.t.Helper()
	var steps []step
	for line := range strings.Lines(l.dominion("audit", "list", "-o", "jsonl")) {
		var r step
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			l.t.Fatalf("%v: %s", err, line)
		}
		steps = append(steps, r)
	}
	slices.SortStableFunc(steps, func(a, b step) int { return a.Time.Compare(b.Time) })
	for _, node := range nodes {
		var booted time.Time
		var seen []string
		for _, r := range steps {
			if r.Subject != node && !strings.HasSuffix(r.Subject, "/"+node) {
				continue
			}
			if r.Action == "node.boot" {
				booted = r.Time
			}
			seen = append(seen, r.Action)
			if !booted.IsZero() {
				l.t.Logf("%s %+5.1f s %-12s %.100s", node, r.Time.Sub(booted).Seconds(), r.Action, r.Detail)
			}
		}
		for _, want := range []string{"node.boot", "node.script", "node.join", "node.file", "node.result"} {
			if !slices.Contains(seen, want) {
				l.t.Errorf("the audit log has no %s of %s; it has %v", want, node, seen)
			}
		}
	}
}

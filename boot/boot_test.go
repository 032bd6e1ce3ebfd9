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
)

// bootTime is how long a machine may take from its power button to its answer,
// in software emulation on a machine that does other things.
const bootTime = 4 * time.Minute

// failsOnce is a node script that ends the first boot of its node with a failure.
const failsOnce = `#!/bin/sh
if [ ! -e "${STATEDIR}failed-$NODENAME" ]; then
	touch "${STATEDIR}failed-$NODENAME"
	echo 'fail "on purpose"'
fi
`

const readyScript = `#!/bin/sh
echo 'cd /tmp && getfile greeting && cat greeting'
`

// From a bare machine to an answer: virtual machines boot by iPXE from a real
// overlord, run init, fetch a capsule with getfile, become that system, and their
// minions enrol and answer. One is known before. One is held at its first contact,
// and goes on by itself when it is approved; its script fails once, and it starts
// again. One boots from its own disk. One has UEFI and no iPXE, which it loads by TFTP.
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
	l.write(filepath.Join(l.files, "nodescripts/init/group/clumsy/10-fails"), failsOnce, 0o755)
	l.write(filepath.Join(l.files, "nodescripts/ready/all/10-file"), readyScript, 0o755)
	l.write(filepath.Join(l.files, "greeting"), "hello\n", 0o644)
	l.overlord()
	l.dominion("node", "add", "52:54:00:00:00:01", "n0001", "--vnfs", "deb")
	l.dominion("node", "add", "52:54:00:00:00:03", "n0003")
	l.dominion("node", "set", "n0003", "boot", "local")
	l.dominion("node", "add", "52:54:00:00:00:04", "n0004", "--vnfs", "deb")
	l.dnsmasq()

	began := time.Now()
	l.machine("tap1", "52:54:00:00:00:01", "")
	l.answers("n0001", began)
	l.ready("n0001")

	began = time.Now()
	l.machine("tap2", "52:54:00:00:00:02", "")
	l.uefi("tap4", "52:54:00:00:00:04")
	local := l.machine("tap3", "52:54:00:00:00:03", l.disk("the local disk boots\n"))
	held := ""
	l.await("the unknown machine to be held", bootTime, func() bool {
		for _, n := range l.nodes() {
			if strings.EqualFold(n.HWAddr, "52:54:00:00:00:02") && n.Approved == nil {
				held = n.Name
			}
		}
		return held != ""
	})
	l.dominion("node", "set", held, "vnfs=deb", "group=clumsy")
	l.dominion("node", "approve", held)
	l.answers(held, began)
	l.await("the machine with a disk to boot from that", bootTime, func() bool { return l.printed(local, "the local disk boots") })
	l.answers("n0004", began)
	l.audited("n0001", held, "n0004")
}

// node is what the overlord says of one.
type node struct {
	Name     string     `json:"name"`
	HWAddr   string     `json:"hwaddr"`
	Approved *time.Time `json:"approved"`
}

func (l *lab) nodes() []node {
	l.t.Helper()
	var nodes []node
	for line := range strings.Lines(l.dominion("node", "show", "-o", "jsonl")) {
		var n node
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			l.t.Fatalf("%v: %s", err, line)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// ready has a machine ask for its script in state ready, with the certificate of
// its minion.
func (l *lab) ready(name string) {
	l.t.Helper()
	out := l.dominion("run", "-o", "jsonl", name, "--", "dominion", "provisiond", "-v", master, "ready")
	if !strings.Contains(out, `"exit":0`) || !strings.Contains(out, `"stdout":"hello\n"`) {
		l.t.Errorf("in state ready %s gives %s", name, out)
	}
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
	for line := range strings.Lines(l.dominion("audit", "list", "--limit", "1000", "-o", "jsonl")) {
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

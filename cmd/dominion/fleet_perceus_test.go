//go:build fleet

package main_test

import (
	"os"
	"path/filepath"
	"testing"
)

// Called by the name of an older program, which dominion links makes, it is that
// program; the overlord admits and records what is done as ever. A group is one thing
// for nodes and machines.
func testPerceus(t *testing.T, binary string) {
	s := newSite(t, binary)
	config := s.write("overlord.yaml", "provision: {enabled: true, listen: '127.0.0.1:0'}\n")
	s.up("--config", config, "--autosign", "m*")
	s.minion("m01")
	s.await(1)
	bin := filepath.Join(s.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	s.root.run("links", bin).exits(0).prints("perceus ", "provisiond ", "func-build-map ").tells("does not answer yet to: func ")
	as := func(u *user) *user {
		perceus := *u
		perceus.binary = filepath.Join(bin, "perceus")
		return &perceus
	}
	root, alice := as(s.root), s.login("alice")
	root.run("node", "add", "52:54:00:00:00:01", "m01").exits(0).prints("Node 'm01' has been added to Perceus\n")
	root.run("node", "add", "52:54:00:00:00:02", "n1").exits(0)
	as(alice).run("-y", "node", "set", "group", "web", "*").exits(0).prints("'2' nodes set group='web'\n")
	as(alice).run("group", "nodelist").exits(0).prints("web:\n   m01\n   n1\n")

	// The machine answers under its node's group, and the node that has none is named.
	s.root.run("ping", "@web").exits(3).prints("m01").tells("n1: unknown name")
	s.root.run("group", "add", "rack", "m01,n1").exits(0)
	root.run("-y", "node", "delete", "*").exits(0).prints("'2' nodes have been deleted\n")
	s.root.run("group", "show", "web", "-o", "jsonl").exits(0).prints(`{"name":"web","members":"m01","count":1}`)
	s.root.run("group", "show", "rack", "-o", "jsonl").exits(0).prints(`{"name":"rack","members":"m01","count":1}`)
	s.root.run("ping", "@web").exits(0).prints("m01")

	// Who may not is told so, and is on the audit log.
	s.write(filepath.Join("overlord", "policy.yaml"), "- {operators: alice, methods: node.set, targets: '*'}\n")
	s.hangup("policy")
	root.run("node", "add", "52:54:00:00:00:02", "n1").exits(0)
	as(alice).run("-y", "node", "delete", "n1").exits(1).prints("Are you sure you wish to delete 1 nodes from Perceus?").tells("ERROR: ", "node.delete")
	as(alice).run("-y", "node", "set", "debug", "1", "n1").exits(0).prints("'1' nodes set debug='1'\n")
	s.root.run("audit", "list", "--action", "denied").exits(0).prints("operator/alice", "node.delete")
	provisiond := *alice
	provisiond.binary = filepath.Join(bin, "provisiond")
	provisiond.run("-h").exits(0)
	provisiond.run().exits(1).tells("usage: provisiond")
}

//go:build fleet

package main_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dominion/fleettest"
	"dominion/target"
)

// treeSite is the view of one overlord of a tree that tests of single sites have.
func treeSite(t *testing.T, binary string, n *fleettest.TreeNode, pin string) *site {
	t.Helper()
	s := newSite(t, binary)
	s.state, s.address, s.pin, s.conn = n.State, n.Address, pin, n.Conn
	s.root = s.user("root", "DOMINION_STATE="+s.state)
	return s
}

// TestFleetTree: a top, three overlords below it, three below each of these, and
// four machines below each of the lowest.
func TestFleetTree(t *testing.T) {
	binary := program(t)
	tr := fleettest.NewTree(t, fleettest.TreeConfig{Binary: binary, Levels: []int{3, 3}, Machines: 4})
	overlords, machines := tr.Resident()
	t.Logf("resident: overlords %d MB each, machines %d MB each\n%s", overlords>>20/13, machines>>20/36, tr.Timing())
	top := treeSite(t, binary, tr.Top, tr.Pin)
	alice := top.login("alice")
	for _, x := range []struct {
		name string
		test func(t *testing.T, tr *fleettest.Tree, alice *user)
	}{
		{"Levels", treeLevels},
	} {
		t.Run(x.name, func(t *testing.T) { x.test(t, tr, alice.of(t)) })
	}
}

// of is the user in another test.
func (u *user) of(t *testing.T) *user {
	v := *u
	v.t = t
	return &v
}

func names(nodes []*fleettest.TreeNode) (list []string) {
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	slices.Sort(list)
	return list
}

// Each overlord sees what is directly below it, and an order given to it reaches
// just that.
func treeLevels(t *testing.T, tr *fleettest.Tree, alice *user) {
	for _, n := range tr.Overlords() {
		below := names(n.Below)
		if got := n.Connected(); !slices.Equal(got, below) {
			t.Errorf("%s holds %q; want %q", n.Name, got, below)
		}
		folded := target.Fold(below)
		alice.run("call", "*", "test.ping", "--context", "alice", "--overlord", n.Address).exits(0).prints(fmt.Sprintf("%s (%d): ok: true", folded, len(below)))
	}
	for _, n := range tr.Machines() {
		if len(n.OwnLog()) != 1 {
			t.Errorf("%s has %d records in its own log; want one", n.Name, len(n.OwnLog()))
		}
	}
	c := alice.run("minions", "--context", "alice", "--overlord", tr.Top.Address).exits(0)
	for _, n := range tr.Top.Below {
		if !strings.Contains(c.out.String(), n.Name) {
			t.Errorf("minions at the top: %s; want %s", c.out, n.Name)
		}
	}
}

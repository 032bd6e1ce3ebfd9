package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/target"
)

// perceusRule is the line below the heads of tables.
const perceusRule = "-------------------------------------------------------------------------------"

// perceusNobody is what columns show for nothing.
const perceusNobody = "(undefined)"

func (p *perceus) nodeVerbs() []perceusVerb {
	view := func(name, doc string, show func([]*apipb.Node) error) perceusVerb {
		return perceusVerb{name, doc, func(ctx context.Context, words []string) error { return p.view(ctx, words, p.pickNodes, show) }, true}
	}
	return []perceusVerb{
		{"add", "Import a new node into the DB", p.nodeAdd, false},
		{"delete", "Delete a node or set of nodes", func(ctx context.Context, words []string) error { return p.remove(ctx, words, p.pickNodes) }, true},
		view("list", "List the configured nodes", p.showNames),
		{"replace", "Replace an old node with a new (already configured) node", p.nodeReplace, true},
		{"set", "Set a node configuration entry", func(ctx context.Context, words []string) error { return p.set(ctx, words, p.pickNodes) }, false},
		view("show", "Dump the node configuration", p.showFields),
		view("status", "Current status of node provisioning", p.showStatus),
		view("summary", "General configuration summary", p.showSummary),
	}
}

func (p *perceus) groupVerbs() []perceusVerb {
	view := func(name, doc string, show func([]*apipb.Node) error) perceusVerb {
		return perceusVerb{name, doc, func(ctx context.Context, words []string) error { return p.view(ctx, words, p.pickGroups, show) }, false}
	}
	return []perceusVerb{
		{"delete", "Delete all nodes associated in a group(s)", func(ctx context.Context, words []string) error { return p.remove(ctx, words, p.pickGroups) }, false},
		{"list", "List the known groups", p.groupList, false},
		{"nodelist", "List nodes part of a group", p.groupNodes, false},
		{"set", "Set a node configuration entry", func(ctx context.Context, words []string) error { return p.set(ctx, words, p.pickGroups) }, false},
		view("status", "Current status of nodes provisioning", p.showStatus),
		view("show", "Dump the node configuration", p.showFields),
		view("summary", "General configuration summary", p.showSummary),
	}
}

// picker chooses nodes by a command's words, and tells how many names of them nobody
// has. no words: all, if all is so.
type picker func(nodes []*apipb.Node, words []string, all bool) (picked []*apipb.Node, missing int, err error)

// pickNodes chooses by name or, with -i, by hardware address.
func (p *perceus) pickNodes(nodes []*apipb.Node, words []string, all bool) ([]*apipb.Node, int, error) {
	if all && len(words) == 0 {
		return nodes, 0, nil
	}
	name := (*apipb.Node).GetName
	if p.nodeID {
		name = (*apipb.Node).GetHwaddr
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = name(n)
	}
	var found, missing []string
	var err error
	if !p.nodeID {
		if found, missing, err = perceusMatch(names, words); err != nil {
			return nil, 0, err
		}
	}
	for _, w := range words {
		switch w = nodeIDOf(w); {
		case !p.nodeID:
		case slices.Contains(names, w):
			found = append(found, w)
		default:
			missing = append(missing, w)
		}
	}
	for _, m := range missing {
		p.warn("Requested node '%s' does not exist!", m)
	}
	picked := make(map[string]bool, len(found))
	for _, f := range found {
		picked[f] = true
	}
	var out []*apipb.Node
	for _, n := range nodes {
		if picked[name(n)] {
			out = append(out, n)
		}
	}
	return out, len(missing), nil
}

// nodeIDOf writes a hardware address as the overlord does; 01: before it says that it
// is one.
func nodeIDOf(word string) string {
	word = strings.ToUpper(strings.ReplaceAll(word, "-", ":"))
	if strings.Count(word, ":") == 6 {
		word = strings.TrimPrefix(word, "01:")
	}
	return word
}

// pickGroups chooses by the exact name of the primary group.
func (p *perceus) pickGroups(nodes []*apipb.Node, words []string, _ bool) ([]*apipb.Node, int, error) {
	var out []*apipb.Node
	for _, n := range nodes {
		if slices.Contains(words, n.GetGroup()) {
			out = append(out, n)
		}
	}
	return out, 0, nil
}

// byGroup sorts nodes by primary group, then name.
func byGroup(nodes []*apipb.Node) {
	slices.SortStableFunc(nodes, func(a, b *apipb.Node) int {
		return cmp.Or(strings.Compare(a.GetGroup(), b.GetGroup()), strings.Compare(a.GetName(), b.GetName()))
	})
}

// nobody ends a command whose words name no node.
func (p *perceus) nobody() error {
	p.warn("No nodes found")
	return &exitError{code: exitNoMatch}
}

// partly ends a command some of whose words name no node.
func partly(missing int) error {
	if missing == 0 {
		return nil
	}
	return &exitError{code: exitIncomplete}
}

// view shows the nodes that words name.
func (p *perceus) view(ctx context.Context, words []string, pick picker, show func([]*apipb.Node) error) error {
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	nodes, missing, err := pick(all.GetNodes(), words, true)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return p.nobody()
	}
	if err := show(nodes); err != nil {
		return err
	}
	return partly(missing)
}

func (p *perceus) showNames(nodes []*apipb.Node) error {
	for _, n := range nodes {
		name := n.GetName()
		if p.nodeID {
			name = n.GetHwaddr()
		}
		if err := p.a.text("%s\n", name); err != nil {
			return err
		}
	}
	return nil
}

// head writes the head of a table.
func (p *perceus) head(text string) error {
	return errors.Join(p.info("%s", text), p.info("%s", perceusRule))
}

func (p *perceus) showStatus(nodes []*apipb.Node) error {
	byGroup(nodes)
	err := p.head("HostName             Status         IP Address             Last Contact")
	now := time.Now()
	for _, n := range nodes {
		contact := perceusNobody
		if n.GetContactMs() != 0 {
			contact = clockText(now.Sub(time.UnixMilli(n.GetContactMs())))
		}
		err = errors.Join(err, p.a.text("%-20.20s %-14.14s %-22.22s %-17.17s\n",
			n.GetName(), cmp.Or(n.GetState(), perceusNobody), cmp.Or(n.GetAddress(), perceusNobody), contact))
	}
	for _, n := range nodes {
		if n.GetApprovedMs() == 0 {
			p.warn("node '%s' is held and gets nothing; let it in with: dominion node approve %[1]s", n.GetName())
		}
	}
	return err
}

// clockText is a duration as HH:MM:SS.
func clockText(d time.Duration) string {
	if d < 0 {
		d = 0 // the overlord's clock is ahead
	}
	s := int64(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

func (p *perceus) showSummary(nodes []*apipb.Node) error {
	byGroup(nodes)
	err := p.head("HostName             GroupName    Enabled   Vnfs")
	for _, n := range nodes {
		enabled := "no"
		if n.GetEnabled() {
			enabled = "yes"
		}
		err = errors.Join(err, p.a.text("%-20.20s %-16.16s %-3.3s   %s\n",
			n.GetName(), cmp.Or(n.GetGroup(), perceusNobody), enabled, cmp.Or(n.GetVnfs(), perceusNobody)))
	}
	return err
}

func (p *perceus) showFields(nodes []*apipb.Node) error {
	byGroup(nodes)
	for _, n := range nodes {
		if err := p.a.text("%s: nodeid=%s\n", n.GetName(), n.GetHwaddr()); err != nil {
			return err
		}
		for _, f := range perceusFields(n) {
			if err := p.a.text("%s: %s=%s\n", n.GetName(), f[0], escapeLine(f[1])); err != nil {
				return err
			}
		}
	}
	return nil
}

// perceusFields gives a node's fields as Perceus kept them: nothing in the place of 0,
// an IPv4 address as one number, a time in seconds of the epoch.
func perceusFields(n *apipb.Node) [][2]string {
	enabled, debug, contact, addr := "", "", "", n.GetAddress()
	if n.GetEnabled() {
		enabled = "1"
	}
	if n.GetDebug() != 0 {
		debug = strconv.FormatUint(uint64(n.GetDebug()), 10)
	}
	if n.GetContactMs() != 0 {
		contact = strconv.FormatInt(n.GetContactMs()/1000, 10)
	}
	if ip, err := netip.ParseAddr(addr); err == nil && ip.Is4() {
		addr = strconv.FormatUint(uint64(binary.BigEndian.Uint32(ip.AsSlice())), 10)
	}
	return [][2]string{
		{"debug", debug},
		{"desc", n.GetDescription()},
		{"enabled", enabled},
		{"group", n.GetGroup()},
		{"hostname", n.GetName()},
		{"hwaddr", ""}, // which nothing ever set
		{"ipaddr", addr},
		{"lastcontact", contact},
		{"status", n.GetState()},
		{"vnfs", n.GetVnfs()},
	}
}

// rows are the nodes that somebody is asked about.
func perceusRows(nodes []*apipb.Node) []string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		out[i] = fmt.Sprintf("%-20s %-20s %s", n.GetName(), cmp.Or(n.GetGroup(), perceusNobody), n.GetHwaddr())
	}
	return out
}

// ask shows nodes and asks whether to go on.
func (p *perceus) ask(ctx context.Context, question string, nodes []*apipb.Node) (bool, error) {
	if err := p.head("   Hostname             Group                NodeID"); err != nil {
		return false, err
	}
	return p.confirm(ctx, question, perceusRows(nodes))
}

func (p *perceus) nodeAdd(ctx context.Context, words []string) error {
	if len(words) == 0 || len(words) > 2 {
		return usagef("USAGE: perceus node add [NODE ID] (node name)")
	}
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	req := &apipb.AddNodeRequest{Hwaddr: nodeIDOf(words[0])}
	if len(words) == 2 {
		req.Name = words[1]
	}
	for _, n := range all.GetNodes() {
		if n.GetHwaddr() == req.Hwaddr {
			p.fail("NodeID '%s' already exists as node '%s'", n.GetHwaddr(), n.GetName())
			return failedf("Node not added to database")
		}
	}
	resp, err := p.conn.Nodes.AddNode(ctx, connect.NewRequest(req))
	if err != nil {
		code, text := verdict(&ranError{err})
		p.fail("%s", text)
		return &exitError{code, "Node not added to database"}
	}
	return p.info("Node '%s' has been added to Perceus", resp.Msg.GetNode().GetName())
}

// remove forgets the nodes that words name.
func (p *perceus) remove(ctx context.Context, words []string, pick picker) error {
	if slices.Contains(words, "") { // of a variable that is not set; every node without a group would go
		return usagef("an empty word names nothing to delete")
	}
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	nodes, missing, err := pick(all.GetNodes(), words, false)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return p.nobody()
	}
	byGroup(nodes)
	yes, err := p.ask(ctx, fmt.Sprintf("Are you sure you wish to delete %d nodes from Perceus?", len(nodes)), nodes)
	if err != nil || !yes {
		return err
	}
	resp, err := p.conn.Nodes.DeleteNodes(ctx, connect.NewRequest(&apipb.DeleteNodesRequest{Target: expression(nodes)}))
	if err != nil {
		return noNode(err)
	}
	if err := p.a.text("'%d' nodes have been deleted\n", resp.Msg.GetCount()); err != nil {
		return err
	}
	return partly(missing)
}

// expression names exactly these nodes.
func expression(nodes []*apipb.Node) string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.GetName()
	}
	slices.Sort(names)
	return target.Fold(names)
}

func (p *perceus) nodeReplace(ctx context.Context, words []string) error {
	if len(words) != 2 {
		return usagef("USAGE: perceus node replace [old node] [new node]")
	}
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	find := func(word, what string) *apipb.Node {
		for _, n := range all.GetNodes() {
			if p.nodeID && n.GetHwaddr() == nodeIDOf(word) || !p.nodeID && strings.EqualFold(n.GetName(), word) {
				return n
			}
		}
		p.fail("Could not identify %s: %s", what, word)
		return nil
	}
	old, by := find(words[0], "node to replace"), find(words[1], "replacement node")
	if old == nil || by == nil {
		return &exitError{code: exitFailed}
	}
	yes, err := p.ask(ctx, fmt.Sprintf("Are you sure you wish to replace '%s' with '%s'?", words[0], words[1]), []*apipb.Node{old, by})
	if err != nil || !yes {
		return err
	}
	if _, err := p.conn.Nodes.ReplaceNode(ctx, connect.NewRequest(&apipb.ReplaceNodeRequest{Name: old.GetName(), By: by.GetName()})); err != nil {
		return err
	}
	return p.info("Node '%s' has been replaced.", words[0])
}

// primaryGroups gives the groups of nodes, sorted, with their nodes.
func primaryGroups(nodes []*apipb.Node) (names []string, of map[string][]string) {
	of = make(map[string][]string)
	for _, n := range nodes {
		of[n.GetGroup()] = append(of[n.GetGroup()], n.GetName())
	}
	for g := range of {
		names = append(names, g)
	}
	slices.Sort(names)
	return names, of
}

func (p *perceus) groupList(ctx context.Context, _ []string) error {
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	names, _ := primaryGroups(all.GetNodes())
	if names = slices.DeleteFunc(names, func(g string) bool { return g == "" }); len(names) == 0 {
		p.warn("No groups found")
		return &exitError{code: exitNoMatch}
	}
	return p.a.text("%s\n", strings.Join(names, "\n"))
}

// groupNodes lists the nodes of all groups, or of those that are named.
func (p *perceus) groupNodes(ctx context.Context, words []string) error {
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	nodes := all.GetNodes()
	if len(words) > 0 {
		if nodes, _, err = p.pickGroups(nodes, words, false); err != nil {
			return err
		}
	}
	if len(nodes) == 0 {
		return p.nobody()
	}
	names, of := primaryGroups(nodes)
	for _, g := range names {
		if err := p.a.text("%s:\n   %s\n", cmp.Or(g, perceusNobody), strings.Join(of[g], "\n   ")); err != nil {
			return err
		}
	}
	return nil
}

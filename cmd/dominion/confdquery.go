package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dominion/confd"
)

// queryFlags are the flags of every dominion confd query.
type queryFlags struct {
	peers    []string
	port     int
	key      string
	coverage int
	timeout  time.Duration
	link     string
	hasLink  func() bool
}

// onLink is the link asked for; nil: the cluster's default one.
func (f *queryFlags) onLink() *string {
	if f.hasLink == nil || !f.hasLink() {
		return nil
	}
	return &f.link
}

func (a *app) confdQueryCmd() *cobra.Command {
	f := &queryFlags{}
	cmd := parent("query", "Ask candidates a fact about the cluster",
		`Query asks candidates and shows what enough of them agree on: all of fewer than
three, all but one of fewer than five, otherwise half of them and one. Candidates
that are silent are asked again, and others in their place.

Exit codes: 0 a quorum answered, 1 nobody answered or the quorum's answer is an
error, 3 there were answers but no quorum. -o json tells what each peer said.`,
		`  dominion confd query node-role web1.example.org --peers 192.0.2.1,192.0.2.2,192.0.2.3 --key hmac.key
  dominion confd query master --peers 192.0.2.1 --key hmac.key -o json`,
		a.queryWith(f, "node-role NAME", "Role of a node: master, candidate, offline, drained or regular", "node-role web1.example.org",
			func(w []string) query { return query{confd.NodeRole(w[0]).Request, showRole} }),
		a.linked(f, a.queryWith(f, "pip-by-instance-ip IP…", "Primary address of the node that an instance runs on", "pip-by-instance-ip 203.0.113.10",
			f.pipByInstanceIP)),
		a.queryWith(f, "master", "Name of the master node", "master",
			func([]string) query { return query{confd.Master().Request, showText} }),
		a.queryWith(f, "master-fields", "Name, cluster address and primary address of the master", "master-fields",
			func([]string) query {
				return query{confd.MasterFields(confd.FieldName, confd.FieldIP, confd.FieldMasterPip).Request, showTexts}
			}),
		a.queryWith(f, "node-pips", "Primary addresses of all nodes", "node-pips",
			func([]string) query { return query{confd.NodePips().Request, showTexts} }),
		a.queryWith(f, "candidate-pips", "Primary addresses of the master candidates", "candidate-pips",
			func([]string) query { return query{confd.CandidatePips().Request, showTexts} }),
		a.linked(f, a.queryWith(f, "instance-ips", "Addresses of instances on a link", "instance-ips",
			func([]string) query { return query{confd.InstanceIPs(f.onLink()).Request, showTexts} })),
		a.queryWith(f, "node-drbd NAME", "DRBD minors of a node", "node-drbd web1.example.org",
			func(w []string) query { return query{confd.NodeDRBD(w[0]).Request, showMinors} }),
		a.queryWith(f, "node-instances NAME", "Instances of a node", "node-instances web1.example.org",
			func(w []string) query { return query{confd.NodeInstances(w[0]).Request, showInstances} }),
		a.queryWith(f, "instance-disks NAME", "Disks of an instance", "instance-disks mail.example.org",
			func(w []string) query { return query{confd.InstanceDisks(w[0]).Request, showDisks} }),
		a.queryWith(f, "config PATH", "A part of the configuration, as JSON", "config /cluster/cluster_name",
			func(w []string) query { return query{confd.Config(w[0]).Request, showJSON} }),
		a.queryWith(f, "collectors", "State of the data collectors", "collectors",
			func([]string) query { return query{confd.Collectors().Request, showJSON} }),
		a.queryWith(f, "ping", "Version of the configuration's format: a sign of life", "ping",
			func([]string) query { return query{confd.Ping().Request, showJSON} }),
	)
	fl := cmd.PersistentFlags()
	fl.StringSliceVar(&f.peers, "peers", nil, "`ADDRESSES` of candidates, with commas between them")
	fl.IntVar(&f.port, "port", 0, "UDP `PORT` of the candidates (default: that of ganeti-confd in /etc/services, or 1814)")
	fl.StringVar(&f.key, "key", "", "`FILE` with the HMAC key")
	fl.IntVar(&f.coverage, "coverage", 0, "how many candidates to ask: a `NUMBER`, -1 for all (default: at most 6)")
	fl.DurationVar(&f.timeout, "timeout", confd.ExpireTimeout, "how long to wait for a quorum, a `DURATION` of at most 10s")
	return cmd
}

// query is a request and how its answer is shown.
type query struct {
	confd.Request
	show func(r *confd.Reply) (string, error)
}

// queryWith makes the command of one kind of query. Its words are as many as use
// has behind the first; a last one that ends in … may be repeated.
func (a *app) queryWith(f *queryFlags, use, short, example string, make func(words []string) query) *cobra.Command {
	words := strings.Fields(use)[1:]
	least, most, what := len(words), len(words), "no words"
	if least > 0 {
		what = strings.Join(words, " ")
		if strings.HasSuffix(what, "…") {
			most = -1
		}
	}
	return &cobra.Command{
		Use: use, Short: short, Example: "  dominion confd query " + example + " --peers 192.0.2.1,192.0.2.2,192.0.2.3 --key hmac.key",
		Args: args(least, most, what), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.do(func(ctx context.Context, _ *cobra.Command, words []string) error {
			return a.confdQuery(ctx, f, make(words))
		}),
	}
}

// linked adds the flag for a link.
func (a *app) linked(f *queryFlags, cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.link, "link", "", "`LINK` of the instances' interfaces (default: the cluster's)")
	flag := cmd.Flags().Lookup("link")
	before := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		f.hasLink = func() bool { return flag.Changed }
		return before(cmd, words)
	}
	return cmd
}

func (f *queryFlags) pipByInstanceIP(words []string) query {
	if len(words) == 1 {
		return query{confd.PipByInstanceIP(words[0], f.onLink()).Request, showText}
	}
	return query{confd.PipsByInstanceIPs(words, f.onLink()).Request, func(r *confd.Reply) (string, error) {
		ask := confd.PipsByInstanceIPs(words, f.onLink())
		pips, err := ask.Answer(r)
		if err != nil {
			return "", err
		}
		var t table
		for i, p := range pips {
			if i < len(words) {
				t = append(t, []string{words[i], cmp.Or(p.Pip, "unknown")})
			}
		}
		return t.String(), nil
	}}
}

// client makes a client of what the flags say.
func (f *queryFlags) client(ctx context.Context) (*confd.Client, error) {
	switch {
	case len(f.peers) == 0:
		return nil, usagef("give --peers ADDRESSES of candidates")
	case f.key == "":
		return nil, usagef("give --key FILE")
	case f.timeout <= 0 || f.timeout > confd.ExpireTimeout:
		return nil, usagef("--timeout %s: give a duration of at most %s", f.timeout, confd.ExpireTimeout)
	case f.port < 0 || f.port > 65535:
		return nil, usagef("--port %d: give a port from 1 to 65535", f.port)
	}
	key, err := readKey(f.key)
	if err != nil {
		return nil, err
	}
	peers, err := addresses(ctx, f.peers)
	if err != nil {
		return nil, err
	}
	c, err := confd.NewClient(confd.ClientConfig{Key: key, Peers: peers, Port: f.port, Coverage: f.coverage})
	if errors.Is(err, confd.ErrNoPeers) || errors.Is(err, confd.ErrPeerAddress) || errors.Is(err, confd.ErrMixedFamilies) {
		return nil, usagef("--peers: %v", err)
	}
	return c, err
}

// addresses looks up the peers that are names.
func addresses(ctx context.Context, peers []string) ([]string, error) {
	out := make([]string, len(peers))
	for i, p := range peers {
		out[i] = strings.TrimSpace(p)
		if _, err := netip.ParseAddr(out[i]); err == nil {
			continue
		}
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", out[i])
		if err != nil {
			return nil, usagef("--peers %s: it is no address, and %v", p, err)
		}
		out[i] = found[0].Unmap().String()
	}
	return out, nil
}

// queryDoc is a query's outcome in json.
type queryDoc struct {
	Answer json.RawMessage `json:"answer"`
	Status string          `json:"status"` // ok, error, silent
	Serial int64           `json:"serial"`
	Quorum bool            `json:"quorum"`
	Agreed int             `json:"agreed"`
	Needed int             `json:"needed"`
	Asked  int             `json:"asked"`
	Peers  []peerDoc       `json:"peers"`
}

// peerDoc is what one peer said.
type peerDoc struct {
	Peer   string          `json:"peer"`
	Status string          `json:"status"` // ok, error, silent
	Answer json.RawMessage `json:"answer,omitempty"`
	Serial int64           `json:"serial"`
}

func statusWord(r *confd.Reply) string {
	if r.Status == confd.StatusOK {
		return "ok"
	}
	return "error"
}

func queryDocOf(res *confd.Result, quorum bool) queryDoc {
	d := queryDoc{
		Answer: res.Reply.Answer, Status: statusWord(&res.Reply), Serial: res.Reply.Serial, Quorum: quorum,
		Agreed: res.Agreed, Needed: res.Needed, Asked: len(res.Peers), Peers: make([]peerDoc, len(res.Peers)),
	}
	if res.Agreed == 0 {
		d.Status = "silent"
	}
	for i, p := range res.Peers {
		d.Peers[i] = peerDoc{Peer: p.Peer.String(), Status: "silent"}
		if p.Replied {
			d.Peers[i].Status, d.Peers[i].Answer, d.Peers[i].Serial = statusWord(&p.Reply), p.Reply.Answer, p.Reply.Serial
		}
	}
	return d
}

func (a *app) confdQuery(ctx context.Context, f *queryFlags, q query) error {
	c, err := f.client(ctx)
	if err != nil {
		return err
	}
	defer c.Close() // it is only asked
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, context.DeadlineExceeded)
	defer cancel()
	res, err := c.Query(ctx, q.Request)
	none, split := errors.AsType[*confd.NoQuorumError](err)
	switch {
	case errors.Is(err, confd.ErrCoverage):
		return usagef("--coverage %d: %v", f.coverage, err)
	case split && none.Result.Agreed == 0:
		if a.output != outText {
			if err := a.document(queryDocOf(&res, false)); err != nil {
				return err
			}
		}
		return errNoAnswer
	case err != nil && !split:
		return err
	}
	if err := a.showQuery(&res, q, !split); err != nil {
		return err
	}
	if split {
		return &exitError{exitIncomplete, none.Error()}
	}
	return nil
}

// showQuery shows an answer. One that is an error is the command's error, too.
func (a *app) showQuery(res *confd.Result, q query, quorum bool) error {
	shown, err := q.show(&res.Reply)
	if a.output != outText {
		if derr := a.document(queryDocOf(res, quorum)); derr != nil {
			return derr
		}
	} else if err == nil {
		err = a.text("%s\nserial %d, %d of %s agreed, %d needed\n", strings.TrimRight(shown, "\n"), res.Reply.Serial,
			res.Agreed, plural(len(res.Peers), "peer"), res.Needed)
	}
	if said, ok := errors.AsType[*confd.AnswerError](err); ok {
		if !quorum {
			return nil // what is said of the quorum tells it
		}
		return fmt.Errorf("%d of %s answered: %w", res.Agreed, plural(len(res.Peers), "peer"), said)
	}
	return err
}

// shown reads an answer and shows it.
func shown[A any](ask confd.Ask[A], r *confd.Reply, show func(A) string) (string, error) {
	v, err := ask.Answer(r)
	if err != nil {
		return "", err
	}
	return show(v), nil
}

func showRole(r *confd.Reply) (string, error) {
	return shown(confd.NodeRole(""), r, confd.Role.String)
}

func showText(r *confd.Reply) (string, error) {
	return shown(confd.Master(), r, func(s string) string { return s })
}

func showTexts(r *confd.Reply) (string, error) {
	return shown(confd.NodePips(), r, func(list []string) string { return strings.Join(list, "\n") })
}

func showJSON(r *confd.Reply) (string, error) {
	return shown(confd.Config(""), r, func(b json.RawMessage) string { return string(b) })
}

func showMinors(r *confd.Reply) (string, error) {
	return shown(confd.NodeDRBD(""), r, func(list []confd.Minor) string {
		t := table{{"MINOR", "INSTANCE", "DISK", "ROLE", "PEER"}}
		for _, m := range list {
			t = append(t, []string{fmt.Sprint(m.Minor), m.Instance, m.Disk, m.Role, m.Peer})
		}
		return t.String()
	})
}

func showInstances(r *confd.Reply) (string, error) {
	return shown(confd.NodeInstances(""), r, func(i confd.Instances) string {
		t := table{{"INSTANCE", "ROLE OF THE NODE", "STATE", "OS"}}
		for _, x := range i.Primary {
			t = append(t, []string{x.Name, "primary", x.AdminState, x.OS})
		}
		for _, x := range i.Secondary {
			t = append(t, []string{x.Name, "secondary", x.AdminState, x.OS})
		}
		return t.String()
	})
}

func showDisks(r *confd.Reply) (string, error) {
	return shown(confd.InstanceDisks(""), r, func(list []confd.Disk) string {
		t := table{{"DISK", "UUID", "NAME", "KIND", "MIB", "MODE"}}
		for i, d := range list {
			t = append(t, []string{fmt.Sprint(i), d.UUID, d.Name, d.Kind, fmt.Sprint(d.Size), d.Mode})
		}
		return t.String()
	})
}

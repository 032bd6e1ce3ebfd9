package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/cluster"
)

// instanceDoc is an instance in json.
type instanceDoc struct {
	Name      string   `json:"name"`
	UUID      string   `json:"uuid"`
	Primary   string   `json:"primary"`
	Secondary string   `json:"secondary,omitempty"`
	State     string   `json:"state"` // up, down, offline
	NICs      []nicDoc `json:"nics"`
	Disks     []uint64 `json:"disks"` // MiB
	Serial    uint64   `json:"serial"`
}

type nicDoc struct {
	IP   string `json:"ip,omitempty"`
	Link string `json:"link,omitempty"` // empty: the default one
}

func (a *app) clusterInstanceCmd() *cobra.Command {
	return parent("instance", "Keep the instances of the cluster data",
		`Instances are virtual machines on the nodes. What is kept of them is what confd
queries are answered from: nodes, addresses, disks. Nothing is started or moved by it.`,
		`  dominion cluster instance add www --primary web1 --secondary web2 --ip 203.0.113.10 --disk 20G
  dominion cluster instance list`,
		a.instanceListCmd(), a.instanceChangeCmd("add"), a.instanceChangeCmd("set"), a.instanceRemoveCmd())
}

func (a *app) instanceListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list [NAME]", Short: "List the instances", Example: "  dominion cluster instance list\n  dominion cluster instance list www -o json",
		Args: args(0, 1, "at most one instance"), ValidArgsFunction: a.completeInstances,
		RunE: a.withConn(func(ctx context.Context, conn *client.Conn, words []string) error {
			docs, err := instances(ctx, conn, words)
			if err != nil {
				return err
			}
			return list(a, "instances", docs, []string{"NAME", "STATE", "PRIMARY", "SECONDARY", "ADDRESSES", "DISKS"}, func(d instanceDoc) []string {
				var ips, disks []string
				for _, n := range d.NICs {
					ips = append(ips, strings.TrimSuffix(orDash(n.IP)+" on "+n.Link, " on "))
				}
				for _, size := range d.Disks {
					disks = append(disks, sizeText(size))
				}
				return []string{d.Name, d.State, d.Primary, orDash(d.Secondary), orDash(strings.Join(ips, ", ")), orDash(strings.Join(disks, ", "))}
			})
		}),
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// sizeText shows a size in MiB as the flag --disk takes it.
func sizeText(mib uint64) string {
	switch {
	case mib%(1<<20) == 0:
		return strconv.FormatUint(mib>>20, 10) + "T"
	case mib%(1<<10) == 0:
		return strconv.FormatUint(mib>>10, 10) + "G"
	}
	return strconv.FormatUint(mib, 10) + "M"
}

// instances asks for all instances, or for one.
func instances(ctx context.Context, conn *client.Conn, words []string) ([]instanceDoc, error) {
	req := &apipb.ClusterInstancesRequest{}
	if len(words) > 0 {
		req.Name = words[0]
	}
	resp, err := conn.Cluster.Instances(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	var docs []instanceDoc
	for _, i := range resp.Msg.GetInstances() {
		d := instanceDoc{
			Name: i.GetName(), UUID: i.GetUuid(), Primary: i.GetPrimary(), Secondary: i.GetSecondary(), State: i.GetState(), Serial: i.GetSerial(),
			NICs: []nicDoc{}, Disks: append([]uint64{}, i.GetDisks()...),
		}
		for _, n := range i.GetNics() {
			d.NICs = append(d.NICs, nicDoc{IP: n.GetIp(), Link: n.GetLink()})
		}
		docs = append(docs, d)
	}
	return docs, nil
}

func (a *app) completeInstances(cmd *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, directive := a.ask(cmd, func(ctx context.Context, conn *client.Conn) ([]string, error) {
		docs, err := instances(ctx, conn, nil)
		var out []string
		for _, d := range docs {
			out = append(out, d.Name)
		}
		return out, err
	})
	return names, directive &^ cobra.ShellCompDirectiveNoSpace
}

// instanceFlags are the flags of instance add and set.
type instanceFlags struct {
	primary, secondary, state string
	nics                      []*apipb.ClusterNIC
	link                      string // that waits for its --ip
	disks                     []string
	noNICs, noDisks           bool
}

// nicFlag is --ip, which begins an interface, or --link, which belongs to the
// one before it, or, when that has one already, to the one after it.
type nicFlag struct {
	f    *instanceFlags
	link bool
}

// String implements pflag.Value.
func (n *nicFlag) String() string { return "" }

// Type implements pflag.Value.
func (n *nicFlag) Type() string { return "string" }

// Set implements pflag.Value.
func (n *nicFlag) Set(s string) error {
	if !n.link {
		ip, err := cluster.ParseAddress(s)
		if err != nil {
			return fmt.Errorf("%q is not the address of a machine", s)
		}
		n.f.nics = append(n.f.nics, &apipb.ClusterNIC{Ip: ip, Link: n.f.link})
		n.f.link = ""
		return nil
	}
	if last := len(n.f.nics) - 1; last >= 0 && n.f.nics[last].Link == "" {
		n.f.nics[last].Link = s
		return nil
	}
	if n.f.link != "" {
		return fmt.Errorf("give it with the --ip that is on that link")
	}
	n.f.link = s
	return nil
}

func (a *app) instanceChangeCmd(use string) *cobra.Command {
	var f instanceFlags
	add := use == "add"
	cmd := &cobra.Command{
		Use: "add NAME --primary NODE [--secondary NODE] [--state STATE] [--ip IP [--link LINK]]… [--disk SIZE]…", Short: "Add an instance",
		Long: `Add adds an instance, up unless --state says otherwise. With a secondary node its
disks are DRBD's, with minors and ports chosen here. A link that is not told is the
cluster's default one.`,
		Example: `  dominion cluster instance add www --primary web1 --ip 203.0.113.10
  dominion cluster instance add db --primary web1 --secondary web2 --ip 203.0.113.20 --link br1 --disk 20G --disk 1T`,
		Args: args(1, 1, "a name for the instance"), ValidArgsFunction: cobra.NoFileCompletions,
	}
	if !add {
		cmd.Use, cmd.Short = "set NAME [--primary NODE] [--secondary NODE] [--state STATE] [--ip IP [--link LINK]]… [--disk SIZE]…", "Change an instance"
		cmd.Long = `Set changes what is told of it. --ip and --disk replace all interfaces and all disks;
disks that stay what they were keep their minors. With the secondary node as --primary
the two nodes change places. An empty --secondary makes the disks local ones.`
		cmd.Example = "  dominion cluster instance set www --primary web2\n  dominion cluster instance set www --state down"
		cmd.Args, cmd.ValidArgsFunction = args(1, 1, "an instance"), a.completeInstances
	}
	fl := cmd.Flags()
	fl.StringVar(&f.primary, "primary", "", "`NODE` that it runs on")
	fl.StringVar(&f.secondary, "secondary", "", "`NODE` that its disks are mirrored to")
	fl.StringVar(&f.state, "state", "", "`STATE`: up, down, offline")
	fl.Var(&nicFlag{f: &f}, "ip", "`IP` of an interface; may be repeated")
	fl.Var(&nicFlag{f: &f, link: true}, "link", "`LINK` of the interface whose --ip stands beside it")
	fl.StringArrayVar(&f.disks, "disk", nil, "`SIZE` of a disk, such as 512M, 20G or 1T; may be repeated")
	if !add {
		fl.BoolVar(&f.noNICs, "no-ip", false, "it has no interfaces any more")
		fl.BoolVar(&f.noDisks, "no-disk", false, "it has no disks any more")
	}
	completeFlag(cmd, "state", "up", "down", "offline")
	for _, name := range []string{"primary", "secondary"} {
		if err := cmd.RegisterFlagCompletionFunc(name, a.completeFlagNode); err != nil {
			panic(err) // the flag does not exist: a bug here
		}
	}
	cmd.RunE = a.changing(func(ctx context.Context, conn *client.Conn, words []string) (*connect.Response[apipb.ClusterChanged], error) {
		req, err := f.request(words[0], fl.Changed)
		switch {
		case err != nil:
			return nil, err
		case add && req.Primary == nil:
			return nil, usagef("give --primary NODE")
		case add:
			return conn.Cluster.AddInstance(ctx, connect.NewRequest(req))
		}
		return conn.Cluster.SetInstance(ctx, connect.NewRequest(req))
	})
	return cmd
}

// completeFlagNode completes a flag to a node.
func (a *app) completeFlagNode(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.completeNodes(1, nil)(cmd, nil, word)
}

// request gives what the flags say.
func (f *instanceFlags) request(name string, given func(flag string) bool) (*apipb.ClusterInstanceRequest, error) {
	r := &apipb.ClusterInstanceRequest{Name: name, Nics: f.nics, SetNics: len(f.nics) > 0 || f.noNICs, SetDisks: len(f.disks) > 0 || f.noDisks}
	if f.noNICs && len(f.nics) > 0 || f.noDisks && len(f.disks) > 0 {
		return nil, usagef("--no-ip and --no-disk stand alone")
	}
	if f.link != "" {
		return nil, usagef("--link %q: give it with the --ip that is on that link", f.link)
	}
	for _, x := range []struct {
		name  string
		value *string
		to    **string
	}{{"primary", &f.primary, &r.Primary}, {"secondary", &f.secondary, &r.Secondary}, {"state", &f.state, &r.State}} {
		if given(x.name) {
			*x.to = x.value
		}
	}
	for _, s := range f.disks {
		size, err := cluster.ParseSize(s)
		if err != nil {
			return nil, usagef("--disk %q: a number of MiB, or one such as 20G or 1T", s)
		}
		r.Disks = append(r.Disks, size)
	}
	return r, nil
}

func (a *app) instanceRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove an instance with its disks",
		Long:    "Remove takes an instance and its disks out of the cluster data. Nothing on the nodes changes.",
		Example: "  dominion cluster instance remove www",
		Args:    args(1, 1, "an instance"), ValidArgsFunction: a.completeInstances,
		RunE: a.changing(func(ctx context.Context, conn *client.Conn, words []string) (*connect.Response[apipb.ClusterChanged], error) {
			return conn.Cluster.RemoveInstance(ctx, connect.NewRequest(&apipb.ClusterRemoveInstanceRequest{Name: words[0]}))
		}),
	}
}

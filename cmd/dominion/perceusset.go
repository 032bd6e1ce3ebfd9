package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"dominion/api/apipb"
)

// set changes one field of the nodes that words name.
func (p *perceus) set(ctx context.Context, words []string, pick picker) error {
	if len(words) > 0 {
		if key, value, ok := strings.Cut(words[0], "="); ok && key != "" && value != "" {
			p.warn("Rewriting obsolete syntax (group=value)")
			words = append([]string{key, value}, words[1:]...)
		}
	}
	if len(words) < 2 {
		return usagef("USAGE: node set [key] [value] [node(s)...]")
	}
	key, value := strings.ToLower(words[0]), words[1]
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	if how := all.GetProvision(); key == "vnfs" && value != "" && !how.GetCapsulesAbove() && !slices.Contains(how.GetCapsules(), value) {
		return failedf("VNFS '%s' does not exist!", value)
	}
	nodes, missing, err := pick(all.GetNodes(), words[2:], false)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return p.nobody()
	}
	question := fmt.Sprintf("Are you sure you wish to set '%s=%s' on %d nodes?", key, value, len(nodes))
	if yes, err := p.ask(ctx, question, nodes); err != nil || !yes {
		return err
	}
	done, err := 0, error(nil)
	if req, why := perceusChange(key, value); why == "" {
		req.Target = expression(nodes)
		var resp *connect.Response[apipb.SetNodesResponse]
		if resp, err = p.conn.Nodes.SetNodes(ctx, connect.NewRequest(req)); err != nil {
			return noNode(err)
		}
		done = len(resp.Msg.GetNodes())
	} else {
		p.fail("%s", why)
		err = &exitError{code: exitFailed}
	}
	if werr := p.a.text("'%d' nodes set %s='%s'\n", done, key, value); werr != nil {
		return werr
	}
	if err != nil {
		return err
	}
	return partly(missing)
}

// perceusChange makes a change of a field and its value, or says why there is none.
func perceusChange(key, value string) (req *apipb.SetNodesRequest, why string) {
	req = new(apipb.SetNodesRequest)
	switch key {
	case "group":
		req.Group = &value
	case "vnfs":
		req.Vnfs = &value
	case "desc":
		req.Description = &value
	case "enabled":
		yes, err := strconv.ParseBool(value)
		if err != nil && value != "" {
			return nil, fmt.Sprintf("enabled is 1 or 0, not '%s'", value)
		}
		req.Enabled = &yes
	case "debug":
		level, err := strconv.ParseUint("0"+value, 10, 8)
		if err != nil {
			return nil, fmt.Sprintf("debug is 0 to 9, not '%s'", value)
		}
		req.Debug = new(uint32(level))
	case "boot":
		boot, ok := map[string]string{"perceus": "provision", "default": "provision", "local": "local", "provision": "provision", "hold": "hold"}[value]
		if !ok {
			return nil, "Valid boot options are: 'perceus', 'local', 'hold' or 'default'"
		}
		req.Boot = &boot
	case "hostname":
		return nil, "a node keeps its name; delete it and add it again, or: perceus node replace"
	case "status", "ipaddr", "lastcontact", "hwaddr":
		return nil, key + " is kept by the overlord, and is not set"
	default:
		return nil, fmt.Sprintf("there is no field '%s'; those that can be set are group, vnfs, enabled, debug, boot, desc", key)
	}
	return req, ""
}

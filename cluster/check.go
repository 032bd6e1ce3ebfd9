package cluster

import (
	"fmt"
	"strconv"
)

// check makes sure that what the changes read is written in the plain way: texts
// as texts, serials as integers. Ganeti's daemon also takes other forms, which
// nothing writes.
func (d *Document) check() error {
	if err := plain(d.cluster, []string{"uuid", "cluster_name", "master_node", "master_ip", "mac_prefix"}, nil, []string{"serial_no", "highest_used_port"}); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := plain(d.top, nil, nil, []string{"serial_no"}); err != nil {
		return err
	}
	if d.UUID() == "" {
		return fmt.Errorf("cluster: uuid is empty")
	}
	checks := []struct {
		name string
		t    *table
		f    func(*object) error
	}{
		{"nodes", d.nodes, checkNode},
		{"nodegroups", d.groups, func(o *object) error { return plain(o, []string{"uuid", "name"}, nil, []string{"serial_no"}) }},
		{"instances", d.instances, checkInstance},
		{"disks", d.disks, checkDisk},
	}
	for _, c := range checks {
		for _, e := range c.t.order {
			if err := c.f(e.obj); err != nil {
				return fmt.Errorf("%s: %.60s: %w", c.name, e.name, err)
			}
			if id := e.obj.text("uuid"); id != e.name {
				return fmt.Errorf("%s: %.60s: its uuid is %.60q", c.name, e.name, id)
			}
		}
	}
	return nil
}

func checkNode(o *object) error {
	if err := plainTexts(o, "tags"); err != nil {
		return err
	}
	return plain(o, []string{"uuid", "name", "primary_ip", "secondary_ip", "group"}, []string{"master_candidate", "offline", "drained", "master_capable"}, []string{"serial_no"})
}

func checkInstance(o *object) error {
	if err := plain(o, []string{"uuid", "name", "primary_node"}, nil, []string{"serial_no"}); err != nil {
		return err
	}
	if err := plainTexts(o, "disks"); err != nil {
		return err
	}
	v := o.get("nics")
	if absent(v) {
		return nil
	}
	list, err := elements(v)
	if err != nil {
		return fmt.Errorf("nics: %w", err)
	}
	for _, x := range list {
		if _, err := readNIC(x); err != nil {
			return fmt.Errorf("nics: %w", err)
		}
	}
	return nil
}

// checkDisk follows the children: confd has bounded their depth.
func checkDisk(o *object) error {
	if err := plain(o, []string{"uuid", "dev_type"}, nil, []string{"serial_no", "size"}); err != nil {
		return err
	}
	if err := plainTexts(o, "nodes"); err != nil {
		return err
	}
	if _, err := drbdOf(o); err != nil {
		return err
	}
	_, err := children(o)
	return err
}

// children gives the disks below a disk.
func children(o *object) ([]*object, error) {
	v := o.get("children")
	if absent(v) {
		return nil, nil
	}
	list, err := elements(v)
	if err != nil {
		return nil, err
	}
	var out []*object
	for _, x := range list {
		child, err := parseObject(x)
		if err == nil {
			err = checkDisk(child)
		}
		if err != nil {
			return nil, fmt.Errorf("children: %w", err)
		}
		out = append(out, child)
	}
	return out, nil
}

func absent(v raw) bool { return v == nil || string(v) == "null" }

// plain checks the members that are there.
func plain(o *object, texts, flags, integers []string) error {
	for _, name := range texts {
		if v := o.get(name); !absent(v) {
			if _, err := text(v); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for _, name := range flags {
		if v := string(o.get(name)); v != "" && v != "true" && v != "false" {
			return fmt.Errorf("%s: %.20s is not true or false", name, v)
		}
	}
	for _, name := range integers {
		if v := o.get(name); !absent(v) {
			if n, err := strconv.ParseInt(string(v), 10, 64); err != nil || n < 0 {
				return fmt.Errorf("%s: %.30s is no integer from 0 on", name, v)
			}
		}
	}
	return nil
}

// plainTexts checks that a member, if it is there, is a list of texts.
func plainTexts(o *object, name string) error {
	v := o.get(name)
	if absent(v) {
		return nil
	}
	list, err := elements(v)
	for _, x := range list {
		if err == nil {
			_, err = text(x)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

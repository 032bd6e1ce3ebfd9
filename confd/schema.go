package confd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The tables of this file are Ganeti 3.0's configuration: which members each
// object has, in the order in which its daemon writes them, and what it takes
// for each. They were read off the daemon itself, which names the members that
// it allows when it meets another.

func must(name string, s shape) member { return member{name: name, shape: s} }

func may(name string, s shape) member { return member{name: name, shape: s, presence: optional} }

func some(name string, s shape) member          { return member{name: name, shape: s, presence: sparse} }
func or(def value, name string, s shape) member { return member{name, s, defaults, def} }

// partly makes all members optional.
func partly(members []member) shape {
	members = slices.Clone(members)
	for i := range members {
		members[i].presence = optional
	}
	return record(members...)
}

// forthcoming reads an object that may be marked as only planned: then it may lack
// anything but its number and its id. Any other mark than true says nothing.
func forthcoming(members []member) shape {
	planned := append([]member{must("forthcoming", flag)}, members...)
	return func(v value) (value, error) {
		f := v.get("forthcoming")
		if f != nil && f.kind == boolean && f.text == "true" {
			return read(v, planned, true)
		}
		return read(v.without("forthcoming"), members, false)
	}
}

// schema holds the shapes of a configuration. It is built anew by newSchema
// where it is needed, which is cheap beside reading a file.
type schema struct{ config shape }

func stamps() []member {
	return []member{or(integer(0), "ctime", stamp), or(integer(0), "mtime", stamp)}
}

func numbered() []member { return []member{must("uuid", id), must("serial_no", whole)} }

func tags() member { return or(value{kind: array}, "tags", setOfText) }

// tail is how most objects end.
func tail() []member { return slices.Concat(stamps(), numbered(), []member{tags()}) }

func emptyMap() value  { return value{kind: object, sorted: true} }
func emptyList() value { return value{kind: array} }

func hypervisors() []string {
	return []string{"kvm", "xen-pvm", "chroot", "xen-hvm", "lxc", "fake"}
}

func templates() shape {
	return oneOf("diskless", "file", "sharedfile", "plain", "blockdev", "drbd", "rbd", "ext", "gluster")
}

func backend() []member {
	return []member{
		must("minmem", size), must("maxmem", size), must("vcpus", whole), must("auto_balance", flag),
		must("always_failover", flag), must("spindle_use", whole),
	}
}

func nicParams() []member {
	return []member{must("mode", oneOf("bridged", "routed", "openvswitch", "pool")), must("link", str), must("vlan", str)}
}

func nodeParams() []member {
	return []member{
		must("oob_program", str), must("spindle_count", whole), must("exclusive_storage", flag), must("ovs", flag),
		must("ovs_name", str), must("ovs_link", str), must("ssh_port", whole), must("cpu_speed", real),
	}
}

func ispec() []member {
	return []member{
		must("memory-size", whole), must("disk-size", whole), must("disk-count", whole), must("cpu-count", whole),
		must("nic-count", whole), must("spindle-use", whole),
	}
}

func ipolicy(std shape) []member {
	return []member{
		must("minmax", listOf(record(must("min", record(ispec()...)), must("max", record(ispec()...))))),
		must("std", std), must("spindle-ratio", real), must("vcpu-ratio", real), must("disk-templates", listOf(templates())),
	}
}

func newSchema() *schema {
	free := mapOf(anything)
	return &schema{record(slices.Concat([]member{
		must("version", whole), must("cluster", cluster(free)), must("nodes", mapOf(node(free))),
		must("nodegroups", mapOf(group(free))), must("instances", mapOf(instance(free))),
		must("networks", mapOf(network())), must("disks", mapOf(disk(free))), must("filters", mapOf(filterRule())),
	}, stamps(), []member{must("serial_no", whole)})...)}
}

func cluster(free shape) shape {
	hv := mapOf(free, hypervisors()...)
	return record(slices.Concat([]member{
		must("rsahostkeypub", str), may("dsahostkeypub", str), must("highest_used_port", whole),
		must("tcpudp_port_pool", listOf(whole)), must("mac_prefix", str), may("volume_group_name", str),
		must("reserved_lvs", listOf(str)), may("drbd_usermode_helper", str), must("master_node", str),
		must("master_ip", str), must("master_netdev", str), must("master_netmask", whole),
		must("use_external_mip_script", flag), must("cluster_name", str), must("file_storage_dir", str),
		must("shared_file_storage_dir", str), must("gluster_storage_dir", str),
		must("enabled_hypervisors", listOf(oneOf(hypervisors()...))), must("hvparams", hv), must("os_hvp", mapOf(hv)),
		must("beparams", mapOf(record(backend()...))), must("osparams", mapOf(mapOf(str))),
		must("osparams_private_cluster", mapOf(mapOf(str))), must("nicparams", mapOf(record(nicParams()...))),
		must("ndparams", record(nodeParams()...)), must("diskparams", mapOf(free)), must("candidate_pool_size", whole),
		must("modify_etc_hosts", flag), must("modify_ssh_setup", flag), must("maintain_node_health", flag),
		must("uid_pool", listOf(tuple(whole, whole))), must("default_iallocator", str),
		must("default_iallocator_params", free), must("hidden_os", listOf(str)), must("blacklisted_os", listOf(str)),
		must("primary_ip_family", oneNumberOf(2, 10)), must("prealloc_wipe_disks", flag),
		must("ipolicy", record(ipolicy(record(ispec()...))...)), or(emptyMap(), "hv_state_static", free),
		or(emptyMap(), "disk_state_static", free), must("enabled_disk_templates", listOf(templates())),
		must("candidate_certs", mapOf(str)), must("max_running_jobs", whole), must("max_tracked_jobs", whole),
		must("install_image", str), must("instance_communication_network", str), must("zeroing_image", str),
		must("compression_tools", listOf(str)), must("enabled_user_shutdown", flag),
		must("data_collectors", mapOf(record(must("active", flag), must("interval", whole)))),
		must("ssh_key_type", oneOf("rsa", "dsa", "ecdsa")), must("ssh_key_bits", whole),
	}, tail())...)
}

func node(free shape) shape {
	return record(slices.Concat([]member{
		must("name", str), must("primary_ip", str), must("secondary_ip", str), must("master_candidate", flag),
		must("offline", flag), must("drained", flag), must("group", str), must("master_capable", flag),
		must("vm_capable", flag), must("ndparams", partly(nodeParams())), must("powered", flag),
		some("hv_state_static", free), some("disk_state_static", free),
	}, tail())...)
}

func group(free shape) shape {
	return record(slices.Concat([]member{
		must("name", str), or(emptyList(), "members", listOf(str)), must("ndparams", partly(nodeParams())),
		must("alloc_policy", oneOf("preferred", "last_resort", "unallocable")),
		must("ipolicy", partly(ipolicy(partly(ispec())))), must("diskparams", mapOf(free)),
		must("networks", mapOf(partly(nicParams()))), some("hv_state_static", free), some("disk_state_static", free),
	}, tail())...)
}

func instance(free shape) shape {
	nic := record(
		must("mac", str), may("ip", str), must("nicparams", partly(nicParams())), may("network", str), may("name", str),
		must("uuid", id))
	return forthcoming(slices.Concat([]member{
		must("name", str), must("primary_node", str), must("os", str), must("hypervisor", oneOf(hypervisors()...)),
		or(emptyMap(), "hvparams", free), or(value{kind: object}, "beparams", partly(backend())),
		or(emptyMap(), "osparams", mapOf(str)), or(emptyMap(), "osparams_private", mapOf(str)),
		must("admin_state", oneOf("offline", "down", "up")), must("admin_state_source", oneOf("admin", "user")),
		or(emptyList(), "nics", listOf(nic)), or(emptyList(), "disks", listOf(str)), must("disks_active", flag),
		may("network_port", whole),
	}, tail()))
}

func network() shape {
	return record(slices.Concat([]member{
		must("name", nonEmpty), may("mac_prefix", str), must("network", net4), may("network6", str), may("gateway", ip4),
		may("gateway6", str), may("reservations", bits), may("ext_reservations", bits),
	}, numbered()[:1], stamps(), numbered()[1:], []member{tags()})...)
}

// disk is a disk with its children, at most as deep as JSON may be.
func disk(free shape) shape {
	logical := map[string]shape{
		"plain": tuple(str, str), "drbd": tuple(str, str, whole, whole, whole, str), "file": tuple(driver(), str),
		"sharedfile": tuple(driver(), str), "gluster": tuple(driver(), str), "blockdev": tuple(oneOf("manual"), str),
		"rbd": tuple(str, str), "ext": tuple(str, str),
	}
	var self shape
	again := func(v value) (value, error) { return self(v) }
	members := slices.Concat([]member{
		must("logical_id", anything), must("dev_type", templates()),
		or(emptyList(), "children", listOf(again)), or(emptyList(), "nodes", listOf(str)),
		or(value{kind: text}, "iv_name", str), must("size", whole),
		or(value{kind: text, text: "rw"}, "mode", oneOf("ro", "rw")), may("name", str), may("spindles", whole),
		may("params", free),
	}, numbered(), stamps())
	plain := forthcoming(members)
	self = func(v value) (value, error) {
		out, err := plain(v)
		if err != nil {
			return v, err
		}
		id, kind := out.get("logical_id"), out.get("dev_type")
		switch {
		case id == nil:
			return out.without("dev_type"), nil
		case kind == nil:
			return v, errors.New("dev_type is missing")
		}
		s := logical[kind.text]
		if s == nil {
			return v, at("dev_type", wrong(*kind, "kind of disk"))
		}
		if *id, err = s(*id); err != nil {
			return v, at("logical_id", err)
		}
		return out, nil
	}
	return self
}

func driver() shape { return oneOf("loop", "blktap", "blktap2") }

func filterRule() shape {
	action := func(v value) (value, error) {
		if v.kind == array {
			return tuple(oneOf("RATE_LIMIT"), natural)(v)
		}
		return oneOf("ACCEPT", "PAUSE", "REJECT", "CONTINUE")(v)
	}
	return record(
		must("watermark", jobID), must("priority", natural),
		must("predicates", listOf(tuple(oneOf("jobid", "opcode", "reason"), filterExpr))), must("action", action),
		must("reason_trail", listOf(tuple(str, str, whole))), must("uuid", id))
}

// filterExpr is an expression of Ganeti's query language.
func filterExpr(v value) (value, error) {
	if v.kind == null {
		return v, nil
	}
	if v.kind != array || len(v.items) == 0 || v.items[0].kind != text {
		return v, wrong(v, "filter")
	}
	out := value{kind: array, items: slices.Clone(v.items)}
	args, shapes := out.items[1:], []shape{}
	switch op := v.items[0].text; op {
	case "&", "|":
		for range args {
			shapes = append(shapes, filterExpr)
		}
	case "!":
		shapes = []shape{filterExpr}
	case "?":
		shapes = []shape{str}
	case "=~":
		shapes = []shape{str, str}
	case "=", "==", "<", ">", "<=", ">=", "=[]":
		if op == "=" {
			out.items[0].text = "=="
		}
		shapes = []shape{str, operand}
	default:
		return v, wrong(v.items[0], "operator of filters")
	}
	if len(args) != len(shapes) {
		return v, fmt.Errorf("%q with %d arguments", v.items[0].text, len(args))
	}
	for i, s := range shapes {
		var err error
		if args[i], err = s(args[i]); err != nil {
			return v, err
		}
	}
	return out, nil
}

// operand is what a filter compares with: a string or an integer.
func operand(v value) (value, error) {
	if v.kind == text {
		return v, nil
	}
	v, err := anything(v)
	if err == nil && (v.kind != numeral || strings.ContainsAny(v.text, ".e")) {
		err = wrong(v, "string or integer")
	}
	return v, err
}

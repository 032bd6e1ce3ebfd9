package minion

import (
	"dominion/module"
	"dominion/module/clock"
	"dominion/module/command"
	"dominion/module/copy"
	"dominion/module/cron"
	"dominion/module/disk"
	"dominion/module/facts"
	"dominion/module/file"
	"dominion/module/group"
	"dominion/module/logs"
	"dominion/module/mount"
	"dominion/module/network"
	"dominion/module/packages"
	"dominion/module/process"
	"dominion/module/reboot"
	"dominion/module/service"
	"dominion/module/sysctl"
	"dominion/module/test"
	"dominion/module/user"
)

// Builtin is the table of the modules that every minion offers. Reading it
// shows what runs. It is never written.
var Builtin = []module.Module{
	clock.Module,
	command.Module,
	copy.Module,
	cron.Module,
	disk.Module,
	facts.Module,
	file.Module,
	group.Module,
	logs.Module,
	mount.Module,
	network.Module,
	packages.Module,
	process.Module,
	reboot.Module,
	service.Module,
	sysctl.Module,
	test.Module,
	user.Module,
}

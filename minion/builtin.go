package minion

import (
	"dominion/module"
	"dominion/module/clock"
	"dominion/module/command"
	"dominion/module/cron"
	"dominion/module/facts"
	"dominion/module/group"
	"dominion/module/logs"
	"dominion/module/network"
	"dominion/module/packages"
	"dominion/module/reboot"
	"dominion/module/service"
	"dominion/module/test"
	"dominion/module/user"
)

// Builtin is the table of the modules that every minion offers. Reading it
// shows what runs. It is never written.
var Builtin = []module.Module{test.Module, command.Module, facts.Module, service.Module, user.Module, group.Module, packages.Module, network.Module, cron.Module, logs.Module, clock.Module, reboot.Module}

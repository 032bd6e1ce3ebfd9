package minion

import (
	"dominion/module"
	"dominion/module/command"
	"dominion/module/disk"
	"dominion/module/facts"
	"dominion/module/file"
	"dominion/module/mount"
	"dominion/module/process"
	"dominion/module/sysctl"
	"dominion/module/test"
)

// Builtin is the table of the modules that every minion offers. Reading it
// shows what runs. It is never written.
var Builtin = []module.Module{test.Module, command.Module, facts.Module, file.Module, process.Module, mount.Module, disk.Module, sysctl.Module}

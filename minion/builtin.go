package minion

import (
	"dominion/module"
	"dominion/module/command"
	"dominion/module/facts"
	"dominion/module/service"
	"dominion/module/test"
)

// Builtin is the table of the modules that every minion offers. Reading it
// shows what runs. It is never written.
var Builtin = []module.Module{test.Module, command.Module, facts.Module, service.Module}

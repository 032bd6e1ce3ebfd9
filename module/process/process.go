// Package process is the module of processes. It reads proc(5) and signals by
// pidfd (Linux 5.3), so that a number that was given to another process
// meanwhile is noticed.
package process

import (
	"time"

	"dominion/module"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "process",
	Doc:  "Processes. A process is known by its number and by when it started, for the kernel gives numbers again. The agent, process 1 and the kernel's own are never signalled.",
	Methods: []module.Method{
		module.Func("list", "Lists processes.", module.Read, list, module.MethodOptions{}),
		module.Func("tree", "Shows a process and what descends from it.", module.Read, tree, module.MethodOptions{}),
		module.Func("kill", "Sends a signal to one process.", module.Destroy, kill, module.MethodOptions{}),
		module.Func("match", "Sends a signal to every process that matches; with dry_run, tells which these are.", module.Destroy, match, module.MethodOptions{}),
	},
}

// Process is what is known about one.
type Process struct {
	PID         int       `json:"pid" doc:"its number"`
	Parent      int       `json:"parent" doc:"number of its parent; 0: none"`
	User        string    `json:"user" doc:"whom it runs as; the number when there is no name"`
	State       string    `json:"state" doc:"one letter, as in proc_pid_stat(5): R runs, S sleeps, D waits for a device, Z has ended, T is stopped, I is an idle thread of the kernel"`
	Name        string    `json:"name" doc:"its name, at most 15 bytes"`
	Command     string    `json:"command,omitempty" doc:"its arguments, with a space between them, at most 1024 bytes; none for the kernel's own"`
	Started     time.Time `json:"started" doc:"when it started, to the second or so"`
	Start       uint64    `json:"start" doc:"the same in ticks of 10 ms after the kernel's start: what kill takes"`
	CPUSeconds  float64   `json:"cpu_seconds" doc:"processor time that it has used"`
	MemoryBytes uint64    `json:"memory_bytes" doc:"memory that is resident"`
	Threads     int       `json:"threads" doc:"number of threads"`
	Depth       int       `json:"depth,omitempty" doc:"in a tree: how far below its root"`
}

// Filter is the input of methods that choose processes. All that is given must
// hold.
type Filter struct {
	Name    string `json:"name" doc:"a pattern for its name, in which * is any text, ? any character and [a-z] one of these" max:"64"`
	Command string `json:"command" doc:"a regular expression (RE2) that is found in its arguments" max:"512"`
	User    string `json:"user" doc:"whom it runs as, by name or number" max:"256"`
}

type listIn struct {
	Filter
	Sort  string `json:"sort" doc:"order: by number, or the most memory, processor time or age first" default:"pid" enum:"pid,memory,cpu,age"`
	Limit int    `json:"limit" doc:"most processes to give" default:"500" min:"1" max:"2000"`
}

// List is the answer of list and tree.
type List struct {
	Processes []Process `json:"processes" doc:"the processes"`
	Total     int       `json:"total" doc:"how many there are, those that were left out among them"`
}

type treeIn struct {
	PID   int `json:"pid" doc:"number of the process at the root" default:"1" min:"1" max:"4194304"`
	Limit int `json:"limit" doc:"most processes to give" default:"500" min:"1" max:"2000"`
}

type killIn struct {
	PID    int           `json:"pid" doc:"number of the process" required:"true" min:"1" max:"4194304"`
	Start  uint64        `json:"start" doc:"when it started, as list says; refused when the number is another process's by now; 0 is not checked"`
	Signal string        `json:"signal" doc:"the signal" default:"TERM" enum:"TERM,KILL,INT,HUP,QUIT,USR1,USR2,STOP,CONT,ABRT,WINCH"`
	Wait   time.Duration `json:"wait" doc:"how long to wait for its end" default:"0s" min:"0s" max:"10m"`
	DryRun bool          `json:"dry_run" doc:"only say what would change"`
}

// Killed is the answer of kill.
type Killed struct {
	Changed bool    `json:"changed" doc:"whether the signal was sent, or would be"`
	Ended   bool    `json:"ended,omitempty" doc:"it was waited for, and has ended"`
	Process Process `json:"process" doc:"what it was"`
}

type matchIn struct {
	Filter
	Older  time.Duration `json:"older" doc:"only processes that started at least so long ago" default:"0s" min:"0s"`
	Signal string        `json:"signal" doc:"the signal" default:"TERM" enum:"TERM,KILL,INT,HUP,QUIT,USR1,USR2,STOP,CONT,ABRT,WINCH"`
	DryRun bool          `json:"dry_run" doc:"only say what would change"`
}

// Matched is the answer of match.
type Matched struct {
	Changed   bool      `json:"changed" doc:"whether a signal was sent, or would be"`
	Signalled int       `json:"signalled" doc:"how many got it, or would"`
	Processes []Process `json:"processes" doc:"these, as many as fit into an answer"`
	Problems  []string  `json:"problems,omitempty" doc:"processes that could not be signalled, and why"`
}

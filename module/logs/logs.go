// Package logs shows what a machine has logged: the journal of systemd, by
// journalctl, and files. Both can be followed; then lines are streamed as they
// come.
package logs

import (
	"time"

	"dominion/module"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "log",
	Doc:  "What the machine has logged. With follow, lines are shown as they come; the answer has the first 512 KiB of them.",
	Methods: []module.Method{
		module.Func("journal", "Shows the end of the journal of systemd.", module.Read, here.journal, endless),
		module.Func("tail", "Shows the end of a file.", module.Read, tail, endless),
	},
}

// endless: following ends by its own limit, or by the order's.
var endless = module.MethodOptions{Timeout: -1}

const (
	keep     = 512 << 10 // bytes of text in an answer, as JSON
	maxTail  = 4 << 20   // bytes at a file's end in which lines are looked for
	readTime = time.Minute
)

// JournalIn is the input of journal.
type JournalIn struct {
	Unit       string        `json:"unit" doc:"only what this unit logged; a glob is allowed" max:"255" pattern:"[A-Za-z0-9:_.\\\\@*?-]*"`
	Identifier string        `json:"identifier" doc:"only what was logged under this name, such as sshd or sudo" max:"255" pattern:"[^-\\n][^\\n]*|"`
	Priority   string        `json:"priority" doc:"only what is at least as important" default:"debug" enum:"emerg,alert,crit,err,warning,notice,info,debug"`
	Since      time.Duration `json:"since" doc:"only what is younger; 0s: all" default:"0s" min:"0s" max:"87600h"`
	Grep       string        `json:"grep" doc:"only messages that match this expression of Perl's kind" max:"1024"`
	Boot       bool          `json:"boot" doc:"only what was logged since the kernel started"`
	Lines      int           `json:"lines" doc:"how many, counted from the end" default:"100" min:"0" max:"100000"`
	Follow     time.Duration `json:"follow" doc:"for how long to show new lines too" default:"0s" min:"0s" max:"24h"`
}

// TailIn is the input of tail.
type TailIn struct {
	Path   string        `json:"path" doc:"the file" required:"true" max:"4095" pattern:"/.*"`
	Lines  int           `json:"lines" doc:"how many, counted from the end; at most 4 MiB are looked through" default:"100" min:"0" max:"100000"`
	Follow time.Duration `json:"follow" doc:"for how long to show new lines too; when another file takes the name, that is followed" default:"0s" min:"0s" max:"24h"`
}

// Text is the answer.
type Text struct {
	Lines int          `json:"lines" doc:"how many lines there were"`
	Text  module.Bytes `json:"text" doc:"the lines, the first 512 KiB of them"`
	Cut   uint64       `json:"cut,omitempty" doc:"bytes that were not kept"`
}

// Package command runs programs on a machine: run starts one without a shell,
// shell gives a script to one.
//
// A program gets a clean environment, none of the agent's. Package run says
// how it is run and how it is ended when the call ends early: SIGTERM, and
// SIGKILL after 5 s when its time is over, 1.5 s when somebody cancelled it.
//
// A program that ends with a status other than zero has failed: the result is
// there beside an error such as "exit 3".
package command

import (
	"context"
	"encoding/base64"
	"unicode/utf8"

	"dominion/module"
)

// Kept output, in bytes as written in JSON.
const (
	keepStdout = 384 << 10
	keepStderr = 128 << 10
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "command",
	Doc: "Run programs. When a call ends early, its program and all that this started get SIGTERM, and SIGKILL if they are still there 5 s after the call's time-out, or 1.5 s after it was cancelled. " +
		"A process that left the program's process group is found through a cgroup of the call's own, where the agent may make one (Linux 5.7, cgroup version 2). What a program that ends by itself leaves running goes on.",
	Methods: []module.Method{
		module.Func("run", "Runs a program with arguments, without a shell.", module.Change, runProgram, module.MethodOptions{}),
		module.Func("shell", "Runs a script with a shell.", module.Change, runScript, module.MethodOptions{}),
	},
}

// Options are what run and shell have in common.
type Options struct {
	Env   map[string]string `json:"env" doc:"environment variables, added to PATH, HOME, USER, LOGNAME, LANG and DOMINION_MACHINE" max:"1024" secret:"true"`
	Dir   string            `json:"dir" doc:"working directory" default:"/" pattern:"/.*" max:"4095"`
	User  string            `json:"user" doc:"user to run as, by name or number; the agent's when left out" max:"256"`
	Stdin module.Bytes      `json:"stdin" doc:"what the program reads from its standard input" secret:"true"`
}

// RunIn is the input of run.
type RunIn struct {
	Argv []string `json:"argv" doc:"the program, looked up in PATH, and its arguments" required:"true" min:"1" max:"8192"`
	Options
}

// ShellIn is the input of shell.
type ShellIn struct {
	Script string `json:"script" doc:"the script, given to the shell as the argument of -c" required:"true" max:"131071"`
	Shell  string `json:"shell" doc:"the shell, looked up in PATH" default:"/bin/sh" min:"1" max:"4095"`
	Options
}

// Result is what a program did. Of stdout and stdout_base64 one is there,
// likewise of stderr and stderr_base64. At most 384 KiB of stdout and 128 KiB
// of stderr are kept, measured as JSON.
type Result struct {
	Exit         int     `json:"exit" doc:"the exit status; 128 and the signal's number for a program that was killed"`
	Signal       string  `json:"signal,omitempty" doc:"the signal that killed it, such as SIGKILL"`
	Stdout       *string `json:"stdout,omitempty" doc:"its standard output"`
	StdoutBase64 *string `json:"stdout_base64,omitempty" doc:"its standard output when that is not UTF-8"`
	StdoutCut    uint64  `json:"stdout_cut,omitempty" doc:"bytes of standard output that were not kept"`
	Stderr       *string `json:"stderr,omitempty" doc:"its standard error"`
	StderrBase64 *string `json:"stderr_base64,omitempty" doc:"its standard error when that is not UTF-8"`
	StderrCut    uint64  `json:"stderr_cut,omitempty" doc:"bytes of standard error that were not kept"`
}

func runProgram(ctx context.Context, env *module.Env, in RunIn) (Result, error) {
	return system.run(ctx, env, in.Argv, in.Options)
}

func runScript(ctx context.Context, env *module.Env, in ShellIn) (Result, error) {
	return system.run(ctx, env, []string{in.Shell, "-c", in.Script}, in.Options)
}

// text divides output into one of the two forms in a Result.
func text(l *module.Limit) (plain, coded *string, cut uint64) {
	b := l.Bytes()
	if utf8.Valid(b) {
		return new(string(b)), nil, l.Cut()
	}
	return nil, new(base64.StdEncoding.EncodeToString(b)), l.Cut()
}

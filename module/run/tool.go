package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"dominion/call"
	"dominion/module"
)

// What Tool keeps of the output of a program.
const (
	KeepOutput = 4 << 20 // bytes of standard output
	keepWords  = 3 << 10 // bytes of standard error, for the text of an error
)

// Path is the PATH of the programs that methods run, and where Find looks.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// toolDirs are where Find looks. What an administrator put below /usr/local is
// his own and need not be what a method expects.
var toolDirs = [...]string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Find gives the file of the first of these programs that is installed. The
// error is a *call.Error with code Failed: Unavailable would make an order
// that waits ask the machine again and again.
func Find(names ...string) (string, error) {
	for _, name := range names {
		for _, dir := range toolDirs {
			file := filepath.Join(dir, name)
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return file, nil
			}
		}
	}
	return "", call.Errorf(call.Failed, "this machine has no program %s (looked in %s)", strings.Join(names, " or "), strings.Join(toolDirs[:], ", "))
}

// Environment is the minimal one that a method's programs get: messages in
// English, a PATH, and what else is given as KEY=VALUE.
func Environment(more ...string) []string {
	return append([]string{"LC_ALL=C", "PATH=" + Path}, more...)
}

// Tool gives the command of a program that a method runs and whose output it
// reads: nobody listens live, KeepOutput of its standard output are kept. file
// is absolute.
func Tool(env *module.Env, file string, args ...string) Command {
	c := Command{
		Path: file, Args: append([]string{file}, args...), Env: Environment(), Dir: "/",
		KeepStdout: KeepOutput, KeepStderr: keepWords,
	}
	if env != nil {
		c.Job = env.Job
	}
	return c
}

// Output runs a program as Tool says and gives its standard output, and with
// an error what it wrote until then. An error says which program it is about
// and what that wrote on its standard error; one that wraps an *ExitError has
// its status.
func Output(ctx context.Context, env *module.Env, file string, args ...string) ([]byte, error) {
	return System.Output(ctx, Tool(env, file, args...))
}

// Output runs a command and gives what was kept of its standard output, as the
// function Output does. Output that was cut is an error.
func (t Runner) Output(ctx context.Context, c Command) ([]byte, error) {
	r, err := t.Run(ctx, c)
	name := filepath.Base(c.Path)
	switch {
	case r == nil:
		return nil, err
	case err != nil:
		return r.Stdout.Bytes(), fmt.Errorf("%s: %w%s", name, err, r.words())
	case r.Stdout.Cut() > 0:
		return r.Stdout.Bytes(), fmt.Errorf("%s wrote more than %d bytes", name, c.KeepStdout)
	}
	return r.Stdout.Bytes(), nil
}

// words is what the program said about its failure, for the end of an error.
func (r *Result) words() string {
	s := strings.TrimSpace(string(r.Stderr.Bytes()))
	if s == "" {
		return ""
	}
	if r.Stderr.Cut() > 0 {
		s += "…"
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	return ": " + s
}

// Status gives the status of a program that ended by itself with another than
// 0, and false for any other error.
func Status(err error) (int, bool) {
	if e, ok := errors.AsType[*ExitError](err); ok && e.Result.Signal == "" {
		return e.Result.Exit, true
	}
	return 0, false
}

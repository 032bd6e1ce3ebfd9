// Package cron shows what cron runs on a machine, and when: the tables of
// crontab(5) and the directories of scripts that they run.
package cron

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"dominion/module"
	"dominion/module/place"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "cron",
	Doc:  "What cron runs. Timers of systemd are units: service.list with pattern=*.timer.",
	Methods: []module.Method{
		module.Func("list", "Lists the jobs of cron, by file.", module.Read, here.list, module.MethodOptions{}),
	},
}

const (
	maxJobs    = 2000    // in one answer
	maxCommand = 200     // bytes of a command, so that they fit
	maxFile    = 1 << 20 // bytes of a table
	maxFiles   = 10_000  // in one directory
	problems   = 50      // that are told
)

// ListIn is the input of list.
type ListIn struct {
	User string `json:"user" doc:"only what runs as this user" max:"32"`
}

// Jobs is the answer of list.
type Jobs struct {
	Jobs     []Job    `json:"jobs" doc:"the jobs, by file and line; 2000 at most"`
	Cut      int      `json:"cut,omitempty" doc:"jobs that were left out"`
	Problems []string `json:"problems,omitempty" doc:"what could not be read, or understood; 50 at most"`
}

// Job is something that cron runs.
type Job struct {
	File     string `json:"file" doc:"the table, or the script"`
	Line     int    `json:"line,omitempty" doc:"line in the table"`
	User     string `json:"user" doc:"whom it runs as"`
	Schedule string `json:"schedule" doc:"minute, hour, day, month and weekday, or a word such as @daily; hourly, daily, weekly or monthly for a script in a directory of that name"`
	Command  string `json:"command" doc:"what is run, its first 200 bytes"`
}

// machine is where tables are; tests have one of their own.
type machine struct{ root string }

var here = machine{"/"}

func (m machine) list(ctx context.Context, _ *module.Env, in ListIn) (Jobs, error) {
	l := &lister{machine: m}
	l.table("/etc/crontab", "")
	l.dir("/etc/cron.d", true, func(file, _ string) { l.table(file, "") })
	for _, d := range []string{"/var/spool/cron/crontabs", "/var/spool/cron"} { // Debian's, and Fedora's
		l.dir(d, false, func(file, name string) { l.table(file, name) })
	}
	for _, every := range []string{"hourly", "daily", "weekly", "monthly"} {
		l.dir("/etc/cron."+every, true, func(file, _ string) {
			l.jobs = append(l.jobs, Job{File: file, User: "root", Schedule: every, Command: file})
		})
	}
	if ctx.Err() != nil {
		return Jobs{}, context.Cause(ctx)
	}
	all := slices.DeleteFunc(l.jobs, func(j Job) bool { return in.User != "" && j.User != in.User })
	slices.SortStableFunc(all, func(a, b Job) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return Jobs{Jobs: append([]Job{}, all[:min(len(all), maxJobs)]...), Cut: max(0, len(all)-maxJobs), Problems: l.problems[:min(len(l.problems), problems)]}, nil
}

// lister gathers jobs.
type lister struct {
	machine
	jobs     []Job
	problems []string
}

func (l *lister) problem(file string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.problems = append(l.problems, fmt.Sprintf("%s: %v", file, err))
	}
}

// plainName is what run-parts(8) and Debian's cron take as a name; others,
// such as those that dpkg leaves beside a file, are not run.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// dir calls each with the regular files of a directory.
func (l *lister) dir(name string, plain bool, each func(file, base string)) {
	p, err := place.Follow(filepath.Join(l.root, name))
	if err != nil {
		l.problem(name, err)
		return
	}
	defer p.Close()
	root, err := p.Directory()
	if err != nil {
		l.problem(name, err)
		return
	}
	defer root.Close()
	d, err := root.Open(".")
	if err != nil {
		l.problem(name, err)
		return
	}
	defer d.Close()
	entries, err := d.ReadDir(maxFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		l.problem(name, err)
	}
	for _, e := range entries {
		if e.Type().IsDir() || plain && !plainName.MatchString(e.Name()) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		each(filepath.Join(name, e.Name()), e.Name())
	}
}

// table reads a table. user is whose it is; empty: each line says so.
func (l *lister) table(file, user string) {
	text, err := l.read(file)
	if err != nil {
		l.problem(file, err)
		return
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		j, ok, err := parseLine(strings.TrimSuffix(line, "\n"), user)
		if err != nil {
			l.problem(fmt.Sprintf("%s:%d", file, n), err)
		}
		if ok {
			j.File, j.Line = file, n
			l.jobs = append(l.jobs, j)
		}
	}
}

func (l *lister) read(file string) (string, error) {
	p, err := place.Follow(filepath.Join(l.root, file))
	if err != nil {
		return "", err
	}
	defer p.Close()
	f, _, err := p.File(os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return strings.ToValidUTF8(string(b), "\ufffd"), err
}

var (
	errLine  = errors.New("neither a job nor a variable")
	variable = regexp.MustCompile(`^["']?[A-Za-z_][A-Za-z0-9_]*["']?[ \t]*=`)
)

// parseLine reads a line of crontab(5); ok is false when it is no job. user is
// whose table it is; empty: the line names the user.
func parseLine(line, user string) (j Job, ok bool, err error) {
	line = strings.Trim(line, " \t\r")
	if line == "" || line[0] == '#' || variable.MatchString(line) {
		return Job{}, false, nil
	}
	line = strings.TrimPrefix(line, "-") // SUSE's: not told to syslog
	n := 5
	if strings.HasPrefix(line, "@") {
		n = 1
	}
	if user == "" {
		n++
	}
	var words []string
	for range n {
		var w string
		w, line = word(line)
		words = append(words, w)
	}
	if line == "" {
		return Job{}, false, errLine
	}
	j = Job{User: user, Command: strings.ToValidUTF8(line[:min(len(line), maxCommand)], "")}
	if user == "" {
		j.User, words = words[n-1], words[:n-1]
	}
	j.Schedule = strings.Join(words, " ")
	return j, true, nil
}

// word takes the first word off a line.
func word(s string) (first, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

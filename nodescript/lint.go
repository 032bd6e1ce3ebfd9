package nodescript

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// maxLint bounds how much of a script is read for traps, in bytes.
const maxLint = 1 << 20

// Trap is a kind of finding.
type Trap string

// What Lint looks for.
const (
	TrapName     Trap = "name"     // it does not begin with two digits, or is not what it should be
	TrapNumber   Trap = "number"   // the number is one for other scripts
	TrapMode     Trap = "mode"     // it is not executable, or somebody else may write to it
	TrapPlace    Trap = "place"    // no node ever runs it there
	TrapLink     Trap = "link"     // a symbolic link that leads nowhere, or out of STATEDIR
	TrapStatus   Trap = "status"   // its last command can end with a status other than 0
	TrapOverlord Trap = "overlord" // something runs on the overlord that looks as if meant for the node
	TrapUnset    Trap = "unset"    // a variable that nothing sets on the overlord
	TrapShell    Trap = "shell"    // the shell would complain
)

// Finding is one trap.
type Finding struct {
	Path string // relative to nodescripts/
	Line int    // 0: the file as a whole
	Trap Trap
	Text string
}

// String gives "init/all/10-a:3: text".
func (f Finding) String() string {
	if f.Line == 0 {
		return f.Path + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Text)
}

// linter gathers findings.
type linter struct {
	tree  *Tree
	rules Rules
	found []Finding
}

// add notes a finding about a file as a whole.
func (l *linter) add(path string, trap Trap, format string, args ...any) {
	l.found = append(l.found, Finding{path, 0, trap, fmt.Sprintf(format, args...)})
}

// Lint looks for the traps of node scripts in all states, or in one: what
// Perceus's documentation warns of, and what else has been fallen into. Nothing
// is run. Of scripts in other languages than that of the POSIX shell it looks
// at name and mode alone. A line with a comment that holds "lint:ok" has no
// findings. They are sorted by path and line.
func (t *Tree) Lint(r Rules, state string) ([]Finding, error) {
	l := &linter{tree: t, rules: r}
	states, err := t.list(scripts)
	if err != nil {
		return nil, fmt.Errorf("lint node scripts: %w", err)
	}
	for _, e := range states {
		if state != "" && e.name != state {
			continue
		}
		if err := l.state(e); err != nil {
			return nil, fmt.Errorf("lint node scripts: %w", err)
		}
	}
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		if n := strings.Compare(a.Path, b.Path); n != 0 {
			return n
		}
		return a.Line - b.Line
	})
	return l.found, nil
}

// state looks at the folder of one state.
func (l *linter) state(e entry) error {
	if e.err != nil || !e.mode.IsDir() {
		l.add(e.name, TrapPlace, "it is not the folder of a state: nothing of it runs")
		return nil
	}
	if _, err := ParseState(e.name); err != nil {
		l.add(e.name, TrapPlace, "no state has this name: nothing below it runs")
		return nil
	}
	folders, err := l.tree.list(scripts + "/" + e.name)
	if err != nil {
		return err
	}
	for _, f := range folders {
		path := e.name + "/" + f.name
		switch f.name {
		case "all":
			err = l.folder(path, f)
		case "vnfs", "group", "node":
			err = l.fields(path, f)
		default:
			l.add(path, TrapPlace, "it is not all/, vnfs/, group/ or node/: nothing of it runs")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fields looks at vnfs/, group/ or node/ of a state.
func (l *linter) fields(path string, e entry) error {
	if e.err != nil || !e.mode.IsDir() {
		l.add(path, TrapPlace, "it should be a folder: nothing of it runs")
		return nil
	}
	entries, err := l.tree.list(scripts + "/" + path)
	if err != nil {
		return err
	}
	for _, f := range entries {
		below := path + "/" + f.name
		switch {
		case f.name[0] == '.' || strings.HasSuffix(f.name, "~"):
		case f.err == nil && f.mode.IsDir():
			if err := l.folder(below, f); err != nil {
				return err
			}
		case l.rules == Perceus193:
			l.add(below, TrapPlace, "it lies beside the folders: only nodes without that field run it")
		default:
			l.add(below, TrapPlace, "it lies beside the folders: no node runs it")
		}
	}
	return nil
}

// folder looks at the scripts in a folder.
func (l *linter) folder(path string, e entry) error {
	if e.err != nil || !e.mode.IsDir() {
		l.add(path, TrapPlace, "it should be a folder: nothing of it runs")
		return nil
	}
	_, kind, _ := strings.Cut(path, "/")
	entries, err := l.tree.list(scripts + "/" + path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.name[0] == '.' || strings.HasSuffix(e.name, "~") || e.err == nil && e.mode.IsDir() {
			continue
		}
		if err := l.script(path+"/"+e.name, kind, e); err != nil {
			return err
		}
	}
	return nil
}

// script looks at one script.
func (l *linter) script(path, kind string, e entry) error {
	l.number(path, kind, e.name)
	switch {
	case errors.Is(e.err, ErrOutside):
		l.add(path, TrapLink, "its link leaves the state directory, and is not followed: %s", e.link)
		return nil
	case errors.Is(e.err, fs.ErrNotExist):
		l.add(path, TrapLink, "its link leads to nothing: %s", e.link)
		return nil
	case e.err != nil:
		l.add(path, TrapLink, "its link cannot be followed: %v", e.err)
		return nil
	case !e.mode.IsRegular():
		l.add(path, TrapMode, "it is no regular file, and cannot run")
		return nil
	}
	f, info, err := l.tree.open(scripts + "/" + path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLint+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	l.mode(path, info, text)
	if h := parseHead(text); !h.binary && isShell(h) {
		if len(text) > maxLint {
			l.add(path, TrapShell, "it has more than %d bytes, and is not read", maxLint)
			return nil
		}
		l.found = append(l.found, lintShell(path, string(text), h)...)
	}
	return nil
}

// mode looks at who may run and write a script.
func (l *linter) mode(path string, info fs.FileInfo, text []byte) {
	if mode := info.Mode(); mode&0o111 == 0 {
		sent, _ := fromShebang(strings.NewReader(string(text))) // a string cannot fail
		switch {
		case l.rules == Documented:
			l.add(path, TrapMode, "it is not executable, so it does not run")
		case sent == nil:
			l.add(path, TrapMode, "it is not executable and has no line #!/bin/sh, so it gives nothing")
		default:
			l.add(path, TrapMode, "it is not executable, so it is sent to the node as it is")
		}
	}
	if info.Mode()&0o022 != 0 {
		l.add(path, TrapMode, "others than its owner may write to it (%v), and it runs on the overlord", info.Mode().Perm())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		l.add(path, TrapMode, "it belongs to user %d, and it runs on the overlord", st.Uid)
	}
}

// number looks at the name: two digits and a hyphen, from the range of its kind.
func (l *linter) number(path, kind, name string) {
	digits := len(name) - len(strings.TrimLeft(name, "0123456789"))
	if digits != 2 || len(name) < 4 || name[2] != '-' {
		l.add(path, TrapName, "its name does not begin with two digits and a hyphen; names are compared byte by byte, so 9-x comes after 10-x")
	} else {
		l.ranges(path, kind, int(name[0]-'0')*10+int(name[1]-'0'))
	}
	if l.rules == Perceus193 && strings.ContainsAny(name, shellBytes+blanks) {
		l.add(path, TrapName, "Perceus takes its name apart, and it gives nothing")
	}
}

// ranges holds a number against the ranges: 00-09 initialisation, 10-79 VNFS,
// 05-95 everything else, 80-89 clean-up, 90-99 the VNFS's last steps.
func (l *linter) ranges(path, kind string, n int) {
	switch vnfs := strings.HasPrefix(kind, "vnfs/"); {
	case vnfs && n < 10:
		l.add(path, TrapNumber, "%02d is for initialisation (00-09); a VNFS has 10-79, 80-89 for its clean-up, 90-99 for its last steps", n)
	case !vnfs && kind != "all" && n < 5:
		l.add(path, TrapNumber, "%02d is for initialisation, in all/; other scripts have 05-95", n)
	case !vnfs && n > 95:
		l.add(path, TrapNumber, "%02d is for the last steps of a VNFS, kexec or reboot; other scripts have 05-95", n)
	}
}

// isShell says whether a script is one for a POSIX shell, or for none in
// particular, which a shell then runs.
func isShell(h head) bool {
	name := h.interpreter[strings.LastIndexByte(h.interpreter, '/')+1:]
	if name == "env" {
		name, _, _ = strings.Cut(h.argument, " ")
	}
	return slices.Contains([]string{"", "sh", "bash", "dash", "ash", "ksh", "busybox"}, name)
}

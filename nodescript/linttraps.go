package nodescript

import (
	"slices"
	"strings"
)

// given are the variables that every script finds in its environment, and those
// that a shell sets by itself.
var given = []string{
	"PATH", "STATE", "NODENAME", "VNFS", "ENABLED", "DEBUG", "GROUPNAME", "NODEID", "IPADDR", "STATEDIR", "VNFSMETHOD", "VNFSMASTER", "VNFSPREFIX",
	"IFS", "OPTIND", "OPTARG", "PPID", "PWD", "PS1", "PS2", "PS4", "LINENO", "RANDOM", "BASH_VERSION",
}

// nodeOnly are programs that have no business on the overlord while a script is
// made there.
var nodeOnly = []string{
	"reboot", "halt", "poweroff", "shutdown", "telinit", "kexec", "switch_root", "pivot_root", "mkswap", "swapon", "sfdisk", "modprobe", "insmod", "udhcpc", "getfile",
}

// shellLint looks for traps in one shell script.
type shellLint struct {
	path     string
	head     head
	commands []command
	set      map[string]bool // variables that something sets on the overlord
	printed  map[string]bool // variables that the output sets on the node
	sources  bool            // another file is read in, which may set anything
	found    []Finding
	fine     map[int]bool // lines with a comment lint:ok
}

// lintShell gives the findings of one script.
func lintShell(path, text string, h head) []Finding {
	tokens, err := readShell(text)
	if err != nil {
		return []Finding{{path, 0, TrapShell, err.Error()}}
	}
	s := &shellLint{path: path, head: h, commands: parse(tokens), set: make(map[string]bool), printed: make(map[string]bool), fine: make(map[int]bool)}
	for _, t := range tokens {
		if t.kind == tokComment && strings.Contains(t.raw, "lint:ok") {
			s.fine[t.line] = true
		}
	}
	if strings.Contains(text, "\r\n") {
		s.add(1, TrapShell, "its lines end in CR LF, and the shell takes the CR for a part of each line")
	}
	for _, c := range s.commands {
		s.learn(c)
	}
	for _, c := range s.commands {
		s.command(c)
	}
	s.last()
	return s.found
}

func (s *shellLint) add(line int, trap Trap, text string) {
	f := Finding{s.path, line, trap, text}
	if !s.fine[line] && !slices.Contains(s.found, f) {
		s.found = append(s.found, f)
	}
}

// learn notes what a command sets, on the overlord or on the node.
func (s *shellLint) learn(c command) {
	name := func(t token) string { return t.plain[:nameLen(t.plain)] }
	for _, t := range c.assigns {
		s.set[name(t)] = true
	}
	for _, t := range slices.Concat(c.words, c.here) {
		for _, e := range t.uses {
			if e.assigns {
				s.set[e.name] = true
			}
		}
	}
	switch c.name() {
	case "export", "readonly", "local", "read", "for", "declare", "typeset", "getopts":
		for _, t := range c.words[1:] {
			s.set[name(t)] = true
		}
	case ".", "source", "eval":
		s.sources = true
	}
	if !c.prints() {
		return
	}
	for _, t := range slices.Concat(c.words[1:], c.here) {
		for line := range strings.Lines(t.plain) {
			line = strings.TrimPrefix(strings.TrimLeft(line, " \t"), "export ")
			if n := nameLen(line); n > 0 && n < len(line) && line[n] == '=' {
				s.printed[line[:n]] = true
			}
		}
	}
}

// prints says whether what the command is given becomes a part of the node's
// script.
func (c command) prints() bool {
	return (c.name() == "echo" || c.name() == "printf" || c.name() == "cat" && len(c.here) > 0) && len(c.targets) == 0 && c.after != "|"
}

// command looks at one command.
func (s *shellLint) command(c command) {
	if slices.Contains(nodeOnly, c.name()) {
		s.add(c.line, TrapOverlord, c.name()+" runs on the overlord, not on the node; print it to have it run there")
	}
	for _, t := range c.targets {
		if to := t.plain; strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "/dev/") && !strings.HasPrefix(to, "/tmp/") &&
			(c.name() == "echo" || c.name() == "printf" || c.name() == "cat") {
			s.add(t.line, TrapOverlord, "> "+strings.ReplaceAll(to, "\x00", "…")+" writes a file of the overlord, not of the node; quote the > to have it done there")
		}
	}
	for _, t := range slices.Concat(c.assigns, c.words, c.targets, c.here) {
		for _, e := range t.uses {
			s.use(c, e)
		}
	}
	if s.head.interpreter == fallbackSh {
		s.portable(c)
	}
}

// portable looks for what the shells that sh can be take differently.
func (s *shellLint) portable(c command) {
	switch c.name() {
	case "[", "test":
		for _, t := range c.words {
			if t.raw == "==" {
				s.add(t.line, TrapShell, "[ with == is understood by bash, not by every sh: use =, or configure bash as the shell")
			}
		}
	case "echo":
		for _, t := range c.words[1:] {
			if i := strings.IndexByte(t.plain, '\\'); i >= 0 && i+1 < len(t.plain) && strings.IndexByte("abcfnrtv0\\", t.plain[i+1]) >= 0 {
				s.add(t.line, TrapShell, "echo makes one character of "+t.plain[i:i+2]+" in dash, and leaves it in bash: use printf or a here-document, or configure the shell that it was written for")
				return
			}
		}
	}
}

// use looks at something that the overlord's shell replaces.
func (s *shellLint) use(c command, e expansion) {
	switch {
	case e.command && c.prints():
		s.add(e.line, TrapOverlord, short(e.name)+" runs on the overlord while the script is made; escape it to have it run on the node")
	case e.command, e.given, e.name == "":
	case nameLen(e.name) == 0: // $1, $? and the like
		if c.prints() && !c.inFunc {
			s.add(e.line, TrapUnset, "$"+e.name+" is expanded on the overlord; write \\$"+e.name+" to have it expanded on the node")
		}
	case s.set[e.name] || slices.Contains(given, e.name):
	case s.printed[e.name]:
		s.add(e.line, TrapUnset, "$"+e.name+" is set in what is printed, so on the node; here, on the overlord, it is empty")
	case s.sources:
	case c.prints():
		s.add(e.line, TrapUnset, "$"+e.name+" is expanded on the overlord, where nothing sets it; write \\$"+e.name+" to have it expanded on the node")
	default:
		s.add(e.line, TrapUnset, "$"+e.name+" is set by nothing here, and is not among the variables that a node script is given")
	}
}

// short is the beginning of a text on one line.
func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 40 {
		text = strings.ToValidUTF8(text[:40], "") + "…"
	}
	return text
}

// last looks at the command whose status is the script's.
func (s *shellLint) last() {
	if len(s.commands) == 0 {
		return
	}
	c := s.commands[len(s.commands)-1]
	if c.closes {
		return // only a function is defined there
	}
	const but = "; a status other than 0 stops the assembly"
	arg := ""
	if len(c.words) > 1 {
		arg = c.words[1].plain
	}
	switch name := c.name(); {
	case c.before == "&&":
		s.add(c.line, TrapStatus, "the last command runs after && only: when what stands before it is false, that is the script's status"+but+"; use if, or end with exit 0")
	case c.before == "||":
	case name == "[" || name == "[[" || name == "test" || name == "false" || name == "grep" || name == "egrep" || name == "fgrep":
		s.add(c.line, TrapStatus, "the last command is "+name+", whose status is the script's"+but)
	case (name == "exit" || name == "return") && strings.Trim(arg, "0") != "" && strings.Trim(arg, "0123456789") == "":
		s.add(c.line, TrapStatus, "it ends with "+name+" "+arg+but)
	}
}

package nodescript

import "strings"

// command is a simple command of a shell script (XCU 2.9.1), seen from far
// enough for Lint: which program, with which words, where its output goes.
type command struct {
	line    int
	assigns []token // NAME=… before the program
	words   []token // the program and its arguments
	here    []token // here-documents
	targets []token // files that > and >> write to
	before  string  // the operator or reserved word that it follows; ";" for a line end
	after   string  // the operator that follows it
	inFunc  bool    // it is in the body of a function
	closes  bool    // a function's } comes after it, and no command
}

// name is the program's, without its folders.
func (c command) name() string {
	if len(c.words) == 0 {
		return ""
	}
	p := c.words[0].plain
	return p[strings.LastIndexByte(p, '/')+1:]
}

// reserved words after which a command begins, or which end one.
const reserved = " ! { } if then elif else fi while until do done in "

// parser gathers commands from tokens.
type parser struct {
	commands []command
	now      command
	redirect string // the redirection whose file comes next
	number   string // the descriptor that is redirected; empty: the operator's own
	parens   int    // open (
	skip     bool   // words up to a line end or operator are no command: those of for and case
	braces   []bool // the open {: whether it is that of a function
	function bool   // f() was read, its { comes next
	awaits   []int  // the commands, by index, whose here-documents come after the line end; -1: the one being read
}

// parse gives the simple commands of a script, in order.
func parse(tokens []token) []command {
	p := &parser{now: command{before: ";"}}
	for i, t := range tokens {
		switch t.kind {
		case tokWord:
			p.word(t)
		case tokOperator:
			p.operator(t, i > 0 && tokens[i-1].kind == tokWord)
		case tokNewline:
			p.finish(";")
			p.skip = false
		case tokHere:
			p.document(t)
		}
	}
	p.finish("")
	return p.commands
}

func (p *parser) empty() bool { return len(p.now.words) == 0 && len(p.now.assigns) == 0 }

// finish ends the command that is being read.
func (p *parser) finish(after string) {
	p.redirect = ""
	if p.empty() && len(p.now.targets) == 0 {
		// Nothing between a line end and the next word; && and the like go on.
		if after == ";" && p.now.before != ";" {
			return
		}
		p.now = command{before: after}
		return
	}
	p.now.after = after
	for _, f := range p.braces {
		p.now.inFunc = p.now.inFunc || f
	}
	for i, n := range p.awaits {
		if n < 0 {
			p.awaits[i] = len(p.commands)
		}
	}
	p.commands = append(p.commands, p.now)
	p.now = command{before: after}
}

// operator takes an operator; adjacent says that a word ends where it begins.
func (p *parser) operator(t token, adjacent bool) {
	switch t.raw {
	case "<", "<&", "<>", ">", ">>", ">|", ">&", "<<", "<<-":
		p.redirect, p.number = t.raw, ""
		if n := len(p.now.words); adjacent && n > 0 && strings.Trim(p.now.words[n-1].raw, "0123456789") == "" {
			p.number = p.now.words[n-1].raw
			p.now.words = p.now.words[:n-1]
		}
		if strings.HasPrefix(t.raw, "<<") {
			p.awaits = append(p.awaits, -1)
		}
	case "(":
		if p.empty() && (p.now.before == "in" || p.now.before == ";;") {
			return // it begins a pattern of case
		}
		if len(p.now.words) == 1 && len(p.now.assigns) == 0 { // f()
			p.function = true
			p.now = command{before: ";"}
			return
		}
		p.parens++
		p.finish(";")
	case ")":
		p.skip = false
		if p.parens > 0 {
			p.parens--
			p.finish(";")
			return
		}
		// The end of a pattern of case, or of f().
		for n := len(p.commands); n > 0 && p.now.before == "|" && p.commands[n-1].after == "|"; n-- {
			p.now.before, p.commands = p.commands[n-1].before, p.commands[:n-1]
		}
		p.now = command{before: ";"}
	default:
		p.skip = false
		p.finish(t.raw)
	}
}

func (p *parser) word(t token) {
	if p.redirect != "" {
		op := p.redirect
		p.redirect = ""
		if p.number != "" && p.number != "1" {
			return
		}
		switch op {
		case ">", ">>", ">|":
			p.now.targets = append(p.now.targets, t)
		case ">&":
			p.now.targets = append(p.now.targets, token{kind: tokWord, plain: "&" + t.plain, line: t.line})
		}
		return
	}
	if p.skip {
		return
	}
	if p.empty() && t.raw == t.plain && strings.Contains(reserved, " "+t.plain+" ") {
		p.brace(t.plain)
		before := t.plain
		if before == "{" || before == "}" || before == "!" {
			before = ";"
		}
		p.now = command{before: before}
		return
	}
	p.function = false
	if p.empty() {
		p.now.line = t.line
	}
	if n := nameLen(t.raw); len(p.now.words) == 0 && n > 0 && n < len(t.raw) && t.raw[n] == '=' {
		p.now.assigns = append(p.now.assigns, t)
		return
	}
	p.now.words = append(p.now.words, t)
	if name := p.now.words[0].plain; len(p.now.words) == 2 && (name == "for" || name == "case") {
		p.finish(";") // "for NAME in …" and "case WORD in": the rest has no commands
		p.skip = name == "for"
	}
}

// brace follows the { and } of functions.
func (p *parser) brace(word string) {
	switch word {
	case "{":
		p.braces = append(p.braces, p.function)
		p.function = false
	case "}":
		if n := len(p.braces); n > 0 {
			if p.braces[n-1] && len(p.commands) > 0 {
				p.commands[len(p.commands)-1].closes = true
			}
			p.braces = p.braces[:n-1]
		}
	}
}

// document gives a here-document to the first command that awaits one.
func (p *parser) document(t token) {
	if len(p.awaits) == 0 {
		return
	}
	n := p.awaits[0]
	p.awaits = p.awaits[1:]
	if n >= 0 && n < len(p.commands) {
		p.commands[n].here = append(p.commands[n].here, t)
	}
}

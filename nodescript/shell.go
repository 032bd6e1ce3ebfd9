package nodescript

import (
	"errors"
	"fmt"
	"strings"
)

// This is a reader of POSIX shell (XCU 2.3) that knows words, quotes,
// expansions and here-documents, and no more: what Lint needs. It keeps every
// byte, so that the tokens' raw texts put together are the input.

// errShell is wrapped by every error of the reader.
var errShell = errors.New("not readable as a shell script")

const maxDepth = 64 // of substitutions in each other

type tokenKind uint8

const (
	tokBlank    tokenKind = iota // blanks, and line ends that a backslash takes away
	tokNewline                   // a line end that ends a command
	tokComment                   // without its line end
	tokOperator                  // ; & && | || ;; ( ) and those of redirections
	tokWord
	tokHere // the lines of a here-document, with that which ends it
)

// token is a piece of a script.
type token struct {
	kind  tokenKind
	raw   string
	line  int    // its first one; 1 is the first of the script
	plain string // of a word: its text without quotes, an expansion being \x00
	uses  []expansion
}

// expansion is something in a word or a here-document that the shell that reads
// the script replaces.
type expansion struct {
	line    int
	command bool   // a substitution of a command
	name    string // the variable's, or the command's text
	given   bool   // ${name:-…} and the like: what holds when it is not set is said
	assigns bool   // ${name:=…}
}

// lexer reads a script.
type lexer struct {
	src    string
	at     int
	line   int
	tokens []token
	here   []pendingHere // here-documents that begin after the line end
	want   int           // index in here+1 of the one whose delimiter comes next; 0: none
}

type pendingHere struct {
	end     string
	literal bool // its delimiter is quoted: nothing in it is expanded
	tabs    bool // <<-
}

// readShell takes a script apart. An error wraps errShell and names the line.
func readShell(src string) ([]token, error) {
	l := &lexer{src: src, line: 1}
	for l.at < len(l.src) {
		if err := l.next(); err != nil {
			return nil, err
		}
	}
	return l.tokens, nil
}

func (l *lexer) fail(line int, what string) error {
	return fmt.Errorf("%w: line %d: %s", errShell, line, what)
}

// peek gives the byte n after the next one; 0 behind the end.
func (l *lexer) peek(n int) byte {
	if l.at+n < len(l.src) {
		return l.src[l.at+n]
	}
	return 0
}

// skip goes over n bytes, and counts lines.
func (l *lexer) skip(n int) {
	n = min(n, len(l.src)-l.at)
	l.line += strings.Count(l.src[l.at:l.at+n], "\n")
	l.at += n
}

func (l *lexer) add(t token, from int) {
	t.raw = l.src[from:l.at]
	l.tokens = append(l.tokens, t)
}

// operators, the longest first.
var operators = []string{"<<-", "&&", "||", ";;", "<<", ">>", "<&", ">&", "<>", ">|", ";", "&", "|", "(", ")", "<", ">"}

func (l *lexer) next() error {
	from, line := l.at, l.line
	switch c := l.peek(0); {
	case c == '\n':
		l.skip(1)
		l.add(token{kind: tokNewline, line: line}, from)
		l.bodies()
		return nil
	case c == ' ' || c == '\t' || c == '\\' && l.peek(1) == '\n':
		for c := l.peek(0); c == ' ' || c == '\t' || c == '\\' && l.peek(1) == '\n'; c = l.peek(0) {
			if c == '\\' {
				l.skip(1)
			}
			l.skip(1)
		}
		l.add(token{kind: tokBlank, line: line}, from)
		return nil
	case c == '#':
		for l.at < len(l.src) && l.peek(0) != '\n' {
			l.skip(1)
		}
		l.add(token{kind: tokComment, line: line}, from)
		return nil
	}
	for _, op := range operators {
		if !strings.HasPrefix(l.src[l.at:], op) {
			continue
		}
		l.skip(len(op))
		l.add(token{kind: tokOperator, line: line}, from)
		if op == "<<" || op == "<<-" {
			l.here = append(l.here, pendingHere{tabs: op == "<<-"})
			l.want = len(l.here)
		}
		return nil
	}
	return l.word(from, line)
}

// word reads up to what ends a word.
func (l *lexer) word(from, line int) error {
	w := token{kind: tokWord, line: line}
	var plain strings.Builder
	for l.at < len(l.src) {
		c := l.peek(0)
		if strings.IndexByte(" \t\n;&|()<>", c) >= 0 {
			break
		}
		if c == '\'' {
			end := strings.IndexByte(l.src[l.at+1:], '\'')
			if end < 0 {
				return l.fail(l.line, "a quote ' is not closed")
			}
			plain.WriteString(l.src[l.at+1 : l.at+1+end])
			l.skip(end + 2)
			continue
		}
		if c == '"' {
			if err := l.double(&plain, &w.uses, 0); err != nil {
				return err
			}
			continue
		}
		if err := l.piece(&plain, &w.uses, false, 0); err != nil {
			return err
		}
	}
	l.add(w, from)
	t := &l.tokens[len(l.tokens)-1]
	t.plain = plain.String()
	if l.want > 0 {
		h := &l.here[l.want-1]
		h.end, h.literal = t.plain, strings.ContainsAny(t.raw, `'"\`)
		l.want = 0
	}
	return nil
}

// double reads a text in double quotes.
func (l *lexer) double(plain *strings.Builder, uses *[]expansion, depth int) error {
	line := l.line
	l.skip(1)
	for l.at < len(l.src) {
		if l.peek(0) == '"' {
			l.skip(1)
			return nil
		}
		if err := l.piece(plain, uses, true, depth); err != nil {
			return err
		}
	}
	return l.fail(line, `a quote " is not closed`)
}

// piece reads one byte, what a backslash escapes, or an expansion. In double
// quotes and here-documents a backslash escapes less.
func (l *lexer) piece(plain *strings.Builder, uses *[]expansion, quoted bool, depth int) error {
	switch c := l.peek(0); {
	case c == '\\' && l.at+1 < len(l.src):
		switch n := l.peek(1); {
		case n == '\n':
		case quoted && strings.IndexByte("$`\"\\", n) < 0:
			plain.WriteString(l.src[l.at : l.at+2])
		default:
			plain.WriteByte(n)
		}
		l.skip(2)
		return nil
	case c == '`', c == '$':
		before := l.at
		if err := l.expansion(uses, quoted, depth); err != nil {
			return err
		}
		if l.at > before {
			plain.WriteByte(0)
			return nil
		}
		fallthrough
	default:
		plain.WriteByte(c)
		l.skip(1)
		return nil
	}
}

// expansion reads what begins with $ or `. It reads nothing when a $ stands for
// itself.
func (l *lexer) expansion(uses *[]expansion, quoted bool, depth int) error {
	if depth >= maxDepth {
		return l.fail(l.line, fmt.Sprintf("more than %d substitutions in each other", maxDepth))
	}
	from, line := l.at, l.line
	switch c := l.peek(1); {
	case l.peek(0) == '`':
		return l.backquoted(uses)
	case c == '(' && l.peek(2) == '(':
		return l.nested(3, line, depth)
	case c == '(':
		if err := l.nested(2, line, depth); err != nil {
			return err
		}
		*uses = append(*uses, expansion{line: line, command: true, name: l.src[from:l.at]})
		return nil
	case c == '{':
		return l.braced(uses, quoted, depth)
	case strings.IndexByte("@*#?-$!", c) >= 0, c >= '0' && c <= '9':
		l.skip(2)
		*uses = append(*uses, expansion{line: line, name: string(c)})
	default:
		n := nameLen(l.src[l.at+1:])
		if n > 0 {
			l.skip(1 + n)
			*uses = append(*uses, expansion{line: line, name: l.src[from+1 : l.at]})
		}
	}
	return nil
}

// nameLen is the length of the name of a variable at the beginning of s.
func nameLen(s string) int {
	for i := range len(s) {
		if c := s[i]; c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}

// backquoted reads `…`.
func (l *lexer) backquoted(uses *[]expansion) error {
	from, line := l.at, l.line
	for i := l.at + 1; i < len(l.src); i++ {
		switch l.src[i] {
		case '\\':
			i++
		case '`':
			l.skip(i + 1 - l.at)
			*uses = append(*uses, expansion{line: line, command: true, name: l.src[from:l.at]})
			return nil
		}
	}
	return l.fail(line, "a quote ` is not closed")
}

// nested reads to the parenthesis that closes the first of those in the next n
// bytes. What is used in it is a matter of the commands in it.
func (l *lexer) nested(n, line, depth int) error {
	open := n - 1
	l.skip(n)
	var plain strings.Builder
	var uses []expansion
	for l.at < len(l.src) {
		switch c := l.peek(0); {
		case c == '(':
			open++
			l.skip(1)
		case c == ')':
			open--
			if l.skip(1); open == 0 {
				return nil
			}
		case c == '\'':
			end := strings.IndexByte(l.src[l.at+1:], '\'')
			if end < 0 {
				return l.fail(l.line, "a quote ' is not closed")
			}
			l.skip(end + 2)
		case c == '"':
			if err := l.double(&plain, &uses, depth+1); err != nil {
				return err
			}
		default:
			if err := l.piece(&plain, &uses, false, depth+1); err != nil {
				return err
			}
		}
		plain.Reset()
		uses = uses[:0]
	}
	return l.fail(line, "$( is not closed")
}

// braced reads ${…}.
func (l *lexer) braced(uses *[]expansion, quoted bool, depth int) error {
	line := l.line
	l.skip(2)
	e := expansion{line: line, name: l.parameter()}
	op := strings.TrimPrefix(l.src[l.at:min(l.at+2, len(l.src))], ":")
	if op != "" {
		e.given, e.assigns = strings.IndexByte("-=?+", op[0]) >= 0, op[0] == '='
		quoted = quoted && op[0] != '#' && op[0] != '%' // patterns have quotes of their own
	}
	*uses = append(*uses, e)
	var plain strings.Builder
	for l.at < len(l.src) {
		switch c := l.peek(0); {
		case c == '}':
			l.skip(1)
			return nil
		case c == '\'' && !quoted:
			end := strings.IndexByte(l.src[l.at+1:], '\'')
			if end < 0 {
				return l.fail(l.line, "a quote ' is not closed")
			}
			l.skip(end + 2)
		case c == '"':
			if err := l.double(&plain, uses, depth+1); err != nil {
				return err
			}
		default:
			if err := l.piece(&plain, uses, quoted, depth+1); err != nil {
				return err
			}
		}
		plain.Reset()
	}
	return l.fail(line, "${ is not closed")
}

// parameter reads the name in ${…}, and the # before it that asks for its length.
func (l *lexer) parameter() string {
	if l.peek(0) == '#' && l.peek(1) != '}' {
		l.skip(1)
	}
	n := nameLen(l.src[l.at:])
	if n == 0 && l.at < len(l.src) && l.peek(0) != '}' {
		for n < 9 && l.peek(n) >= '0' && l.peek(n) <= '9' {
			n++
		}
		n = max(n, 1)
	}
	name := l.src[l.at : l.at+n]
	l.skip(n)
	return name
}

// bodies reads the here-documents that begin after a line end.
func (l *lexer) bodies() {
	for _, h := range l.here {
		l.body(h)
	}
	l.here, l.want = nil, 0
}

func (l *lexer) body(h pendingHere) {
	from := l.at
	t := token{kind: tokHere, line: l.line}
	var plain strings.Builder
	for l.at < len(l.src) {
		line, _, _ := strings.Cut(l.src[l.at:], "\n")
		stripped := line
		if h.tabs {
			stripped = strings.TrimLeft(line, "\t")
		}
		if stripped == h.end {
			l.skip(len(line) + 1)
			break
		}
		if h.literal {
			plain.WriteString(stripped + "\n")
			l.skip(len(line) + 1)
			continue
		}
		for end := l.at + len(line) + 1; l.at < end && l.at < len(l.src); {
			if err := l.piece(&plain, &t.uses, true, 0); err != nil {
				plain.WriteByte(l.peek(0)) // a quote that is not closed: the shell would complain
				l.skip(1)
			}
		}
	}
	l.add(t, from)
	l.tokens[len(l.tokens)-1].plain = plain.String()
}

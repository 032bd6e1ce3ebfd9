package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"dominion/target"
)

// Limits of a policy file.
const (
	MaxFile  = 1 << 20 // bytes
	MaxLines = 10_000

	othersWrite = 0o022
)

// ErrPolicy is wrapped by every error about what a policy file holds.
var ErrPolicy = errors.New("bad policy")

// Load reads a policy file. Without a file the policy is nil, which allows
// everything: see Policy. A link to nothing is not without a file, and what others
// than root and this user may change is no policy.
func Load(path string) (*Policy, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("read policy: %s is a link to nothing", path)
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	defer f.Close()
	if err := checkOwn(f); err != nil {
		return nil, fmt.Errorf("read policy %s: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", path, err)
	}
	p, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", path, err)
	}
	return p, nil
}

// checkOwn refuses a file that somebody may change who is neither root nor us.
func checkOwn(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is no file")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, who is neither root nor %d, who runs this", st.Uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&othersWrite != 0 {
		return fmt.Errorf("others may change it (mode %04o); chmod go-w %s", mode, f.Name())
	}
	return nil
}

// Parse reads the text of a policy file, at most MaxFile bytes and MaxLines
// lines of policy. A text that holds nothing is a policy that denies
// everything. Every error wraps ErrPolicy and names the line of the file and
// the key.
func Parse(text []byte) (*Policy, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrPolicy, len(text), MaxFile)
	}
	p := &Policy{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return p, nil
	case err != nil:
		return nil, fmt.Errorf("%w: %s", ErrPolicy, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is a second document, or something that is not YAML, behind the list", ErrPolicy)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, fmt.Errorf("%w: it is no YAML document", ErrPolicy)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return p, nil
	}
	if root.Kind != yaml.SequenceNode {
		return nil, wrong(root, `wants a list of lines such as - {operators: "alice", methods: "*", targets: "*"}`)
	}
	if len(root.Content) > MaxLines {
		return nil, fmt.Errorf("%w: %d lines are more than %d", ErrPolicy, len(root.Content), MaxLines)
	}
	for _, n := range root.Content {
		l, err := parseLine(n)
		if err != nil {
			return nil, err
		}
		p.lines = append(p.lines, l)
	}
	return p, nil
}

const keys = "operators, methods and targets"

func parseLine(n *yaml.Node) (line, error) {
	var l line
	if n.Kind != yaml.MappingNode {
		return l, wrong(n, "wants a line with the keys "+keys)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name, err := scalar(key)
		if err != nil {
			return l, err
		}
		if seen[name] {
			return l, wrong(key, fmt.Sprintf("key %.60q is there twice", name))
		}
		seen[name] = true
		if err := l.set(name, key, value); err != nil {
			return l, err
		}
	}
	for _, name := range []string{"operators", "methods", "targets"} {
		if !seen[name] {
			return l, wrong(n, fmt.Sprintf(`key %q is missing; write "*" for all`, name))
		}
	}
	return l, nil
}

func (l *line) set(name string, key, value *yaml.Node) error {
	if name != "operators" && name != "methods" && name != "targets" {
		return wrong(key, fmt.Sprintf("key %.60q is unknown; wants %s", name, keys))
	}
	text, err := scalar(value)
	if err != nil {
		return fmt.Errorf("%w (key %q)", err, name)
	}
	switch name {
	case "operators":
		l.operators, err = target.Glob(text)
	case "methods":
		l.methods, err = parseMethods(text)
	case "targets":
		if l.targets, err = target.Parse(text); err == nil {
			err = ownGroups(l.targets)
		}
		l.all = strings.TrimSpace(text) == "*"
	}
	if err != nil {
		return wrong(value, fmt.Sprintf("key %q: %v", name, err))
	}
	return nil
}

// ownGroups refuses groups of programs: who may do what does not hang on what a
// program answers, or on whether it does.
func ownGroups(e *target.Expr) error {
	for _, g := range e.Groups() {
		if _, _, is := target.Source(g); is {
			return fmt.Errorf("@%s is a group of a program, which no policy can name; make one of the overlord's of it: dominion group set", g)
		}
	}
	return nil
}

// parseMethods keeps the alternatives apart: see guarded.
func parseMethods(text string) ([]method, error) {
	if _, err := target.Glob(text); err != nil {
		return nil, err // for its positions in the whole text
	}
	var out []method
	for _, part := range alternatives(text) {
		p, err := target.Glob(part)
		if err != nil {
			return nil, err
		}
		out = append(out, method{text: strings.ToLower(strings.TrimSpace(part)), pattern: p})
	}
	return out, nil
}

// alternatives splits at the commas that stand outside brackets.
func alternatives(text string) []string {
	var out []string
	from, inside := 0, false
	for i := range len(text) {
		switch {
		case text[i] == '[':
			inside = true
		case text[i] == ']':
			inside = false
		case text[i] == ',' && !inside:
			out = append(out, text[from:i])
			from = i + 1
		}
	}
	return append(out, text[from:])
}

// scalar gives a text; YAML's other scalars (yes, 1, ~) and references to
// other places of the file are refused.
func scalar(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return "", wrong(n, fmt.Sprintf("wants a text; put %.60q in quotes if it is meant as one", n.Value))
	}
	return n.Value, nil
}

func wrong(n *yaml.Node, what string) error {
	return fmt.Errorf("%w: line %d: %s", ErrPolicy, n.Line, what)
}

package delegation_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
	"dominion/delegation"
)

// randomMap makes a small map with few names, so that many stand at several places.
func randomMap(t testing.TB, seed uint64) delegation.Map {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	pool := words("a b ab a-b a.b 1 12 yes null web1 web10 web2 zz")
	var level func(depth int) []delegation.Node
	level = func(depth int) []delegation.Node {
		var out []delegation.Node
		for range r.IntN(6 - depth) {
			out = append(out, delegation.Node{Name: pool[r.IntN(len(pool))], Below: level(depth + 1)})
		}
		return out
	}
	m, err := delegation.New(delegation.Node{Below: level(0)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestForm(t *testing.T) {
	const worked = `---
dc1-proxy:
    web1: {}
    web2: {}
mail1: {}
`
	for _, tt := range []struct{ name, in, want string }{
		{"Func's example", worked, worked},
		{"nobody", "--- {}", "--- {}\n"},
		{"nobody, block", "---\n{}\n", "--- {}\n"},
		{"digits are quoted", "---\n'10gw':\n    '9': {}\na1: {}\n", "---\n'10gw':\n    '9': {}\na1: {}\n"},
		{"digits were not quoted", "10gw: {}\n", "---\n'10gw': {}\n"},
		{"words of YAML are quoted", "{yes: {}, no: {}, null: {}, y: {}, n: {}, On: {}}", "---\nn: {}\n'no': {}\n'null': {}\n'on': {}\ny: {}\n'yes': {}\n"},
		{"sorted", "b: {}\na: {}\na-b: {}\na.b: {}\n", "---\na: {}\na-b: {}\na.b: {}\nb: {}\n"},
		{"other indents", "a:\n  b:\n     c: {}\n     d:\n  e: {}\nf:\n  g:\n", "---\na:\n    b:\n        c: {}\n        d: {}\n    e: {}\nf:\n    g: {}\n"},
		{"indented as a whole", "  a: {}\n  b:\n    c: {}\n", "---\na: {}\nb:\n    c: {}\n"},
		{"lower case", "Mail.Example.ORG: {}\n", "---\nmail.example.org: {}\n"},
		{"one name in two cases", "A:\n  x: {}\na:\n  y: {}\n", "---\na:\n    x: {}\n    y: {}\n"},
		{"double quotes", "\"a\": {}\n", "---\na: {}\n"},
		{"flow", "{a: {b: {}, c: }, d: null, e, f: ~,}", "---\na:\n    b: {}\n    c: {}\nd: {}\ne: {}\nf: {}\n"},
		{"flow over lines", "--- {a: {\n  b: {}},\n  c: {}}\n", "---\na:\n    b: {}\nc: {}\n"},
		{"flow below a name", "a:\n  {b: {}}\nc: {d: {}}\n", "---\na:\n    b: {}\nc:\n    d: {}\n"},
		{"JSON", `{"a":{"b":{}},"c":null}`, "---\na:\n    b: {}\nc: {}\n"},
		{"nulls", "a:\nb: ~\nc: null\nd:\n  null\n", "---\na: {}\nb: {}\nc: {}\nd: {}\n"},
		{"comments and ends", "# the map\n\n--- # here\na: {} # one\n  # two\nb: # three\n    c: {}\n...\n# over\n", "---\na: {}\nb:\n    c: {}\n"},
		{"CR LF and a mark", "\ufeff---\r\na:\r\n    b: {}\r\n", "---\na:\n    b: {}\n"},
		{"a comment without line end", "a: {} # x", "---\na: {}\n"},
		{"no last line end", "a: {}", "---\na: {}\n"},
		{"blanks before the colon", "a : {}\n'b' :\n", "---\na: {}\nb: {}\n"},
		{"comment without ASCII", "# Größe 東京\na: {}\n", "---\na: {}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := parse(t, tt.in)
			if diff := cmp.Diff(tt.want, m.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(m.Cuts) > 0 {
				t.Errorf("cuts %v", m.Cuts)
			}
			if diff := cmp.Diff(m, parse(t, m.String())); diff != "" {
				t.Errorf("read again (-want +got):\n%s", diff)
			}
		})
	}
}

// ladder has so many names, each below the one before.
func ladder(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%sn%d:\n", strings.Repeat(" ", i), i)
	}
	return b.String()
}

func TestParseErrors(t *testing.T) {
	bomb := "a: &a {x: {}, y: {}}\nb: &b {p: *a, q: *a}\nc: {p: *b, q: *b}\n"
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "empty"},
		{"only comments", "# nothing\n\n", "empty"},
		{"only a mark", "---\n", "empty"},
		{"null", "--- null\n", `line 1: "null"`},
		{"a word", "hello\n", `line 1: "hello" needs a ":"`},
		{"a number", "a: 5\n", `line 1: "5" stands where {}`},
		{"a list", "a:\n  - b\n", "line 2: a map has no lists"},
		{"a flow list", "a: [b]\n", "line 1: a map has no lists"},
		{"alias bomb", bomb, "line 1: a map has no anchors, aliases"},
		{"alias", "a: *a\n", "line 1: a map has no anchors"},
		{"tag", "a: !!map {}\n", "line 1: a map has no anchors, aliases, tags"},
		{"merge", "a:\n  <<: {}\n", "line 2: a map has no anchors"},
		{"tab", "a:\n\tb: {}\n", "line 2: a tab"},
		{"uneven indent", "a:\n    b: {}\n  c: {}\n", "line 3:"},
		{"deeper neighbour", "a: {}\n  b: {}\n", `line 2: "b" is indented by 2; its neighbour "a" by 0`},
		{"no blank after the colon", "a:{}\n", "line 1: a blank is missing"},
		{"two on a line", "a: {} b: {}\n", `line 1: "b" stands where the end of the line`},
		{"a mapping on the line of its name", "a: b: {}\n", `line 1: "b" stands`},
		{"a mapping on the mark's line", "--- a: {}\n", "line 1:"},
		{"open brace", "a: {b: {}\nc: {}\n", "line 2:"},
		{"never closed", "{a: {\n", "line 1: the brace is not closed"},
		{"closed too often", "a: {}}\n", `line 1: "}" stands`},
		{"open quote", "'a\n", "line 1: the quote is not closed"},
		{"open quote at the end", "'a", "line 1: the quote is not closed"},
		{"escape", `"\x61": {}`, "line 1: a name holds no backslash"},
		{"two documents", "a: {}\n---\nb: {}\n", "line 2: a second document"},
		{"after the end", "a: {}\n...\nb: {}\n", "line 3: text after the end"},
		{"directive", "%YAML 1.1\n---\na: {}\n", "line 1:"},
		{"question", "? a\n: {}\n", "line 1:"},
		{"multi-line text", "a: |\n  b\n", "line 1:"},
		{"not UTF-8", "a: {}\n\xff: {}\n", "line 2: a byte that is not UTF-8"},
		{"control", "a: {}\n\x00", "line 2: the character U+0000"},
		{"another line end", "a: {} # \u2028b: {}\n", "line 1: the character U+2028"},
		{"CR alone", "a: {}\rb: {}\n", "line 1: the character U+000D"},
		{"tilde as a name", "~: {}\n", `line 1: "~"`},
		{"tilde as a deeper name", "a:\n  ~: {}\n", `line 2: "~" is not a machine name`},
		{"tilde as a name in braces", "{~: {}}\n", `line 1: "~"`},
		{"word with a comment stuck to it", "a: {}#x\n", "line 1: a blank is missing before"},
		{"a colon for a name", "a: {}\n: {}\n", `line 2: ":" stands where a name`},
		{"a brace for a name", "a:\n  }\n", `line 2: "}" stands where a name`},
		{"text behind all", "{a: {}} b", `line 1: "b" stands where the end of the file`},
		{"a word for a map in braces", "{a: b}", `line 1: "b" stands where "{"`},
		{"the end for a map in braces", "{a: ", `line 1: the file ends where "{"`},
		{"the end behind a name in braces", "{a", `line 1: the file ends where "," or "}"`},
		{"a comma for a name", "{,}", `line 1: "," stands where a name`},
		{"a quote in quotes", "'a''b': {}", "line 1: a name holds no quote"},
		{"another end in quotes", "\"a\nb\": {}", "line 1: the quote is not closed on its line"},
		{"the end in braces", "{a: {},\n...\n", "line 2: the map ends within braces"},
		{"a tab behind a name", "a\t: {}", "line 1: a tab"},
		{"a tab behind a colon", "a:\t{}", "line 1: a tab"},
		{"a tab behind a later name", "a: {}\nb\t: {}", "line 2: a tab"},
		{"a tab behind a brace", "{\ta: {}}", "line 1: a tab"},
		{"a tab behind a name in braces", "{a\t: {}}", "line 1: a tab"},
		{"a tab behind a colon in braces", "{a: \t{}}", "line 1: a tab"},
		{"a tab behind a comma", "{a: {},\t}", "line 1: a tab"},
		{"a tab behind a mark", "---\t{}", "line 1: a tab"},
		{"a mark alone", "---", "empty"},
		{"a long word for a map", "a: " + strings.Repeat("b", 200), `line 1: "` + strings.Repeat("b", 80) + "…"},
		{"too deep in lines", ladder(65), "line 65: more than 64 levels"},
		{"too deep", strings.Repeat("{a: ", 65) + strings.Repeat("}", 65), "line 1: more than 64 levels"},
		{"far too deep", strings.Repeat("{a: ", 1<<20), "line 1: more than 64 levels"},
		{"braces alone", strings.Repeat("{", 1<<20), "line 1:"},
		{"too many", "{" + strings.Repeat("a,", delegation.MaxNodes+1) + "}", "line 1: more than 1048576 machines"},
		{"too large", strings.Repeat(" ", delegation.MaxFile+1), "more than 64 MiB"},
		{"a long name", strings.Repeat("a", 5000) + ": {}", "line 1: a name of 5000 bytes"},
		{"a far colon", "a" + strings.Repeat(" ", 1100) + ": {}", "line 1: \"a\" needs"},
		{"a far colon in braces", "{a" + strings.Repeat(" ", 1100) + ": {}}", "line 1: \":\" stands"},
		{"a long word", strings.Repeat("a", 5000), "line 1:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := delegation.Parse([]byte(tt.in))
			if !errors.Is(err, delegation.ErrMap) || call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse = %v; want ErrMap with %q", err, tt.want)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestParseDeepest(t *testing.T) {
	if c := parse(t, ladder(delegation.MaxDepth)).Count(); c.Depth != delegation.MaxDepth {
		t.Errorf("%+v", c)
	}
}

// A cycle in a file is cut and named, a key that is no name is left out.
func TestParseCuts(t *testing.T) {
	for _, tt := range []struct{ name, in, want, cuts string }{
		{"self entry", selfEntry, "m9 sub sub/m1", "sub/sub"},
		{"grandfather", "a:\n  b:\n    A:\n      x: {}\n    c: {}\n", "a a/b a/b/c", "a/b/a"},
		{"in a double", "{a: {x: {b: {}}}, A: {X: {a: {}}}}", "a a/x a/x/b", "a/x/a"},
		{"underscore", "just_a_minion: {}\nb: {}\n", "b", "just_a_minion"},
		{"blank in quotes", "'a b': {c: {}}\nb: {}\n", "b", "a b"},
		{"no cycle", "{a: {b: {}}, b: {a: {}}}", "a a/b b b/a", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := parse(t, tt.in)
			var cuts []string
			for _, c := range m.Cuts {
				cuts = append(cuts, c.Path.String())
			}
			if got := strings.Join(all(m), " "); got != tt.want || strings.Join(cuts, ",") != tt.cuts {
				t.Errorf("Parse = %s, cut %q; want %s, cut %s", got, cuts, tt.want, tt.cuts)
			}
		})
	}
}

// What Python reads from our text is the same mapping of texts.
func TestPythonReadsIt(t *testing.T) {
	if err := exec.CommandContext(t.Context(), "python3", "-c", "import yaml").Run(); err != nil {
		t.Skipf("SKIPPED: python3 with yaml is not here: apt-get install python3-yaml: %v", err)
	}
	const script = `
import sys, yaml
def show(tree, depth):
    assert isinstance(tree, dict), tree
    for k in tree:
        assert isinstance(k, str), k
        print(" " * depth + k)
        show(tree[k], depth + 1)
show(yaml.safe_load(sys.stdin), 0)
`
	for seed := range uint64(10) {
		m := randomMap(t, seed)
		cmd := exec.CommandContext(t.Context(), "python3", "-c", script)
		cmd.Stdin = strings.NewReader(m.String())
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v on:\n%s", err, m)
		}
		var want strings.Builder
		for p, n := range m.All() {
			fmt.Fprintf(&want, "%s%s\n", strings.Repeat(" ", len(p)-1), n.Name)
		}
		if diff := cmp.Diff(want.String(), string(out)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

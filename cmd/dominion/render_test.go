package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/minion"
	"dominion/module"
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), UPDATE_GOLDEN=1 rewrites it:\n%s", name, diff)
	}
}

func TestEscape(t *testing.T) {
	for _, tt := range []struct{ name, in, text, line string }{
		{"plain", "Grüße, 世界", "Grüße, 世界", "Grüße, 世界"},
		{"lines and tabs", "a\n\tb", "a\n\tb", `a\n\tb`},
		{"terminal escape", "\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`, `\x1b[31mred\x1b[0m`},
		{"title", "\x1b]0;x\a", `\x1b]0;x\x07`, `\x1b]0;x\x07`},
		{"C1 control", "\u009b31m", `\u009b31m`, `\u009b31m`},
		{"carriage return", "good\rbad", `good\rbad`, `good\rbad`},
		{"backspace and delete", "a\b\x7f", `a\x08\x7f`, `a\x08\x7f`},
		{"text direction", "a\u202eb\u2066", `a\u202eb\u2066`, `a\u202eb\u2066`},
		{"hidden", "a\u200bb\ufeff\U000e0041", `a\u200bb\ufeff\U000e0041`, `a\u200bb\ufeff\U000e0041`},
		{"line separators", "a\u2028b\u2029", `a\u2028b\u2029`, `a\u2028b\u2029`},
		{"not UTF-8", "a\xff\xc3", `a\xff\xc3`, `a\xff\xc3`},
		{"replacement character", "\ufffd", "\ufffd", "\ufffd"},
		{"no-break space", "a\u00a0b", "a\u00a0b", "a\u00a0b"},
		{"NUL", "\x00", `\x00`, `\x00`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := escapeText(tt.in); got != tt.text {
				t.Errorf("escapeText(%q) = %q; want %q", tt.in, got, tt.text)
			}
			if got := escapeLine(tt.in); got != tt.line {
				t.Errorf("escapeLine(%q) = %q; want %q", tt.in, got, tt.line)
			}
		})
	}
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("a\x1b[31m\xff\u202e\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range escapeText(string(b)) {
			if !visible(r) && r != '\n' && r != '\t' {
				t.Fatalf("escapeText(%q) lets %U through", b, r)
			}
		}
		if l := escapeLine(string(b)); strings.ContainsAny(l, "\n\t") || !utf8.ValidString(l) {
			t.Fatalf("escapeLine(%q) = %q", b, l)
		}
	})
}

// FuzzEscapeJSON: what is shown says the same as what came, and is harmless.
func FuzzEscapeJSON(f *testing.F) {
	f.Add([]byte(`{"a": "\x7f\u009b é", "b": [1, null]}`))
	f.Add([]byte("\"\U000e0041\xff\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			return
		}
		got := escapeJSON(b)
		for _, r := range string(got) {
			if !visible(r) && r != '\n' && r != '\t' && r != '\r' {
				t.Fatalf("escapeJSON(%q) lets %U through", b, r)
			}
		}
		var want, have any
		if err := json.Unmarshal(b, &want); err != nil {
			return // numbers out of range
		}
		if err := json.Unmarshal(got, &have); err != nil || !reflect.DeepEqual(want, have) {
			t.Fatalf("escapeJSON(%q) = %q, which says %v (%v); want %v", b, got, have, err, want)
		}
	})
}

func TestRenderResults(t *testing.T) {
	var b strings.Builder
	for _, g := range []*client.Group{
		{Names: []string{"web1", "web2"}, Status: call.Answered, Output: []byte(`{"ok":true}`)},
		{Names: []string{"web1"}, Status: call.Answered, Output: []byte(`{}`)},
		{Names: []string{"web1"}, Status: call.Answered},
		{Names: []string{"web1"}, Status: call.Answered, Output: []byte(`{"z":1,"a":"x","text":"two\nlines","empty":"","none":null,"big":123456789012345678901234567890}`)},
		{Names: []string{"db1"}, Status: call.Answered, Output: []byte(`{"disks":[{"mount":"/","size":1},{"mount":"/var","size":2}],"addresses":["10.0.0.1","::1"],"deep":{"er":{"x":[[1,2],[3]]}},"nothing":[]}`)},
		{Names: []string{"db1"}, Status: call.Answered, Output: []byte(`[1,2,3]`)},
		{Names: []string{"db1"}, Status: call.Answered, Output: []byte(`{"a":"\u001b[31mred\u0007","\u202ekey":1}`)},
		{Names: []string{"db1"}, Status: call.Answered, Output: []byte(`{"broken`)},
		{Names: []string{"db1"}, Status: call.Answered, Output: []byte(strings.Repeat("[", 100) + strings.Repeat("]", 100))},
		{Names: []string{"db1"}, Status: call.DidFail, Code: call.Failed, Detail: "no\nsuch\x1b[0m", Output: []byte(`{"partial":1}`), Cut: 7},
		{Names: []string{"db1"}, Status: call.DidFail, Code: call.Denied, Detail: "policy"},
	} {
		b.WriteString(renderGroup(g, resultLines, false))
	}
	golden(t, "results", b.String())
}

func TestRenderRuns(t *testing.T) {
	var b strings.Builder
	for _, g := range []*client.Group{
		{Names: []string{"web1", "web2"}, Status: call.Answered, Output: []byte(`{"exit":0,"stdout":"6.1.0\n"}`)},
		{Names: []string{"web1"}, Status: call.Answered, Output: []byte(`{"exit":0,"stdout":"a\n\nb\n","stderr":"warn\n"}`)},
		{Names: []string{"web1"}, Status: call.Answered, Output: []byte(`{"exit":0}`)},
		{Names: []string{"web1"}, Status: call.Answered, Output: []byte(`{"exit":0,"stdout_base64":"G1szMW3/Cg==","stdout_cut":9,"stderr_cut":3}`)},
		{Names: []string{"web1"}, Status: call.DidFail, Code: call.Failed, Detail: "exit 3", Output: []byte(`{"exit":3,"stdout":"out\n","stderr":"err"}`)},
		{Names: []string{"web1"}, Status: call.Answered, Output: []byte(`{"exit":"x"}`)},
	} {
		b.WriteString(renderGroup(g, runLines, false))
	}
	golden(t, "runs", b.String())
}

func TestRenderSchemas(t *testing.T) {
	table, err := module.NewTable(minion.Builtin)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, n := range []string{"test.add", "command.run"} {
		m, ok := table.Lookup(n)
		if !ok {
			t.Fatalf("no %s", n)
		}
		b.WriteString(renderSchema(m.Schema()) + "\n")
	}
	golden(t, "schemas", b.String())
}

func TestTable(t *testing.T) {
	got := table{{"NAME", "STATE", ""}, {"wéb1", "ok", ""}, {"a\nb", "", "last"}}.String()
	want := "NAME  STATE\nwéb1  ok\na\\nb         last\n"
	if got != want {
		t.Errorf("table = %q; want %q", got, want)
	}
}

func TestIncomplete(t *testing.T) {
	group := func(s call.Status, c call.Code, detail string, names ...string) *client.Group {
		return &client.Group{Names: names, Status: s, Code: c, Detail: detail}
	}
	var many []*client.Group
	for i := range 25 {
		many = append(many, group(call.DidFail, call.Failed, fmt.Sprint(i), fmt.Sprintf("w%d", i)))
	}
	for _, tt := range []struct {
		name   string
		c      call.Counts
		groups []*client.Group
		want   string
	}{
		{"all answered", call.Counts{Targeted: 2, Answered: 2}, []*client.Group{group(call.Answered, call.OK, "", "a", "b")}, ""},
		{"one kind", call.Counts{Targeted: 40, Answered: 38, Failed: 2}, []*client.Group{
			group(call.DidFail, call.Denied, "role \"web\" may not call service.restart", "n07"), group(call.DidFail, call.Timeout, "", "n31"),
		}, `2 of 40 minions failed: n07: denied: role "web" may not call service.restart; n31: time-out`},
		{"two kinds", call.Counts{Targeted: 5, Answered: 3, Failed: 1, Unreachable: 1}, []*client.Group{
			group(call.DidFail, call.Failed, "no", "a"), group(call.Unreachable, call.NoAnswer, "no answer within 30s", "b"),
		}, "1 failed and 1 unreachable of 5 minions: a: no; b: no answer within 30s"},
		{"three kinds", call.Counts{Targeted: 3, Failed: 1, Unreachable: 1, Skipped: 1}, []*client.Group{
			group(call.DidFail, call.Failed, "no", "a"), group(call.Unreachable, call.NoSession, "", "b"), group(call.Skipped, call.Cancelled, "", "c"),
		}, "1 failed, 1 unreachable and 1 skipped of 3 minions: a: no; b: no session; c: cancelled"},
		{"one of one", call.Counts{Targeted: 1, Failed: 1}, []*client.Group{group(call.DidFail, call.Failed, "no", "a")}, "1 of 1 minion failed: a: no"},
		{"many", call.Counts{Targeted: 25, Failed: 25}, many, "and 5 more reasons"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := incomplete(tt.c, tt.groups)
			if tt.want == "" {
				if err != nil {
					t.Errorf("incomplete = %v; want none", err)
				}
				return
			}
			e, ok := errors.AsType[*exitError](err)
			if !ok || e.code != exitIncomplete || !strings.Contains(e.text, tt.want) {
				t.Errorf("incomplete = %v; want exit code 3 and %q", err, tt.want)
			}
		})
	}
}

func TestVerdict(t *testing.T) {
	ran := func(err error) error { return &ranError{fmt.Errorf("ask: %w", err)} }
	for _, tt := range []struct {
		name string
		err  error
		code int
		text string
	}{
		{"wrong words", errors.New("unknown flag"), exitUsage, "unknown flag"},
		{"usage", ran(usagef("no")), exitUsage, "no"},
		{"any", ran(errors.New("disk")), exitFailed, "ask: disk"},
		{"no match", ran(call.Errorf(call.NoMatch, "no minion matches %q", "x")), exitNoMatch, `no minion matches "x"; enrolled minions: dominion minions`},
		{"invalid", ran(call.Errorf(call.Invalid, "field")), exitUsage, "field"},
		{"denied", ran(call.Errorf(call.Denied, "policy")), exitFailed, "ask: denied: policy"},
		{"not found", ran(call.Errorf(call.NotFound, "no token")), exitFailed, "no token"},
		{"without detail", ran(&call.Error{Code: call.Unavailable}), exitFailed, "ask: unavailable"},
		{
			"lost", ran(&client.JobError{What: "lost sight of it", Err: call.Errorf(call.Unavailable, "closed")}), exitFailed,
			"ask: job 00000000-0000-0000-0000-000000000000: lost sight of it: closed",
		},
		{"interrupted", ran(errInterrupted), exitInterrupted, "interrupted"},
		{"incomplete", ran(&exitError{exitIncomplete, ""}), exitIncomplete, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if code, text := verdict(tt.err); code != tt.code || text != tt.text {
				t.Errorf("verdict = %d, %q; want %d, %q", code, text, tt.code, tt.text)
			}
		})
	}
}

func TestLiveWriter(t *testing.T) {
	var out, errs bytes.Buffer
	l := newLiveWriter(&out, &errs, false)
	long := strings.Repeat("é", maxLine/2+10)
	for _, c := range []struct {
		machine, stream, data string
		dropped               uint64
	}{
		{"a", "stdout", "one\ntw", 0},
		{"b", "stdout", "x\n", 0},
		{"a", "stdout", "o\n\nthree", 0},
		{"a", "stderr", "oops\x1b\n", 0},
		{"a", "stdout", "lost\n", 5},
		{"c", "stdout", long, 0},
		{"a", "stderr", "no end", 0},
	} {
		if err := l.write(c.machine, c.stream, []byte(c.data), c.dropped); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	want := "a: one\nb: x\na: two\na: \na: three\na: [5 bytes left out]\na: lost\nc: " + strings.Repeat("é", maxLine/2) + "\nc: " + strings.Repeat("é", 10) + "\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("standard output (-want +got):\n%s", diff)
	}
	if want := "a: oops\\x1b\na: no end\n"; errs.String() != want {
		t.Errorf("standard error %q; want %q", errs.String(), want)
	}
}

// FuzzLiveWriter: however output is cut into chunks, lines never mix and
// nothing harmful or longer than a line gets through.
func FuzzLiveWriter(f *testing.F) {
	f.Add([]byte("one\ntwo\xc3\xa9"), 4)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n <= 0 {
			return
		}
		var out bytes.Buffer
		l := newLiveWriter(&out, &out, false)
		for i := 0; i < len(b); i += min(n, len(b)-i) {
			if err := l.write("m", "stdout", b[i:i+min(n, len(b)-i)], 0); err != nil {
				t.Fatal(err)
			}
			if len(l.partial[liveKey{"m", "stdout"}]) > maxLine {
				t.Fatal("keeps more than a line")
			}
		}
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for line := range strings.Lines(out.String()) {
			if !strings.HasPrefix(line, "m: ") || !strings.HasSuffix(line, "\n") {
				t.Fatalf("line %q", line)
			}
			text.WriteString(strings.TrimSuffix(line[3:], "\n"))
		}
		if len(b) < maxLine {
			if want := string(appendEscaped(nil, bytes.ReplaceAll(b, []byte("\n"), nil), "\t")); utf8.Valid(b) && text.String() != want {
				t.Fatalf("shown %q; want %q", text.String(), want)
			}
		}
	})
}

func TestProgressLine(t *testing.T) {
	c := call.Counts{Targeted: 40, Answered: 11, Failed: 1}
	if got, want := progressLine(c, "web[13-40]", 80), "12/40: 11 answered, 1 failed, 28 silent: web[13-40]"; got != want {
		t.Errorf("progressLine = %q; want %q", got, want)
	}
	if got, want := progressLine(c, "web[13-40]\x1b", 10), "12/40: 11…"; got != want {
		t.Errorf("progressLine = %q; want %q", got, want)
	}
}

func TestRunArguments(t *testing.T) {
	for _, tt := range []struct {
		name   string
		f      runFlags
		in     string
		method string
		want   string
	}{
		{"plain", runFlags{}, "", "command.run", `{"argv":["echo","<a>"]}`},
		{"shell", runFlags{shell: true, dir: "/x", user: "u"}, "", "command.shell", `{"dir":"/x","script":"echo <a>","user":"u"}`},
		{"environment", runFlags{env: []string{"A=1=2", "B="}}, "", "command.run", `{"argv":["echo","<a>"],"env":{"A":"1=2","B":""}}`},
		{"text", runFlags{stdin: "-"}, "hé\n", "command.run", `{"argv":["echo","<a>"],"stdin":"hé\n"}`},
		{"bytes", runFlags{stdin: "-"}, "\xff", "command.run", `{"argv":["echo","<a>"],"stdin":{"base64":"/w=="}}`},
		{"controls", runFlags{stdin: "-"}, "\x00\x01\x02\x03", "command.run", `{"argv":["echo","<a>"],"stdin":{"base64":"AAECAw=="}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			method, got, err := tt.f.arguments(strings.NewReader(tt.in), []string{"echo", "<a>"})
			if err != nil || method != tt.method || string(got) != tt.want {
				t.Errorf("arguments = %s %s, %v; want %s %s", method, got, err, tt.method, tt.want)
			}
		})
	}
}

func TestShellLine(t *testing.T) {
	if got, want := shellLine([]string{"call", "web*", "it's", "", "a=1"}), `call 'web*' 'it'\''s' '' a=1`; got != want {
		t.Errorf("shellLine = %s; want %s", got, want)
	}
}

func TestDemoNames(t *testing.T) {
	for n, want := range map[int]int{1: 0, 4: 1, 12: 3} {
		dbs := 0
		for _, name := range demoNames(n) {
			if strings.HasPrefix(name, "db") {
				dbs++
			}
		}
		if len(demoNames(n)) != n || dbs != want {
			t.Errorf("demoNames(%d) = %q; want %d databases", n, demoNames(n), want)
		}
	}
}

func TestRecords(t *testing.T) {
	doc := recordDocOf(&apipb.AuditRecord{Index: 7, Body: []byte{0xff}, LeafHash: []byte{1}})
	if doc.Problem == "" || doc.LeafHash != "01" {
		t.Errorf("a damaged leaf gives %+v; want a problem", doc)
	}
	if l := recordLine(doc); !strings.Contains(l, "DAMAGED") {
		t.Errorf("recordLine = %q; want it to say DAMAGED", l)
	}
}

// FuzzResults: whatever a machine answers, it is shown without harm.
func FuzzResults(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":"\u001b"}],"exit":1,"stdout":"x"}`), "detail")
	f.Add([]byte(`[[],{},[[1]]]`), "\x1b")
	f.Fuzz(func(t *testing.T, output []byte, detail string) {
		for _, body := range []func([]byte) []string{resultLines, runLines} {
			for _, s := range []call.Status{call.Answered, call.DidFail} {
				g := &client.Group{Names: []string{"web1"}, Status: s, Code: call.Failed, Detail: detail, Output: output}
				for _, r := range renderGroup(g, body, false) {
					if !visible(r) && r != '\n' && r != '\t' {
						t.Fatalf("%q lets %U through", output, r)
					}
				}
			}
		}
		b, err := marshal(resultDocOf(call.Result{Machine: "web1", Output: output, Detail: detail}, call.Answered), false)
		if err != nil || bytes.Count(b, []byte("\n")) != 1 || !json.Valid(b) {
			t.Fatalf("marshal = %q, %v; want one line of JSON", b, err)
		}
	})
}

func TestCompletionsAreEscaped(t *testing.T) {
	got := completions([]string{"web1", "test.ping\tAnswers.", "web2\x1b]0;x\a\nrm"})
	if want := []string{"web1", "test.ping\tAnswers.", `web2\x1b]0;x\x07\nrm`}; !slices.Equal(got, want) {
		t.Errorf("completions = %q; want %q", got, want)
	}
}

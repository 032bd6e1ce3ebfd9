package module

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"dominion/call"
)

// with declares a method whose input is In.
func with[In, Out any](name string) Method {
	return Func(name, "A method.", Read, func(context.Context, *Env, In) (Out, error) { return *new(Out), nil }, MethodOptions{})
}

type (
	noJSON struct{ A int }
	noDoc  struct {
		A int `json:"a"`
	}
	upperCase struct {
		A int `json:"A" doc:"x"`
	}
	notExported struct {
		_ int `doc:"x"`
	}
	badOption struct {
		A int `json:"a,string" doc:"x"`
	}
	badRequired struct {
		A int `json:"a" doc:"x" required:"yes"`
	}
	badBound struct {
		A int `json:"a" doc:"x" max:"many"`
	}
	pointer struct {
		A *int `json:"a" doc:"x"`
	}
	intList struct {
		A []int `json:"a" doc:"x"`
	}
	intMap struct {
		A map[string]int `json:"a" doc:"x"`
	}
	anything struct {
		A any `json:"a" doc:"x"`
	}
	function struct {
		A func() `json:"a" doc:"x"`
	}
	duration struct {
		A time.Duration `json:"a" doc:"x"`
	}
	rawBytes struct {
		A []byte `json:"a" doc:"x"`
	}
	intKeys struct {
		A map[int]string `json:"a" doc:"x"`
	}
	recursive struct {
		A []recursive `json:"a" doc:"x"`
	}
	embedded  struct{ *anything }
	twiceName struct {
		shared
		B int `json:"dir" doc:"x"`
	}
	fine struct {
		A []map[string]*[]json.RawMessage `json:"a" doc:"x"`
		B Bytes                           `json:"b,omitempty" doc:"x"`
		C time.Time                       `json:"c" doc:"x"`
		D uint8                           `json:"d" doc:"x"`
		E bool                            `json:"e" doc:"x"`
		F float64                         `json:"f" doc:"x"`
	}
)

func TestNewTableRefuses(t *testing.T) {
	one := func(m ...Method) []Module { return []Module{{Name: "m", Doc: "A module.", Methods: m}} }
	ok := with[empty, empty]("ok")
	for _, test := range []struct {
		name    string
		modules []Module
		want    string
	}{
		{"module name", []Module{{Name: "Web", Doc: "x"}}, `module name "Web"`},
		{"reserved", []Module{{Name: "token", Doc: "x"}}, `module name "token"`},
		{"module twice", []Module{{Name: "m", Doc: "x"}, {Name: "m", Doc: "x"}}, "module m is there twice"},
		{"module doc", []Module{{Name: "m"}}, "module m has no documentation"},
		{"method name", one(with[empty, empty]("a.b")), `method name "a.b"`},
		{"method twice", one(ok, ok), "method m.ok is there twice"},
		{"long name", []Module{{Name: strings.Repeat("m", 63), Doc: "x", Methods: []Method{with[empty, empty](strings.Repeat("x", 63))}}}, ""},
		{"zero method", one(Method{name: "x"}), `method "m.x" was not made by module.Func`},
		{"no doc", one(Func("x", "", Read, func(context.Context, *Env, empty) (empty, error) { return empty{}, nil }, MethodOptions{})), "method m.x has no documentation"},
		{"effect", one(Func("x", "X.", "reads", func(context.Context, *Env, empty) (empty, error) { return empty{}, nil }, MethodOptions{})), `unknown effect "reads"`},
		{"input no struct", one(with[int, empty]("x")), "input int is not a struct"},
		{"output no struct", one(with[empty, []string]("x")), "output []string is not a struct"},
		{"json", one(with[noJSON, empty]("x")), `field A: json name ""`},
		{"upper case", one(with[upperCase, empty]("x")), `json name "A"`},
		{"field doc", one(with[noDoc, empty]("x")), "field a has no doc"},
		{"not exported", one(with[notExported, empty]("x")), "field _ is not exported"},
		{"option", one(with[badOption, empty]("x")), `json option "string"`},
		{"required", one(with[badRequired, empty]("x")), `required is "yes"`},
		{"bound", one(with[badBound, empty]("x")), `max is "many"`},
		{"pointer", one(with[pointer, empty]("x")), "type *int cannot be an input"},
		{"list of ints", one(with[intList, empty]("x")), "type []int cannot be an input"},
		{"map of ints", one(with[intMap, empty]("x")), "type map[string]int cannot be an input"},
		{"input time", one(with[fine, empty]("x")), "cannot be an input"},
		{"embedded pointer", one(with[embedded, empty]("x")), "can be embedded"},
		{"name twice", one(with[twiceName, empty]("x")), "twice or malformed"},
		{"output any", one(with[empty, anything]("x")), "type interface {} cannot be an output"},
		{"output func", one(with[empty, function]("x")), "cannot be an output"},
		{"output duration", one(with[empty, duration]("x")), "written as a number"},
		{"output bytes", one(with[empty, rawBytes]("x")), "use module.Bytes"},
		{"output keys", one(with[empty, intKeys]("x")), "cannot be an output"},
		{"output doc", one(with[empty, noDoc]("x")), "field a has no doc"},
		{"output recursive", one(with[empty, recursive]("x")), "nests deeper than 8"},
		{"fine", one(with[empty, fine]("x"), with[duration, empty]("y")), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			tab, err := NewTable(test.modules)
			if test.want == "" {
				if err != nil {
					t.Errorf("NewTable: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || tab != nil {
				t.Errorf("NewTable = %v, %v; want %q", tab, err, test.want)
			}
		})
	}
}

func TestTable(t *testing.T) {
	tab := table(t, with[empty, fine]("b"), with[empty, empty]("a"))
	var names []string
	for _, s := range tab.Schemas() {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "m.a m.b" {
		t.Errorf("Schemas are of %s; want m.a m.b", got)
	}
	if _, ok := tab.Lookup("m.c"); ok {
		t.Error("Lookup(m.c) found something")
	}
	m, ok := tab.Lookup("m.b")
	if !ok || m.Name() != "m.b" || m.Effect() != Read {
		t.Errorf("Lookup(m.b) = %s, %s, %v", m.Name(), m.Effect(), ok)
	}
	if got := m.Schema().Output[0].Type; got != "[]map[string][]any" {
		t.Errorf("type %s; want []map[string][]any", got)
	}
}

// TestWithoutTable: a method that is in no table works, and a broken one says
// so instead of running.
func TestWithoutTable(t *testing.T) {
	m := with[empty, empty]("x")
	if out, err := m.Run(t.Context(), nil, nil); err != nil || string(out) != "{}" || m.Validate(nil) != nil || m.Schema().Name != "x" {
		t.Errorf("Run = %s, %v", out, err)
	}
	bad := with[noDoc, empty]("x")
	if _, err := bad.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Internal {
		t.Errorf("Run of a broken method: %v", err)
	}
	if err := bad.Validate(nil); call.CodeOf(err) != call.Internal {
		t.Errorf("Validate of a broken method: %v", err)
	}
	if bad.Schema().Name != "" {
		t.Error("a broken method has a schema")
	}
}

func TestBytes(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", `""`}, {"a\n", `"a\n"`}, {"é<", `"é<"`}, {"\xff\x00", `{"base64":"/wA="}`},
	} {
		got, err := json.Marshal(Bytes(test.in))
		var back Bytes
		if err != nil || json.Unmarshal(got, &back) != nil || string(back) != test.in {
			t.Errorf("%q encodes to %s, %v and back to %q", test.in, got, err, back)
		}
		if got, err := encode(Bytes(test.in)); err != nil || string(got) != test.want {
			t.Errorf("encode(%q) = %s, %v; want %s", test.in, got, err, test.want)
		}
	}
	var b Bytes
	for _, bad := range []string{`1`, `null`, `{"base64":1}`, `{"base64":"="}`, `{"base64":"","x":1}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), &b); err == nil && bad != "null" {
			t.Errorf("%s was read as %q", bad, b)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, test := range []struct {
		name   string
		max    int
		writes []string
		want   string
		cut    uint64
	}{
		{"fits", 5, []string{"ab", "cde"}, "abcde", 0},
		{"one more", 5, []string{"ab", "cdef", "g"}, "abcde", 2},
		{"nothing", 0, []string{"a"}, "", 1},
		{"escapes", 8, []string{"\n\"\x01x"}, "\n\"", 2},
		{"does not fill up later", 3, []string{"a\x01", "b"}, "a", 2},
		{"whole characters", 4, []string{"aéé"}, "aé", 2},
		{"half a character", 3, []string{"aé", "é"}, "aé", 2},
		{"cut within one", 2, []string{"aé"}, "a", 2},
		{"cut within four", 4, []string{"a\xf0\x9f\x98\x80"}, "a", 4},
		{"not UTF-8", 2, []string{"\xff\xff\xff"}, "\xff\xff", 1},
		{"uncut half", 2, []string{"a\xc3"}, "a\xc3", 0},
		{"only continuation", 4, []string{"\x80\x80\x80\x80\x80"}, "\x80\x80\x80\x80", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := Limit{Max: test.max}
			total := 0
			for _, w := range test.writes {
				n, err := l.Write([]byte(w))
				if n != len(w) || err != nil {
					t.Errorf("Write(%q) = %d, %v", w, n, err)
				}
				total += n
			}
			if got := string(l.Bytes()); got != test.want || l.Cut() != test.cut || total != len(got)+int(l.Cut()) {
				t.Errorf("kept %q, cut %d of %d; want %q, %d", got, l.Cut(), total, test.want, test.cut)
			}
		})
	}
}

// FuzzLimit: what is kept of UTF-8 is UTF-8, a beginning of the whole, and
// costs no more in JSON than its limit.
func FuzzLimit(f *testing.F) {
	f.Add("aé\u2028\x01\U0001f600\"", 9, 3)
	f.Fuzz(func(t *testing.T, s string, limit, at int) {
		if at < 0 || at > len(s) {
			return
		}
		l := Limit{Max: limit}
		_, _ = l.Write([]byte(s[:at]))
		_, _ = l.Write([]byte(s[at:]))
		got := string(l.Bytes())
		if !strings.HasPrefix(s, got) || uint64(len(s)-len(got)) != l.Cut() {
			t.Fatalf("kept %q of %q, cut %d", got, s, l.Cut())
		}
		if s == strings.ToValidUTF8(s, "?") {
			b, err := encode(got)
			if err != nil || len(got) > 0 && len(b)-2 > limit || got != strings.ToValidUTF8(got, "?") {
				t.Fatalf("%q costs %d bytes; limit %d", got, len(b)-2, limit)
			}
		}
	})
}

package module

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"dominion/call"
)

func TestParseArgs(t *testing.T) {
	schema := allMethod(t).Schema()
	for _, test := range []struct {
		name  string
		words []string
		want  string // JSON, or the beginning of the error's detail
		bad   bool
	}{
		{
			"positional",
			[]string{"x", "4", "5", "0.5", "true", "90s", "fast", "ab", "s", "/d", "a", "b"},
			`{"name":"x","count":4,"small":5,"ratio":0.5,"force":true,"wait":"1m30s","mode":"fast","data":"ab","secret":"s","dir":"/d","words":["a","b"]}`, false,
		},
		{"named", []string{"force=true", "name=x", "env=A=1", "env=B=x=y", "words=a", "words=c"}, `{"name":"x","force":true,"env":{"A":"1","B":"x=y"},"words":["a","c"]}`, false},
		{"named ones are passed over", []string{"count=2", "x", "7"}, `{"name":"x","count":2,"small":7}`, false},
		{"undeclared name is a value", []string{"a=b"}, `{"name":"a=b"}`, false},
		{"declared name as a value", []string{"name=name=x"}, `{"name":"name=x"}`, false},
		{"name alone is a value", []string{"name"}, `{"name":"name"}`, false},
		{"empty value", []string{"name="}, `{"name":""}`, false},
		{"text stays text", []string{"true"}, `{"name":"true"}`, false},
		{"escapes", []string{"a\"\\\n<é"}, `{"name":"a\"\\\n<é"}`, false},
		{"binary", []string{"name=x", "data=\xff"}, `{"name":"x","data":{"base64":"/w=="}}`, false},
		{"missing", nil, `m.all: field "name" is missing; wants a text, at most 8 bytes`, true},
		{"not a number", []string{"x", "many"}, `m.all: field "count": got "many"; wants a whole number, 1 to 10`, true},
		{"out of bounds", []string{"x", "11"}, `m.all: field "count": got "11"; wants a whole number, 1 to 10`, true},
		{"not a ratio", []string{"x", "ratio=NaN"}, `m.all: field "ratio": got "NaN"`, true},
		{"not a bool", []string{"x", "force=yes"}, `m.all: field "force": got "yes"; wants true or false`, true},
		{"twice", []string{"name=x", "name=y"}, `m.all: field "name" is given twice`, true},
		{"entry twice", []string{"x", "env=A=1", "env=A=2"}, `m.all: field "env": got "A=2"; wants entries KEY=VALUE, each key once`, true},
		{"entry without value", []string{"x", "env=A"}, `m.all: field "env": got "A"`, true},
		{"entry not UTF-8", []string{"x", "env=A=\xff"}, `m.all: field "env": got`, true},
		{"not UTF-8", []string{"\xff"}, `m.all: field "name": got`, true},
		{"list element", []string{"x", "words=d"}, `m.all: field "words"`, true},
		{"secret", []string{"x", "secret=hunter2"}, `m.all: field "secret": got a secret value; wants a text, at most 3 bytes`, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseArgs(schema, test.words)
			if test.bad {
				e, ok := errors.AsType[*call.Error](err)
				if !ok || e.Code != call.Invalid || !strings.HasPrefix(e.Detail, test.want) || got != nil {
					t.Errorf("ParseArgs = %s, %v; want %s", got, err, test.want)
				}
				return
			}
			if err != nil || string(got) != test.want {
				t.Errorf("ParseArgs = %s, %v; want %s", got, err, test.want)
			}
		})
	}
	few := Schema{Name: "m.few", Fields: []Field{{Name: "a", Type: "int"}, {Name: "env", Type: "map[string]string"}}}
	if _, err := ParseArgs(few, []string{"1", "2"}); call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), `no field is left for "2"; known: a, env`) {
		t.Errorf("too many words: %v", err)
	}
	if _, err := ParseArgs(Schema{Name: "m.none"}, []string{"1"}); !strings.Contains(fmt.Sprint(err), `no field is left for "1"; it takes none`) {
		t.Errorf("a word for a method without fields: %v", err)
	}
	if _, err := ParseArgs(Schema{Fields: []Field{{Name: "A B"}}}, nil); !errors.Is(err, ErrSchema) {
		t.Errorf("bad schema: %v", err)
	}
	newer := Schema{Name: "m.new", Fields: []Field{{Name: "when", Type: "time"}}}
	if got, err := ParseArgs(newer, []string{`"2026-01-01"`}); err != nil || string(got) != `{"when":"2026-01-01"}` {
		t.Errorf("a type of a newer version: %s, %v", got, err)
	}
	if err := newer.Validate([]byte(`{"when":null}`)); call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), "wants time") {
		t.Errorf("null for a type of a newer version: %v", err)
	}
}

func TestParseSchemasRefuses(t *testing.T) {
	field := func(f string) string { return `[{"name":"m.x","fields":[` + f + `]}]` }
	for _, test := range []struct{ name, in, want string }{
		{"no JSON", `[`, "not JSON"},
		{"no list", `{}`, "cannot unmarshal"},
		{"not UTF-8", "[\"\xff\"]", "not UTF-8"},
		{"too long", strings.Repeat(" ", MaxSchemas+1), "are more than"},
		{"too many fields", field(strings.Repeat(`{},`, maxFields) + `{}`), "257 fields are more than 256"},
		{"no name", field(`{"type":"int"}`), "twice or malformed"},
		{"name twice", field(`{"name":"a","type":"int"},{"name":"a","type":"int"}`), "twice or malformed"},
		{"min", field(`{"name":"a","type":"int","min":"x"}`), `field a: min is "x"`},
		{"max", field(`{"name":"a","type":"string","max":"1.5"}`), `field a: max is "1.5"`},
		{"min of a bool", field(`{"name":"a","type":"bool","min":"1"}`), `cannot have a min`},
		{"enum of an int", field(`{"name":"a","type":"int","enum":["1"]}`), `cannot have an enum`},
		{"pattern", field(`{"name":"a","type":"string","pattern":"("}`), `pattern: `},
		{"pattern of an int", field(`{"name":"a","type":"int","pattern":"1"}`), `pattern of 1 bytes, or not for a text`},
		{"long pattern", field(`{"name":"a","type":"string","pattern":"` + strings.Repeat("x", maxPattern+1) + `"}`), `pattern of 1025 bytes`},
		{"default", field(`{"name":"a","type":"int","default":"x"}`), `default "x": wants a whole number`},
		{"default out of bounds", field(`{"name":"a","type":"int","default":"5","max":"4"}`), `default "5"`},
		{"default of a list", field(`{"name":"a","type":"[]string","default":"x"}`), `cannot have a default`},
		{"default and required", field(`{"name":"a","type":"int","default":"1","required":true}`), `required and has a default`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseSchemas([]byte(test.in))
			if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), test.want) || got != nil {
				t.Errorf("ParseSchemas = %v, %v; want %q", got, err, test.want)
			}
			if strings.HasPrefix(test.in, "[{") {
				var s []Schema
				if json.Unmarshal([]byte(test.in), &s) == nil && !errors.Is(s[0].Validate(nil), ErrSchema) {
					t.Error("the bad schema validates")
				}
			}
		})
	}
	if got, err := ParseSchemas([]byte(`[{"name":"m.x","new_key":1,"fields":[{"name":"a","type":"new","other":2}]}]`)); err != nil || len(got) != 1 {
		t.Errorf("keys of a newer version: %v, %v", got, err)
	}
	if b, err := EncodeSchemas(nil); err != nil || string(b) != "[]" {
		t.Errorf("no schemas: %s, %v", b, err)
	}
}

// FuzzParseArgs: no panic; an error has the code Invalid and is short valid
// text; what is accepted is valid for the method, and giving each value by its
// name comes to the same bytes.
func FuzzParseArgs(f *testing.F) {
	m := allMethod(f)
	schema := m.Schema()
	f.Add("x\x1f4\x1f5\x1f0.5\x1ftrue\x1f90s\x1ffast\x1fab\x1fs\x1f/d\x1fa\x1fb")
	f.Add("name=x\x1fenv=A=1\x1fenv=B=\x1fwords=a\x1fdata=\xff\x1fratio=1e-3")
	f.Fuzz(func(t *testing.T, line string) {
		b, err := ParseArgs(schema, strings.Split(line, "\x1f"))
		if err != nil {
			checkInvalid(t, err)
			return
		}
		if err := m.Validate(b); err != nil {
			t.Fatalf("%s is not valid: %v", b, err)
		}
		values, err := m.compiled.spec.decode(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := m.compiled.spec.object(values)
		if err != nil || string(again) != string(b) {
			t.Fatalf("%s encodes back to %s, %v", b, again, err)
		}
	})
}

func checkInvalid(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*call.Error](err)
	if !ok || e.Code != call.Invalid || len(e.Detail) > MaxDetail || !utf8.ValidString(e.Detail) {
		t.Fatalf("error %q is not a short invalid", err)
	}
}

// FuzzValidate: no panic, one code; what is accepted, encoding/json reads
// too, and it encodes to a form that stays as it is.
func FuzzValidate(f *testing.F) {
	m := allMethod(f)
	f.Add([]byte(`{"name":"x","count":3,"small":5,"ratio":0.5,"force":true,"wait":"1s","mode":"slow","data":{"base64":"/w=="},"env":{"A":""},"words":["a"]}`))
	f.Add([]byte(`{"name":"\ud83d\ude00","n\u0061me":null}`))
	f.Fuzz(func(t *testing.T, args []byte) {
		values, err := m.compiled.spec.decode(args)
		if err != nil {
			checkInvalid(t, err)
			return
		}
		if len(args) > 0 {
			var in allIn
			var loose map[string]json.RawMessage
			if err := json.Unmarshal(args, &loose); err != nil {
				t.Fatalf("encoding/json refuses %s: %v", args, err)
			}
			if err := json.Unmarshal(loose["name"], &in.Name); err != nil || in.Name != values[0] {
				t.Fatalf("encoding/json reads the name as %q, we as %q", in.Name, values[0])
			}
		}
		first, err := m.compiled.spec.object(values)
		if err != nil {
			t.Fatal(err)
		}
		values, err = m.compiled.spec.decode(first)
		if err != nil {
			t.Fatalf("%s was accepted, %s is not: %v", args, first, err)
		}
		if second, err := m.compiled.spec.object(values); err != nil || string(second) != string(first) {
			t.Fatalf("%s encodes to %s, %v", first, second, err)
		}
		if _, err := m.Run(context.Background(), nil, args); err != nil {
			t.Fatalf("valid arguments do not run: %v", err)
		}
	})
}

// FuzzSchemas: no panic, one sentinel; what is accepted encodes to a form that
// reads back as the same bytes, and can be used.
func FuzzSchemas(f *testing.F) {
	for _, seed := range []string{ // short ones: long seeds cost their time in minimising
		`[{"name":"m.x","fields":[{"name":"a","type":"string","pattern":"x+","max":"3"}]}]`,
		`[{"name":"m.x","fields":[{"name":"a","type":"[]string","enum":["b"],"required":true}]}]`,
		`[{"name":"m.x","fields":[{"name":"a","type":"map[string]string"},{"name":"b","type":"bytes"}]}]`,
		`[{"name":"m.x","fields":[{"name":"a","type":"duration","default":"1s","min":"0s"}]}]`,
		`[{"name":"m.x","output":[{"name":"a","type":"[]object","fields":[{"name":"b"}]}]}]`,
	} {
		f.Add([]byte(seed), []byte(`{"a":"x"}`), "a=x")
	}
	f.Add([]byte(`[{"name":"a","fields":[{"name":"b","type":"q","default":"[1]"}]}]`), []byte(`{"b":{}}`), "b=1")
	f.Fuzz(func(t *testing.T, in, args []byte, word string) {
		schemas, err := ParseSchemas(in)
		if err != nil {
			if !errors.Is(err, ErrSchema) {
				t.Fatalf("error %v does not wrap ErrSchema", err)
			}
			return
		}
		first, err := EncodeSchemas(schemas)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSchemas(first)
		if err != nil {
			t.Fatalf("%s was accepted, %s is not: %v", in, first, err)
		}
		if second, err := EncodeSchemas(again); err != nil || string(second) != string(first) {
			t.Fatalf("%s encodes to %s, %v", first, second, err)
		}
		for _, s := range schemas {
			_ = s.Validate(args)
			if b, err := ParseArgs(s, []string{word}); err == nil && s.Validate(b) != nil {
				t.Fatalf("%s from words is not valid: %v", b, s.Validate(b))
			}
		}
	})
}

func BenchmarkRun(b *testing.B) {
	for _, bench := range []struct{ name, args string }{{"empty", `{"name":"x"}`}, {"all", `{"name":"x","count":3,"wait":"1s","env":{"A":"1"},"words":["a","b"]}`}} {
		m := method(b, Func("all", "All types.", Change, func(context.Context, *Env, allIn) (answer, error) { return answer{"ok"}, nil }, MethodOptions{}))
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Run(b.Context(), nil, []byte(bench.args)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package funcd

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/xmlrpc"
)

// The table of Func's own tests.
func TestOperators(t *testing.T) {
	facts := []Fact{{"m.s", "s", "fedora10"}, {"m.n", "n", 100}, {"m.os", "os", "os f9 2.16"}, {"m.nine", "nine", "fedora9"}, {"m.b", "b", true}, {"m.f", "f", 1.5}}
	for _, test := range []struct {
		key   string
		value any
		want  bool
	}{
		{"os__contains", "f9", true},
		{"os__contains", "nonexisting", false},
		{"os__icontains", "F9", true},
		{"nine__iexact", "FeDorA9", true},
		{"s__startswith", "fed", true},
		{"s__gt", "fedora101", false},
		{"s__gt", "fedora", true},
		{"n__gt", 101, false},
		{"n__gt", "101", false},
		{"n__gt", "100", false},
		{"s__gte", "fedora10", true},
		{"n__gte", 100, true},
		{"n__gte", "101", false},
		{"n__gte", "100", true},
		{"s__lt", "fedora10", false},
		{"s__lt", "fedora", false},
		{"n__lt", 100, false},
		{"n__lt", "101", true},
		{"n__lt", "33", false},
		{"s__lte", "fedora10", true},
		{"s__lte", "fedora", false},
		{"n__lte", 100, true},
		{"n__lte", "101", true},
		{"s", "fedora10", true},
		{"s__", "other", false},
		{"m.s", "fedora10", true},
		{"n", true, false},
		{"n__gt", true, true},
		{"n", 100.0, true},
		{"n__gt", xmlrpc.Long(1 << 40), false},
		{"b", true, true},
		{"b", "false", false},
		{"b__gt", 0, true},
		{"b__lt", "True", false},
		{"f__lt", "1.75", true},
		{"f__startswith", "1.5", true},
	} {
		holds, _, err := guard(facts, []any{"AND", []any{[]any{test.key, test.value}}})
		if err != nil || holds != test.want {
			t.Errorf("%s=%v: %v, %v; want %v", test.key, test.value, holds, err, test.want)
		}
	}
	for _, test := range []struct {
		key   string
		value any
	}{{"n", "many"}, {"s", nil}, {"s", []any{}}, {"b", "perhaps"}, {"nosuch", 1}, {"s__like", 1}} {
		if holds, _, err := guard(facts, []any{"OR", []any{[]any{test.key, test.value}}}); err == nil {
			t.Errorf("%s=%v: %v; want an error", test.key, test.value, holds)
		}
	}
}

func TestQueries(t *testing.T) {
	facts := []Fact{{"m.a", "a", true}, {"m.b", "b", true}, {"m.c", "c", false}, {"m.e", "e", 1}}
	leaf := func(k string, v any) any { return []any{k, v} }
	group := func(c string, items ...any) any { return []any{c, items} }
	for _, test := range []struct {
		name  string
		q     any
		want  bool
		found int
	}{
		{"and", group("AND", leaf("a", true), leaf("b", true)), true, 2},
		{"and not", group("AND", leaf("a", true), leaf("c", true)), false, 2},
		{"or", group("OR", leaf("c", true), leaf("b", true)), true, 2},
		{
			"(not(a and b) or c) and e",
			group("AND", group("OR", []any{"NOT", group("AND", leaf("a", true), leaf("b", true))}, leaf("c", true)), group("AND", leaf("e", 1))), false, 4,
		},
		{"not a", group("AND", []any{"NOT", group("AND", leaf("a", true))}), false, 1},
		{"not three", group("AND", []any{"NOT", group("AND", leaf("a", true), leaf("b", true), leaf("c", true))}), true, 3},
		{"nothing", group("AND"), true, 0},
		{"nothing or", group("OR"), true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 2 {
				holds, answer, err := guard(facts, test.q)
				if err != nil || holds != test.want {
					t.Fatalf("%v, %v; want %v", holds, err, test.want)
				}
				pair := answer[guardKey].([]any)
				if pair[0] != test.want || len(pair[1].(map[string]any)) != test.found {
					t.Errorf("answer %v", answer)
				}
			}
		})
	}
	deep := group("AND", leaf("a", true))
	for range maxQueryDepth + 2 {
		deep = group("AND", deep)
	}
	many := []any{}
	for range maxQuery + 1 {
		many = append(many, leaf("a", true))
	}
	for _, q := range []any{nil, 1, "AND", []any{}, []any{"AND"}, []any{"AND", 1}, []any{"NOT", []any{}}, group("AND", 1), group("AND", []any{1, 2}), deep, []any{"AND", many}} {
		if holds, _, err := guard(facts, q); err == nil {
			t.Errorf("guard(%.60v) = %v; want an error", q, holds)
		}
	}
}

func TestFactsOf(t *testing.T) {
	got := FactsOf(map[string]any{
		"os": "debian", "version": "", "kernel": "6.12", "cpu": map[string]any{"model": "Zen", "count": 4.0}, "memory_gb": 63.5, "disks": []any{}, "runlevel": "5", "big": 1e12, "ok": true,
	})
	want := []Fact{
		{"hardware.run_level", "runlevel", "5"},
		{"hardware.os_name", "os", "debian"},
		{"hardware.cpu_model", "cpumodel", "Zen"},
		{"hardware.kernel_version", "kernel", "6.12"},
		{"facts.big", "", 1_000_000_000_000},
		{"facts.kernel", "", "6.12"},
		{"facts.memory_gb", "", 63.5},
		{"facts.ok", "", true},
		{"facts.os", "", "debian"},
		{"facts.runlevel", "", "5"},
		{"facts.version", "", ""},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("FactsOf (-want +got):\n%s", d)
	}
	if v := wire(1 << 40); v != xmlrpc.Long(1<<40) {
		t.Errorf("wire = %v", v)
	}
}

// FuzzGuard: no query, however made, does more than fail.
func FuzzGuard(f *testing.F) {
	for _, q := range []any{
		[]any{"AND", []any{[]any{"a", true}}},
		[]any{"OR", []any{[]any{"NOT", []any{"AND", []any{[]any{"s__gt", "x"}}}}, []any{"n__lte", 3}}},
	} {
		doc, err := xmlrpc.Call{Method: "m", Params: []any{q}}.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc)
	}
	facts := []Fact{{"a", "", true}, {"n", "", 3}, {"s", "", "text"}, {"x", "", 1.5}}
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := xmlrpc.ParseCall(doc)
		if err != nil {
			return
		}
		for _, q := range c.Params {
			if _, answer, err := guard(facts, q); err == nil {
				if _, err := xmlrpc.AppendAnswer(nil, answer); err != nil {
					t.Fatalf("the answer to %v cannot be sent: %v", q, err)
				}
			}
		}
	})
}

package funcd

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"dominion/xmlrpc"
)

// guardKey is the key of the struct in front of the arguments of a call that runs
// only where facts match.
const guardKey = "__fact__"

// Limits of a query.
const (
	maxQuery      = 1000 // leaves
	maxQueryDepth = 32
)

// Fact is something known of the machine.
type Fact struct {
	Name  string // hardware.run_level
	Tag   string // runlevel; empty: none
	Value any    // string, int, float64 or bool
}

// A query asks for facts: each Server's own, made for one call.
type query struct {
	facts  map[string]any // by name and by tag
	found  map[string]any // what was asked for
	leaves int
}

// guard evaluates a query of __fact__: [CONNECTOR, ITEMS], and gives the answer
// that goes in front of the result. Every leaf is evaluated, and a query leaves
// nothing behind.
func guard(facts []Fact, q any) (holds bool, answer map[string]any, err error) {
	e := query{facts: make(map[string]any, 2*len(facts)), found: make(map[string]any)}
	for _, f := range facts {
		e.facts[f.Name] = f.Value
	}
	for _, f := range facts {
		if f.Tag != "" {
			e.facts[f.Tag] = f.Value
		}
	}
	if holds, err = e.group(q, 0); err != nil {
		return false, nil, err
	}
	for name, v := range e.found {
		e.found[name] = wire(v)
	}
	return holds, map[string]any{guardKey: []any{holds, e.found}}, nil
}

// wire makes a fact's value one that XML-RPC can carry.
func wire(v any) any {
	switch v := v.(type) {
	case int:
		return number(int64(v))
	case string:
		return xmlrpc.Text(v)
	}
	return v
}

// group is [CONNECTOR, [ITEM, …]].
func (e *query) group(q any, depth int) (bool, error) {
	pair, ok := q.([]any)
	if !ok || len(pair) != 2 {
		return false, Raise("a fact query is [\"AND\" or \"OR\", items]")
	}
	connector, _ := pair[0].(string)
	items, ok := pair[1].([]any)
	if connector != "AND" && connector != "OR" || !ok || depth > maxQueryDepth {
		return false, Raise("a fact query is [\"AND\" or \"OR\", items], at most %d within each other", maxQueryDepth)
	}
	all, some := true, false
	for _, item := range items {
		holds, err := e.item(item, depth)
		if err != nil {
			return false, err
		}
		all, some = all && holds, some || holds
	}
	if connector == "AND" {
		return all, nil
	}
	return some || len(items) == 0, nil
}

// item is a leaf [FACT, VALUE], a group, or ["NOT", GROUP].
func (e *query) item(q any, depth int) (bool, error) {
	pair, ok := q.([]any)
	if !ok || len(pair) != 2 {
		return false, Raise("an item of a fact query is [fact, value], [connector, items] or [\"NOT\", group]")
	}
	head, _ := pair[0].(string)
	_, list := pair[1].([]any)
	switch {
	case head == "NOT" && list:
		holds, err := e.group(pair[1], depth+1)
		return !holds, err
	case (head == "AND" || head == "OR") && list:
		return e.group(q, depth+1)
	}
	return e.leaf(head, pair[1])
}

func (e *query) leaf(key string, want any) (bool, error) {
	if e.leaves++; e.leaves > maxQuery {
		return false, Raise("a fact query of more than %d facts", maxQuery)
	}
	name, op, _ := strings.Cut(key, "__")
	fact, ok := e.facts[name]
	if !ok {
		return false, Raise("None existing Fact method or tag required %s", name)
	}
	test, ok := operators[op]
	if !ok {
		return false, Raise("The keyword %s used in query is not a valid one", op)
	}
	e.found[name] = fact
	want, err := convert(want, fact)
	if err != nil {
		return false, err
	}
	return test(fact, want), nil
}

// operators say whether a fact stands in a relation to a value of its type. The
// table is never written.
var operators = map[string]func(fact, value any) bool{
	"":           func(f, v any) bool { return compare(f, v) == 0 },
	"contains":   func(f, v any) bool { return strings.Contains(text(f), text(v)) },
	"icontains":  func(f, v any) bool { return strings.Contains(lower(f), lower(v)) },
	"iexact":     func(f, v any) bool { return lower(f) == lower(v) },
	"startswith": func(f, v any) bool { return strings.HasPrefix(text(f), text(v)) },
	"gt":         func(f, v any) bool { return compare(f, v) > 0 },
	"gte":        func(f, v any) bool { return compare(f, v) >= 0 },
	"lt":         func(f, v any) bool { return compare(f, v) < 0 },
	"lte":        func(f, v any) bool { return compare(f, v) <= 0 },
}

func lower(v any) string { return strings.ToLower(text(v)) }

// text is str() of Python.
func text(v any) string {
	switch v := v.(type) {
	case bool:
		if v {
			return "True"
		}
		return "False"
	case float64:
		s := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	case []byte:
		return string(v)
	}
	return fmt.Sprint(v)
}

// convert makes a value one of the fact's type.
func convert(v, fact any) (any, error) {
	switch fact.(type) {
	case bool:
		switch s := lower(v); s {
		case "true", "1":
			return true, nil
		case "false", "0":
			return false, nil
		}
	case int, float64:
		if b, ok := v.(bool); ok {
			v = 0
			if b {
				v = 1
			}
		}
		if f, err := strconv.ParseFloat(strings.TrimSpace(text(v)), 64); err == nil {
			return f, nil
		}
	default:
		switch v.(type) {
		case string, int, float64, bool, xmlrpc.Long, xmlrpc.DateTime:
			return text(v), nil
		}
	}
	return nil, &Exception{"exceptions.ValueError", fmt.Sprintf("%.60q does not compare with the fact's value", text(v))}
}

// compare orders a fact and a value that convert gave.
func compare(f, v any) int {
	switch f := f.(type) {
	case bool:
		switch w := v.(bool); {
		case f == w:
			return 0
		case w:
			return -1
		}
		return 1
	case int:
		return cmp.Compare(float64(f), v.(float64))
	case float64:
		return cmp.Compare(f, v.(float64))
	}
	return cmp.Compare(text(f), text(v))
}

// FactsOf makes facts of a document of the machine's facts: those that Func knew,
// as texts under Func's names and tags, as far as they are in it (the members os,
// version, kernel, runlevel, cpu_vendor, and model of cpu), and every plain value
// of it as facts.NAME.
func FactsOf(doc map[string]any) []Fact {
	inner := func(m map[string]any, key string) string {
		s, _ := m[key].(string)
		return s
	}
	cpu, _ := doc["cpu"].(map[string]any)
	system := strings.TrimSpace(inner(doc, "os") + " " + inner(doc, "version"))
	out := slices.DeleteFunc([]Fact{
		{"hardware.run_level", "runlevel", inner(doc, "runlevel")},
		{"hardware.os_name", "os", system},
		{"hardware.cpu_vendor", "cpuvendor", inner(doc, "cpu_vendor")},
		{"hardware.cpu_model", "cpumodel", inner(cpu, "model")},
		{"hardware.kernel_version", "kernel", inner(doc, "kernel")},
	}, func(f Fact) bool { return f.Value == "" })
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		switch v := doc[name].(type) {
		case string, bool:
			out = append(out, Fact{Name: "facts." + name, Value: v})
		case float64:
			if v == float64(int(v)) {
				out = append(out, Fact{Name: "facts." + name, Value: int(v)})
			} else {
				out = append(out, Fact{Name: "facts." + name, Value: v})
			}
		}
	}
	return out
}

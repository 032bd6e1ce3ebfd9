package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
	"dominion/module/facts"
	"dominion/target"
)

// minionsView is what a list of machines shows.
type minionsView struct {
	targetFlags
	target string // empty: all
	facts  bool
	fields []string // empty: the usual ones
	sort   string   // a field, behind a "-" for the other way; empty: by name
	opt    client.Options
	narrow bool // the flags leave fewer than the target names
}

func (v *minionsView) register(cmd *cobra.Command) {
	v.targetFlags.register(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&v.facts, "facts", false, "show what is known about each machine")
	fl.StringSliceVar(&v.fields, "fields", nil, "show these `FIELDS`, separated by commas")
	fl.StringVar(&v.sort, "sort", "", "sort by `FIELD`, or the other way by -FIELD (default: name)")
	for flag, f := range map[string]cobra.CompletionFunc{"fields": completeFields, "sort": completeSort} {
		if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
			panic(err) // the flag does not exist: a bug here
		}
	}
}

// minionField is a column of a list of machines.
type minionField struct {
	name  string
	value func(d *minionDoc) any // nil: the machine has none
}

func minionColumns() []minionField {
	text := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	when := func(t *time.Time) any {
		if t == nil {
			return nil
		}
		return *t
	}
	return []minionField{
		{"name", func(d *minionDoc) any { return d.Name }},
		{"state", func(d *minionDoc) any { return d.state() }},
		{"since", func(d *minionDoc) any { return when(d.Since) }},
		{"last_seen", func(d *minionDoc) any { return when(d.LastSeen) }},
		{"version", func(d *minionDoc) any { return text(d.Version) }},
		{"address", func(d *minionDoc) any { return text(d.Address) }},
		{"note", func(d *minionDoc) any { return text(d.note()) }},
		{"dial_address", func(d *minionDoc) any { return text(d.DialAddress) }},
		{"fingerprint", func(d *minionDoc) any { return text(d.Fingerprint) }},
		{"cert_expires", func(d *minionDoc) any { return when(d.CertExpires) }},
		{"facts_at", func(d *minionDoc) any { return when(d.FactsAt) }},
		{"overlord", func(d *minionDoc) any { return d.Overlord }},
	}
}

const usualFields = 7 // the first of minionColumns

func minionFields() []string {
	var out []string
	for _, f := range minionColumns() {
		out = append(out, f.name)
	}
	return out
}

// state says in a word whether a machine is there.
func (d *minionDoc) state() string {
	if d.Connected {
		return "connected"
	}
	return "lost"
}

// note is what else there is to say of a machine.
func (d *minionDoc) note() string {
	var words []string
	if d.Overlord {
		words = append(words, "overlord")
	}
	if d.DialAddress != "" {
		words = append(words, "dialled at "+d.DialAddress)
	}
	if d.Problem != "" {
		words = append(words, d.Problem)
	}
	return strings.Join(words, "; ")
}

// settle checks the flags.
func (v *minionsView) settle(cmd *cobra.Command) error {
	if err := v.set(cmd, &v.opt); err != nil {
		return err
	}
	v.narrow = v.targetFlags.narrow(cmd)
	if cmd.Flags().Changed("fields") && len(v.fields) == 0 {
		return usagef("--fields: give names, separated by commas: %s, or facts.NAME", strings.Join(minionFields(), ", "))
	}
	for _, name := range append(slices.Clone(v.fields), strings.TrimPrefix(v.sort, "-")) {
		if _, err := fieldOf(name); name != "" && err != nil {
			return err
		}
	}
	return nil
}

// fieldOf gives the column of a name; facts are those that this program knows.
func fieldOf(name string) (minionField, error) {
	for _, f := range minionColumns() {
		if f.name == name {
			return f, nil
		}
	}
	path, ok := strings.CutPrefix(name, "facts.")
	if !ok {
		return minionField{}, usagef("there is no field %q; there are %s, and facts.NAME", name, strings.Join(minionFields(), ", "))
	}
	if !slices.Contains(factPaths(), name) {
		return minionField{}, usagef("there is no fact %q; there are %s", name, strings.Join(factPaths(), ", "))
	}
	keys := strings.Split(path, ".")
	return minionField{name, func(d *minionDoc) any { return factOf(d.Facts, keys) }}, nil
}

// factPaths gives the names of all facts, those in objects behind a dot.
func factPaths() []string {
	var out []string
	for _, f := range facts.Schema() {
		out = append(out, "facts."+f.Name)
		if f.Type == "object" {
			for _, in := range f.Fields {
				out = append(out, "facts."+f.Name+"."+in.Name)
			}
		}
	}
	return out
}

// factOf gives the value at a path of the facts, or nil.
func factOf(doc []byte, keys []string) any {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return nil
	}
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// request makes what is asked of the overlord. When the flags leave fewer than the
// target names, it is resolved first.
func (v *minionsView) request(ctx context.Context, conn *client.Conn, tell func(string, ...any)) (*apipb.MinionsRequest, error) {
	req := &apipb.MinionsRequest{Target: v.target, Exclude: v.exclude, Facts: v.facts}
	for _, name := range append(slices.Clone(v.fields), v.sort) {
		req.Facts = req.Facts || strings.Contains(name, "facts.")
	}
	if !v.narrow {
		return req, nil
	}
	expr := cmp.Or(v.target, "*")
	v.opt.OnResolve = func(r client.Resolved) { tellResolved(tell, &v.opt, r) }
	c, err := conn.Target(expr, v.opt)
	if err != nil {
		return nil, err
	}
	r, err := c.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	req.Target, req.Narrow, req.Among = expr, true, target.Fold(slices.Concat(r.Names, r.Unknown))
	return req, nil
}

func (v *minionsView) show(a *app, docs []minionDoc) error {
	if err := v.order(docs); err != nil {
		return err
	}
	if a.output == outText && v.facts {
		for _, d := range docs {
			g := &client.Group{Names: []string{d.Name}, Status: call.Answered, Output: d.Facts}
			if len(d.Facts) == 0 {
				g.Output = []byte(`"no facts yet"`)
			}
			if err := a.write([]byte(renderGroup(g, resultLines, a.painter()))); err != nil {
				return err
			}
		}
		return nil
	}
	columns := minionColumns()[:usualFields]
	if len(v.fields) > 0 {
		columns = nil
		for _, name := range v.fields {
			f, err := fieldOf(name)
			if err != nil {
				return err
			}
			columns = append(columns, f)
		}
	}
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = strings.ToUpper(strings.ReplaceAll(c.name, "_", " "))
		if strings.HasPrefix(c.name, "facts.") {
			head[i] = strings.ToUpper(strings.TrimPrefix(c.name, "facts."))
		}
	}
	cells := func(d minionDoc) []string {
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = cell(c.value(&d))
		}
		return row
	}
	if len(v.fields) == 0 || a.output == outText {
		return list(a, "minions", docs, head, cells)
	}
	rows := make([]fieldsDoc, len(docs))
	for i := range docs {
		for _, c := range columns {
			rows[i] = append(rows[i], fieldDoc{c.name, c.value(&docs[i])})
		}
	}
	return list(a, "minions", rows, nil, nil)
}

// fieldsDoc is a JSON object whose members keep their order.
type fieldsDoc []fieldDoc

type fieldDoc struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (d fieldsDoc) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, f := range d {
		if i > 0 {
			b = append(b, ',')
		}
		v := f.value
		if t, ok := v.(time.Time); ok {
			v = t.UTC()
		}
		text, err := marshalPlain(v)
		if err != nil {
			return nil, err
		}
		b = strconv.AppendQuote(b, f.name)
		b = append(append(b, ':'), text...)
	}
	return append(b, '}'), nil
}

// cell shows a value in a column.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case time.Time:
		return stamp(v.UnixMilli())
	case bool:
		return map[bool]string{true: "yes", false: "no"}[v]
	case json.Number:
		return v.String()
	case []any:
		var words []string
		for _, w := range v {
			if _, ok := w.(map[string]any); ok {
				return fmt.Sprintf("%d listed", len(v))
			}
			words = append(words, cell(w))
		}
		return strings.Join(words, ",")
	case map[string]any:
		return plural(len(v), "field")
	}
	return fmt.Sprint(v)
}

// order sorts machines as --sort says; those without the field come last, equal
// ones stay in the order of their names.
func (v *minionsView) order(docs []minionDoc) error {
	if v.sort == "" {
		return nil
	}
	name, down := strings.CutPrefix(v.sort, "-")
	f, err := fieldOf(name)
	if err != nil {
		return err
	}
	keys := make(map[string]any, len(docs))
	for i := range docs {
		keys[docs[i].Name] = f.value(&docs[i])
	}
	slices.SortStableFunc(docs, func(a, b minionDoc) int {
		x, y := keys[a.Name], keys[b.Name]
		switch {
		case x == nil || y == nil:
			return compareBool(x == nil, y == nil)
		case down:
			return compareValues(y, x)
		}
		return compareValues(x, y)
	})
	return nil
}

// compareValues compares numbers and times as such, and all else as it is shown.
func compareValues(x, y any) int {
	if a, ok := x.(time.Time); ok {
		if b, ok := y.(time.Time); ok {
			return a.Compare(b)
		}
	}
	if a, ok := x.(json.Number); ok {
		if b, ok := y.(json.Number); ok {
			return compareNumbers(a, b)
		}
	}
	if a, ok := x.(bool); ok {
		if b, ok := y.(bool); ok {
			return compareBool(a, b)
		}
	}
	return cmp.Compare(cell(x), cell(y))
}

func compareNumbers(a, b json.Number) int {
	x, xerr := a.Int64()
	y, yerr := b.Int64()
	if xerr == nil && yerr == nil {
		return cmp.Compare(x, y)
	}
	f, _ := a.Float64() // JSON's numbers are read, if only as infinite
	g, _ := b.Float64()
	return cmp.Compare(f, g)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

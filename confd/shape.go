package confd

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// shape reads a value of Ganeti's configuration as its daemon does, and gives
// it as the daemon would write it. The tables of what there is are in schema.go.
type shape func(value) (value, error)

// presence says what becomes of a member that is missing or null.
type presence byte

const (
	required presence = iota // missing or null is an error
	optional                 // left out of what is written
	defaults                 // written with the member's default
	sparse                   // an object that is written unless it is empty
)

// member is one member of an object.
type member struct {
	name  string
	shape shape
	presence
	def value
}

func wrong(v value, want string) error { return fmt.Errorf("%s is no %s", v.brief(), want) }

// brief shows a value in an error.
func (v value) brief() string {
	switch v.kind {
	case array:
		return "an array"
	case object:
		return "an object"
	case text:
		return strconv.Quote(v.text[:min(len(v.text), 60)])
	case null:
		return "null"
	}
	return v.text[:min(len(v.text), 60)]
}

func at(where string, err error) error { return fmt.Errorf("%s: %w", where, err) }

// anything is a value that the daemon does not look into.
func anything(v value) (value, error) {
	switch v.kind {
	case numeral:
		n, ok := exact(v.text)
		if !ok {
			return v, wrong(v, "number of ours")
		}
		v.text = n
	case array, object:
		v.items = slices.Clone(v.items)
		for i := range v.items {
			var err error
			if v.items[i], err = anything(v.items[i]); err != nil {
				return v, err
			}
		}
	}
	return v, nil
}

// str is a string, or the array of its characters.
func str(v value) (value, error) {
	if v.kind == text {
		return v, nil
	}
	if v.kind != array {
		return v, wrong(v, "string")
	}
	var b strings.Builder
	for _, c := range v.items {
		if c.kind != text || !single([]byte(c.text)) {
			return v, wrong(v, "string")
		}
		b.WriteString(c.text)
	}
	return value{kind: text, text: b.String()}, nil
}

// id is a string and nothing else.
func id(v value) (value, error) {
	if v.kind != text {
		return v, wrong(v, "string")
	}
	return v, nil
}

func nonEmpty(v value) (value, error) {
	v, err := str(v)
	if err == nil && v.text == "" {
		err = errors.New("it is empty")
	}
	return v, err
}

func flag(v value) (value, error) {
	if v.kind != boolean {
		return v, wrong(v, "boolean")
	}
	return v, nil
}

// whole is a number that is rounded to an integer.
func whole(v value) (value, error) {
	if v.kind != numeral {
		return v, wrong(v, "number")
	}
	n, ok := rounded(v.text)
	if !ok {
		return v, wrong(v, "integer of 64 bits")
	}
	return integer(n), nil
}

func integer(n int64) value { return value{kind: numeral, text: strconv.FormatInt(n, 10)} }

// natural is an integer of any size, not negative.
func natural(v value) (value, error) {
	v, err := whole(v)
	if err == nil && v.text[0] == '-' {
		err = wrong(v, "number from 0")
	}
	return v, err
}

// real is a floating-point number.
func real(v value) (value, error) {
	f, err := double(v)
	if err != nil {
		return v, err
	}
	return value{kind: numeral, text: showDouble(f)}, nil
}

func double(v value) (float64, error) {
	if v.kind != numeral {
		return 0, wrong(v, "number")
	}
	r, ok := rational(v.text)
	if !ok {
		return 0, wrong(v, "number of ours")
	}
	f, _ := r.Float64()
	if math.IsInf(f, 0) {
		return 0, wrong(v, "number of ours")
	}
	return f, nil
}

// stamp is a time in seconds. The original keeps it in picoseconds, computed in
// floating point, and that is how it comes out again.
func stamp(v value) (value, error) {
	f, err := double(v)
	if err != nil {
		return v, err
	}
	picos := f * 1e12
	if math.IsInf(picos, 0) {
		return v, wrong(v, "time")
	}
	n, _ := new(big.Float).SetFloat64(math.RoundToEven(picos)).Int(nil)
	seconds, rest := new(big.Int).DivMod(n, big.NewInt(1e12), new(big.Int))
	s, _ := new(big.Float).SetInt(seconds).Float64()
	return value{kind: numeral, text: showDouble(s + float64(rest.Int64())/1e12)}, nil
}

// oneOf is a string out of a list.
func oneOf(words ...string) shape {
	return func(v value) (value, error) {
		if v.kind != text || !slices.Contains(words, v.text) {
			return v, wrong(v, "word of "+strings.Join(words, ", "))
		}
		return v, nil
	}
}

// oneNumberOf is an integer out of a list.
func oneNumberOf(numbers ...int64) shape {
	return func(v value) (value, error) {
		v, err := whole(v)
		if err != nil {
			return v, err
		}
		for _, n := range numbers {
			if v.text == strconv.FormatInt(n, 10) {
				return v, nil
			}
		}
		return v, wrong(v, "number that stands for anything here")
	}
}

// listOf is an array of equal shapes.
func listOf(s shape) shape {
	return func(v value) (value, error) {
		if v.kind != array {
			return v, wrong(v, "array")
		}
		out := value{kind: array, items: make([]value, len(v.items))}
		for i := range v.items {
			var err error
			if out.items[i], err = s(v.items[i]); err != nil {
				return v, at(strconv.Itoa(i), err)
			}
		}
		return out, nil
	}
}

// tuple is an array of fixed shapes.
func tuple(shapes ...shape) shape {
	return func(v value) (value, error) {
		if v.kind != array || len(v.items) != len(shapes) {
			return v, wrong(v, fmt.Sprintf("array of %d", len(shapes)))
		}
		out := value{kind: array, items: make([]value, len(shapes))}
		for i, s := range shapes {
			var err error
			if out.items[i], err = s(v.items[i]); err != nil {
				return v, at(strconv.Itoa(i), err)
			}
		}
		return out, nil
	}
}

// setOfText is an array of strings, written sorted, each once.
func setOfText(v value) (value, error) {
	v, err := listOf(str)(v)
	if err != nil {
		return v, err
	}
	slices.SortFunc(v.items, func(a, b value) int { return strings.Compare(a.text, b.text) })
	v.items = slices.CompactFunc(v.items, func(a, b value) bool { return a.text == b.text })
	return v, nil
}

// mapOf is an object with keys of the site's own, written sorted. Of keys that
// are equal the last counts.
func mapOf(s shape, keys ...string) shape {
	return func(v value) (value, error) {
		if v.kind != object {
			return v, wrong(v, "object")
		}
		order := make([]int, len(v.keys))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(v.keys[a], v.keys[b]) })
		out := value{kind: object, sorted: true}
		for n, i := range order {
			if len(keys) > 0 && !slices.Contains(keys, v.keys[i]) {
				return v, fmt.Errorf("%q is none of %s", v.keys[i], strings.Join(keys, ", "))
			}
			x, err := s(v.items[i])
			if err != nil {
				return v, at(v.keys[i], err)
			}
			if n+1 < len(order) && v.keys[order[n+1]] == v.keys[i] {
				continue
			}
			out.set(v.keys[i], x)
		}
		return out, nil
	}
}

// record is an object with the members given and no other.
func record(members ...member) shape {
	return func(v value) (value, error) { return read(v, members, false) }
}

// without gives an object less its members of one name.
func (v value) without(key string) value {
	if v.kind != object || v.get(key) == nil {
		return v
	}
	out := value{kind: object}
	for i, k := range v.keys {
		if k != key {
			out.set(k, v.items[i])
		}
	}
	return out
}

// read reads a record. In one that is forthcoming only an id, a number and the
// mark itself are required.
func read(v value, members []member, forthcoming bool) (value, error) {
	if v.kind != object {
		return v, wrong(v, "object")
	}
	out := value{kind: object}
	for i := range members {
		m := &members[i]
		x := v.get(m.name)
		needed := m.presence == required && (!forthcoming || m.name == "uuid" || m.name == "serial_no")
		switch {
		case x != nil && (x.kind != null || needed):
			y, err := m.shape(*x)
			if err != nil {
				return v, at(m.name, err)
			}
			if m.presence != sparse || len(y.items) > 0 {
				out.set(m.name, y)
			}
		case m.presence == defaults:
			out.set(m.name, m.def)
		case needed:
			return v, fmt.Errorf("%s is missing", m.name)
		}
	}
	for _, k := range v.keys {
		if !slices.ContainsFunc(members, func(m member) bool { return m.name == k }) {
			return v, fmt.Errorf("unknown member %q", k)
		}
	}
	return out, nil
}

// size is a number of mebibytes, or a text such as "4G".
func size(v value) (value, error) {
	if v.kind != text {
		return whole(v)
	}
	m := sizeText.FindStringSubmatch(v.text)
	if m == nil {
		return v, wrong(v, "size")
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]int{"": 0, "m": 0, "g": 10, "t": 20}[strings.ToLower(m[2])]
	if err != nil || n<<shift>>shift != n {
		return v, wrong(v, "size")
	}
	return integer(n << shift), nil
}

var sizeText = regexp.MustCompile(`^ *(-?[0-9]+) *(?:([MmGgTt])(?:[Ii]?[Bb])?)?$`)

// jobID is a number or the text of one, not negative.
func jobID(v value) (value, error) {
	if v.kind == text {
		n, err := strconv.ParseInt(v.text, 10, 64)
		if err != nil || n < 0 {
			return v, wrong(v, "job id")
		}
		return integer(n), nil
	}
	if v.kind == numeral {
		if n, ok := exact(v.text); !ok || !integral(n) {
			return v, wrong(v, "job id")
		}
	}
	return natural(v)
}

func ip4(v value) (value, error) {
	a, err := netip.ParseAddr(v.text)
	if v.kind != text || err != nil || !a.Is4() {
		return v, wrong(v, "IPv4 address")
	}
	return v, nil
}

func net4(v value) (value, error) {
	p, err := netip.ParsePrefix(v.text)
	if v.kind != text || err != nil || !p.Addr().Is4() {
		return v, wrong(v, "IPv4 network")
	}
	return v, nil
}

func bits(v value) (value, error) {
	if v.kind != text || strings.Trim(v.text, "01") != "" {
		return v, wrong(v, "row of 0 and 1")
	}
	return v, nil
}

package target_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
	"dominion/target"
)

func TestFold(t *testing.T) {
	for _, tt := range []struct{ name, names, want string }{
		{"none", "", ""},
		{"one", "web1", "web1"},
		{"no number", "web db", "db,web"},
		{"two digits that would be a class", "web1 web2", "web[1,2]"},
		{"three", "web1 web2 web3", "web[1,2,3]"},
		{"more", "web0 web1 web2 web3 web4", "web[0-3,4]"},
		{"apart", "web1 web3", "web[1,3]"},
		{"with a comma anyway", "web1 web2 web3 web7", "web[1-3,7]"},
		{"padded", "web01 web02 web03", "web[01-03]"},
		{"padding differs", "web1 web01 web001", "web[1,01,001]"},
		{"across widths", "web8 web9 web10 web11", "web[8-11]"},
		{"across many widths", "w9 w10 w99 w100", "w[9-10,99-100]"},
		{"padded does not go on", "w099 w99 w100", "w[99,099-100]"},
		{"padded to full width", "w08 w09 w10 w11", "w[08-11]"},
		{"zero", "w0 w00 w1", "w[0-1,00]"},
		{"doubles and case", "WEB1 web1 Web2", "web[1,2]"},
		{"digits only", "5 6 007", "[5-6,007]"},
		{"dots", "a1.b a2.b a1.c", "a[1,2].b,a1.c"},
		{"product", "r1-n3 r1-n4 r2-n3 r2-n4", "r[1,2]-n[3,4]"},
		{"padded product", "rack1-n09 rack1-n10 rack2-n09 rack2-n10", "rack[1,2]-n[09-10]"},
		{"hole in a product", "r1-n3 r1-n4 r2-n3", "r1-n[3,4],r2-n3"},
		{"three numbers", "a1b1c1 a1b1c2 a1b2c1 a1b2c2 a2b1c1 a2b1c2 a2b2c1 a2b2c2", "a[1,2]b[1,2]c[1,2]"},
		{"constant number", "web1.dc2 web2.dc2 web10.dc2", "web[1-2,10].dc2"},
		{"16 digits", "a9999999999999998 a9999999999999999", "a[9999999999999998-9999999999999999]"},
		{"17 digits are text", "a10000000000000000 a10000000000000001", "a10000000000000000,a10000000000000001"},
		{"overflowing", "a99999999999999999999 a18446744073709551616-1 a18446744073709551616-2", "a18446744073709551616-[1,2],a99999999999999999999"},
		{"order by number", "b1 a10 a9 a", "a,a[9-10],b1"},
		{"last eight of nine numbers", "1a1a1a1a1a1a1a1a1 2a1a1a1a1a1a1a1a1 1a1a1a1a1a1a1a1a2", "1a1a1a1a1a1a1a1a[1,2],2a1a1a1a1a1a1a1a1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			names := words(tt.names)
			got := target.Fold(names)
			if got != tt.want {
				t.Errorf("Fold(%q) = %q; want %q", tt.names, got, tt.want)
			}
			checkFold(t, names, got)
		})
	}
}

// checkFold checks that Expand and Parse read folded as exactly names.
func checkFold(t *testing.T, names []string, folded string) {
	t.Helper()
	want := make([]string, 0, len(names))
	for _, n := range names {
		want = append(want, strings.ToLower(n))
	}
	slices.Sort(want)
	want = slices.Compact(want)
	got, err := target.Expand(folded)
	if err != nil {
		t.Fatalf("Expand(%.200q): %v", folded, err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Expand(%.200q) (-want +got):\n%.2000s", folded, cmp.Diff(want, got))
	}
	if len(folded) == 0 || len(folded) > 64<<10 {
		return
	}
	e, err := target.Parse(folded)
	if err != nil {
		t.Fatalf("Parse(%.200q): %v", folded, err)
	}
	for known := range 3 { // nothing, the even ones, everything is known
		var env target.Env
		var unknown []string
		for i, n := range want {
			if known == 2 || known == 1 && i%2 == 0 {
				env.Known = append(env.Known, n)
			} else {
				unknown = append(unknown, n)
			}
		}
		res, err := e.Resolve(env)
		if err != nil || !slices.Equal(res.Names, env.Known) || !slices.Equal(res.Unknown, unknown) {
			t.Fatalf("Resolve(%.200q) = %d names, %d unknown, %v; want %d and %d", folded, len(res.Names), len(res.Unknown), err, len(env.Known), len(unknown))
		}
	}
}

// What is no name must not be read back as another set.
func TestFoldOdd(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"", `""`},
		{"a,b", `"a,b"`},
		{"web[1,2]", `"web[1,2]"`},
		{"a\x1b[0m", `"a\x1b[0m"`},
		{"-", `"-"`},
	} {
		got := target.Fold([]string{tt.name, "web2", "web1", tt.name})
		if want := "web[1,2]," + tt.want; got != want {
			t.Errorf("Fold(%q) = %s; want %s", tt.name, got, want)
		}
		if names, err := target.Expand(got); !errors.Is(err, target.ErrSyntax) {
			t.Errorf("Expand(%q) = %q, %v; want ErrSyntax", got, names, err)
		}
	}
}

func TestExpand(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"b,A,b", "a b"},
		{"web[08-11]", "web08 web09 web10 web11"},
		{"web[8-11]", "web10 web11 web8 web9"},
		{"web[1-3,2-4,3]", "web1 web2 web3 web4"},
		{"a[1,2][3,4]", "a13 a14 a23 a24"},
		{"a[1,11][11,1]", "a11 a111 a1111"}, // 1 11 and 11 1 are one name
		{"[0-10].x", "0.x 1.x 10.x 2.x 3.x 4.x 5.x 6.x 7.x 8.x 9.x"},
		{"a[00-10]", "a00 a01 a02 a03 a04 a05 a06 a07 a08 a09 a10"},
		{"a[98-101]", "a100 a101 a98 a99"},
		{"a[7,07]", "a07 a7"},
	} {
		got, err := target.Expand(tt.text)
		if err != nil || !slices.Equal(got, words(tt.want)) {
			t.Errorf("Expand(%q) = %q, %v; want %s", tt.text, got, err, tt.want)
			continue
		}
		checkFold(t, got, target.Fold(got))
	}
}

func TestExpandErrors(t *testing.T) {
	const only = "only names, ranges and commas can stand here, as in db1,web[01-40,42]"
	for _, tt := range []struct{ text, want string }{
		{"a,", `names "a,": position 3: a name is missing; ` + only},
		{",", `names ",": position 1: a name is missing; ` + only},
		{"a, b", `names "a, b": position 4: there is a blank; ` + only},
		{"a ,b", `names "a ,b": position 1: there is a blank; ` + only},
		{" ", `names " ": position 2: a name is missing; ` + only},
		{"a\n", `names "a\n": position 1: there is a blank; ` + only},
		{"a,web*", `names "a,web*": position 6: "*" cannot be expanded; ` + only},
		{"a;b", `names "a;b": position 2: ";" cannot be expanded; ` + only},
		{"@web", `names "@web": position 1: "@" cannot be expanded; ` + only},
		{"web[1-2]", `names "web[1-2]": position 4: the bracket is a class of characters; write [1,2] or [01-20] for a range, ` + only},
		{"web[12", `names "web[12": position 4: the bracket is not closed; write "]" after it`},
		{`"a"`, `names "\"a\"": position 1: "\"" cannot stand in a name; names hold letters, digits, hyphens and dots`},
		{"a-", `names "a-": position 1: not a machine name: a label of "a-" begins or ends with a hyphen; write names as in web1.example.org`},
		{"a[1-999999][1-999999]", `names "a[1-999999][1-999999]": position 1: the ranges stand for more than 1048576 names; use a glob such as web*, or fewer numbers`},
		{strings.Repeat("a,", call.MaxMachines) + "a", `position 2097153: there are more than 1048576 names`},
		{"a[" + strings.Repeat("1,", call.MaxMachines+1) + "1]", `position 2097155: the bracket holds more than 1048576 ranges; write fewer`},
		{strings.Repeat("a", 16<<20+1), `position 16777217: 16777217 bytes are more than 16777216; send fewer names at a time`},
	} {
		_, err := target.Expand(tt.text)
		if !errors.Is(err, target.ErrSyntax) || call.CodeOf(err) != call.Invalid {
			t.Errorf("Expand(%.20q) = %v; want ErrSyntax", tt.text, err)
		} else if !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("Expand(%.20q)\n got %v\nwant %s", tt.text, err, tt.want)
		}
	}
}

// A bomb is refused before anything is allocated for it.
func TestBombs(t *testing.T) {
	bombs := []string{
		"a[1-999999][1-999999]", "[0-9999999999999999]", strings.Repeat("[0-9999]", 15),
		strings.TrimSuffix(strings.Repeat("a[1-9999],", 1000), ","),
	}
	for _, bomb := range bombs {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := target.Parse(bomb); err == nil {
			t.Fatalf("Parse(%.40q) accepted", bomb)
		}
		if _, err := target.Expand(bomb); err == nil {
			t.Fatalf("Expand(%.40q) accepted", bomb)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 256<<10 {
			t.Errorf("refusing %.40q allocates %d bytes", bomb, got)
		}
	}
}

// Random sets of awkward names, large enough to share parts.
func TestFoldRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		names := randomNames(r, 1+r.IntN(60))
		folded := target.Fold(names)
		checkFold(t, names, folded)
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		if again := target.Fold(names); again != folded {
			t.Fatalf("Fold depends on the order of names: %q and %q", folded, again)
		}
	}
}

// randomNames gives names of up to nine numbers with differing padding.
func randomNames(r *rand.Rand, n int) []string {
	stems := []string{"", "a", "b-", "a.", "x99999999999999999-"}
	shape := make([]string, 1+r.IntN(3))
	for i := range shape {
		var b strings.Builder
		for range 1 + r.IntN(3)*r.IntN(4) {
			b.WriteString(stems[r.IntN(len(stems))] + "%s")
		}
		b.WriteString([]string{"", "", "z", ".dc"}[r.IntN(4)])
		shape[i] = b.String()
	}
	top := []int{3, 12, 120, 1e15}[r.IntN(4)]
	var names []string
	for len(names) < n {
		s := shape[r.IntN(len(shape))]
		args := make([]any, strings.Count(s, "%s"))
		for i := range args {
			args[i] = fmt.Sprintf("%0*d", r.IntN(3), r.IntN(top))
		}
		name := fmt.Sprintf(s, args...)
		if _, err := call.ParseName(name); err != nil {
			n--
			continue
		}
		names = append(names, name)
	}
	return names
}

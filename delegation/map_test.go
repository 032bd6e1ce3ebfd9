package delegation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/delegation"
	"dominion/target"
)

// Trees of Func's own tests and documents. Its machine just_a_minion has a
// name that is none here, so it is just-a-minion.
const (
	treeA = `{anthony: {longpath1: {longpath2: {longpath3: {}}}}, phil: {steve: {longpath3: {}}}, tony: {mike: {anthony: {}}}, just-a-minion: {}}`
	treeD = `{dc1-proxy: {web1: {}, web2: {}, db1: {}}, dc2-proxy: {rack1-proxy: {web3: {}, web4: {}}, db2: {}}, mail1: {}}`

	twoRoutes = `{o1: {m1: {}, m2: {}}, o2: {m2: {}, m3: {}}, m4: {}}`
	selfEntry = `{sub: {sub: {}, m1: {}}, m9: {}}`
	oneBranch = `{t: {x: {m: {}}, y: {m: {}}}}`
)

func parse(t testing.TB, text string) delegation.Map {
	t.Helper()
	m, err := delegation.Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	return m
}

func strs(paths []delegation.Path) []string {
	out := []string{}
	for _, p := range paths {
		out = append(out, p.String())
	}
	return out
}

// words splits by blanks; none for an empty text.
func words(s string) []string {
	if s == "" {
		return []string{}
	}
	return strings.Fields(s)
}

func all(m delegation.Map) []string {
	out := []string{}
	for p := range m.All() {
		out = append(out, p.String())
	}
	return out
}

// pathsFor does what Func's get_paths_for_glob does: an expression, and the
// routes of the machines that it names.
func pathsFor(t *testing.T, m delegation.Map, expr string) []delegation.Path {
	t.Helper()
	e, err := target.Parse(expr)
	if err != nil {
		t.Fatal(err)
	}
	ix := m.Index()
	res, err := ix.Match(e, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := ix.Routes(res.Names, nil)
	if len(r.Behind)+len(r.Conflicts)+len(r.Unknown) > 0 {
		t.Fatalf("Routes(%q) = %+v", expr, r)
	}
	return r.Paths
}

// match_glob_in_tree and get_paths_for_glob: each machine once, by its
// shortest route, whatever the expression, "*" and unknown names included.
func TestPathsForExpression(t *testing.T) {
	for _, tt := range []struct{ name, tree, expr, want string }{
		{"A both places", treeA, "*path3", "phil/steve/longpath3"},
		{"A direct", treeA, "*minion", "just-a-minion"},
		{"A union", treeA, "a*;p*", "anthony phil"},
		{"A glob and name", treeA, "*path3;steve", "phil/steve/longpath3 phil/steve"},
		{"A all", treeA, "*", "anthony just-a-minion anthony/longpath1 anthony/longpath1/longpath2 phil/steve/longpath3 tony/mike phil phil/steve tony"},
		{"A upper case", treeA, "STEVE", "phil/steve"},
		{"A unknown", treeA, "nosuch", ""},
		{"D glob", treeD, "web*", "dc1-proxy/web1 dc1-proxy/web2 dc2-proxy/rack1-proxy/web3 dc2-proxy/rack1-proxy/web4"},
		{"D one character", treeD, "db?", "dc1-proxy/db1 dc2-proxy/db2"},
		{"D names", treeD, "web1;web3", "dc1-proxy/web1 dc2-proxy/rack1-proxy/web3"},
		{"D blanks", treeD, " web1 ; web3 ", "dc1-proxy/web1 dc2-proxy/rack1-proxy/web3"},
		{"D hops", treeD, "*-proxy", "dc1-proxy dc2-proxy dc2-proxy/rack1-proxy"},
		{"D direct", treeD, "mail1", "mail1"},
		{"D hop and behind it", treeD, "dc2-proxy;db2", "dc2-proxy dc2-proxy/db2"},
		{"D unknown", treeD, "web9", ""},
		{"D character class", treeD, "web[13]", "dc1-proxy/web1 dc2-proxy/rack1-proxy/web3"},
		{"D range", treeD, "web[1,4]", "dc1-proxy/web1 dc2-proxy/rack1-proxy/web4"},
		{"D difference", treeD, "web*!web[12]", "dc2-proxy/rack1-proxy/web3 dc2-proxy/rack1-proxy/web4"},
		{"two routes", twoRoutes, "m2", "o1/m2"},
		{"two routes, all", twoRoutes, "*", "o1/m1 o1/m2 o2/m3 m4 o1 o2"},
		{"self entry", selfEntry, "sub", "sub"},
		{"self entry, all", selfEntry, "*", "sub/m1 m9 sub"},
		{"two routes in one branch", oneBranch, "m", "t/x/m"},
		{"nobody", "--- {}", "*", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strs(pathsFor(t, parse(t, tt.tree), tt.expr))
			want := words(tt.want)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("paths for %q (-want +got):\n%s", tt.expr, diff)
			}
		})
	}
}

// A name that the map does not know is reported, not an error.
func TestMatchReportsUnknown(t *testing.T) {
	e, err := target.Parse("web9,mail1,@g")
	if err != nil {
		t.Fatal(err)
	}
	ix := parse(t, treeD).Index()
	res, err := ix.Match(e, func(string) ([]string, bool) { return []string{"db1", "db7"}, true })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(target.Result{Names: []string{"db1", "mail1"}, Unknown: []string{"db7", "web9"}, UsedGroups: true}, res); diff != "" {
		t.Error(diff)
	}
}

// get_all_paths and get_shortest_path.
func TestWays(t *testing.T) {
	for _, tt := range []struct{ name, tree, machine, ways, route string }{
		{"A longpath3", treeA, "longpath3", "phil/steve/longpath3 anthony/longpath1/longpath2/longpath3", "phil/steve/longpath3"},
		{"A anthony", treeA, "anthony", "anthony tony/mike/anthony", "anthony"},
		{"A upper case", treeA, "ANTHONY", "anthony tony/mike/anthony", "anthony"},
		{"A steve", treeA, "steve", "phil/steve", "phil/steve"},
		{"A unknown", treeA, "nosuch", "", ""},
		{"nobody", "--- {}", "m", "", ""},
		{"two routes", twoRoutes, "m2", "o1/m2 o2/m2", "o1/m2"},
		{"self entry", selfEntry, "sub", "sub", "sub"},
		{"two routes in one branch", oneBranch, "m", "t/x/m t/y/m", "t/x/m"},
		{"tie by the hops from the top", `{b: {a: {m: {}}}, a: {z: {m: {}}}}`, "m", "a/z/m b/a/m", "a/z/m"},
		{"hop names that begin alike", `{a-b: {m: {}}, a: {m: {}}}`, "m", "a/m a-b/m", "a/m"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ix := parse(t, tt.tree).Index()
			if diff := cmp.Diff(words(tt.ways), strs(ix.Ways(tt.machine))); diff != "" {
				t.Errorf("Ways(%q) (-want +got):\n%s", tt.machine, diff)
			}
			path, ok := ix.Route(tt.machine)
			if ok != (tt.route != "") || ok && path.String() != tt.route {
				t.Errorf("Route(%q) = %v, %v; want %q", tt.machine, path, ok, tt.route)
			}
			if ix.Has(tt.machine) != (tt.ways != "") {
				t.Errorf("Has(%q) = %v", tt.machine, ix.Has(tt.machine))
			}
		})
	}
}

// match_glob_on_toplevel and minion_exists_under_node.
func TestDirect(t *testing.T) {
	m := parse(t, treeA)
	e, err := target.Parse("*o*")
	if err != nil {
		t.Fatal(err)
	}
	res, err := m.Index().MatchDirect(e, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"anthony", "just-a-minion", "tony"}, res.Names); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct {
		path string
		want bool
	}{{"steve", false}, {"phil", true}, {"PHIL Steve", true}, {"phil longpath3", false}, {"", true}} {
		if _, ok := m.Find(words(tt.path)...); ok != tt.want {
			t.Errorf("Find(%q) = %v; want %v", tt.path, ok, tt.want)
		}
	}
}

// list_all_minions: each once, proxies included.
func TestNames(t *testing.T) {
	want := words("anthony just-a-minion longpath1 longpath2 longpath3 mike phil steve tony")
	m := parse(t, treeA)
	if diff := cmp.Diff(want, m.Index().Names()); diff != "" {
		t.Error(diff)
	}
	if got, want := m.Count(), (delegation.Counts{Machines: 9, Places: 11, Overlords: 7, Depth: 4}); got != want {
		t.Errorf("Count() = %+v; want %+v", got, want)
	}
}

// flatten_list: what is nested, in order, a machine before those below it.
func TestAllIsFlat(t *testing.T) {
	m := parse(t, `{1: {2: {3: {}}, 4: {}}, 5: {}}`)
	var names []string
	for _, n := range m.All() {
		names = append(names, n.Name)
	}
	if diff := cmp.Diff(words("1 2 3 4 5"), names); diff != "" {
		t.Error(diff)
	}
	for range m.All() {
		break // and it can be left
	}
	if got := delegation.Machines([]delegation.Path{{"a", "b"}, nil, {"c"}}); !slices.Equal(got, words("b c")) {
		t.Errorf("Machines = %q", got)
	}
}

// group_paths.
func TestGroup(t *testing.T) {
	for _, tt := range []struct {
		name, tree, expr string
		direct           string
		hops             map[string]string
	}{
		{"A all", treeA, "*", "anthony just-a-minion phil tony", map[string]string{
			"phil": "steve/longpath3 steve", "anthony": "longpath1 longpath1/longpath2", "tony": "mike",
		}},
		{"D web*", treeD, "web*", "", map[string]string{"dc1-proxy": "web1 web2", "dc2-proxy": "rack1-proxy/web3 rack1-proxy/web4"}},
		{"D db?", treeD, "db?", "", map[string]string{"dc1-proxy": "db1", "dc2-proxy": "db2"}},
		{"D web1;web3", treeD, "web1;web3", "", map[string]string{"dc1-proxy": "web1", "dc2-proxy": "rack1-proxy/web3"}},
		{"D *-proxy", treeD, "*-proxy", "dc1-proxy dc2-proxy", map[string]string{"dc2-proxy": "rack1-proxy"}},
		{"D mail1", treeD, "mail1", "mail1", map[string]string{}},
		{"D dc2-proxy;db2", treeD, "dc2-proxy;db2", "dc2-proxy", map[string]string{"dc2-proxy": "db2"}},
		{"D web9", treeD, "web9", "", map[string]string{}},
		{"D deep and shallow behind one hop", treeD, "web3;web4;db2", "", map[string]string{"dc2-proxy": "db2 rack1-proxy/web3 rack1-proxy/web4"}},
		// A proxy that only passes on is no target itself: its name is not direct.
		{"literal name behind a proxy", treeD, "web1", "", map[string]string{"dc1-proxy": "web1"}},
		{"self entry", selfEntry, "sub", "sub", map[string]string{}},
		{"two routes in one branch", oneBranch, "m", "", map[string]string{"t": "x/m"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := delegation.Group(pathsFor(t, parse(t, tt.tree), tt.expr))
			direct := append([]string{}, g.Direct...)
			if diff := cmp.Diff(words(tt.direct), direct); diff != "" {
				t.Errorf("direct (-want +got):\n%s", diff)
			}
			hops := make(map[string]string)
			for _, h := range g.Hops {
				rest := strs(h.Rest)
				slices.Sort(rest)
				hops[h.Name] = strings.Join(rest, " ")
			}
			for hop, rest := range tt.hops {
				w := words(rest)
				slices.Sort(w)
				tt.hops[hop] = strings.Join(w, " ")
			}
			if diff := cmp.Diff(tt.hops, hops); diff != "" {
				t.Errorf("hops (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("order is kept", func(t *testing.T) {
		g := delegation.Group([]delegation.Path{{"b", "2"}, {"z"}, nil, {"a", "1"}, {"b", "1", "x"}, {"y"}})
		want := delegation.Groups{Direct: words("z y"), Hops: []delegation.Hop{
			{Name: "b", Rest: []delegation.Path{{"2"}, {"1", "x"}}}, {Name: "a", Rest: []delegation.Path{{"1"}}},
		}}
		if diff := cmp.Diff(want, g); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if diff := cmp.Diff(delegation.Groups{}, delegation.Group(nil)); diff != "" {
			t.Error(diff)
		}
	})
}

// The wire call of Func's own example, web3;web4;db2: what dc2-proxy is given.
func TestGroupTwice(t *testing.T) {
	g := delegation.Group(pathsFor(t, parse(t, treeD), "web3;web4;db2"))
	if len(g.Direct) != 0 || len(g.Hops) != 1 || g.Hops[0].Name != "dc2-proxy" {
		t.Fatalf("%+v", g)
	}
	below := delegation.Group(g.Hops[0].Rest)
	want := delegation.Groups{Direct: words("db2"), Hops: []delegation.Hop{{Name: "rack1-proxy", Rest: []delegation.Path{{"web3"}, {"web4"}}}}}
	if diff := cmp.Diff(want, below); diff != "" {
		t.Error(diff)
	}
}

func TestRoutes(t *testing.T) {
	const tree = `{o1: {m1: {}, both: {}, deep: {only1: {}}}, o2: {both: {}, sub: {m1: {}, direct: {}}}, direct: {}, o3: {only3: {}}}`
	for _, tt := range []struct {
		name, names, dead      string
		paths, behind, unknown string
	}{
		{"all usable", "m1 both direct only3", "", "o1/m1 o1/both direct o3/only3", "", ""},
		{"another way of the same length", "both", "o1", "o2/both", "", ""},
		{"a longer way", "m1", "o1", "o2/sub/m1", "", ""},
		{"no other way", "only1 m1", "o1", "o2/sub/m1", "only1@o1", ""},
		{"a direct minion without session", "direct", "direct", "o2/sub/direct", "", ""},
		{"all hops dead", "both direct only3", "o1 o2 o3 direct", "", "both@o1 direct@direct only3@o3", ""},
		{"unknown", "nosuch ONLY3 no-such nosuch", "", "o3/only3", "", "nosuch no-such"},
		{"twice and unsorted", "o2 m1 o2 M1 both", "", "o2 o1/m1 o1/both", "", ""},
		{"not even a name", "* _x", "", "", "", "* _x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := make(map[string]int)
			r := parse(t, tree).Index().Routes(words(tt.names), func(hop string) bool {
				asked[hop]++
				return !slices.Contains(words(tt.dead), hop)
			})
			var behind []string
			for _, b := range r.Behind {
				behind = append(behind, b.Name+"@"+b.Hop)
			}
			got := [3]string{strings.Join(strs(r.Paths), " "), strings.Join(behind, " "), strings.Join(r.Unknown, " ")}
			if want := [3]string{tt.paths, tt.behind, tt.unknown}; got != want {
				t.Errorf("Routes(%q) = %q; want %q", tt.names, got, want)
			}
			for hop, n := range asked {
				if n > 1 {
					t.Errorf("usable was asked %d times about %s", n, hop)
				}
			}
		})
	}
}

// Every process picks the same route, whatever the order in the file.
func TestRoutesDoNotDependOnTheOrder(t *testing.T) {
	a := parse(t, `{x: {m: {}}, y: {m: {}, z: {m: {}}}, w: {v: {m: {}}}}`).Index()
	b := parse(t, `{w: {v: {m: {}}}, y: {z: {m: {}}, m: {}}, x: {m: {}}}`).Index()
	if diff := cmp.Diff(strs(a.Ways("m")), strs(b.Ways("m"))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(words("x/m y/m w/v/m y/z/m"), strs(a.Ways("m"))); diff != "" {
		t.Error(diff)
	}
}

func TestConflictsAreNotRouted(t *testing.T) {
	m, err := delegation.New(delegation.Node{Below: []delegation.Node{
		{Name: "dc1", Fingerprint: "k1", Below: []delegation.Node{{Name: "web1", Fingerprint: "k2"}, {Name: "web2", Fingerprint: "k3"}}},
		{Name: "dc2", Fingerprint: "k4", Below: []delegation.Node{
			{Name: "WEB1", Fingerprint: "k5"},
			{Name: "web2", Fingerprint: "k3"},
			{Name: "dc1", Fingerprint: "k6", Below: []delegation.Node{{Name: "web3"}}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []delegation.Conflict{
		{Name: "dc1", Places: []delegation.Place{{Path: delegation.Path{"dc1"}, Fingerprint: "k1"}, {Path: delegation.Path{"dc2", "dc1"}, Fingerprint: "k6"}}},
		{Name: "web1", Places: []delegation.Place{{Path: delegation.Path{"dc1", "web1"}, Fingerprint: "k2"}, {Path: delegation.Path{"dc2", "web1"}, Fingerprint: "k5"}}},
	}
	if diff := cmp.Diff(want, delegation.Conflicts(m)); diff != "" {
		t.Fatal(diff)
	}
	r := m.Index().Routes([]string{"web1", "web2", "web3", "dc1", "dc2"}, nil)
	if got := m.Index().Unrouted([]string{"web2", "WEB1", "nosuch"}); !slices.Equal(got, []string{"WEB1"}) {
		t.Errorf("Unrouted = %q; want web1", got)
	}
	if got := strings.Join(strs(r.Paths), " "); got != "dc1/web2 dc2/dc1/web3 dc2" || !slices.Equal(r.Conflicts, words("web1 dc1")) {
		t.Errorf("Routes = %s; conflicts %q", got, r.Conflicts)
	}
	if _, ok := m.Index().Route("web1"); ok {
		t.Error("a conflicting name has a route")
	}
	saved := delegation.Unambiguous(m)
	if got, want := strings.Join(all(saved), " "), "dc1 dc1/web2 dc2 dc2/dc1 dc2/dc1/web3 dc2/web2"; got != want {
		t.Errorf("Unambiguous = %s; want %s", got, want)
	}
	if got, want := strings.Join(all(delegation.Unambiguous(parse(t, "a: {b: {}, c: {}}\nd: {}"), "B", "a", "nosuch")), " "), "a a/c d"; got != want {
		t.Errorf("Unambiguous with more names = %s; want %s", got, want)
	}
	ix := parse(t, saved.String()).Index("DC1", "nosuch")
	if _, ok := ix.Route("dc1"); ok {
		t.Error("a barred name has a route")
	}
	if p, ok := ix.Route("web3"); !ok || p.String() != "dc2/dc1/web3" {
		t.Errorf("behind a barred hop: %v, %v", p, ok)
	}
	if len(delegation.Conflicts(parse(t, treeA))) != 0 {
		t.Error("a map that was read has no keys, so no conflicts")
	}
}

// The index against a plain search, over random maps.
func TestIndexAgainstPlainSearch(t *testing.T) {
	for seed := range uint64(200) {
		m := randomMap(t, seed)
		ways := make(map[string][]delegation.Path)
		for p, n := range m.All() {
			ways[n.Name] = append(ways[n.Name], slices.Clone(p))
		}
		ix := m.Index()
		if len(ix.Names()) != len(ways) || !slices.IsSorted(ix.Names()) {
			t.Fatalf("seed %d: Names() = %q", seed, ix.Names())
		}
		usable := func(hop string) bool { return len(hop)%2 == 0 || hop[0]%2 == 0 }
		asked := append(slices.Clone(ix.Names()), "nosuch")
		r := ix.Routes(asked, usable)
		var paths []string
		for _, name := range ix.Names() {
			want := ways[name]
			slices.SortFunc(want, delegation.Path.Compare)
			if diff := cmp.Diff(want, ix.Ways(name)); diff != "" {
				t.Fatalf("seed %d: Ways(%q) (-want +got):\n%s", seed, name, diff)
			}
			if i := slices.IndexFunc(want, func(p delegation.Path) bool { return usable(p[0]) }); i >= 0 {
				paths = append(paths, want[i].String())
			}
		}
		if diff := cmp.Diff(paths, strs(r.Paths), cmp.Transformer("", func(s []string) string { return fmt.Sprint(s) })); diff != "" {
			t.Fatalf("seed %d: Routes (-want +got):\n%s", seed, diff)
		}
		if len(r.Paths)+len(r.Behind)+len(r.Unknown) != len(asked) {
			t.Fatalf("seed %d: %d asked, %+v", seed, len(asked), r)
		}
	}
}

package overlord

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/delegation"
	"dominion/pki"
	"dominion/session"
)

func (o *Overlord) group(t *testing.T, name string, members ...string) {
	t.Helper()
	alice := caller{Identity: pki.Identity{Role: pki.Operator, Name: "alice"}}
	if _, err := o.keep.setGroup(t.Context(), alice, name, members, apipb.SetGroupRequest_REPLACE); err != nil {
		t.Fatal(err)
	}
}

func resolved(ctx context.Context, o *Overlord, r *apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
	r.Delegate = true
	resp, err := fleetAPI{o}.Resolve(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// A target is held against the map, whoever is connected.
func TestResolveBelow(t *testing.T) {
	o := opened(t)
	if _, err := resolved(t.Context(), o, &apipb.ResolveRequest{Target: "*"}); call.CodeOf(err) != call.NotFound || !strings.Contains(err.Error(), "dominion map build") {
		t.Errorf("without a map: %v; want not found, and what makes one", err)
	}
	o.put(t, fileMap, "---\ndc1:\n    rack1:\n        web1: {}\n        web2: {}\n    db1: {}\ndc2:\n    db1: {}\n    ns1: {}\n    web9: {}\nmail1: {}\n")
	found, err := proto.Marshal(&apipb.MapResponse{Map: &apipb.FleetMap{Conflicts: []*apipb.MapConflict{{Name: "web8"}, {Name: "web9"}}}})
	if err != nil {
		t.Fatal(err)
	}
	o.put(t, fileMapFound, string(found))
	o.fleet.enrolled("stray") // ours, and not in the map
	o.group(t, "site", "web2", "stray")
	for _, tt := range []struct {
		name string
		req  *apipb.ResolveRequest
		want *apipb.ResolveResponse
		code call.Code
		says string
	}{
		{"everything", &apipb.ResolveRequest{Target: "*"}, &apipb.ResolveResponse{Names: "db1,dc[1,2],mail1,ns1,rack1,web[1,2]", Conflicts: "web[8,9]"}, 0, ""},
		{"a glob", &apipb.ResolveRequest{Target: "WEB*", Exclude: "web2"}, &apipb.ResolveResponse{Names: "web1", Conflicts: "web[8,9]"}, 0, ""},
		{"names", &apipb.ResolveRequest{Target: "db1,stray,web8"}, &apipb.ResolveResponse{Names: "db1", Unknown: "stray", Conflicts: "web8"}, 0, ""},
		{"the limit is of those that are reached", &apipb.ResolveRequest{Target: "web*", Limit: 2}, &apipb.ResolveResponse{Names: "web[1,2]", Conflicts: "web[8,9]"}, 0, ""},
		{"more than the limit", &apipb.ResolveRequest{Target: "*", Limit: 5}, nil, call.TooMany, "names 8 machines"},
		{"an own group", &apipb.ResolveRequest{Target: "@site,mail1"}, &apipb.ResolveResponse{Names: "mail1,web2", Unknown: "stray", UsesGroups: true, Silent: "dc[1,2]"}, 0, ""},
		{"no group", &apipb.ResolveRequest{Target: "@site,@none"}, nil, call.Invalid, `no group "none"; groups: dominion group list (and dc[1,2] did not say`},
		{"another map", &apipb.ResolveRequest{Target: "*", Map: []byte("web1: {}\nweb9: {}\n")}, &apipb.ResolveResponse{Names: "web1", Conflicts: "web9"}, 0, ""},
		{"a conflict that another map does not know", &apipb.ResolveRequest{Target: "web*,web8", Map: []byte("web1: {}\n")}, &apipb.ResolveResponse{Names: "web1", Unknown: "web8"}, 0, ""},
		{"no map", &apipb.ResolveRequest{Target: "*", Map: []byte("- x\n")}, nil, call.Invalid, "the map that came with the request"},
		{"no target", &apipb.ResolveRequest{Target: "web["}, nil, call.Invalid, ""},
		{"nothing to leave out", &apipb.ResolveRequest{Target: "*", Exclude: "web["}, nil, call.Invalid, "exclude"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := resolved(t.Context(), o, tt.req)
			if call.CodeOf(err) != tt.code {
				t.Fatalf("Resolve = %v, %v; want code %v", got, err, tt.code)
			}
			if err != nil {
				if !strings.Contains(err.Error(), tt.says) {
					t.Errorf("Resolve says %v; want %q", err, tt.says)
				}
				return
			}
			if got.TimeMs == 0 || got.Guard != 100 || got.Count != count(t, got.Names) || got.UnknownCount != count(t, got.Unknown) {
				t.Errorf("Resolve = %v; want time, guard and counts", got)
			}
			got.TimeMs, got.Guard, got.Count, got.UnknownCount = 0, 0, 0, 0
			if !proto.Equal(got, tt.want) {
				t.Errorf("Resolve = %v; want %v", got, tt.want)
			}
		})
	}
}

func count(t *testing.T, folded string) uint64 {
	t.Helper()
	names, err := expand(folded)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(len(names))
}

// The configuration says what commands do that are not told.
func TestDelegateByDefault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "overlord.yaml")
	if err := os.WriteFile(file, []byte("delegate: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		cfg.Delegate = cfg.Delegate && want
		o := opened(t)
		o.cfg.Delegate = cfg.Delegate
		st, err := fleetAPI{o}.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
		if err != nil || st.Msg.Delegate != want {
			t.Errorf("Status = %v, %v; want delegate %v", st, err, want)
		}
	}
}

// A job is given again the way it went.
func TestByMap(t *testing.T) {
	below := &fleetpb.Branch{Name: "top", Below: []*fleetpb.Branch{{Name: "mid"}}}
	for _, tt := range []struct {
		name string
		d    *fleetpb.Delegate // nil: the job has none
		want bool
	}{
		{"directly", nil, false},
		{"by the map", &fleetpb.Delegate{Reach: below}, true},
		{"by the map, to our own alone", &fleetpb.Delegate{Reach: &fleetpb.Branch{Name: "top", Machines: "top-1"}}, true},
		{"from above", &fleetpb.Delegate{Via: []string{"top"}, Reach: &fleetpb.Branch{Name: "mid", Machines: "mid-1"}}, false},
		{"from above, and on", &fleetpb.Delegate{Via: []string{"top"}, Reach: below}, true},
	} {
		var stored []byte
		if tt.d != nil {
			var err error
			if stored, err = proto.Marshal(tt.d); err != nil {
				t.Fatal(err)
			}
		}
		if got := byMap(stored); got != tt.want {
			t.Errorf("%s: %v; want %v", tt.name, got, tt.want)
		}
	}
	if byMap([]byte{0xff}) {
		t.Error("what cannot be read is no map")
	}
}

// Groups are asked for at every level; whoever answers counts for what is below him.
func TestGroupsBelow(t *testing.T) {
	top := started(t, Config{Name: "top"})
	mid := below(t, top, top, "mid")
	low := below(t, top, mid, "low")
	side := below(t, top, mid, "side")
	for _, o := range []*Overlord{top, mid} {
		await(t, "its sub-overlords have sessions", func() bool {
			return !slices.ContainsFunc(o.fleet.subs(), func(n string) bool { return o.fleet.get(n) == nil })
		})
	}
	top.put(t, fileMap, "---\nmid:\n    low:\n        low-1: {}\n        low-2: {}\n    mid-1: {}\n    side:\n        side-1: {}\ntop-1: {}\n")
	top.group(t, "web", "top-1")
	mid.group(t, "web", "mid-1", "side-1", "top-1", "nobody") // side-1 is below it, top-1 is not
	low.group(t, "web", "low-1", "side-1", "mid-1", "mid", "low")
	side.group(t, "web", "low-2")
	side.group(t, "only", "side-1")
	low.group(t, "others", "side-1")
	for _, tt := range []struct{ target, names, silent string }{
		{"@web", "low-1,mid-1,side-1,top-1", ""},
		{"@web!@only", "low-1,mid-1,top-1", ""},
		{"@only", "side-1", ""},
		{"@only:low*,top-1", "top-1", ""},
		{"@others,top-1", "top-1", ""}, // it is a group, and low may not say that
	} {
		got, err := resolved(t.Context(), top, &apipb.ResolveRequest{Target: tt.target})
		if err != nil || got.Names != tt.names || got.Silent != tt.silent || got.Unknown != "" || !got.UsesGroups {
			t.Errorf("%s: %v, %v; want %s, silent %q", tt.target, got, err, tt.names, tt.silent)
		}
	}
	if got, err := resolved(t.Context(), top, &apipb.ResolveRequest{Target: "@nobodys"}); call.CodeOf(err) != call.Invalid {
		t.Errorf("a group of nobody: %v, %v", got, err)
	}

	// One that is gone is named, and the others are heard.
	mid.fleet.enrolledSub("gone")
	top.put(t, fileMap, "---\nmid:\n    gone:\n        web1: {}\n    low:\n        low-1: {}\nlost:\n    web2: {}\n")
	got, err := resolved(t.Context(), top, &apipb.ResolveRequest{Target: "@web"})
	if err != nil || got.Names != "low-1" || got.Silent != "gone,lost" {
		t.Errorf("with two away: %v, %v; want low-1, and gone and lost to be silent", got, err)
	}
}

func TestGroupsBelowRefuses(t *testing.T) {
	o := opened(t)
	for name, args := range map[string]string{
		"no JSON": "x", "too many groups": `{"names":["` + strings.Repeat(`a","`, session.MaxGroups) + `a"]}`, "no group": `{"names":["../x"]}`,
		"too far": fmt.Sprintf(`{"hops":%d}`, call.MaxHops+1), "back": `{"hops":-1}`,
	} {
		if got, err := o.groupsBelow(t.Context(), []byte(args)); call.CodeOf(err) != call.Invalid {
			t.Errorf("%s: %+v, %v; want invalid", name, got, err)
		}
	}
	// At the end of the way nobody is asked any more.
	o.fleet.enrolledSub("deep")
	got, err := o.groupsBelow(t.Context(), fmt.Appendf(nil, `{"names":["web"],"hops":%d}`, call.MaxHops))
	if err != nil || got.Silent != "deep" {
		t.Errorf("after %d hops: %+v, %v; want deep to be silent", call.MaxHops, got, err)
	}
	names := make([]string, 40_000)
	for i := range names {
		names[i] = strings.NewReplacer("0", "g", "1", "h", "2", "i", "3", "j", "4", "k", "5", "l", "6", "m", "7", "n", "8", "o", "9", "p").Replace(
			fmt.Sprintf("%x.%s", i, strings.Repeat("x", 40))) // digits would be folded
	}
	o.group(t, "large", names...)
	if _, err := o.groupsBelow(t.Context(), []byte(`{"names":["large"]}`)); call.CodeOf(err) != call.TooMany {
		t.Errorf("a group that does not fit: %v; want too many", err)
	}
}

// What a sub-overlord says that lies, or is broken.
func TestHostileGroups(t *testing.T) {
	t.Parallel()
	o := opened(t)
	m, err := delegation.Parse([]byte("mid: {low: {low-1: {}}, mid-1: {}}\nother: {web1: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	type result = session.GroupsResult
	deep := result{Groups: map[string]string{"web": "low-1"}}
	for range call.MaxHops {
		deep = result{Below: map[string]result{"low": deep}}
	}
	for _, tt := range []struct {
		name    string
		says    result
		members []string
		known   bool
		silent  []string
	}{
		{"others' machines", result{Groups: map[string]string{"web": "low-1,mid,mid-1,other,web1"}}, []string{"low-1", "mid-1"}, true, nil},
		{"a hop that is not there", result{Below: map[string]result{"other": {Groups: map[string]string{"web": "web1"}}}}, nil, false, nil},
		{"a machine that answers", result{Below: map[string]result{"mid-1": {Groups: map[string]string{"web": "mid-1,low-1"}}}}, nil, true, nil},
		{"another group", result{Groups: map[string]string{"db": "mid-1"}}, nil, false, nil},
		{"no list", result{Groups: map[string]string{"web": "mid-["}, Below: map[string]result{"low": {Groups: map[string]string{"web": "low-1"}}}}, []string{"low-1"}, true, []string{"mid"}},
		{"a list without end", result{Groups: map[string]string{"web": "n[1-1048576]", "db": "n[1-1048576]"}}, nil, false, []string{"mid"}},
		{"no list of silent ones", result{Groups: map[string]string{"web": "mid-1"}, Silent: "a["}, nil, false, []string{"mid"}},
		{"silent ones of others", result{Silent: "low,other,web1"}, nil, false, []string{"low"}},
		{"in a circle", deep, nil, false, nil},
		{"a name of several", result{Groups: map[string]string{"web": "twin,mid-1,stray"}}, []string{"mid-1", "twin"}, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := o.groupsBy(m.Index())
			g.usable, g.barred = nil, []string{"twin"} // all are usable
			room := call.MaxMachines
			g.take([]string{"db", "web"}, delegation.Path{"mid"}, tt.says, &room)
			members, known := g.group("web")
			if !slices.Equal(members, tt.members) || known != tt.known || !slices.Equal(g.silent(), tt.silent) {
				t.Errorf("members %q, known %v, silent %q; want %q, %v, %q", members, known, g.silent(), tt.members, tt.known, tt.silent)
			}
		})
	}
}

// Who answers at length is left out first.
func TestFitting(t *testing.T) {
	answers := []groupsAnswer{{hop: "a", size: 900}, {hop: "b", size: 10}, {hop: "c", size: 300}}
	got, silent := fitting(answers, []string{"z"}, 500)
	if len(got) != 2 || !slices.Equal(silent, []string{"z", "a"}) {
		t.Errorf("fitting = %v, %q; want b and c, and z, a", got, silent)
	}
}

// In its time: a sub-overlord has less than who asks it.
func TestAskGroupsInTime(t *testing.T) {
	o := opened(t)
	o.fleet.enrolledSub("deep")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if answers, silent := o.askGroups(ctx, o.fleet.subs(), session.GroupsArgs{}); len(answers) != 0 || !slices.Equal(silent, []string{"deep"}) {
		t.Errorf("askGroups = %v, %q; want deep to be silent", answers, silent)
	}
}

func TestGroupsIn(t *testing.T) {
	e, err := parseTarget("@a,web*&@B:x*!@a", "@c,y")
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Groups(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("Groups = %q; want a, b, c", got)
	}
}

func FuzzGroups(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"groups":{"web":"web[1,2]"},"silent":"dc1"}`, `{"below":{"dc1":{"groups":{"a":""},"below":{"r1":{}}}}}`, `{"groups":{"W":"a"}}`,
		`{"below":{"../x":{}}}`, strings.Repeat(`{"below":{"a":`, 17) + "{}" + strings.Repeat("}}", 17), `null`, `[`,
		`{"match":{"names":"web[1,2]","unjudged":"db1"},"below":{"r1":{"match":{"problem":"no"}}},"groups":{"batch/IDLE":"a"}}`, `{"match":5}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeGroups(b)
		if err != nil {
			if !errors.Is(err, errGroups) {
				t.Fatalf("error %v does not wrap errGroups", err)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > session.MaxGroupsAnswer {
			return // it was written more shortly
		}
		back, err := decodeGroups(again)
		if err != nil {
			t.Fatalf("accepted %q and not what it encodes to, %q: %v", b, again, err)
		}
		if third, err := json.Marshal(back); err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%q encodes to %q, and that to %q (%v)", b, again, third, err)
		}
	})
}

// Nobody but an overlord above may ask: a machine is told that there is no such method.
func TestMinionsMayNotAskForGroups(t *testing.T) {
	o := opened(t)
	for _, m := range []string{session.MethodGroups, session.MethodMap, session.MethodDelegate} {
		if _, err := o.minionAsks(t.Context(), nil, &fleetpb.Call{Method: m, Args: []byte("{}")}); call.CodeOf(err) != call.NotFound {
			t.Errorf("%s: %v; want not found", m, err)
		}
	}
}

package overlord

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/delegation"
	"dominion/groupsource"
	"dominion/session"
	"dominion/target"
)

// machine makes a machine known, with facts unless they are empty.
func (o *Overlord) machine(t *testing.T, name, facts string) {
	t.Helper()
	o.fleet.enrolled(name)
	if facts == "" {
		return
	}
	if err := o.keep.facts(t.Context(), name, []byte(facts)); err != nil {
		t.Fatal(err)
	}
}

// sources puts programs in sh into the place of the overlord's sources.
func (o *Overlord) programs(t *testing.T, programs map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o.sources = groupsource.New(groupsource.Options{Dir: dir, Timeout: 5 * time.Second})
}

func TestQuery(t *testing.T) {
	o := opened(t)
	o.machine(t, "web1", `{"os":"debian","memory_gb":128}`)
	o.machine(t, "web2", `{"os":"debian","memory_gb":16}`)
	o.machine(t, "db1", `{"os":"alpine"}`)
	o.machine(t, "new1", "")
	o.group(t, "web", "web1", "web2", "ghost")
	o.group(t, "db", "db1")
	o.programs(t, map[string]string{
		"batch":  `case $2 in idle) echo "web2 db1 ghost";; none) ;; *) exit 4;; esac`,
		"broken": "echo what >&2; exit 1",
	})
	for _, tt := range []struct {
		req                      *apipb.ResolveRequest
		names, unknown, unjudged string
		err                      string
	}{
		{req: &apipb.ResolveRequest{Target: "*", Where: `facts.os == "debian"`}, names: "web[1,2]", unjudged: "new1"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `facts.os == "debian" && facts.memory_gb >= 64`}, names: "web1", unjudged: "new1"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `facts.memory_gb < 64`}, names: "web2", unjudged: "db1,new1"},
		{req: &apipb.ResolveRequest{Target: "web*,nosuch", Where: `true`}, names: "web[1,2]", unknown: "nosuch"},
		{req: &apipb.ResolveRequest{Target: "*", Exclude: "web1", Where: `"web" in groups`}, names: "web2"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `"WEB" in groups`}, names: "web[1,2]"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `!("web" in groups)`}, names: "db1,new1"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `groups.exists(g, g.startsWith("d"))`}, names: "db1"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `size(groups) == 0`}, names: "new1"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `"batch/idle" in groups && "web" in groups`}, names: "web2"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `name.endsWith("1")`}, names: "db1,new1,web1"},
		{req: &apipb.ResolveRequest{Target: "*", Where: `"wbe" in groups`}, err: `there is no group "wbe"`},
		{req: &apipb.ResolveRequest{Target: "*", Where: `facts.memry_gb > 5`}, err: "there is no fact facts.memry_gb; near: facts.memory_gb"},
		{req: &apipb.ResolveRequest{Target: "*", Narrow: true, Among: "web1,x1"}, names: "web1", unknown: "x1"},
		{req: &apipb.ResolveRequest{Target: "web*", Narrow: true, Among: "web1,db1,webx", Where: `facts.memory_gb > 64`}, names: "web1", unknown: "webx"},
		{req: &apipb.ResolveRequest{Target: "*", Narrow: true}},
		{req: &apipb.ResolveRequest{Target: "*", Narrow: true, Among: "web*"}, err: "among"},
		{req: &apipb.ResolveRequest{Target: "@batch/idle"}, names: "db1,web2", unknown: "ghost"},
		{req: &apipb.ResolveRequest{Target: "@Batch/idle:web*&@web"}, names: "web2"},
		{req: &apipb.ResolveRequest{Target: "@batch/none"}},
		{req: &apipb.ResolveRequest{Target: "*", Exclude: "@batch/idle"}, names: "new1,web1"},
		{req: &apipb.ResolveRequest{Target: "@batch/IDLE"}, err: `source batch: group "IDLE": no such group`},
		{req: &apipb.ResolveRequest{Target: "@nosuch/x"}, err: "source nosuch: no such group: there is no "},
		{req: &apipb.ResolveRequest{Target: "@broken/x"}, err: `source broken: group "x": `},
	} {
		t.Run(tt.req.Target+tt.req.Where, func(t *testing.T) {
			resp, err := fleetAPI{o}.Resolve(t.Context(), connect.NewRequest(tt.req))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("Resolve = %v; want an error with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if m := resp.Msg; m.Names != tt.names || m.Unknown != tt.unknown || m.Unjudged != tt.unjudged {
				t.Errorf("Resolve = %q, unknown %q, unjudged %q; want %q, %q, %q", m.Names, m.Unknown, m.Unjudged, tt.names, tt.unknown, tt.unjudged)
			}
		})
	}
	list, err := fleetAPI{o}.Groups(t.Context(), connect.NewRequest(&apipb.GroupsRequest{Sources: true}))
	if err != nil || len(list.Msg.Groups) != 2 || len(list.Msg.Sources) != 2 || list.Msg.Sources[1].Problem == "" {
		t.Errorf("Groups = %v, %v; want two groups and two sources, one of them broken", list, err)
	}
	one, err := fleetAPI{o}.Groups(t.Context(), connect.NewRequest(&apipb.GroupsRequest{Name: "batch/idle"}))
	if err != nil || one.Msg.Groups[0].Members != "db1,ghost,web2" {
		t.Errorf("Groups of batch/idle = %v, %v", one, err)
	}
}

// A condition about machines of the map: each overlord judges its own, and is
// believed about no others.
func TestConditionBelow(t *testing.T) {
	o := opened(t)
	o.machine(t, "mail1", `{"os":"debian"}`)
	o.fleet.enrolledSub("dc1")
	m, err := delegation.Parse([]byte("---\ndc1:\n    r1:\n        web1: {}\n        web2: {}\n    db1: {}\n    db2: {}\nmail1: {}\nmail2: {}\ndc2:\n    ns1: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	o.group(t, "site", "web1", "mail1")
	compile := func(text string) *condition {
		e, err := o.conditions.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		c, err := conditionOf(e)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	says := func(names, unjudged string) *session.MatchResult {
		return &session.MatchResult{Names: names, Unjudged: unjudged}
	}
	for _, tt := range []struct {
		name            string
		dc1, r1         *session.MatchResult
		names, unjudged string
		silent          string
	}{
		{name: "all answer", dc1: says("db1", ""), r1: says("web2", "web1"), names: "db1,mail1,web2", unjudged: "mail2,ns1,web1", silent: ""},
		{name: "others' machines", dc1: says("db1,web1,mail2,x", "mail1,web2"), r1: says("db2,mail1", ""), names: "db1,mail1", unjudged: "mail2,ns1"},
		{name: "an older one", dc1: nil, r1: says("web[1,2]", ""), names: "mail1,web[1,2]", unjudged: "db[1,2],mail2,ns1", silent: "dc1"},
		{name: "one that cannot", dc1: &session.MatchResult{Problem: "no"}, r1: says("", ""), names: "mail1", unjudged: "db[1,2],mail2,ns1", silent: "dc1"},
		{name: "no names", dc1: says("web*", ""), r1: says("web1", ""), names: "mail1,web1", unjudged: "db[1,2],mail2,ns1", silent: "dc1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := o.groupsBy(m.Index())
			g.usable = func(hop string) bool { return hop == "dc1" || hop == "mail1" }
			g.asked = true
			cond := compile(`facts.os == "debian"`)
			room := call.MaxMachines
			g.take(nil, delegation.Path{"dc1"}, session.GroupsResult{Match: tt.dc1, Below: map[string]session.GroupsResult{"r1": {Match: tt.r1}}}, &room)
			fit, unjudged, err := g.judge(t.Context(), cond, []string{"db1", "db2", "mail1", "mail2", "ns1", "web1", "web2"})
			if err != nil || target.Fold(fit) != tt.names || target.Fold(unjudged) != tt.unjudged || target.Fold(g.silent()) != tt.silent {
				t.Errorf("judge = %q, unjudged %q, %v, silent %q; want %q, %q, %q", fit, unjudged, err, g.silent(), tt.names, tt.unjudged, tt.silent)
			}
		})
	}
	g := o.groupsBy(m.Index())
	args, err := g.question(t.Context(), []string{"b", "a"}, compile(`"Site" in groups || "other" in groups`))
	if err != nil || fmt.Sprint(args.Names) != "[a b other site]" || len(args.Members) != 1 || args.Members["Site"] != "mail1,web1" {
		t.Errorf("question = %+v, %v", args, err)
	}
	if _, _, err := g.judge(t.Context(), compile(`"other" in groups`), nil); call.CodeOf(err) != call.Invalid {
		t.Errorf("a group that nobody knows: %v; want invalid", err)
	}
}

// The answer of a sub-overlord about a condition.
func TestMatchBelow(t *testing.T) {
	o := opened(t)
	o.machine(t, "web1", `{"os":"debian"}`)
	o.machine(t, "web2", `{"os":"alpine"}`)
	o.machine(t, "web3", "")
	o.group(t, "mine", "web2")
	for _, tt := range []struct {
		args            string
		names, unjudged string
		problem         string
	}{
		{args: `{"where":"facts.os == \"debian\""}`, names: "web1", unjudged: "web3"},
		{args: `{"where":"\"top\" in groups", "members":{"top":"web[1,3],x"}}`, names: "web[1,3]"},
		{args: `{"where":"\"mine\" in groups", "members":{"mine":"web3"}}`, names: "web[2,3]"},
		{args: `{"where":"\"none\" in groups"}`},
		{args: `{"where":"facts.nosuch == 1"}`, problem: "there is no fact"},
		{args: `{"where":"\"top\" in groups", "members":{"top":"web*"}}`, problem: "members"},
		{args: `{"where":"\"no such\" in groups"}`, problem: "blank"},
		{args: `{"where":"\"a\" in groups || \"b\" in groups", "members":{"a":"a[1-700000]", "b":"b[1-700000]"}}`, problem: "are more than"},
	} {
		got, err := o.groupsBelow(t.Context(), []byte(tt.args))
		if err != nil || got.Match == nil || got.Match.Names != tt.names || got.Match.Unjudged != tt.unjudged || !strings.Contains(got.Match.Problem, tt.problem) || (got.Match.Problem == "") != (tt.problem == "") {
			t.Errorf("groupsBelow(%s) = %+v, %v; want %q, %q, %q", tt.args, got.Match, err, tt.names, tt.unjudged, tt.problem)
		}
	}
	if got, err := o.groupsBelow(t.Context(), []byte(`{"names":["mine"]}`)); err != nil || got.Match != nil {
		t.Errorf("without a condition: %+v, %v", got.Match, err)
	}
}

// Thousands are judged in a fraction of a second.
func TestJudgeMany(t *testing.T) {
	o := opened(t)
	var names []string
	for i := range 3000 {
		names = append(names, fmt.Sprintf("n%04d", i))
	}
	for _, n := range names {
		o.fleet.enrolled(n)
	}
	e, err := o.conditions.Compile(`!has(facts.os) && "all" in groups`)
	if err != nil {
		t.Fatal(err)
	}
	fit, unjudged, err := o.judge(t.Context(), e, names, map[string][]string{"all": names[1:]})
	if err != nil || len(unjudged) != 0 || !slices.Equal(fit, names[1:]) {
		t.Errorf("judge = %d, %d, %v; want %d", len(fit), len(unjudged), err, len(names)-1)
	}
}

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/target"
)

// delegating is a fake overlord whose map has web1 and web2 below dc1, and a web9 twice.
func delegating(t *testing.T) *fakeOverlord {
	f := newFake(t, "web1", "web2")
	f.resolve = func(r *apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
		switch {
		case !r.GetDelegate():
			return &apipb.ResolveResponse{Names: "web1"}, nil
		case strings.HasPrefix(r.GetTarget(), "@"):
			return &apipb.ResolveResponse{Names: "web[1,2]", Silent: "dc[2,3]", UsesGroups: true}, nil
		case r.GetTarget() == "rack*":
			return &apipb.ResolveResponse{}, nil
		case r.GetTarget() == "web1,web9,x":
			return &apipb.ResolveResponse{Names: "web1", Unknown: "x", Conflicts: "web9"}, nil
		}
		return &apipb.ResolveResponse{Names: "web[1,2]"}, nil
	}
	f.events = func(r *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		c := &apipb.Counts{Targeted: names(t, r.GetNames()), Answered: names(t, r.GetNames())}
		err := errors.Join(send(takenOver()), send(answeredBy(r.GetNames())))
		if r.GetUnknown() != "" {
			c.Unreachable = names(t, r.GetUnknown())
			c.Targeted += c.Unreachable
			err = errors.Join(err, send(&apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: &apipb.ResultGroup{
				Names: r.GetUnknown(), Status: uint32(call.Unreachable), Code: uint32(call.UnknownName), Detail: "it is not in the map", Count: c.Unreachable,
			}}}))
		}
		return errors.Join(err, send(&apipb.CallEvent{Event: &apipb.CallEvent_Closed{Closed: &apipb.Closed{Counts: c}}}))
	}
	return f
}

func names(t *testing.T, folded string) uint64 {
	t.Helper()
	list, err := target.Expand(folded)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(len(list))
}

// Which way an order goes, and what is told about it.
func TestDelegate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "map")
	if err := os.WriteFile(file, []byte("dc1: {web1: {}}\nweb2: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const text = "---\ndc1:\n    web1: {}\nweb2: {}\n"
	for _, tt := range []struct {
		name    string
		byMap   bool // the overlord's default
		args    []string
		code    int
		out     string // all of it, when it is not empty
		says    string
		sent    bool // an order
		mapped  bool
		mapText string
	}{
		{"not by itself", false, []string{"call", "web*", "fake.look"}, exitOK, "web1: ok: true\n", "", true, false, ""},
		{"asked for", false, []string{"call", "--delegate", "web*", "fake.look"}, exitOK, "web[1,2] (2): ok: true\n", "", true, true, ""},
		{"of run", false, []string{"run", "--delegate", "web*", "--", "x"}, exitOK, "web[1,2] (2): done\n", "", true, true, ""},
		{"by the configuration", true, []string{"call", "web*", "fake.look"}, exitOK, "web[1,2] (2): ok: true\n", "", true, true, ""},
		{"and not", true, []string{"call", "--delegate=false", "web*", "fake.look"}, exitOK, "web1: ok: true\n", "", true, false, ""},
		{"by a file", false, []string{"call", "--map", file, "web*", "fake.look"}, exitOK, "web[1,2] (2): ok: true\n", "", true, true, text},
		{"a file, and not", false, []string{"call", "--delegate=false", "--map", file, "web*", "fake.look"}, exitUsage, "", "leave out --delegate=false", false, false, ""},
		{"no file", false, []string{"call", "--map", "", "web*", "fake.look"}, exitUsage, "", "give a map's file", false, false, ""},
		{"a file that is not there", false, []string{"call", "--map", file + "x", "web*", "fake.look"}, exitFailed, "", "no such file", false, false, ""},
		{
			"silent overlords", false,
			[]string{"call", "--delegate", "@web", "fake.look"},
			exitOK, "web[1,2] (2): ok: true\n",
			"dominion call: dc[2,3] did not say who is in the groups there: machines may be missing\n", true, true, "",
		},
		{
			"a conflict and a stranger", false,
			[]string{"call", "--delegate", "web1,web9,x", "fake.look"},
			exitIncomplete, "web1: ok: true\n",
			"2 of 3 minions unreachable: web9,x: unknown name: it is not in the map", true, true, "",
		},
		{"the conflict", false, []string{"call", "--delegate", "web1,web9,x", "fake.look", "-o", "jsonl"}, exitIncomplete, "", "bear the name: web9; dominion map show", true, true, ""},
		{"nobody", false, []string{"call", "--delegate", "rack*", "fake.look"}, exitNoMatch, "", `no machine of the map matches "rack*"; it has: dominion map show`, false, false, ""},
		{"nobody, dry", false, []string{"call", "--delegate", "rack*", "fake.look", "--dry-run"}, exitNoMatch, "", `it has: dominion map show`, false, false, ""},
		{
			"dry", false,
			[]string{"call", "--map", file, "web*", "fake.look", "--dry-run"},
			exitOK,
			"would call fake.look (read) on 2 minions: web[1,2]\n    direct: web2\n    by dc1: web1\n", "", false, false, "",
		},
		{
			"dry, for programs", false,
			[]string{"call", "--map", file, "web1,web9,x", "fake.erase", "--dry-run", "-o", "jsonl"},
			exitOK,
			`{"method":"fake.erase","effect":"destroy","count":1,"machines":["web1"],"unknown":["x"],"guarded":true,"conflicts":["web9"],"ways":[{"hops":["dc1"],"machines":["web1"]}]}` + "\n",
			"bear the name: web9; dominion map show", false, false, "",
		},
		{"a ping", false, []string{"ping", "--delegate", "web*"}, exitUsage, "", "unknown flag", false, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := delegating(t)
			f.delegate = tt.byMap
			code, out, errs := f.at(t, nil, tt.args...)
			if code != tt.code || tt.out != "" && out != tt.out || !strings.Contains(errs, tt.says) || tt.says == "" && errs != "" {
				t.Errorf("exit code %d, output %q, said %q; want %d, %q, %q", code, out, errs, tt.code, tt.out, tt.says)
			}
			if sent := len(f.orders) == 1; sent != tt.sent {
				t.Fatalf("sent an order: %v; want %v", sent, tt.sent)
			}
			if tt.sent && (f.orders[0].GetDelegate() != tt.mapped || string(f.orders[0].GetMap()) != tt.mapText) {
				t.Errorf("sent delegate %v, map %q; want %v, %q", f.orders[0].GetDelegate(), f.orders[0].GetMap(), tt.mapped, tt.mapText)
			}
		})
	}
}

// An order that is given again goes the way of the first one.
func TestRerunByTheMap(t *testing.T) {
	for _, tt := range []struct {
		name   string
		was    bool
		flags  []string
		byMap  bool // the overlord's default
		mapped bool
	}{
		{"as it was", true, nil, false, true},
		{"and not", false, nil, true, false},
		{"asked for", false, []string{"--delegate"}, false, true},
		{"not any more", true, []string{"--delegate=false"}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := delegating(t)
			f.delegate = tt.byMap
			id := call.NewJobID(time.Now())
			f.job = &apipb.Job{
				Job: id.String(), Method: "fake.look", Target: "web1", Names: "web1", ClosedMs: 1, Counts: &apipb.Counts{Targeted: 1, Unreachable: 1}, Bare: true, Delegate: tt.was,
			}
			f.resolve = func(*apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
				return &apipb.ResolveResponse{Names: "web1"}, nil
			}
			f.watch = func(_ uint64, send func(*apipb.CallEvent) error) error {
				return errors.Join(send(takenOver()),
					send(&apipb.CallEvent{Event: &apipb.CallEvent_Results{Results: &apipb.ResultGroup{
						Names: "web1", Status: uint32(call.Unreachable), Code: uint32(call.NoSession), Detail: "unreachable behind dc1: away", Count: 1,
					}}}),
					send(&apipb.CallEvent{Event: &apipb.CallEvent_Closed{Closed: &apipb.Closed{Counts: &apipb.Counts{Targeted: 1, Unreachable: 1}}}}))
			}
			code, out, errs := f.at(t, nil, append([]string{"job", "rerun", id.String()}, tt.flags...)...)
			if code != exitOK || len(f.orders) != 1 || f.orders[0].GetDelegate() != tt.mapped {
				t.Errorf("exit code %d, %d orders, %v; want one by the map: %v\n%s%s", code, len(f.orders), f.orders, tt.mapped, out, errs)
			}
			if _, out, _ := f.at(t, nil, "job", "show", id.String()); strings.Contains(out, "by the map") != tt.was {
				t.Errorf("job show says %q; want by the map: %v", out, tt.was)
			}
		})
	}
}

// What is known of the map is completed.
func TestCompleteByTheMap(t *testing.T) {
	f := delegating(t)
	if _, out, _ := f.at(t, nil, "__complete", "call", "--delegate", "db1,we"); !strings.HasPrefix(out, "db1,web1\ndb1,web2\n") {
		t.Errorf("it completes to %q; want web1 and web2", out)
	}
}

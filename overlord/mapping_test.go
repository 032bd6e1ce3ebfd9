package overlord

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/call"
	"dominion/delegation"
	"dominion/pki"
	"dominion/session"
)

func asked(t *testing.T, a session.MapArgs) []byte {
	t.Helper()
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Questions go down by the path, each hop with less time than the one before.
func TestMapBelow(t *testing.T) {
	top := started(t, Config{Name: "top"})
	mid := below(t, top, top, "mid")
	low := below(t, top, mid, "low")
	low.fleet.enrolled("web1")
	top.fleet.enrolledSub("gone")

	page, err := top.mapBelow(t.Context(), asked(t, session.MapArgs{Path: []string{"MID", "low"}}))
	if err != nil || len(page.Machines) != 1 || page.More {
		t.Fatalf("two levels down: %+v, %v", page, err)
	}
	if m := page.Machines[0]; m.Name != "web1" || m.Alive || m.Overlord || m.Fingerprint != "" || m.Problem != "not connected since it enrolled" {
		t.Errorf("web1 is %+v", m)
	}
	page, err = top.mapBelow(t.Context(), asked(t, session.MapArgs{Path: []string{"mid"}}))
	if err != nil || len(page.Machines) != 1 {
		t.Fatalf("one level down: %+v, %v", page, err)
	}
	if m := page.Machines[0]; m.Name != "low" || !m.Alive || !m.Overlord || m.Fingerprint != pki.FingerprintOf(low.keys.server.Load().Leaf) || m.Problem != "" {
		t.Errorf("low is %+v", m)
	}
	answer, err := top.probe(t.Context(), delegation.Path{"mid", "low"})
	if err != nil || len(answer.Machines) != 1 || answer.Machines[0].Problem == "" {
		t.Errorf("probe: %+v, %v", answer, err)
	}

	hurried := func(left time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), left)
		t.Cleanup(cancel)
		return ctx
	}
	long := slices.Repeat([]string{"mid"}, call.MaxHops+1)
	for _, tt := range []struct {
		name string
		time time.Duration // that is left; zero: enough
		args []byte
		code call.Code
		says string
	}{
		{"no JSON", 0, []byte("{"), call.Invalid, "arguments: "},
		{"a long path", 0, asked(t, session.MapArgs{Path: long}), call.Invalid, "a path of 17 overlords"},
		{"a long name", 0, asked(t, session.MapArgs{After: strings.Repeat("a", 254)}), call.Invalid, "after a name of 254 bytes"},
		{"no name", 0, asked(t, session.MapArgs{Path: []string{"a/b"}}), call.Invalid, `path: `},
		{"nobody", 0, asked(t, session.MapArgs{Path: []string{"nobody"}}), call.NotFound, "nobody is no sub-overlord of overlord/top"},
		{"no overlord", 0, asked(t, session.MapArgs{Path: []string{"mid", "low", "web1"}}), call.NotFound, "web1 is no sub-overlord of overlord/low"},
		{"not here", 0, asked(t, session.MapArgs{Path: []string{"gone"}}), call.NoSession, "gone has no session with overlord/top: not connected since it enrolled"},
		{"no time", hopMargin, asked(t, session.MapArgs{Path: []string{"mid"}}), call.Timeout, `no time was left to ask "mid"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := top.mapBelow(hurried(cmp.Or(tt.time, time.Minute)), tt.args)
			if call.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v; want code %v, %q", err, tt.code, tt.says)
			}
		})
	}
	if _, err := top.probe(t.Context(), delegation.Path(long)); call.CodeOf(err) != call.TooMany {
		t.Errorf("a long path: %v", err)
	}

	// Less time at each hop: with 100 ms at the top, those below have 80 and 60.
	ctx, cancel, err := lessTime(hurried(100*time.Millisecond), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	if end, _ := ctx.Deadline(); time.Until(end) > 80*time.Millisecond {
		t.Errorf("the hop has %s of 100ms", time.Until(end))
	}
	<-ctx.Done()
	if err := context.Cause(ctx); call.CodeOf(err) != call.Timeout || !strings.Contains(err.Error(), `no answer from "x" within `) {
		t.Errorf("late: %v", err)
	}
}

func TestMapPages(t *testing.T) {
	o := opened(t)
	var names []string
	for i := range 25_000 {
		names = append(names, fmt.Sprintf("machine-%05d.rack%02d.example.org", i, i%40))
	}
	o.fleet.load(names, nil)
	pages := 0
	answer, err := allPages(func(after string) (session.MapResult, error) {
		pages++
		page, err := o.mapBelow(t.Context(), asked(t, session.MapArgs{After: strings.ToUpper(after)}))
		if b, err := json.Marshal(page); err != nil || len(b) > 3*mapPage/2 || len(page.Machines) > session.MaxMapPage {
			t.Errorf("a page of %d machines, %d bytes: %v", len(page.Machines), len(b), err)
		}
		return page, err
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range answer.Machines {
		got = append(got, m.Name)
	}
	if !slices.Equal(got, names) || pages < 3 {
		t.Errorf("%d machines on %d pages; want %d", len(got), pages, len(names))
	}
	if page, err := o.mapBelow(t.Context(), asked(t, session.MapArgs{After: "zzz"})); err != nil || len(page.Machines) != 0 || page.More {
		t.Errorf("after the last: %+v, %v", page, err)
	}
}

// A hop that goes on for ever is left.
func TestMapPagesThatDoNotEnd(t *testing.T) {
	t.Parallel()
	named := func(more bool, names ...string) session.MapResult {
		r := session.MapResult{More: more}
		for _, n := range names {
			r.Machines = append(r.Machines, session.MapMachine{Name: n})
		}
		return r
	}
	for name, page := range map[string]session.MapResult{"again": named(true, "a"), "backwards": named(true, "b", "a"), "no name": named(false, "")} {
		t.Run(name, func(t *testing.T) {
			if _, err := allPages(func(string) (session.MapResult, error) { return page, nil }); call.CodeOf(err) != call.Invalid {
				t.Errorf("%v; want invalid", err)
			}
		})
	}
	n := 0
	_, err := allPages(func(string) (session.MapResult, error) {
		var names []string
		for range session.MaxMapPage {
			n++
			names = append(names, fmt.Sprintf("m%09d", n))
		}
		return named(true, names...), nil
	})
	if call.CodeOf(err) != call.TooMany || n > delegation.MaxNodes+session.MaxMapPage {
		t.Errorf("after %d machines: %v", n, err)
	}
	for _, text := range []string{"", "[]", `{"machines":7}`, `{"more":true}`} {
		if _, err := decodePage([]byte(text), "mid"); call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), "the answer of mid is malformed") {
			t.Errorf("decodePage(%q) = %v", text, err)
		}
	}
}

func FuzzMapPage(f *testing.F) {
	f.Add([]byte(`{"machines":[{"name":"web1","fingerprint":"sha256:ab","alive":true},{"name":"dc1","overlord":true,"problem":"gone"}],"more":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		page, err := decodePage(b, "mid")
		if err != nil {
			if call.CodeOf(err) != call.Invalid {
				t.Fatal(err)
			}
			return
		}
		again, err := json.Marshal(page)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodePage(again, "mid"); err != nil || len(got.Machines) != len(page.Machines) || got.More != page.More {
			t.Fatalf("%+v is read as %+v, %v", page, got, err)
		}
	})
}

package client_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/client"
)

// A delegating client is used like a plain one: it says so, and its map travels.
func TestDelegate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "map")
	write(t, file, []byte("# ours\ndc1: {web1: {}, web2: {}, db1: {}}\n"))
	for _, tt := range []struct {
		name, file, sent string
	}{{"by the overlord's map", "", ""}, {"by a file", file, "---\ndc1:\n    db1: {}\n    web1: {}\n    web2: {}\n"}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, "web1", "web2")
			var asked *apipb.ResolveRequest
			f.resolve = func(r *apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
				asked = r
				return &apipb.ResolveResponse{Names: "web[1,2]", Unknown: "web3", Conflicts: "web9", Silent: "dc2"}, nil
			}
			f.events = func(r *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
				return errors.Join(send(accepted()), send(group("web[1,2]", call.OK, "", `{"ok":true}`)), send(group(r.GetUnknown(), call.UnknownName, "it is not in the map", "")),
					send(closed(&apipb.Counts{Targeted: 4, Answered: 2, Unreachable: 2})))
			}
			var told client.Resolved
			c := newClient(t, f, "web*,web3", client.Options{Delegate: true, MapFile: tt.file, OnResolve: func(r client.Resolved) {
				if told = r; len(f.calls) > 0 {
					t.Error("it was told after the order was sent")
				}
			}})
			job, err := c.Call(t.Context(), "test.ping", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer job.Close()
			results, err := job.ByMachine()
			if err != nil {
				t.Fatal(err)
			}
			if len(results) != 4 || results["web1"].Code != call.OK || results["web3"].Detail != "it is not in the map" || results["web9"].Status() != call.Unreachable {
				t.Errorf("ByMachine = %v", results)
			}
			checkOrder(t, f.calls[0], job, []string{"web1", "web2"})
			if r := f.calls[0]; !r.GetDelegate() || string(r.GetMap()) != tt.sent || r.GetUnknown() != "web[3,9]" {
				t.Errorf("sent delegate %v, map %q, unknown %q; want true, %q, web[3,9]", r.GetDelegate(), r.GetMap(), r.GetUnknown(), tt.sent)
			}
			if !asked.GetDelegate() || string(asked.GetMap()) != tt.sent {
				t.Errorf("asked %v; want by the map %q", asked, tt.sent)
			}
			if want := []string{"web9"}; !cmp.Equal(told.Conflicts, want) || !cmp.Equal(job.Conflicts, want) {
				t.Errorf("conflicts %q and %q; want %q", told.Conflicts, job.Conflicts, want)
			}
			if want := []string{"dc2"}; !cmp.Equal(told.Silent, want) || !cmp.Equal(job.Silent, want) {
				t.Errorf("silent %q and %q; want %q", told.Silent, job.Silent, want)
			}
		})
	}
}

// What is wrong with a map, or with what the overlord makes of it, is said before
// anything is sent.
func TestDelegateIsChecked(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		write(t, filepath.Join(dir, name), []byte(text))
		return filepath.Join(dir, name)
	}
	good := file("good", "dc1: {web1: {}}\n")
	for _, tt := range []struct {
		name  string
		opt   client.Options
		says  *apipb.ResolveResponse
		code  call.Code
		words string
	}{
		{"a machine that the file does not know", client.Options{MapFile: good}, &apipb.ResolveResponse{Names: "web[1,2]"}, call.Internal, `names "web2", which ` + good + " does not"},
		{"a machine too many", client.Options{}, &apipb.ResolveResponse{Names: "db1"}, call.Internal, `"db1"`},
		{"a foreign conflict", client.Options{}, &apipb.ResolveResponse{Names: "web1", Conflicts: "db1"}, call.Internal, `"db1"`},
		{"no list of the silent", client.Options{}, &apipb.ResolveResponse{Names: "web1", Silent: "["}, call.Internal, "cannot be read"},
		{"nobody", client.Options{}, &apipb.ResolveResponse{}, call.NoMatch, `no machine of the map matches "web*"`},
		{"no map", client.Options{MapFile: file("none", "- web1\n")}, nil, call.Invalid, "line 1"},
		{"no file", client.Options{MapFile: filepath.Join(dir, "nosuch")}, nil, call.Internal, "nosuch"},
		{"a directory", client.Options{MapFile: dir}, nil, call.Internal, "not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.resolve = func(*apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
				if tt.says == nil {
					t.Error("the overlord was asked")
				}
				return tt.says, nil
			}
			tt.opt.Delegate = true
			c := newClient(t, f, "web*", tt.opt)
			_, err := c.Call(t.Context(), "test.ping", nil)
			if call.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("Call = %v; want code %v and %q", err, tt.code, tt.words)
			}
			if len(f.calls) != 0 {
				t.Errorf("%d orders were sent", len(f.calls))
			}
		})
	}
	c := newClient(t, newFake(t), "web1", client.Options{Delegate: true, MapFile: filepath.Join(dir, "nosuch")})
	if _, err := c.Resolve(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve without the file = %v; want that it is not there", err)
	}
	if _, err := c.Ping(t.Context()); call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), "test.ping") {
		t.Errorf("Ping by the map = %v; want invalid, and what to call", err)
	}
}

// Machines that cannot be reached at all are accounted for without an order.
func TestDelegateToNobody(t *testing.T) {
	f := newFake(t)
	f.resolve = func(*apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
		return &apipb.ResolveResponse{Unknown: "web3", Conflicts: "web9"}, nil
	}
	c := newClient(t, f, "web[3,9]", client.Options{Delegate: true})
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	got, err := job.ByMachine()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["web3"].Detail != "it is not in the map" || !strings.Contains(got["web9"].Detail, "different keys") {
		t.Errorf("ByMachine = %v", got)
	}
	if want := (call.Counts{Targeted: 2, Unreachable: 2}); job.Counts() != want || len(f.calls) != 0 || !job.ID.IsZero() {
		t.Errorf("Counts = %+v, job %s, %d orders sent; want %+v and no order", job.Counts(), job.ID, len(f.calls), want)
	}
}

// A map is longer than what fits into a URL.
func TestLargeMap(t *testing.T) {
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "web%d: {}\n", i)
	}
	file := filepath.Join(t.TempDir(), "map")
	write(t, file, []byte(text.String()))
	f := newFake(t)
	f.resolve = func(r *apipb.ResolveRequest) (*apipb.ResolveResponse, error) {
		if len(r.GetMap()) < text.Len() {
			t.Errorf("a map of %d bytes came; want %d", len(r.GetMap()), text.Len())
		}
		return &apipb.ResolveResponse{Names: "web7"}, nil
	}
	c := newClient(t, f, "web7", client.Options{Delegate: true, MapFile: file})
	if r, err := c.Resolve(t.Context()); err != nil || !cmp.Equal(r.Names, []string{"web7"}) {
		t.Errorf("Resolve = %v, %v; want web7", r.Names, err)
	}
}

func TestRoutes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "map")
	write(t, file, []byte("dc1: {r1: {web1: {}}, web2: {}}\nweb2: {}\n"))
	c := newClient(t, newFake(t), "*", client.Options{Delegate: true, MapFile: file})
	r, err := c.Routes(t.Context(), []string{"web1", "web2", "web3"})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.Paths, r.Unknown); got != "[dc1/r1/web1 web2] [web3]" {
		t.Errorf("Routes = %s; want by dc1/r1, directly, and unknown", got)
	}
}

// A job that is cut off leaves what is known.
func TestByMachineCutOff(t *testing.T) {
	f := newFake(t, "web1", "web2")
	f.events = func(_ *apipb.CallRequest, send func(*apipb.CallEvent) error) error {
		return errors.Join(send(accepted()), send(group("web1", call.OK, "", `{"ok":true}`)))
	}
	c := newClient(t, f, "web*", client.Options{Reconnect: -1})
	job, err := c.Call(t.Context(), "test.ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	got, err := job.ByMachine()
	if err == nil || len(got) != 1 || got["web1"].Code != call.OK {
		t.Errorf("ByMachine = %v, %v; want web1 and an error", got, err)
	}
}

// What the overlord's configuration says, and what is asked for.
func TestDelegates(t *testing.T) {
	for _, want := range []bool{true, false} {
		f := newFake(t)
		f.delegate = want
		conn, err := client.Dial(t.Context(), client.Endpoint{State: f.state(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got, err := conn.Delegates(t.Context()); err != nil || got != want {
			t.Errorf("Delegates = %v, %v; want %v", got, err, want)
		}
		if _, err := conn.Target("*", client.Options{MapFile: "x"}); call.CodeOf(err) != call.Invalid {
			t.Errorf("a map without delegation: %v; want invalid", err)
		}
	}
}

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
	"dominion/client"
)

func answering(output string, names ...string) *client.Group {
	return &client.Group{Names: names, Status: call.Answered, Output: []byte(output)}
}

// view shows groups as at the end of a job.
func viewOf(t *testing.T, view viewFlags, method string, groups ...*client.Group) string {
	t.Helper()
	var out bytes.Buffer
	a := &app{out: bufio.NewWriter(&out), err: &out, output: outText, getenv: func(string) string { return "" }}
	v := &jobView{a: a, view: view}
	v.of(method)
	var f client.Folder
	for _, g := range groups {
		f.Add(g)
	}
	if err := v.folded(f.Groups()); err != nil {
		t.Fatal(err)
	}
	if err := a.flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTables(t *testing.T) {
	const (
		two  = `{"services":[{"name":"ssh","pid":712,"up":true},{"name":"cron","pid":99,"up":false,"note":"a\nb"}]}`
		flat = `{"services":[{"name":"ssh","pid":712,"tags":["a","b"]},{"name":"cron","pid":99}]}`
		one  = `[{"name":"nginx","pid":3}]`
	)
	long := answering(flat, "web1-a", "db2-x", "cache3", "mail-17-b", "queue-9.example.org", "ldap.example.org")
	for _, tt := range []struct {
		name   string
		view   viewFlags
		groups []*client.Group
		want   string
	}{
		{"together", viewFlags{}, []*client.Group{answering(flat, "web1", "web2"), answering(one, "db1")}, `
MACHINE   NAME   PID  TAGS
web[1,2]  ssh    712  a, b
web[1,2]  cron    99
db1       nginx    3
`},
		{"sorted by a column", viewFlags{sort: "pid"}, []*client.Group{answering(flat, "web1", "web2"), answering(one, "db1")}, `
MACHINE   NAME   PID  TAGS
db1       nginx    3
web[1,2]  cron    99
web[1,2]  ssh    712  a, b
`},
		{"downwards", viewFlags{sort: "-Name"}, []*client.Group{answering(flat, "web1"), answering(one, "db1")}, `
MACHINE  NAME   PID  TAGS
web1     ssh    712  a, b
db1      nginx    3
web1     cron    99
`},
		{"by name", viewFlags{sort: "name"}, []*client.Group{answering(flat, "web1", "web2"), answering(one, "db1")}, `
MACHINE   NAME   PID  TAGS
db1       nginx    3
web[1,2]  ssh    712  a, b
web[1,2]  cron    99
`},
		{"one that is none", viewFlags{sort: "pid"}, []*client.Group{answering(flat, "web1"), answering(`{"error":"no"}`, "db1")}, `
db1: error: no
web1:
    NAME  PID  TAGS
    cron   99
    ssh   712  a, b
`},
		{"a cell of several lines", viewFlags{}, []*client.Group{answering(two, "web1")}, `
web1:
    services:
      - name: ssh
        pid: 712
        up: true
      - name: cron
        pid: 99
        up: false
        note:
          a
          b
`},
		{"names too long for a column", viewFlags{}, []*client.Group{long}, `
cache3,db2-x,ldap.example.org,mail-17-b,queue-9.example.org,web1-a (6):
    NAME  PID  TAGS
    ssh   712  a, b
    cron   99
`},
		{"failed ones", viewFlags{}, []*client.Group{answering(one, "db1"), {Names: []string{"db2"}, Status: call.DidFail, Code: call.Failed, Detail: "no"}}, `
MACHINE  NAME   PID
db1      nginx    3
`},
		{"differences", viewFlags{diff: true}, []*client.Group{answering(one, "db1"), answering(flat, "web1", "web2")}, `
web[1,2] (2):
    NAME  PID  TAGS
    ssh   712  a, b
    cron   99
db1:
    differs:
    @@ -1,3 +1,2 @@
    -NAME  PID  TAGS
    -ssh   712  a, b
    -cron   99
    +NAME   PID
    +nginx    3
`},
		{"escapes", viewFlags{}, []*client.Group{answering(`[{"name":"\u001b[31m","x\u001b":1}]`, "db1")}, `
MACHINE  NAME      X\x1b
db1      \x1b[31m      1
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), viewOf(t, tt.view, "service.list", tt.groups...)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestDifferences(t *testing.T) {
	run := func(exit int, stdout string, names ...string) *client.Group {
		g := answering(`{"exit":0,"stdout":"`+stdout+`","stderr":""}`, names...)
		if exit != 0 {
			g.Status, g.Code, g.Detail = call.DidFail, call.Failed, "exit 1"
		}
		return g
	}
	groups := func() []*client.Group {
		return []*client.Group{
			run(0, `Port 22\nPermitRootLogin no\nUsePAM yes`, "web1", "web2", "web3"),
			run(0, `Port 22\nPermitRootLogin yes\nUsePAM yes`, "db1"),
			run(0, `Port 22\nPermitRootLogin no\nUsePAM yes\n`, "a1"),
			run(1, `Port 22`, "x1"),
			{Names: []string{"y1"}, Status: call.Unreachable, Code: call.NoSession},
		}
	}
	const want = `
web[1,2,3] (3):
    Port 22
    PermitRootLogin no
    UsePAM yes
a1: the same output
db1:
    differs:
    @@ -1,3 +1,3 @@
     Port 22
    -PermitRootLogin no
    +PermitRootLogin yes
     UsePAM yes
x1: failed: exit 1
    differs:
    @@ -1,3 +1,1 @@
     Port 22
    -PermitRootLogin no
    -UsePAM yes
`
	if d := cmp.Diff(strings.TrimPrefix(want, "\n"), viewOf(t, viewFlags{diff: true}, "command.run", groups()...)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	byName := viewOf(t, viewFlags{sort: "name"}, "command.run", groups()...)
	if at := func(s string) int { return strings.Index(byName, s) }; at("a1") != 0 || at("db1") > at("web[1,2,3]") || at("web[1,2,3]") > at("x1") {
		t.Errorf("by name:\n%s", byName)
	}
}

// What a machine answers does not become a table that is far larger than the answer.
func TestGridIsNoLargerThanItsAnswer(t *testing.T) {
	var columns, cell strings.Builder
	cell.WriteString(`[{"a":"` + strings.Repeat("x", 500_000) + `","b":1}`)
	columns.WriteString(`[{"k":1}`)
	for i := range 20_000 {
		fmt.Fprintf(&columns, `,{"k%d":1}`, i)
		cell.WriteString(`,{"a":1,"b":2}`)
	}
	for name, text := range map[string]string{"columns": columns.String() + "]", "cell": cell.String() + "]"} {
		if _, ok := gridOf([]byte(text)); ok {
			t.Errorf("%s: it is a table", name)
		}
		size := 0
		for _, l := range resultLines([]byte(text)) {
			size += len(l)
		}
		if size > 4*len(text) {
			t.Errorf("%s: %d bytes are shown of an answer of %d", name, size, len(text))
		}
	}
}

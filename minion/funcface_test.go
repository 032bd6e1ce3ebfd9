package minion

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/funcd"
	"dominion/session"
)

func TestConfigOfFunc(t *testing.T) {
	good := Config{Name: "web1", Listen: ":51234", Func: Func{Enabled: true, ACLDir: "/etc/func/minion-acl.d"}}
	for _, tt := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"good", "", func(*Config) {}},
		{"no port", "func: enabled: ", func(c *Config) { c.Listen, c.Overlords = "", []string{"dc1"} }},
		{"no lists", "func: acl_dir: ", func(c *Config) { c.Func.ACLDir = "" }},
		{"a relative path", "func: acl_dir: ", func(c *Config) { c.Func.ACLDir = "acl" }},
		{"off", "", func(c *Config) { c.Func = Func{ACLDir: "acl"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			err := c.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
				t.Errorf("Check = %v; want %q", err, tt.want)
			}
		})
	}
}

// Records of orders are passed over, those of the Func face collected as far as one
// call holds, and what the log has dropped is counted.
func TestCollect(t *testing.T) {
	log, err := audit.OpenFileLog(filepath.Join(t.TempDir(), "log"), audit.FileLogOptions{Segment: 20_000, Keep: 60_000})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	a := &Agent{}
	a.own.log = log
	a.now = time.Now
	order := &auditpb.MinionRecord{Job: make([]byte, 16), Method: "test.ping", Operator: "alice", Overlord: "dc1"}
	add := func(n int, face bool) {
		t.Helper()
		for range n {
			if face {
				if err := (funcRecorder{a}).Begin(funcd.Record{ID: call.JobID{1}, Caller: "operator/alice", Address: "x", Method: "test.ping"}); err != nil {
					t.Fatal(err)
				}
			} else if _, err := log.Append(order); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(3, false)
	add(2, true)
	add(1, false)
	args, end, err := collect(log, 0)
	if err != nil || end != 6 || args.Next != 6 || len(args.Leaves) != 2 || args.Leaves[0].Index != 3 || args.Leaves[1].Index != 4 || args.Lost != 0 {
		t.Errorf("collect = %+v, %d, %v", args, end, err)
	}
	if args, _, err := collect(log, 6); err != nil || args.Next != 6 || len(args.Leaves) != 0 {
		t.Errorf("collect from the end = %+v, %v", args, err)
	}
	add(session.MaxRecords+1, true)
	args, end, err = collect(log, 4)
	if err != nil || len(args.Leaves) != session.MaxRecords || args.Leaves[0].Index != 4 || args.Next >= end {
		t.Errorf("collect = %d leaves up to %d of %d, %v", len(args.Leaves), args.Next, end, err)
	}
	if args, _, err = collect(log, args.Next); err != nil || len(args.Leaves) != 2 {
		t.Errorf("collect = %d leaves, %v; want the last two", len(args.Leaves), err)
	}
	for first := int64(-1); first <= 0; { // until the oldest records are dropped
		add(100, false)
		first = log.First()
	}
	if args, _, err := collect(log, 0); err != nil || args.Lost != log.First() || args.Next <= args.Lost {
		t.Errorf("collect = %d lost up to %d, %v; the log begins at %d", args.Lost, args.Next, err, log.First())
	}
}

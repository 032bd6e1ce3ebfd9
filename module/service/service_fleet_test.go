//go:build fleet

package service

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/fleettest/box"
	"dominion/module"
)

var units = map[string]string{
	"good.service":     "[Unit]\nDescription=A good one\n[Service]\nExecStart=/usr/bin/sleep 1000\nExecReload=/usr/bin/touch /srv/reloaded\n[Install]\nWantedBy=multi-user.target\nAlias=fine.service\n",
	"plain.service":    "[Service]\nExecStart=/usr/bin/sleep 1000\n",
	"bad.service":      "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 7'\n",
	"notthere.service": "[Service]\nType=exec\nExecStart=/nosuch/program\n",
	"slow.service":     "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/sleep 1\n",
	"endless.service":  "[Service]\nType=oneshot\nExecStart=/usr/bin/sleep 1000\n",
	"needs.service":    "[Unit]\nRequires=bad.service\nAfter=bad.service\n[Service]\nExecStart=/usr/bin/sleep 1000\n",
	"refuses.service":  "[Unit]\nRefuseManualStart=yes\n[Service]\nExecStart=/usr/bin/sleep 1000\n",
	"broken.service":   "[Service]\nExecReload=/usr/bin/true\n",
	"tick.timer":       "[Timer]\nOnBootSec=1d\n[Install]\nWantedBy=timers.target\n",
	"tick.service":     "[Service]\nType=oneshot\nExecStart=/usr/bin/true\n",
	"templ@.service":   "[Service]\nExecStart=/usr/bin/sleep 100%i\n[Install]\nWantedBy=multi-user.target\n",
	"boot-one.service": "[Service]\nExecStart=/usr/bin/sleep 1000\n",
}

// at gives the methods of a machine.
func at(t *testing.T, m machine) func(name string, in any) (map[string]any, error) {
	t.Helper()
	table := map[string]module.Method{}
	for _, x := range []module.Method{
		module.Func("status", "x", module.Read, m.status, module.MethodOptions{}),
		module.Func("list", "x", module.Read, m.list, module.MethodOptions{}),
		module.Func("start", "x", module.Change, m.start, module.MethodOptions{}),
		module.Func("stop", "x", module.Change, m.stop, module.MethodOptions{}),
		module.Func("restart", "x", module.Change, m.restart, module.MethodOptions{}),
		module.Func("reload", "x", module.Change, m.reload, module.MethodOptions{}),
		module.Func("enable", "x", module.Change, m.enable, module.MethodOptions{}),
		module.Func("disable", "x", module.Change, m.disable, module.MethodOptions{}),
	} {
		table[x.Name()] = x
	}
	return func(name string, in any) (map[string]any, error) {
		t.Helper()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, errors.New("the test's 30s"))
		defer cancel()
		b, _ := json.Marshal(in)
		out, err := table[name].Run(ctx, nil, b)
		var got map[string]any
		if e := json.Unmarshal(out, &got); e != nil && len(out) > 0 {
			t.Fatal(e)
		}
		return got, err
	}
}

type args map[string]any

// TestFleetService works on a real systemd, by the bus from outside, and by
// systemd's own socket from inside: that takes nobody whose id it cannot see.
func TestFleetService(t *testing.T) {
	b := box.New(t, units)
	t.Run("bus", func(t *testing.T) {
		everything(t, machine{b.Run + "/dbus/system_bus_socket", "/nosuch"}, b.Files, func() { b.Do("systemctl", "reset-failed") })
	})
	t.Run("direct", func(t *testing.T) {
		if err := os.Remove(b.Files + "/reloaded"); err != nil {
			t.Fatal(err)
		}
		b.DoTest("TestFleetInBox")
	})
}

// TestFleetInBox is the part of TestFleetService that runs in the box.
func TestFleetInBox(t *testing.T) {
	if !box.Inside() {
		return // it runs as a part of TestFleetService
	}
	everything(t, machine{"/nosuch", here.systemd}, "/srv", func() {
		if out, err := exec.Command("systemctl", "reset-failed").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
}

func everything(t *testing.T, m machine, files string, reset func()) {
	do := at(t, m)
	for _, test := range []struct {
		name, method string
		args         args
		err          string // its beginning; empty: none
		want         args   // what the answer has among other things
	}{
		{"not there", "status", args{"name": "nosuch"}, "failed: there is no unit nosuch.service on this machine", nil},
		{"at rest", "status", args{"name": "good"}, "", args{"name": "good.service", "description": "A good one", "running": false, "active": "inactive", "enabled": "disabled"}},
		{"at boot", "status", args{"name": "boot-one"}, "", args{"running": true, "sub": "running"}},
		{"target", "status", args{"name": "box.target"}, "", args{"running": true, "active": "active"}},
		{"dry start", "start", args{"name": "good", "dry_run": true}, "", args{"changed": true, "active": "inactive"}},
		{"reload at rest", "reload", args{"name": "good"}, "failed: reload good.service: it does not run", nil},
		{"start", "start", args{"name": "good"}, "", args{"changed": true, "active": "active", "sub": "running"}},
		{"start again", "start", args{"name": "good"}, "", args{"changed": false, "active": "active"}},
		{"dry restart", "restart", args{"name": "good", "dry_run": true}, "", args{"changed": true, "active": "active"}},
		{"restart", "restart", args{"name": "good"}, "", args{"changed": true, "active": "active"}},
		{"reload", "reload", args{"name": "good"}, "", args{"changed": true, "active": "active"}},
		{"no reload", "reload", args{"name": "boot-one"}, "failed: reload boot-one.service: it cannot be reloaded; restart it", nil},
		{"dry stop", "stop", args{"name": "good", "dry_run": true}, "", args{"changed": true, "active": "active"}},
		{"stop", "stop", args{"name": "good"}, "", args{"changed": true, "active": "inactive"}},
		{"stop again", "stop", args{"name": "good"}, "", args{"changed": false, "active": "inactive"}},
		{"waits for the end", "start", args{"name": "slow"}, "", args{"changed": true, "active": "active", "sub": "exited"}},
		{"stop slow", "stop", args{"name": "slow"}, "", args{"changed": true}},
		{"fails", "start", args{"name": "bad"}, "failed: start bad.service: it ended with exit-code 7", args{"changed": true, "active": "failed", "result": "exit-code"}},
		{"fails at once", "start", args{"name": "notthere"}, "failed: start notthere.service: it ended with exit-code 203", args{"changed": true, "active": "failed"}},
		{"status of a failure", "status", args{"name": "bad"}, "", args{"active": "failed", "result": "exit-code", "exit_status": 7.0}},
		{"needs one that fails", "start", args{"name": "needs"}, "failed: start needs.service: a unit that it needs failed", args{"changed": false, "active": "inactive"}},
		{"refused", "start", args{"name": "refuses"}, "failed: start refuses.service: Operation refused", args{"changed": false}},
		{"broken", "start", args{"name": "broken"}, "failed: start broken.service: its file could not be read (bad-setting)", nil},
		{"dry broken", "start", args{"name": "broken", "dry_run": true}, "failed: start broken.service", nil},
		{"dry enable", "enable", args{"name": "good", "dry_run": true}, "", args{"changed": true, "enabled": "disabled"}},
		{"enable", "enable", args{"name": "good"}, "", args{"changed": true, "enabled": "enabled", "active": "inactive", "links": []any{"/etc/systemd/system/fine.service", "/etc/systemd/system/multi-user.target.wants/good.service"}}},
		{"by its alias", "enable", args{"name": "fine"}, "", args{"name": "good.service", "changed": false, "enabled": "enabled"}},
		{"status by its alias", "status", args{"name": "fine"}, "", args{"name": "good.service", "enabled": "enabled"}},
		{"enable again", "enable", args{"name": "good"}, "", args{"changed": false, "enabled": "enabled"}},
		{"enable now", "enable", args{"name": "good", "now": true}, "", args{"changed": true, "active": "active"}},
		{"dry disable", "disable", args{"name": "good", "now": true, "dry_run": true}, "", args{"changed": true, "enabled": "enabled", "active": "active"}},
		{"disable now", "disable", args{"name": "good", "now": true}, "", args{"changed": true, "enabled": "disabled", "active": "inactive"}},
		{"disable again", "disable", args{"name": "good"}, "", args{"changed": false, "enabled": "disabled"}},
		{"static", "enable", args{"name": "plain"}, "failed: plain.service is static", args{"changed": false}},
		{"timer", "enable", args{"name": "tick.timer", "now": true}, "", args{"changed": true, "enabled": "enabled", "active": "active"}},
		{"timer off", "disable", args{"name": "tick.timer", "now": true}, "", args{"changed": true, "enabled": "disabled", "active": "inactive"}},
		{"instance", "enable", args{"name": "templ@5", "now": true}, "", args{"name": "templ@5.service", "changed": true, "enabled": "enabled", "active": "active"}},
		{"instance off", "disable", args{"name": "templ@5", "now": true}, "", args{"changed": true, "enabled": "disabled", "active": "inactive"}},
	} {
		got, err := do(test.method, test.args)
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
			t.Errorf("%s: error %v; want %q", test.name, err, test.err)
		}
		for k, want := range test.want {
			a, _ := json.Marshal(got[k])
			w, _ := json.Marshal(want)
			if string(a) != string(w) {
				t.Errorf("%s: %s is %s; want %s in %v", test.name, k, a, w, got)
			}
		}
	}
	if _, err := os.Stat(files + "/reloaded"); err != nil {
		t.Errorf("it was not reloaded: %v", err)
	}
	reset()
	lists(t, do)
	timesOut(t, m)
}

func lists(t *testing.T, do func(string, any) (map[string]any, error)) {
	t.Helper()
	for _, test := range []struct {
		name string
		args args
		want string
		not  string
	}{
		{"all", args{"pattern": "*.service"}, "boot-one.service dbus.service", "plain.service"},
		{"glob", args{"pattern": "boot-*"}, "boot-one.service", "dbus.service"},
		{"files", args{"pattern": "*.service", "files": true, "state": "static"}, "plain.service", "good.service"},
		{"state", args{"pattern": "*.service", "state": "running"}, "boot-one.service", "good.service"},
		{"targets", args{"pattern": "*.target"}, "box.target", "boot-one.service"},
		{"none", args{"pattern": "nosuch*"}, "", "boot-one.service"},
	} {
		got, err := do("list", test.args)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		names := []string{}
		for _, u := range got["units"].([]any) {
			names = append(names, u.(map[string]any)["name"].(string))
		}
		for want := range strings.FieldsSeq(test.want) {
			if !slices.Contains(names, want) {
				t.Errorf("%s: %s is not in %q", test.name, want, names)
			}
		}
		if slices.Contains(names, test.not) || !slices.IsSorted(names) {
			t.Errorf("%s: %q has %s, or is not sorted", test.name, names, test.not)
		}
	}
}

// timesOut: who stops waiting says so, and systemd goes on.
func timesOut(t *testing.T, m machine) {
	t.Helper()
	mine := errors.New("the time of this call")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, mine)
	defer cancel()
	out, err := m.start(ctx, &module.Env{}, ActIn{Which: Which{"endless"}})
	if !errors.Is(err, mine) || !strings.Contains(err.Error(), "which systemd goes on with") {
		t.Errorf("%+v, %v; want the cause of the end", out, err)
	}
	if s, err := m.status(t.Context(), nil, Which{"endless"}); err != nil || s.Active != "activating" {
		t.Errorf("endless is %s, %v; want systemd to go on", s.Active, err)
	}
	if s, err := m.stop(t.Context(), nil, ActIn{Which: Which{"endless"}}); err != nil || !s.Changed {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestFleetServiceGone: systemd that dies does not leave a call waiting.
func TestFleetServiceGone(t *testing.T) {
	b := box.New(t, units)
	ended := make(chan error, 1)
	m := machine{b.Run + "/dbus/system_bus_socket", "/nosuch"}
	go func() {
		_, err := m.start(t.Context(), nil, ActIn{Which: Which{"endless"}})
		ended <- err
	}()
	for s, err := m.status(t.Context(), nil, Which{"endless"}); s.Active != "activating"; s, err = m.status(t.Context(), nil, Which{"endless"}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	b.Kill()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "endless.service") {
		t.Errorf("%v; want what broke", err)
	}
	if _, err := m.status(t.Context(), nil, Which{"endless"}); err == nil {
		t.Error("a machine that is gone answers")
	}
}

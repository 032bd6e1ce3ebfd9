//go:build fleet

package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"dominion/fleettest/box"
)

// Every module that looks after a machine is called once, as a user does it:
// m01 is an agent on this machine, m02 one on a machine with systemd, where
// things may be changed.
func testEveryday(t *testing.T, binary string) {
	s := startSite(t, binary, 1)
	b := box.New(t, map[string]string{
		"boot-minion.service": fmt.Sprintf("[Unit]\nConditionPathExists=/srv/dominion\n[Service]\nExecStart=/srv/dominion minion --state /srv/minion --name m02 --overlord %s --pin %s\n", s.address, s.pin),
		"web.service":         "[Unit]\nDescription=The web\n[Service]\nExecStart=/usr/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n",
		"boot-says.service":   "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/echo here I am\n",
	})
	b.Copy(binary, "dominion")
	b.Do("systemctl", "start", "boot-minion.service")
	s.await(2)
	file := s.write("app.log", "first\nsecond\n")
	type everyday struct {
		machine, words string
		want           string // in the answer
		exit           int
	}
	calls := []everyday{
		{"m01", "package.list pattern=apt", `"name":"apt"`, 0},
		{"m01", "package.installed apt no-such-package", `{"name":"no-such-package","installed":false}`, 0},
		{"m01", "user.list pattern=root", `"name":"root","uid":0`, 0},
		{"m01", "group.list pattern=root", `"name":"root","gid":0`, 0},
		{"m01", "network.addresses", `"127.0.0.1/8"`, 0},
		{"m01", "network.routes", `"routes":[`, 0},
		{"m01", "network.ports protocol=tcp", fmt.Sprintf(`"port":%s,`, s.address[strings.LastIndexByte(s.address, ':')+1:]), 0},
		{"m01", "network.check 127.0.0.1 " + s.address[strings.LastIndexByte(s.address, ':')+1:], `"state":"open"`, 0},
		{"m01", "network.resolve localhost", `"127.0.0.1"`, 0},
		{"m01", "cron.list", `"jobs":[`, 0},
		{"m01", "log.tail " + file + " lines=1", `"text":"second\n"`, 0},
		{"m01", "time.status", `"synchronised":`, 0},
		{"m01", "time.offset 127.0.0.1 port=9 samples=1 seconds=0.2", "ask 127.0.0.1 (127.0.0.1) for the time: ", 3},
		{"m02", "service.status web", `"description":"The web","running":false`, 0},
		{"m02", "service.start web dry_run=true", `"changed":true,"active":"inactive"`, 0},
		{"m02", "service.start web", `"changed":true,"active":"active"`, 0},
		{"m02", "service.start web", `"changed":false,"active":"active"`, 0},
		{"m02", "service.restart web", `"changed":true`, 0},
		{"m02", "service.reload web", "reload web.service: it cannot be reloaded; restart it", 3},
		{"m02", "service.enable web", `"enabled":"enabled"`, 0},
		{"m02", "service.disable web now=true", `"changed":true,"enabled":"disabled"`, 0},
		{"m02", "service.stop web", `"changed":false`, 0},
		{"m02", "service.list pattern=w* files=true", `"name":"web.service"`, 0},
		{"m02", "log.journal unit=boot-says.service identifier=echo", `here I am\n`, 0},
		{"m02", "group.add staff2 gid=4321", `"changed":true,"gid":4321`, 0},
		{"m02", "user.add bob groups=staff2 shell=/bin/sh no_home=true", `"changed":true`, 0},
		{"m02", "group.leave staff2 bob", `"users":["bob"]`, 0},
		{"m02", "user.lock bob", `"changed":false`, 0}, // there is no password yet
		{"m02", "user.remove bob", `"changed":true`, 0},
		{"m02", "group.remove staff2", `"changed":true`, 0},
		{"m02", "reboot.status", `"wanted":false`, 0},
		{"m02", "reboot.cancel", `"changed":false`, 0},
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		calls = append(calls, everyday{"m01", "service.list", "this machine does not run systemd", 3}, everyday{"m01", "reboot.now dry_run=true", "this machine has no systemd-logind", 3})
	}
	for _, x := range calls {
		words := append([]string{"call", x.machine}, strings.Fields(x.words)...)
		if strings.Contains(x.words, ".remove ") || strings.Contains(x.words, ".now ") {
			words = append(words, "--yes-count=1")
		}
		row := s.root.run(append(words, "-o", "json")...).within(30 * time.Second).exits(x.exit).account(x.machine).Results[0]
		var compact bytes.Buffer
		if len(row.Result) > 0 {
			if err := json.Compact(&compact, row.Result); err != nil {
				t.Fatal(err)
			}
		}
		if got := compact.String() + row.Reason; !strings.Contains(got, x.want) {
			t.Errorf("%s %s: %s; want %s", x.machine, x.words, got, x.want)
		}
	}
	s.root.run("audit", "verify", "--fleet").exits(0)
}

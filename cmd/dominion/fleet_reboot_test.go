//go:build fleet

package main_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"dominion/fleettest/box"
)

// A machine with systemd is restarted by an order that waits for it: the job
// ends when it is back, answered by the machine itself.
func testReboot(t *testing.T, binary string) {
	s := startSite(t, binary, 0)
	b := box.New(t, map[string]string{"boot-minion.service": fmt.Sprintf(`[Unit]
ConditionPathExists=/srv/dominion
[Service]
ExecStart=/srv/dominion minion --state /srv/minion --name m01 --overlord %s --pin %s
`, s.address, s.pin)})
	b.Copy(binary, "dominion")
	b.Do("systemctl", "start", "boot-minion.service")
	s.await(1)

	type answer struct {
		Changed, Back bool
		BootID        string `json:"boot_id"`
		Planned       string
	}
	ask := func(args ...string) answer {
		t.Helper()
		a := s.root.run(append([]string{"call", "m01"}, append(args, "-o", "json")...)...).exits(0).account("m01")
		var got answer
		if err := json.Unmarshal(a.Results[0].Result, &got); err != nil {
			t.Fatalf("%s: %v", a.Results[0].Result, err)
		}
		return got
	}
	before := ask("reboot.status")
	if before.BootID != strings.TrimSpace(b.Do("cat", "/proc/sys/kernel/random/boot_id")) || before.Planned != "" {
		t.Errorf("before: %+v", before)
	}
	if got := ask("reboot.now", "delay=1h", "dry_run=true", "--yes-count=1"); !got.Changed || ask("reboot.status").Planned != "" {
		t.Errorf("dry run: %+v, and then %+v", got, ask("reboot.status"))
	}
	if got := ask("reboot.now", "delay=1h", "message=soon", "--yes-count=1"); !got.Changed || got.Back || ask("reboot.status").Planned != "reboot" {
		t.Errorf("planned: %+v, and then %+v", got, ask("reboot.status"))
	}
	if got := ask("reboot.cancel"); !got.Changed || ask("reboot.status").Planned != "" || ask("reboot.cancel").Changed {
		t.Errorf("cancelled: %+v, and then %+v", got, ask("reboot.status"))
	}

	c := s.root.start("call", "m01", "reboot.now", "delay=3s", "wait=true", "-o", "json", "--yes-count=1")
	s.until("the restart is planned", func() bool { return ask("reboot.status").Planned == "reboot" })
	b.Do("systemctl", "restart", "boot-minion.service") // the agent alone: the call goes on
	select {
	case <-b.Ended():
	case <-time.After(time.Minute):
		t.Fatal("the machine does not go down")
	}
	select {
	case <-c.done:
		t.Errorf("the call ended before the machine was back: %s", c.out)
	default:
	}
	b.Boot()
	a := c.exits(0).account("m01")
	var got answer
	if err := json.Unmarshal(a.Results[0].Result, &got); err != nil || !got.Back || !got.Changed || got.BootID == before.BootID || got.BootID != ask("reboot.status").BootID {
		t.Errorf("back: %s, %v; before it was boot %s", a.Results[0].Result, err, before.BootID)
	}
	s.accounted(a.Job, "answered", "m01")
	s.root.run("audit", "verify", "--fleet").exits(0)
}

//go:build fleet

package box_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"dominion/fleettest/box"
)

// TestFleetBox: it runs systemd, keeps its hands off the host, and boots again.
func TestFleetBox(t *testing.T) {
	b := box.New(t, map[string]string{"boot-hello.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/touch /srv/hello\n"})
	if got := strings.TrimSpace(b.Do("cat", "/proc/1/comm")); got != "systemd" {
		t.Errorf("its first process is %q", got)
	}
	first := b.Do("cat", "/proc/sys/kernel/random/boot_id")
	host, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || first == string(host) {
		t.Errorf("its boot has the id of the host's (%v)", err)
	}
	if out, err := b.Command(t.Context(), "sh", "-c", "echo 1 >/proc/sys/vm/swappiness").CombinedOutput(); err == nil {
		t.Errorf("it can change the host's kernel: %s", out)
	}
	if _, err := os.Stat(b.Files + "/hello"); err != nil {
		t.Error(err)
	}
	b.Do("systemctl", "--no-block", "reboot")
	select {
	case <-b.Ended():
	case <-time.After(time.Minute):
		t.Fatal("it does not go down")
	}
	b.Boot()
	if again := b.Do("cat", "/proc/sys/kernel/random/boot_id"); again == first {
		t.Error("the second boot has the id of the first")
	}
}

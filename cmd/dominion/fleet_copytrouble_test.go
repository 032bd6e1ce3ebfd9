//go:build fleet

package main_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/fleettest"
)

// copySize is how large the file is that is copied through trouble: 96 MiB, or as
// many as DOMINION_COPY_MIB says.
func copySize(t *testing.T) int64 {
	t.Helper()
	text := os.Getenv("DOMINION_COPY_MIB")
	if text == "" {
		return 96 << 20
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 20
}

// Twenty machines: one is stopped, one has a full disk, one is killed in the middle and
// started again. The others are whole, those that are not are named with the reason, and
// the same command completes them, going on from what is there.
func testCopyThroughTrouble(t *testing.T, binary string) {
	const machines, limit = 20, 100 << 20
	size := copySize(t)
	s := newSite(t, binary)
	r := newRooms(s)
	s.up("--autosign", "m*")
	agents := make(map[string]*daemon)
	for i := range machines {
		name, disk := fmt.Sprintf("m%02d", i+1), ""
		if name == "m02" {
			disk = fmt.Sprint(size / 32)
		}
		agents[name] = r.minion(name, disk, s.address)
	}
	s.await(machines)
	src := filepath.Join(s.dir, "big")
	want := image(t, src, size, true)
	part := func(name string) int64 {
		list, err := filepath.Glob(filepath.Join(r.of(name), ".dominion-copy-*.part"))
		if err != nil || len(list) != 1 {
			return 0
		}
		st, err := os.Stat(list[0])
		if err != nil {
			return 0
		}
		return st.Size()
	}
	limited := 40*time.Second + time.Duration(machines*(size-96<<20)/(50<<20))*time.Second
	s.root.hang = limited + 2*hang
	began := time.Now()
	c := s.root.start("copy", src, "*:"+r.name+"/big", "-o", "jsonl", "--timeout", limited.String())
	fleettest.Until(t, "some of it has come", func() bool { return part("m01") > size/50 && part("m03") > size/50 })
	agents["m01"].signal(syscall.SIGSTOP)
	agents["m03"].kill()
	had := part("m03")
	if had >= size {
		t.Errorf("m03 had all %d bytes before it was killed", had)
	}
	agents["m03"] = r.minion("m03", "", s.address)
	<-c.done
	status := make(map[string]string)
	for line := range strings.Lines(c.out.String()) {
		var d struct{ Machine, Status, Reason string }
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatal(err)
		}
		status[d.Machine] = d.Status
		t.Logf("%s: %s %.200s", d.Machine, d.Status, d.Reason)
		switch d.Machine {
		case "m01":
			if d.Status == "answered" || d.Reason == "" {
				t.Errorf("m01 was stopped, and is %s: %q", d.Status, d.Reason)
			}
		case "m02":
			if d.Status != "failed" || !strings.Contains(d.Reason, "no space left") {
				t.Errorf("m02 has a full disk, and is %s: %q", d.Status, d.Reason)
			}
		case "m03":
			if d.Status == "answered" || d.Reason == "" {
				t.Errorf("m03 was killed, and is %s: %q", d.Status, d.Reason)
			}
		default:
			if d.Status != "answered" {
				t.Errorf("%s is %s: %q", d.Machine, d.Status, d.Reason)
			}
		}
	}
	c.exits(3)
	if len(status) != machines {
		t.Errorf("%d machines are accounted for", len(status))
	}
	whole := func(name string) bool {
		got, ok := sumOf(t, filepath.Join(r.of(name), "big"))
		if ok && got != want {
			t.Errorf("%s has other bytes under the name", name)
		}
		return ok && got == want
	}
	n := 0
	for name := range agents {
		if name != "m02" && whole(name) {
			n++
		}
	}
	if n != machines-3 {
		t.Errorf("%d machines have it whole; want %d", n, machines-3)
	}
	t.Logf("figure: copy of %d MiB to %d machines, of which three do not take it: %d whole in %v", size>>20, machines, n, time.Since(began).Round(100*time.Millisecond))

	// The stopped one goes on, and the disk gets room.
	agents["m01"].signal(syscall.SIGCONT)
	agents["m02"].kill()
	agents["m02"] = r.minion("m02", "", s.address)
	s.await(machines)
	if got := part("m03"); got < had {
		t.Errorf("m03 had %d bytes, and has %d", had, got)
	}
	s.root.run("copy", src, "*:"+r.name+"/big").exits(0).prints("m[04-20] (17)", "changed: false", "changed: true")
	for name := range agents {
		if !whole(name) {
			t.Errorf("after the second run %s does not have it", name)
		}
		left, err := filepath.Glob(filepath.Join(r.of(name), ".dominion*"))
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
		if info, err := os.Stat(filepath.Join(r.of(name), "big")); err == nil && info.Mode() != fs.FileMode(0o644) {
			t.Errorf("%s: mode %v", name, info.Mode())
		}
	}
	most := int64(0)
	for _, d := range agents {
		most = max(most, peak(t, d.pid()))
	}
	own := peak(t, s.overlord.pid())
	t.Logf("figure: most memory (VmHWM) of the overlord %d MiB, of a machine %d MiB", own>>20, most>>20)
	if own > limit || most > limit {
		t.Errorf("overlord %d bytes, machine %d bytes; want at most %d", own, most, limit)
	}
}

// The overlord is killed while it takes a file, and while machines get it: the command
// and the machines go on, and nobody starts anew.
func testCopyOverlordKilled(t *testing.T, binary string) {
	const size = 200 << 20
	s := newSite(t, binary)
	r := newRooms(s)
	s.up("--autosign", "m*")
	for i := range 3 {
		r.minion(fmt.Sprintf("m%02d", i+1), "", s.address)
	}
	s.await(3)
	src := filepath.Join(s.dir, "big")
	want := image(t, src, size, false)
	has := func(pattern string) func() bool {
		return func() bool {
			list, err := filepath.Glob(pattern)
			if err != nil || len(list) == 0 {
				return false
			}
			st, err := os.Stat(list[0])
			return err == nil && st.Size() > size/20
		}
	}
	c := s.root.start("copy", src, "*:"+r.name+"/big", "--wait-for", "5m") // the order may come before a machine is back
	fleettest.Until(t, "the overlord has some of it", has(filepath.Join(s.state, "blobs", "*.up")))
	s.overlord.kill()
	s.up()
	fleettest.Until(t, "a machine has some of it", has(filepath.Join(r.of("m01"), ".dominion-copy-*.part")))
	s.overlord.kill()
	s.up()
	c.exits(0).prints("m[01-03] (3)", "changed: true")
	for i := range 3 {
		if got, ok := sumOf(t, filepath.Join(r.of(fmt.Sprintf("m%02d", i+1)), "big")); !ok || got != want {
			t.Errorf("m%02d does not have it", i+1)
		}
	}
}

// Behind two sub-overlords a file travels once to each of them.
func testCopyBelow(t *testing.T, binary string) {
	const size = 8 << 20
	tr := fleettest.NewTree(t, fleettest.TreeConfig{Binary: binary, Levels: []int{1, 1}})
	s := newSite(t, binary)
	s.state, s.address, s.pin, s.conn = tr.Top.State, tr.Top.Address, tr.Pin, tr.Top.Conn
	s.root = s.user("root", "DOMINION_STATE="+s.state)
	r := newRooms(s)
	low := tr.Node("rack1")
	for i := range 6 {
		r.minion(fmt.Sprintf("m%02d", i+1), "", low.Address)
	}
	fleettest.Until(t, "the machines are connected", func() bool { return len(low.Connected()) == 6 })
	s.root.run("map", "build").exits(0)
	src := filepath.Join(s.dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	image(t, filepath.Join(src, "big"), size, false)
	s.write("src/small", "small\n")
	s.root.run("copy", "--delegate", src, "m*:"+r.name+"/d").exits(0).prints("m[01-06] (6)", "changed: true")
	want := listing(t, src)
	for i := range 6 {
		if got := listing(t, filepath.Join(r.of(fmt.Sprintf("m%02d", i+1)), "d")); got != want {
			t.Errorf("m%02d has\n%swant\n%s", i+1, got, want)
		}
	}
	for _, n := range []*fleettest.TreeNode{tr.Top, tr.Node("dc1")} {
		if sent := blobsSent(t, n); sent < size || sent > size+size/20 {
			t.Errorf("%s sent %d bytes of a file of %d", n.Name, sent, size)
		}
	}
	got := filepath.Join(s.dir, "got")
	s.root.run("fetch", "--delegate", "m*:"+r.name+"/d", got).exits(0)
	for i := range 6 {
		a, _ := sumOf(t, filepath.Join(src, "big"))
		if b, ok := sumOf(t, filepath.Join(got, fmt.Sprintf("m%02d", i+1), r.name, "d", "big")); !ok || a != b {
			t.Errorf("what was fetched from m%02d is another file", i+1)
		}
	}
	// The sub-overlord itself is a machine, too.
	s.root.run("copy", filepath.Join(src, "small"), "dc1:"+filepath.Join(s.dir, "of-dc1")).exits(0)
	if b, err := os.ReadFile(filepath.Join(s.dir, "of-dc1")); err != nil || string(b) != "small\n" {
		t.Errorf("%q, %v", b, err)
	}
}

//go:build fleet

package fleettest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/client"
	"dominion/fleettest"
)

// A command on 1,000 machines, of which 990 print the same and 10 something else, is two
// groups on the screen. How long it takes is printed, and only bounded loosely: other
// tests run beside it.
func TestFleetFold(t *testing.T) {
	binary := os.Getenv("DOMINION_BINARY")
	if binary == "" {
		t.Skip("SKIPPED: it needs the released program in DOMINION_BINARY")
	}
	state := filepath.Join(t.TempDir(), "overlord")
	_, address := fleettest.StartOverlord(t, state, "127.0.0.1:0")
	conn, err := client.Dial(t.Context(), client.Endpoint{State: state})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	const n = 1000
	fleettest.StartCrowd(t, fleettest.Simulation{Overlord: address, State: state, Prefix: "s", Count: n, Outputs: true})
	fleettest.Until(t, "1,000 machines are connected", func() bool {
		st, err := conn.Fleet.Status(t.Context(), connect.NewRequest(&apipb.StatusRequest{}))
		return err == nil && st.Msg.Connected == n
	})
	const rest = `s[0001-0099,0101-0199,0201-0299,0301-0399,0401-0499,0501-0599,0601-0699,0701-0799,0801-0899,0901-0999] (990): Linux 6.12.48 x86_64
s[0100,0200,0300,0400,0500,0600,0700,0800,0900,1000] (10): Linux 6.1.0 x86_64
`
	best := time.Hour
	for range 3 {
		var out, errs strings.Builder
		cmd := exec.CommandContext(t.Context(), binary, "run", "*", "--state", state, "--yes-count", "1000", "--", "uname", "-srm")
		cmd.Stdout, cmd.Stderr = &out, &errs
		began := time.Now()
		err := cmd.Run()
		took := time.Since(began)
		if err != nil || out.String() != rest {
			t.Fatalf("dominion run: %v\nstdout: %sstderr: %s\nwant %s", err, out.String(), errs.String(), rest)
		}
		best = min(best, took)
		if took < time.Second {
			break
		}
	}
	t.Logf("figure: dominion run on 1,000 simulated machines with two outputs: %d ms from start to end", best.Milliseconds())
	if best > 10*time.Second {
		t.Errorf("it took %s", best)
	}
	began := time.Now()
	out, err := exec.CommandContext(t.Context(), binary, "__complete", "--state", state, "call", "s0001,s09").Output()
	took := time.Since(began)
	if err != nil || strings.Count(string(out), "s0001,s09") != 100 {
		t.Errorf("completing s09 gives %d names, %v; want 100", strings.Count(string(out), "s0001,s09"), err)
	}
	t.Logf("figure: completing a name among 1,000 machines: %d ms", took.Milliseconds())
	began = time.Now()
	out, err = exec.CommandContext(t.Context(), binary, "call", "*", "test.ping", "--dry-run", "-o", "json", "--where", `!has(facts.os) && name.endsWith("7")`, "--state", state).Output()
	took = time.Since(began)
	if err != nil || !strings.Contains(string(out), `"count": 100`) {
		t.Errorf("a condition: %v: %.300s", err, out)
	}
	t.Logf("figure: a condition over the facts of 1,000 machines: %d ms from start to end", took.Milliseconds())
	// With --diff only what differs is shown of the ten, and the job's results are the same later.
	show := func(words ...string) string {
		out, err := exec.CommandContext(t.Context(), binary, append(words, "--state", state)...).Output()
		if err != nil {
			t.Fatalf("dominion %s: %v", strings.Join(words, " "), err)
		}
		return string(out)
	}
	id := regexp.MustCompile(`"job":"([0-9a-f-]+)"`).FindStringSubmatch(show("job", "list", "--limit", "1", "-o", "jsonl"))[1]
	if got := show("job", "results", id); got != rest {
		t.Errorf("job results shows\n%s; want\n%s", got, rest)
	}
	if got := show("job", "results", id, "--diff"); !strings.Contains(got, "-Linux 6.12.48 x86_64\n    +Linux 6.1.0 x86_64\n") {
		t.Errorf("job results --diff shows\n%s", got)
	}
}

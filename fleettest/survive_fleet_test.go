//go:build fleet || soak

package fleettest_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"dominion/target"
)

// number gives that of an environment variable, or another.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// seed is that of DOMINION_SEED, or a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	return number(t, "DOMINION_SEED", rand.Uint64N(1e9))
}

func expandNames(folded string) ([]string, error) { return target.Expand(folded) }

// command runs the program to its end, as a user who has never seen an overlord: it
// remembers audit logs, and not without limit.
func command(t *testing.T, binary string, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home)
	return cmd.CombinedOutput()
}

// TestFleetSurvives: every machine runs an order at most once, and no result
// is lost, whatever is killed, stopped, cut, dropped or doubled meanwhile.
func TestFleetSurvives(t *testing.T) {
	storms{machines: 40, rounds: 5, seed: seed(t), lasts: 3 * time.Second, limit: 90 * time.Second, drop: 0.02}.run(t, faultyBinary(t))
}

// TestFleetSabotage: a machine that runs an order twice is found out.
func TestFleetSabotage(t *testing.T) {
	w := storms{machines: 3, rounds: 1, seed: 1, lasts: time.Millisecond, limit: time.Minute}
	s := newSite(t, faultyBinary(t), w.machines, w.seed)
	for i, test := range []struct{ name, script, want string }{
		{"once", "", ""},
		{"twice", `echo ran >>"DIR/$DOMINION_MACHINE"; [ $DOMINION_MACHINE != m002 ] || echo ran >>"DIR/$DOMINION_MACHINE"`, "m002: it ran 2 times"},
		{"never", `[ $DOMINION_MACHINE = m003 ] || echo ran >>"DIR/$DOMINION_MACHINE"`, "m003: it answered and never ran"},
		{"failed", `echo ran >>"DIR/$DOMINION_MACHINE"; [ $DOMINION_MACHINE != m001 ]`, "m001: failed"},
	} {
		r := &round{s: s, storms: w, n: i + 1, rand: rand.New(rand.NewPCG(99, 1))}
		r.calm = true
		bad := r.run(t.Context(), test.script)
		if test.want == "" && len(bad) > 0 || test.want != "" && (len(bad) != 1 || !strings.Contains(bad[0].Error(), test.want)) {
			t.Errorf("%s: found %v; want %q", test.name, bad, test.want)
		}
	}
}

// TestFleetNoFaults: the program that is released has nothing of the fault layer.
func TestFleetNoFaults(t *testing.T) {
	b := os.Getenv("DOMINION_BINARY")
	if b == "" {
		t.Skip("SKIPPED: it needs the released program in DOMINION_BINARY")
	}
	text, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "DOMINION_FAULTS") {
		t.Errorf("%s drops and doubles frames when it is told to", b)
	}
}

// TestFleetTreeSurvives: what TestFleetSurvives wants, of orders by the map.
func TestFleetTreeSurvives(t *testing.T) {
	groveStorms{
		machines: map[string]int{"top": 2, "dc1": 2, "dc2": 2, "dc3": 2, "rack1": 2, "dc1 dc2": 1, "rack1 dc2": 1, "top dc3": 1, "dc2 dc3": 1},
		rounds:   3, seed: seed(t), lasts: 2 * time.Second, limit: 75 * time.Second,
	}.run(t, faultyBinary(t))
}

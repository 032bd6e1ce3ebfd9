package overlord_test

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"dominion/overlord"
)

// Scheduling is a matter of the whole process, so a child of the test does it.
func TestBatch(t *testing.T) {
	if os.Getenv("DOMINION_TEST_BATCH") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestBatch$")
		cmd.Env = append(os.Environ(), "DOMINION_TEST_BATCH=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	if err := overlord.Batch(); err != nil {
		t.Fatal(err)
	}
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if attr.Policy != unix.SCHED_BATCH {
		t.Errorf("policy %d; want SCHED_BATCH", attr.Policy)
	}
}

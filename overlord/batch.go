package overlord

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Batch asks the kernel to schedule this process as one that works in batches
// (SCHED_BATCH, sched(7)): a thread that wakes does not push aside what runs on
// its processor. Answers then arrive many at a time instead of waking the daemon
// for each; where a processor is free nothing changes. It is for the whole
// process, so it is for the daemon's main to call, before it starts anything.
func Batch() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("schedule in batches: %w", err)
	}
	for _, t := range tasks { // threads to come inherit it
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		attr, err := unix.SchedGetAttr(tid, 0) // its niceness stays
		if err == nil {
			attr.Policy = unix.SCHED_BATCH
			err = unix.SchedSetAttr(tid, attr, 0)
		}
		if err != nil {
			return fmt.Errorf("schedule in batches: %w", err)
		}
	}
	return nil
}

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startTime is how long an agent may take to start: what it reads of its program and
// what it has in memory then it will mostly not need again.
const startTime = 3 * time.Second

// shrink gives back, once an agent has started, the memory that only its start needed: garbage, and
// the pages of the program's file. The program is the overlord's, too, and a start touches
// all of its parts; a page that is needed again is mapped again. It returns at once with ctx.
func shrink(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(startTime):
	}
	debug.FreeOSMemory()
	if !fixed() {
		return
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return // as it was, then
	}
	defer f.Close() // only read from
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if from, size, ok := ofProgram(lines.Text()); ok {
			// What is only read is dropped, and read again from the file. An error changes nothing.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, size, unix.MADV_DONTNEED)
		}
	}
}

// fixed says whether the program was linked to lie where it is loaded. One that can be
// loaded anywhere has its tables of addresses filled in when it starts, in pages that are read-only
// afterwards: these are not the file's any more.
func fixed() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-buildmode", Value: "exe"})
}

// ofProgram reads a line of /proc/self/maps: a part of a file that this process maps and
// cannot write.
func ofProgram(line string) (from, size uintptr, ok bool) {
	var to, offset uint64
	var start uint64
	var perms, device string
	var inode uint64
	if n, err := fmt.Sscanf(line, "%x-%x %s %x %s %d", &start, &to, &perms, &offset, &device, &inode); n != 6 || err != nil {
		return 0, 0, false
	}
	if !strings.HasPrefix(perms, "r-") || !strings.HasSuffix(perms, "p") || inode == 0 || to <= start {
		return 0, 0, false
	}
	return uintptr(start), uintptr(to - start), true
}

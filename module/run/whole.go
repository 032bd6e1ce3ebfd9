package run

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// newMark gives a variable for the environment of a program that nobody else has.
func newMark() string {
	id := make([]byte, 16)
	rand.Read(id) // never fails (crypto/rand since Go 1.24)
	return "DOMINION_RUN=" + hex.EncodeToString(id)
}

// bound limits the memory of a program that has just begun, and of what it
// starts from then on. It is a guard against faults: root can lift it.
func (p *process) bound() {
	if p.memory > 0 {
		_ = unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: p.memory, Max: p.memory}, nil) // it may have ended
	}
}

// clear ends what a program has left behind that must not go on. Its own
// process has ended and is not reaped, so its group is still its own.
func (p *process) clear() {
	if p.mark == "" {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	if p.group != nil {
		p.group.kill()
		return
	}
	for end := time.Now().Add(emptyTime); killMarked(p.mark) > 0 && time.Now().Before(end); {
		time.Sleep(emptyTick)
	}
}

// killMarked sends SIGKILL to every process in whose first environment mark is,
// and says how many there were.
func killMarked(mark string) (n int) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is right
	for _, file := range files {
		if !marked(file, mark) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		p, err := os.FindProcess(pid) // holds a pidfd, if it is there
		if err != nil {
			continue
		}
		if marked(file, mark) { // and not a stranger who got its id meanwhile
			_ = p.Signal(syscall.SIGKILL) // it may have ended
			n++
		}
		_ = p.Release()
	}
	return n
}

func marked(file, mark string) bool {
	b, err := os.ReadFile(file) // empty for one that has ended and is not reaped
	return err == nil && bytes.Contains(append([]byte{0}, b...), []byte("\x00"+mark+"\x00"))
}

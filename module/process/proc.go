package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dominion/module"
	"dominion/module/names"
)

// Bounds.
const (
	maxProcesses = 1 << 17   // read in one call
	maxFile      = 64 << 10  // bytes read of one file of a process
	maxCommand   = 1024      // bytes of arguments in an answer
	maxAnswer    = 700 << 10 // bytes of processes in an answer
	tick         = 10 * time.Millisecond
	kernelThread = 0x00200000 // PF_KTHREAD of <linux/sched.h>, in the flags of stat
)

// process is a Process, and what is not told of it.
type process struct {
	Process
	uid    uint32
	kernel bool
	args   string // its whole arguments, at most maxFile bytes
}

// table is /proc, read once.
type table struct {
	boot time.Time
	all  []process // by number
}

// read reads every process. One that ends meanwhile is left out.
func read(ctx context.Context, env *module.Env) (*table, error) {
	proc, err := os.OpenRoot("/proc")
	if err != nil {
		return nil, fmt.Errorf("read processes: %w", err)
	}
	defer proc.Close()
	t := &table{}
	if t.boot, err = bootTime(proc); err != nil {
		return nil, err
	}
	d, err := proc.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read processes: %w", err)
	}
	for _, name := range entries {
		pid, err := strconv.Atoi(name)
		if err != nil || pid < 1 || len(t.all) == maxProcesses {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		p, err := one(proc, pid, t.boot)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read process %d: %w", pid, err)
		}
		t.all = append(t.all, p)
	}
	t.name(ctx, env)
	return t, nil
}

// gone says that a process has ended, or may not be seen.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, fs.ErrPermission)
}

// name fills in who they run as.
func (t *table) name(ctx context.Context, env *module.Env) {
	uids := make([]uint32, len(t.all))
	for i, p := range t.all {
		uids[i] = p.uid
	}
	n := names.Learn(ctx, env, uids, nil)
	for i := range t.all {
		t.all[i].User = n.User(t.all[i].uid)
	}
}

// bootTime is when the kernel started (btime of proc_stat(5)).
func bootTime(proc *os.Root) (time.Time, error) {
	b, err := readFile(proc, "stat")
	if err != nil {
		return time.Time{}, fmt.Errorf("read the time of the kernel's start: %w", err)
	}
	for line := range bytes.Lines(b) {
		if text, ok := strings.CutPrefix(string(line), "btime "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil {
				return time.Unix(n, 0).UTC(), nil
			}
		}
	}
	return time.Time{}, errors.New("/proc/stat does not tell when the kernel started")
}

// one reads one process. Its directory is held open, so that all of it is
// about the same.
func one(proc *os.Root, pid int, boot time.Time) (process, error) {
	dir, err := proc.OpenRoot(strconv.Itoa(pid))
	if err != nil {
		return process{}, err
	}
	defer dir.Close()
	stat, err := readFile(dir, "stat")
	if err != nil {
		return process{}, err
	}
	p, err := parseStat(stat)
	if err != nil {
		return process{}, err
	}
	status, err := readFile(dir, "status")
	if err != nil {
		return process{}, err
	}
	if p.uid, err = parseUID(status); err != nil {
		return process{}, err
	}
	args, err := readFile(dir, "cmdline")
	if err != nil {
		return process{}, err
	}
	p.args = strings.ToValidUTF8(string(bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte{' '})), "\ufffd")
	p.Command = clip(p.args, maxCommand)
	p.Started = boot.Add(time.Duration(p.Start) * tick).Truncate(time.Second)
	return p, nil
}

func readFile(dir *os.Root, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

var errStat = errors.New("malformed /proc/PID/stat or status")

// parseStat reads proc_pid_stat(5). The name is in brackets and may have
// brackets, spaces and line feeds in it.
func parseStat(b []byte) (process, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return process{}, errStat
	}
	var p process
	f := strings.Fields(string(b[end+1:])) // the third field on
	if len(f) < 22 || len(f[0]) != 1 {
		return process{}, errStat
	}
	p.Name = strings.ToValidUTF8(string(b[open+1:end]), "\ufffd")
	p.State = f[0]
	var n [6]uint64
	for i, at := range [...]int{6, 11, 12, 17, 19, 21} { // flags, utime, stime, num_threads, starttime, rss
		v, err := strconv.ParseUint(f[at], 10, 64)
		if err != nil {
			return process{}, errStat
		}
		n[i] = v
	}
	var err error
	if p.PID, err = strconv.Atoi(strings.TrimSpace(string(b[:open]))); err != nil || p.PID < 1 {
		return process{}, errStat
	}
	if p.Parent, err = strconv.Atoi(f[1]); err != nil {
		return process{}, errStat
	}
	p.kernel = n[0]&kernelThread != 0
	p.CPUSeconds = float64(n[1]+n[2]) / 100 // ticks, of which user space always sees 100 in a second
	p.Threads = int(n[3])
	p.Start = n[4]
	p.MemoryBytes = n[5] * uint64(os.Getpagesize())
	return p, nil
}

// parseUID reads the effective user of proc_pid_status(5).
func parseUID(b []byte) (uint32, error) {
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) == 5 && f[0] == "Uid:" {
			n, err := strconv.ParseUint(f[2], 10, 32)
			if err != nil {
				return 0, errStat
			}
			return uint32(n), nil
		}
	}
	return 0, errStat
}

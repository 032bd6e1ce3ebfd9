// Package mountinfo reads the kernel's table of mounts.
//
// A line of /proc/PID/mountinfo (proc_pid_mountinfo(5)) has these fields, with
// a space between them:
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//
// the mount's id, that of the one that it is on, the device's numbers, the
// directory of the file system that is its root, the mount point, options of
// the mount, any number of tags, "-", the type, the source, and options of the
// file system. Space, tab, line feed and backslash are written as a backslash and
// three octal digits, as in fstab(5).
package mountinfo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Bounds of what is read.
const (
	maxTable  = 16 << 20
	maxMounts = 100_000 // the kernel's own default (fs.mount-max)
)

// ErrMalformed is what every error of Parse wraps.
var ErrMalformed = errors.New("malformed table of mounts")

// Mount is one mount.
type Mount struct {
	ID, Parent   int
	Device       string // "major:minor"
	Root         string // the directory of the file system that is mounted
	Point        string // where
	Options      string // of the mount
	Type, Source string
	Super        string // options of the file system
}

// Read gives the mounts that the caller's thread sees, in the order in which
// they were made. All threads see the same unless one was given a namespace of
// its own.
func Read() ([]Mount, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTable))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return Parse(b)
}

// Parse reads such a table.
func Parse(b []byte) ([]Mount, error) {
	var out []Mount
	for line := range bytes.Lines(b) {
		m, err := parse(strings.TrimSuffix(string(line), "\n"))
		if err != nil {
			return nil, err
		}
		if out = append(out, m); len(out) > maxMounts {
			return nil, fmt.Errorf("%w: more than %d mounts", ErrMalformed, maxMounts)
		}
	}
	return out, nil
}

func parse(line string) (Mount, error) {
	mount, super, found := strings.Cut(line, " - ")
	f, s := strings.Split(mount, " "), strings.Split(super, " ")
	if !found || len(f) < 6 || len(s) < 3 {
		return Mount{}, fmt.Errorf("%w: line %.100q", ErrMalformed, line)
	}
	id, err := strconv.Atoi(f[0])
	if err != nil {
		return Mount{}, fmt.Errorf("%w: id %.20q", ErrMalformed, f[0])
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return Mount{}, fmt.Errorf("%w: id %.20q", ErrMalformed, f[1])
	}
	return Mount{
		ID: id, Parent: parent, Device: f[2], Root: Unescape(f[3]), Point: Unescape(f[4]), Options: f[5],
		Type: Unescape(s[0]), Source: Unescape(s[1]), Super: s[2],
	}, nil
}

// Unescape gives the text behind a field. What is no escape stays as it is.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Escape writes a text as a field of fstab(5).
func Escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; c {
		case ' ', '\t', '\n', '\\', '#':
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

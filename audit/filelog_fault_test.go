package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dominion/call"
	"dominion/fleettest/smalldisk"
)

// TestFileLogTorn cuts the newest file at every byte of its last frame.
func TestFileLogTorn(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, FileLogOptions{})
	appendTo(t, l, 0, 4)
	before := l.offset
	appendTo(t, l, 4, 5)
	closeLog(t, l)
	name := filepath.Join(dir, fileName(0))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for cut := before + 1; cut < int64(len(whole)); cut++ {
		for _, tail := range [][]byte{nil, make([]byte, 100), bytes.Repeat([]byte{0xd0}, 30)} {
			if err := os.WriteFile(name, append(bytes.Clone(whole[:cut]), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			l := openLog(t, dir, FileLogOptions{})
			if l.Size() != 4 || len(l.Notes()) != 1 || !strings.Contains(l.Notes()[0], "torn") {
				t.Fatalf("cut at %d: %d records, notes %q; want 4 and a note", cut, l.Size(), l.Notes())
			}
			appendTo(t, l, 4, 6)
			readAll(t, l, 10)
			closeLog(t, l)
		}
	}
}

// TestFileLogUnfinishedFile cuts a new file while it is begun.
func TestFileLogUnfinishedFile(t *testing.T) {
	dir := t.TempDir()
	opt := FileLogOptions{Segment: 1}
	l := openLog(t, dir, opt)
	appendTo(t, l, 0, 3) // files 0, 1, 2
	closeLog(t, l)
	for _, content := range [][]byte{nil, []byte("DOM"), make([]byte, 100)} {
		if err := os.WriteFile(filepath.Join(dir, fileName(3)), content, 0o600); err != nil {
			t.Fatal(err)
		}
		l := openLog(t, dir, opt)
		if l.Size() != 3 || len(l.Notes()) != 1 || !strings.Contains(l.Notes()[0], "never finished") {
			t.Errorf("%d records, notes %q; want 3 and a note", l.Size(), l.Notes())
		}
		closeLog(t, l)
	}
}

func TestFileLogDamage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string, frames []int64)
		open   bool // found when it is opened; else by Verify and Read
		index  int64
		words  string
	}{
		{"a byte in the middle of the newest file", func(t *testing.T, dir string, frames []int64) { flip(t, dir, 4, frames[1]+25) }, true, 5, "a good frame follows"},
		{"a length in the middle of the newest file", func(t *testing.T, dir string, frames []int64) { flip(t, dir, 4, frames[1]+4) }, true, 5, "a good frame follows"},
		{"the header of the newest file", func(t *testing.T, dir string, _ []int64) { flip(t, dir, 4, 20) }, true, 4, "a good frame follows"},
		{"a byte of an older file", func(t *testing.T, dir string, _ []int64) { flip(t, dir, 2, 130) }, false, 2, "malformed"},
		{"the header of an older file", func(t *testing.T, dir string, _ []int64) { flip(t, dir, 2, 20) }, false, 2, "header"},
		{"an older file missing", func(t *testing.T, dir string, _ []int64) {
			if err := os.Remove(filepath.Join(dir, fileName(2))); err != nil {
				t.Fatal(err)
			}
		}, false, 3, "does not continue"},
		{"an older file cut", func(t *testing.T, dir string, _ []int64) {
			if err := os.Truncate(filepath.Join(dir, fileName(2)), 130); err != nil {
				t.Fatal(err)
			}
		}, false, 2, "malformed"},
		{"the name of the newest file", func(t *testing.T, dir string, _ []int64) {
			if err := os.Rename(filepath.Join(dir, fileName(4)), filepath.Join(dir, fileName(99))); err != nil {
				t.Fatal(err)
			}
		}, true, 99, "do not agree"},
		{"a name that is too large", func(t *testing.T, dir string, _ []int64) {
			if err := os.WriteFile(filepath.Join(dir, "99999999999999999999.log"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, true, 0, "no record number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			opt := FileLogOptions{Segment: 1}
			l := openLog(t, dir, opt)
			appendTo(t, l, 0, 5) // files 0 to 4
			l.opt.Segment = 1 << 20
			var frames []int64
			for i := 5; i < 8; i++ {
				frames = append(frames, l.offset)
				appendTo(t, l, i, i+1)
			}
			frames = append([]int64{0}, frames...)
			id := l.LogID()
			closeLog(t, l)
			tt.damage(t, dir, frames)
			l, err := OpenFileLog(dir, opt)
			if !tt.open && err == nil {
				err = l.Verify()
				closeLog(t, l)
			}
			damage, ok := errors.AsType[*DamageError](err)
			if !ok || damage.Index != tt.index || !strings.Contains(err.Error(), tt.words) {
				t.Fatalf("damage = %v; want record %d, %q", err, tt.index, tt.words)
			}
			if !tt.open {
				return
			}
			opt.SetAside = true
			l = openLog(t, dir, opt)
			defer l.Close()
			if l.LogID() == id || l.Size() != 0 || len(l.Notes()) != 1 {
				t.Errorf("set aside: log %s, %d records, notes %q", l.LogID(), l.Size(), l.Notes())
			}
			appendTo(t, l, 0, 2)
		})
	}
}

func flip(t *testing.T, dir string, file, offset int64) {
	t.Helper()
	name := filepath.Join(dir, fileName(file))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[offset] ^= 0x40
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFileLogTampered changes a leaf with its checksum, and leaves one that is
// no record.
func TestFileLogTampered(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, FileLogOptions{})
	defer l.Close()
	appendTo(t, l, 0, 3)
	leaf, err := EncodeMinion(minionRecord(9))
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range [][]byte{leaf, bytes.Repeat([]byte{0xff}, len(leaf))} {
		var b batch
		b.add(content)
		frame := frameOf(2, b.payload)
		if _, err := l.file.WriteAt(frame, l.offset-int64(len(frame))); err != nil {
			t.Fatal(err)
		}
		if _, ok := errors.AsType[*DamageError](l.Verify()); !ok {
			t.Error("Verify does not see it")
		}
	}
	if err := os.Truncate(filepath.Join(dir, fileName(0)), 100); err != nil {
		t.Fatal(err)
	}
	if err := l.Verify(); err == nil {
		t.Error("Verify does not see that the file is cut")
	}
	if err := os.Remove(filepath.Join(dir, fileName(0))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read(0, 1); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("Read of a file that is gone = %v", err)
	}
}

func TestFileLogDiskLosesData(t *testing.T) {
	for _, device := range []string{
		"/dev/null", // cannot be synced
		"/dev/full", // takes nothing, and cannot be cut
	} {
		l := openLog(t, t.TempDir(), FileLogOptions{})
		appendTo(t, l, 0, 1)
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		good := l.file
		l.file = f
		for range 2 {
			if _, err := l.Append(minionRecord(1)); call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "restart the agent") {
				t.Errorf("Append on %s = %v; want unavailable until restart", device, err)
			}
			l.file = good // does not help: what is durable is not known
		}
		if l.Size() != 1 {
			t.Errorf("%d records; want 1", l.Size())
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
	}
}

func TestFileLogFullDisk(t *testing.T) {
	dir := smalldisk.New(t, "256k")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, filepath.Join(dir, "log"), FileLogOptions{Segment: 50_000})
	defer l.Close()
	large := &MinionRecord{Detail: strings.Repeat("x", 10_000)}
	fill := func() error {
		for range 100 {
			if _, err := l.Append(large); err != nil {
				return err
			}
		}
		return nil
	}
	if err := fill(); call.CodeOf(err) != call.Unavailable {
		t.Fatalf("Append on a full disk = %v; want unavailable", err)
	}
	size := l.Size()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if i, err := l.Append(large); err != nil || i != size {
		t.Errorf("Append with room again = %d, %v; want %d", i, err, size)
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
}

func FuzzParseFrame(f *testing.F) {
	var b batch
	b.add([]byte("leaf"))
	b.add(nil)
	f.Add(frameOf(7, b.payload))
	f.Fuzz(func(t *testing.T, in []byte) {
		first, leaves, n, err := parseFrame(in)
		if err != nil {
			if !errors.Is(err, ErrFile) {
				t.Fatalf("error %v does not wrap ErrFile", err)
			}
			return
		}
		var b batch
		for _, leaf := range leaves {
			b.add(leaf)
		}
		if got := frameOf(first, b.payload); !bytes.Equal(got, in[:n]) {
			t.Fatalf("accepted %x but encodes back to %x", in[:n], got)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	var tree Tree
	for range 3 {
		b, err := appendHeader(nil, "log-1", &tree)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		tree.Append(nil, Hash{1})
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		id, tree, n, err := parseHeader(in)
		if err != nil {
			if !errors.Is(err, ErrFile) {
				t.Fatalf("error %v does not wrap ErrFile", err)
			}
			return
		}
		if got, err := appendHeader(nil, id, tree); err != nil || !bytes.Equal(got, in[:n]) {
			t.Fatalf("accepted %x but encodes back to %x, %v", in[:n], got, err)
		}
	})
}

// FuzzScan opens a file of any bytes as a log: no panic, and what is opened can
// be appended to and verified.
func FuzzScan(f *testing.F) {
	dir := f.TempDir()
	l := openLog(f, dir, FileLogOptions{})
	appendTo(f, l, 0, 3)
	closeLog(f, l)
	whole, err := os.ReadFile(filepath.Join(dir, fileName(0)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Fuzz(func(t *testing.T, in []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName(0)), in, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenFileLog(dir, FileLogOptions{})
		if err != nil {
			if _, ok := errors.AsType[*DamageError](err); !ok {
				t.Fatal(err)
			}
			return
		}
		defer l.Close()
		size := l.Size()
		if i, err := l.Append(minionRecord(1)); err != nil || i != size {
			t.Fatalf("Append = %d, %v; want %d", i, err, size)
		}
	})
}

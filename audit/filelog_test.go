package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"dominion/call"
)

func openLog(t testing.TB, path string, opt FileLogOptions) *FileLog {
	t.Helper()
	l, err := OpenFileLog(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *FileLog) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func appendTo(t testing.TB, l *FileLog, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if got, err := l.Append(minionRecord(i)); err != nil || got != int64(i) {
			t.Fatalf("Append = %d, %v; want %d", got, err, i)
		}
	}
}

func minionRecord(i int) *MinionRecord {
	return &MinionRecord{TimeMs: int64(i), Method: "test.ping", Operator: "alice", Detail: fmt.Sprintf("record %d", i)}
}

// readAll reads a log page by page, checks it against its head, and gives the
// indexes found.
func readAll(t testing.TB, l *FileLog, pageSize int) (first int64, n int) {
	t.Helper()
	var tree Tree
	first = l.First()
	for at := int64(0); ; {
		page, err := l.Read(at, pageSize)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Leaves) == 0 {
			break
		}
		if err := page.Check(&tree); err != nil {
			t.Fatal(err)
		}
		for i, leaf := range page.Leaves {
			r, err := DecodeMinion(leaf)
			if err != nil {
				t.Fatal(err)
			}
			if r.GetTimeMs() != page.From+int64(i) {
				t.Fatalf("leaf %d is record %d", page.From+int64(i), r.GetTimeMs())
			}
		}
		at, n = page.From+int64(len(page.Leaves)), n+len(page.Leaves)
	}
	if c := l.Checkpoint(); n > 0 && (tree.Size() != c.Size || tree.Root() != c.Root) {
		t.Errorf("the pages give %d records, root %v; the head says %v", tree.Size(), tree.Root(), c)
	}
	return first, n
}

func TestFileLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := openLog(t, dir, FileLogOptions{})
	id := l.LogID()
	if _, n := readAll(t, l, 10); n != 0 {
		t.Errorf("a new log has %d records", n)
	}
	appendTo(t, l, 0, 25)
	head := l.Checkpoint()
	closeLog(t, l)
	if _, err := l.Append(minionRecord(0)); call.CodeOf(err) != call.Unavailable {
		t.Errorf("Append to a closed log = %v; want unavailable", err)
	}
	l = openLog(t, dir, FileLogOptions{})
	defer l.Close()
	if l.Checkpoint() != head || l.LogID() != id || len(l.Notes()) != 0 || l.Size() != 25 {
		t.Errorf("opened again: %v, %v; want %v", l.Checkpoint(), l.Notes(), head)
	}
	appendTo(t, l, 25, 40)
	for _, size := range []int{0, 1, 7, 40, 1 << 20} {
		if first, n := readAll(t, l, size); first != 0 || n != 40 {
			t.Errorf("read from %d on, %d records by %d; want 40", first, n, size)
		}
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
	if _, err := l.Append(&MinionRecord{Detail: strings.Repeat("x", MaxMinionRecord)}); !errors.Is(err, ErrRecord) {
		t.Errorf("Append of too much = %v; want ErrRecord", err)
	}
}

// TestFileLogAgain opens an empty log many times: it stays one log.
func TestFileLogAgain(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, FileLogOptions{})
	id := l.LogID()
	for range 3 {
		closeLog(t, l)
		l = openLog(t, dir, FileLogOptions{})
	}
	defer l.Close()
	if l.LogID() != id {
		t.Errorf("the log became %s; it was %s", l.LogID(), id)
	}
}

func TestFileLogRotates(t *testing.T) {
	dir := t.TempDir()
	opt := FileLogOptions{Segment: 1000, Keep: 5000}
	l := openLog(t, dir, opt)
	appendTo(t, l, 0, 300)
	first, n := readAll(t, l, 17)
	if first == 0 || first+int64(n) != 300 {
		t.Errorf("kept are %d records from %d on; want the newest of 300", n, first)
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, e := range names {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 5000+1000 {
		t.Errorf("%d bytes are kept in %d files; want about 5000", total, len(names))
	}
	head := l.Checkpoint()
	closeLog(t, l)
	l = openLog(t, dir, opt)
	defer l.Close()
	if l.Checkpoint() != head {
		t.Errorf("opened again: %v; want %v", l.Checkpoint(), head)
	}
	appendTo(t, l, 300, 350)
	readAll(t, l, 17)
	if page, err := l.Read(0, 1); err != nil || page.From != l.First() {
		t.Errorf("Read(0) = from %d, %v; want the oldest kept, %d", page.From, err, l.First())
	}
}

func TestFileLogConcurrent(t *testing.T) {
	l := openLog(t, t.TempDir(), FileLogOptions{Segment: 20_000})
	defer l.Close()
	const n = 400
	seen := make([]bool, n)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range n / 8 {
				i, err := l.Append(&MinionRecord{Detail: strings.Repeat("x", 1000)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[i] {
					t.Errorf("index %d was given twice", i)
				}
				seen[i] = true
				mu.Unlock()
				if _, err := l.Read(i, 3); err != nil && call.CodeOf(err) != call.Busy {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if slices.Contains(seen, false) || l.Size() != n {
		t.Errorf("%d records; want %d, each index once", l.Size(), n)
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
}

// TestFileLogLargeBatch appends more at once than one frame takes.
func TestFileLogLargeBatch(t *testing.T) {
	l := openLog(t, t.TempDir(), FileLogOptions{})
	defer l.Close()
	l.turn <- struct{}{} // nobody writes
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if _, err := l.Append(&MinionRecord{Detail: strings.Repeat("x", 60_000)}); err != nil {
				t.Error(err)
			}
		})
	}
	<-l.turn
	wg.Wait()
	if l.Size() != 40 {
		t.Errorf("%d records; want 40", l.Size())
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
}

func TestPageCheck(t *testing.T) {
	l := openLog(t, t.TempDir(), FileLogOptions{})
	defer l.Close()
	appendTo(t, l, 0, 10)
	var tree Tree
	for _, from := range []int64{0, 4} { // the second does not follow the first
		page, err := l.Read(from, 3)
		if err != nil {
			t.Fatal(err)
		}
		if err := page.Check(&tree); (from == 0) != (err == nil) {
			t.Errorf("page from %d: %v", from, err)
		}
	}
	if err := (Page{From: 1, Before: []byte("x")}).Check(&tree); !errors.Is(err, ErrTree) {
		t.Errorf("malformed page: %v; want ErrTree", err)
	}
}

func BenchmarkFileLogAppend(b *testing.B) {
	for _, width := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers/%d", width), func(b *testing.B) {
			l := openLog(b, b.TempDir(), FileLogOptions{})
			defer l.Close()
			b.SetParallelism(width)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := l.Append(minionRecord(1)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

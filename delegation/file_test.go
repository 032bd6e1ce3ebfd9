package delegation_test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/delegation"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("DELEGATION_TEST_SAVES"); dir != "" {
		saveForEver(dir)
	}
	os.Exit(m.Run())
}

// saveForEver saves two maps in turn, and says so after each, until it is killed.
func saveForEver(path string) {
	maps := [2]delegation.Map{bigMap(20, 50), bigMap(30, 50)}
	for i := 0; ; i++ {
		if err := delegation.Save(path, maps[i%2]); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("saved\n")
	}
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "map")
	if _, err := delegation.Load(path); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, delegation.ErrMap) {
		t.Fatalf("Load of nothing: %v", err)
	}
	for _, tree := range []string{treeD, "--- {}", treeA} {
		m := parse(t, tree)
		if err := delegation.Save(path, m); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || string(text) != m.String() {
			t.Fatalf("the file holds %q, %v; want %q", text, err, m)
		}
		got, err := delegation.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Error(diff)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	alone(t, path)
}

// alone checks that nothing but the file is in its directory.
func alone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("a: {}\nb: *a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 1<<40); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path  string
		isMap bool
		want  []string
	}{
		{broken, true, []string{broken, "line 2", "dominion map build"}},
		{large, true, []string{large, "more than 64 MiB"}},
		{pipe, false, []string{pipe, "not a regular file"}},
		{dir, false, []string{dir, "not a regular file"}},
		{filepath.Join(dir, "none"), false, []string{"none", "no such file"}},
	} {
		_, err := delegation.Load(tt.path)
		if err == nil || errors.Is(err, delegation.ErrMap) != tt.isMap {
			t.Errorf("Load(%s) = %v; want ErrMap %v", tt.path, err, tt.isMap)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("Load(%s) = %v; want %q in it", tt.path, err, w)
			}
		}
	}
}

// A Save that cannot end leaves the old file and nothing else.
func TestSaveErrors(t *testing.T) {
	dir := t.TempDir()
	t.Run("no directory", func(t *testing.T) {
		err := delegation.Save(filepath.Join(dir, "none", "map"), parse(t, treeA))
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make the directory first") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a directory is in its place", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "map")
		if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := delegation.Save(path, parse(t, treeA)); err == nil {
			t.Error("it was saved")
		}
		alone(t, path)
	})
	t.Run("too many", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "map")
		if err := delegation.Save(path, parse(t, treeD)); err != nil {
			t.Fatal(err)
		}
		m := delegation.Merge(bigMap(11, 50_000), renamed(bigMap(11, 50_000)))
		if err := delegation.Save(path, m); !errors.Is(err, delegation.ErrMap) || !strings.Contains(err.Error(), "dominion map build") {
			t.Errorf("%v", err)
		}
		if m, err := delegation.Load(path); err != nil || m.String() != parse(t, treeD).String() {
			t.Errorf("the old file: %v, %v", m, err)
		}
		alone(t, path)
	})
	t.Run("too long", func(t *testing.T) {
		long := strings.Repeat(strings.Repeat("a", 60)+".", 4)
		self := delegation.Node{}
		for i := range 270_000 {
			self.Below = append(self.Below, delegation.Node{Name: long + strconv.Itoa(i)})
		}
		m, err := delegation.New(self)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "map")
		if err := delegation.Save(path, m); !errors.Is(err, delegation.ErrMap) || !strings.Contains(err.Error(), "bytes are more than 67108864") {
			t.Errorf("%v", err)
		}
		alone(t, path)
	})
	t.Run("a full disk", func(t *testing.T) {
		// The rest of a write that fails: the limit on a file's size stands in for
		// a full disk. It counts for the process, so another one has it.
		path := filepath.Join(t.TempDir(), "map")
		if err := delegation.Save(path, parse(t, treeD)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `trap "" XFSZ; ulimit -f 8; exec "$0"`, os.Args[0])
		cmd.Env = append(os.Environ(), "DELEGATION_TEST_SAVES="+path)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "file too large") {
			t.Fatalf("it should have failed: %v, %s", err, out)
		}
		if m, err := delegation.Load(path); err != nil || m.String() != parse(t, treeD).String() {
			t.Errorf("the old file: %v, %v", m, err)
		}
		alone(t, path)
	})
}

// renamed gives the map with other top names.
func renamed(m delegation.Map) delegation.Map {
	self := delegation.Node{}
	for _, n := range m.Self.Below {
		n.Name = "other-" + n.Name
		self.Below = append(self.Below, n)
	}
	m, err := delegation.New(self)
	if err != nil {
		panic(err)
	}
	return m
}

// Killed at any moment, a Save leaves a whole file, old or new.
func TestSaveKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "map")
	for round := range 20 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "DELEGATION_TEST_SAVES="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + round%7 {
			if !lines.Scan() {
				t.Fatal("it ended")
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		m, err := delegation.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := m.Count().Places; n != 20*51 && n != 30*51 {
			t.Fatalf("%d places", n)
		}
	}
	// What the killed ones left goes when it is old.
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * time.Hour)
	if err := os.WriteFile(filepath.Join(dir, ".map.new-1"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".map.new-2"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range append(names(entries), ".map.new-1") {
		if err := os.Chtimes(filepath.Join(dir, e), long, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := delegation.Save(path, parse(t, treeA)); err != nil {
		t.Fatal(err)
	}
	// One that may still be written stays.
	if _, err := os.Stat(filepath.Join(dir, ".map.new-2")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, ".map.new-2")); err != nil {
		t.Fatal(err)
	}
	alone(t, path)
}

func names(entries []os.DirEntry) (out []string) {
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

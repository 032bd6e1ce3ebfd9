package confd

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// followed is a server that follows a file.
type followed struct {
	t    *testing.T
	path string
	s    *Server
	log  *syncBuffer
}

func follow(t *testing.T, content []byte) *followed {
	t.Helper()
	f := &followed{t: t, path: filepath.Join(t.TempDir(), "config.data"), log: &syncBuffer{}}
	if content != nil {
		f.rewrite(content)
	}
	f.s = NewServer(ServerConfig{Key: []byte(testKey), Log: slog.New(slog.NewTextHandler(f.log, nil))})
	file := f.s.Load(f.path)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); file.Follow(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func (f *followed) rewrite(b []byte) {
	f.t.Helper()
	if err := os.WriteFile(f.path, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *followed) replace(b []byte) {
	f.t.Helper()
	if err := os.WriteFile(f.path+".new", b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		f.t.Fatal(err)
	}
}

// serial gives that of the data; -1: there are none.
func (f *followed) serial() int64 {
	if c := f.s.Data(); c != nil {
		return c.Serial()
	}
	return -1
}

func (f *followed) await(what string, ok func() bool) {
	f.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			f.t.Fatalf("%s: not within 10 s; serial %d; log:\n%s", what, f.serial(), f.log)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (f *followed) awaitSerial(what string, n int64) {
	f.t.Helper()
	f.await(what, func() bool { return f.serial() == n })
}

// atSerial is the lab's configuration with that serial.
func atSerial(t testing.TB, n int) []byte {
	t.Helper()
	b := bytes.Replace(labConfig(t), []byte(`"serial_no": 42`), append([]byte(`"serial_no": `), []byte{byte('0' + n/10), byte('0' + n%10)}...), 1)
	if n != 42 && bytes.Equal(b, labConfig(t)) {
		t.Fatal("the serial was not found")
	}
	return b
}

func TestFollow(t *testing.T) {
	f := follow(t, atSerial(t, 42))
	if f.serial() != 42 {
		t.Fatalf("serial %d at once; want 42; %s", f.serial(), f.log)
	}
	f.replace(atSerial(t, 43))
	f.awaitSerial("replaced", 43)
	f.rewrite(atSerial(t, 44)) // the same size and inode
	f.awaitSerial("rewritten", 44)
	for n := 45; n < 60; n++ { // faster than anybody looks
		f.replace(atSerial(t, n))
	}
	f.awaitSerial("replaced often", 59)

	f.replace([]byte(`{"version":1}`))
	f.await("the log tells of the broken file", func() bool { return strings.Contains(f.log.String(), "serving the last good ones") })
	if f.serial() != 59 {
		t.Errorf("a broken file replaced good data: serial %d", f.serial())
	}
	f.rewrite(atSerial(t, 60)[:5000])
	f.replace(atSerial(t, 60))
	f.awaitSerial("repaired", 60)

	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	f.awaitSerial("removed", -1)
	w := f.s.newWorker()
	w.s.cfg.Now = func() time.Time { return workedTime }
	want := `"Failure during configuration update: ` + f.path + `: getFileStatus: does not exist (No such file or directory)"`
	if r := w.inner(t, `{"protocol":1,"type":0,"rsalt":"x"}`); r == nil || string(r.Answer) != want {
		t.Errorf("without a file: %s; want %s", r.Answer, want)
	}
	f.replace(atSerial(t, 61))
	f.awaitSerial("there again", 61)
}

// Without a good file at the start, everything is answered, with the reason;
// the first good one is taken up.
func TestFollowFromNothing(t *testing.T) {
	f := follow(t, nil)
	ping := func() string {
		w := f.s.newWorker()
		w.s.cfg.Now = func() time.Time { return workedTime }
		r := w.inner(t, `{"protocol":1,"type":0,"rsalt":"x"}`)
		if r == nil {
			return "silence"
		}
		return string(r.Answer)
	}
	if got := ping(); !strings.Contains(got, "does not exist (No such file or directory)") {
		t.Errorf("no file: %s", got)
	}
	f.rewrite([]byte("{"))
	f.await("the broken file is told of", func() bool {
		return strings.Contains(ping(), `Cannot load configuration from `+f.path+`: parsing configuration: malformed JSON`)
	})
	f.replace(atSerial(t, 42))
	f.awaitSerial("good", 42)
	if got := ping(); got != "3000000" {
		t.Errorf("good: %s", got)
	}
}

// A file that comes and goes between two looks does not take the data with it,
// and a directory is no file.
func TestFollowShortAbsence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.data")
	s := NewServer(ServerConfig{})
	if err := os.WriteFile(path, labConfig(t), 0o600); err != nil {
		t.Fatal(err)
	}
	f := s.Load(path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range goneAfter - 1 {
		f.look()
	}
	if s.Data() == nil {
		t.Fatalf("data are gone after %d looks", goneAfter-1)
	}
	if f.look(); s.Data() != nil {
		t.Errorf("data are there after %d looks", goneAfter)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f.look()
	if s.Data() != nil {
		t.Error("a directory gives data")
	}
}

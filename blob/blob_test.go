package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dominion/blob"
	"dominion/call"
)

// random gives bytes that look alike in every run, and their digest.
func random(seed byte, n int) ([]byte, blob.Digest) {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b, sha256.Sum256(b)
}

func open(t *testing.T, dir string, opt blob.Options) *blob.Store {
	t.Helper()
	s, err := blob.Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// source is a From that counts what it gives, and ends after cut bytes of each answer.
type source struct {
	data  []byte
	cut   int // 0: never
	asked atomic.Int64
	gave  atomic.Int64
	gate  chan struct{} // nil: open; what is beyond half waits for it
}

func (s *source) from(_ context.Context, offset int64) (io.ReadCloser, error) {
	s.asked.Add(1)
	part := s.data[offset:]
	if s.cut > 0 && len(part) > s.cut {
		part = part[:s.cut]
	}
	return &stream{s: s, rest: part, at: int(offset), closed: make(chan struct{})}, nil
}

type stream struct {
	s      *source
	rest   []byte
	at     int
	once   sync.Once
	closed chan struct{}
}

func (r *stream) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	if r.s.gate != nil && r.at >= len(r.s.data)/2 {
		select {
		case <-r.s.gate:
		case <-r.closed:
			return 0, errors.New("closed")
		}
	}
	n := copy(p, r.rest[:min(len(r.rest), 10_000)])
	r.rest, r.at = r.rest[n:], r.at+n
	r.s.gave.Add(int64(n))
	return n, nil
}

func (r *stream) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

func fetch(t *testing.T, s *blob.Store, d blob.Digest, size int, from blob.From) *blob.Reader {
	t.Helper()
	r, err := s.Fetch(t.Context(), d, int64(size), from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func read(t *testing.T, r io.Reader, want []byte) {
	t.Helper()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want the %d", len(got), err, len(want))
	}
}

// until polls for what other goroutines do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func sum(b []byte) blob.Digest { return sha256.Sum256(b) }

func hexName(d blob.Digest) string { return strings.TrimPrefix(d.String(), "sha256:") }

// Twenty readers, one fetching, in pieces that break off; later it is here.
func TestFetchOnceForAll(t *testing.T) {
	dir := t.TempDir()
	data, d := random(1, 1_234_567)
	s := open(t, dir, blob.Options{})
	src := &source{data: data, cut: 200_000}
	var wg sync.WaitGroup
	for range 20 {
		r := fetch(t, s, d, len(data), src.from)
		wg.Go(func() {
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if n := src.gave.Load(); n != int64(len(data)) {
		t.Errorf("the source gave %d bytes; want %d", n, len(data))
	}
	until(t, "the file has its name", func() bool { return exists(filepath.Join(dir, hexName(d))) })
	s.Close()
	s = open(t, dir, blob.Options{})
	r, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	read(t, r, data)
	if at, err := r.Seek(-10, io.SeekEnd); err != nil || at != int64(len(data)-10) {
		t.Errorf("Seek = %d, %v", at, err)
	}
	read(t, r, data[len(data)-10:])
	if st, err := os.Stat(filepath.Join(dir, hexName(d))); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// What has come can be read before the rest has; an empty file is a file, too.
func TestReadWhileItGrows(t *testing.T) {
	data, d := random(2, 400_000)
	s := open(t, t.TempDir(), blob.Options{})
	src := &source{data: data, gate: make(chan struct{})}
	r := fetch(t, s, d, len(data), src.from)
	half := make([]byte, len(data)/2)
	if _, err := io.ReadFull(r, half); err != nil || !bytes.Equal(half, data[:len(half)]) {
		t.Fatal(err)
	}
	second, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, second)
		done <- err
	}()
	second.Close()
	if err := <-done; !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a Read that waits gives %v after Close", err)
	}
	close(src.gate)
	read(t, r, data[len(half):])
	_, none := random(3, 0)
	read(t, fetch(t, s, none, 0, src.from), nil)
}

// Other bytes than those of the digest: the last one is given to nobody, and
// nothing stays.
func TestLyingSource(t *testing.T) {
	dir := t.TempDir()
	data, d := random(4, 300_000)
	for name, lie := range map[string]func([]byte) []byte{
		"the last byte":  func(b []byte) []byte { b[len(b)-1]++; return b },
		"the first byte": func(b []byte) []byte { b[0]++; return b },
		"too few":        func(b []byte) []byte { return b[:1000] },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, dir, blob.Options{Patience: 200 * time.Millisecond})
			src := &source{data: lie(bytes.Clone(data))}
			r := fetch(t, s, d, len(data), src.from)
			got, err := io.ReadAll(r)
			if err == nil || len(got) >= len(data) || r.Err() == nil {
				t.Fatalf("%d of %d bytes were given, %v", len(got), len(data), err)
			}
			if err := r.Whole(t.Context()); err == nil {
				t.Error("it is whole")
			}
			if name != "too few" {
				if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) || exists(filepath.Join(dir, hexName(d)+".part")) {
					t.Errorf("it is still here: %v", err)
				}
				if used, n := s.Used(); used != 0 || n != 0 {
					t.Errorf("%d bytes of %d files are counted", used, n)
				}
			}
			// The next one that has the right bytes is believed.
			read(t, fetch(t, s, d, len(data), (&source{data: data}).from), data)
			s.Close()
			if err := os.Remove(filepath.Join(dir, hexName(d))); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A process that goes away in the middle leaves what the next one need not fetch.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	data, d := random(5, 900_000)
	s := open(t, dir, blob.Options{})
	src := &source{data: data, gate: make(chan struct{})}
	r := fetch(t, s, d, len(data), src.from)
	if _, err := io.CopyN(io.Discard, r, int64(len(data)/2)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("a byte that never came was read")
	}
	s = open(t, dir, blob.Options{})
	if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a beginning is opened: %v", err)
	}
	rest := &source{data: data}
	read(t, fetch(t, s, d, len(data), rest.from), data)
	if all := src.gave.Load() + rest.gave.Load(); all != int64(len(data)) {
		t.Errorf("the sources gave %d bytes; want %d", all, len(data))
	}
	// A beginning that is another file's.
	s.Close()
	if err := os.Rename(filepath.Join(dir, hexName(d)), filepath.Join(dir, hexName(d)+".part")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, hexName(d)+".part"), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, blob.Options{})
	if _, err := io.ReadAll(fetch(t, s, d, len(data), rest.from)); call.CodeOf(err) != call.Failed {
		t.Errorf("with a foreign beginning: %v", err)
	}
	read(t, fetch(t, s, d, len(data), rest.from), data)
}

// What a source says that will not change is told at once, what may, after a time.
func TestSourceRefuses(t *testing.T) {
	_, d := random(6, 10)
	s := open(t, t.TempDir(), blob.Options{Patience: 100 * time.Millisecond})
	for _, code := range []call.Code{call.NotFound, call.Denied, call.NoSession, call.Busy} {
		r := fetch(t, s, d, 10, func(context.Context, int64) (io.ReadCloser, error) { return nil, call.Errorf(code, "no") })
		if _, err := io.ReadAll(r); call.CodeOf(err) != code {
			t.Errorf("%v: read gives %v", code, err)
		}
		r.Close()
	}
	if _, err := s.Fetch(t.Context(), d, -1, nil); call.CodeOf(err) != call.Invalid {
		t.Errorf("negative size: %v", err)
	}
}

// The oldest goes first; what is read stays; what is too large is refused.
// Who reads does not wait for a source that stays open and gives nothing.
func TestSilentSource(t *testing.T) {
	data, d := random(8, 200_000)
	s := open(t, t.TempDir(), blob.Options{Patience: 100 * time.Millisecond})
	silent := &source{data: data, gate: make(chan struct{})}
	r := fetch(t, s, d, len(data), silent.from)
	got := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, r)
		got <- err
	}()
	select {
	case err := <-got:
		if err == nil {
			t.Error("half of a file was read as the whole")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("who reads waits for a source that gives nothing")
	}
	// One that fell silent after it gave something is asked again.
	s = open(t, t.TempDir(), blob.Options{Patience: 100 * time.Millisecond})
	again := &source{data: data}
	asked := 0
	read(t, fetch(t, s, d, len(data), func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		if asked++; asked == 1 {
			return silent.from(ctx, offset)
		}
		return again.from(ctx, offset)
	}), data)
	if n := again.gave.Load(); n != int64(len(data)/2) {
		t.Errorf("%d bytes came the second time; want the other half", n)
	}
}

func TestRoom(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, blob.Options{Max: 1000})
	var ds []blob.Digest
	add := func(seed byte, n int) error {
		data, d := random(seed, n)
		ds = append(ds, d)
		r, err := s.Fetch(t.Context(), d, int64(n), (&source{data: data}).from)
		if err != nil {
			return err
		}
		defer r.Close()
		read(t, r, data)
		until(t, "kept", func() bool { return exists(filepath.Join(dir, hexName(d))) })
		return nil
	}
	for i := range 3 {
		if err := add(byte(10+i), 300); err != nil {
			t.Fatal(err)
		}
	}
	first, err := s.Open(ds[0]) // in use, and so the newest
	if err != nil {
		t.Fatal(err)
	}
	if err := add(20, 400); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, true, true} {
		if got := exists(filepath.Join(dir, hexName(ds[i]))); got != want {
			t.Errorf("file %d is there: %v", i, got)
		}
	}
	if err := add(21, 701); call.CodeOf(err) != call.Busy {
		t.Errorf("no room: %v", err)
	}
	if err := add(22, 1001); call.CodeOf(err) != call.Busy {
		t.Errorf("too large: %v", err)
	}
	first.Close()
	if err := add(21, 701); err != nil {
		t.Fatal(err)
	}
	if used, _ := s.Used(); used > 1000 {
		t.Errorf("%d bytes are used", used)
	}
	if _, err := s.Fetch(t.Context(), ds[len(ds)-1], 700, nil); call.CodeOf(err) != call.Conflict {
		t.Errorf("another size: %v", err)
	}
	s.Close()
	small := open(t, dir, blob.Options{Max: 10})
	if used, n := small.Used(); used != 0 || n != 0 {
		t.Errorf("a smaller limit leaves %d bytes of %d files", used, n)
	}
}

// Nobody reads: it is not fetched on.
func TestAbandoned(t *testing.T) {
	data, d := random(7, 100_000)
	s := open(t, t.TempDir(), blob.Options{})
	src := &source{data: data, gate: make(chan struct{})}
	r := fetch(t, s, d, len(data), src.from)
	r.Close()
	until(t, "it is given up", func() bool {
		r, err := s.Open(d)
		if err == nil {
			r.Close()
		}
		return errors.Is(err, fs.ErrNotExist)
	})
}

func TestOpenMistakes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, blob.Options{})
	_, d := random(8, 1)
	if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
	s.Close()
	if _, err := s.Open(d); call.CodeOf(err) != call.Unavailable {
		t.Errorf("Open after Close: %v", err)
	}
	if _, err := s.Fetch(t.Context(), d, 1, nil); call.CodeOf(err) != call.Unavailable {
		t.Errorf("Fetch after Close: %v", err)
	}
	if !exists(filepath.Join(dir, "README")) {
		t.Error("what is not ours was removed")
	}
	if _, err := blob.Open(filepath.Join(dir, "README"), blob.Options{}); err == nil {
		t.Error("a file was opened as a directory")
	}
}

func FuzzParseDigest(f *testing.F) {
	_, d := random(9, 3)
	f.Add(d.String())
	f.Add("sha256:" + strings.Repeat("A", 64))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := blob.ParseDigest(text)
		if err != nil {
			if !errors.Is(err, blob.ErrDigest) {
				t.Fatalf("error %v does not wrap ErrDigest", err)
			}
			return
		}
		if got := fmt.Sprint(d); got != text {
			t.Fatalf("accepted %q but writes %q", text, got)
		}
	})
}

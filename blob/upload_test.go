package blob_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"dominion/blob"
	"dominion/call"
)

// breaking is a reader that ends with an error.
type breaking struct{ io.Reader }

func (b breaking) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New("the connection broke")
	}
	return n, err
}

// What is sent in parts, over a break and a new process, is a file in the end.
func TestUpload(t *testing.T) {
	dir := t.TempDir()
	data, d := random(1, 700_001)
	id := blob.UploadID{1}
	s := open(t, dir, blob.Options{})
	if n := s.Received(id); n != 0 {
		t.Errorf("%d bytes of nothing", n)
	}
	if n, err := s.Receive(t.Context(), id, 0, breaking{bytes.NewReader(data[:300_000])}); err == nil || n != 300_000 {
		t.Errorf("Receive = %d, %v", n, err)
	}
	if _, err := s.Receive(t.Context(), id, 200_000, bytes.NewReader(data)); call.CodeOf(err) != call.Conflict {
		t.Errorf("another offset: %v", err)
	}
	s.Close()
	s = open(t, dir, blob.Options{})
	if n := s.Received(id); n != 300_000 {
		t.Fatalf("after a restart %d bytes are here", n)
	}
	if n, err := s.Receive(t.Context(), id, 300_000, bytes.NewReader(data[300_000:])); err != nil || n != int64(len(data)) {
		t.Fatalf("Receive = %d, %v", n, err)
	}
	if s.HasSize(int64(len(data))) {
		t.Error("it counts before its digest is known")
	}
	if err := s.Commit(id, d, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if n, ok := s.Has(d); !ok || n != int64(len(data)) || !s.HasSize(n) {
		t.Errorf("Has = %d, %v", n, ok)
	}
	r, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	read(t, r, data)
	// The same once more, and others than were said.
	for _, x := range []struct {
		d    blob.Digest
		size int
		want call.Code
	}{{d, len(data), call.OK}, {blob.Digest{}, len(data), call.Failed}, {d, 3, call.Failed}} {
		other := blob.UploadID{2}
		if _, err := s.Receive(t.Context(), other, 0, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(other, x.d, int64(x.size)); call.CodeOf(err) != x.want {
			t.Errorf("Commit = %v; want %v", err, x.want)
		}
		if n := s.Received(other); n != 0 {
			t.Errorf("%d bytes are left", n)
		}
	}
	if used, n := s.Used(); used != int64(len(data)) || n != 1 {
		t.Errorf("%d bytes of %d files", used, n)
	}
	if err := s.Commit(blob.UploadID{3}, d, 1); call.CodeOf(err) != call.NotFound {
		t.Errorf("Commit of nothing: %v", err)
	}
	_, none := random(9, 0)
	if err := s.Commit(blob.UploadID{4}, none, 0); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestUploadWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	data, d := random(1, 300_000)
	s := open(t, dir, blob.Options{Max: 400_000})
	read(t, fetch(t, s, d, len(data), (&source{data: data}).from), data)
	release := s.Pin([]blob.Digest{d})
	until(t, "kept", func() bool { return exists(filepath.Join(dir, hexName(d))) })
	s.Close()
	s = open(t, dir, blob.Options{Max: 400_000})
	release()
	release = s.Pin([]blob.Digest{d})
	if _, err := s.Receive(t.Context(), blob.UploadID{1}, 0, bytes.NewReader(data)); call.CodeOf(err) != call.Busy {
		t.Errorf("no room beside what is pinned: %v", err)
	}
	release()
	if n, err := s.Receive(t.Context(), blob.UploadID{2}, 0, bytes.NewReader(data)); err == nil && n == int64(len(data)) {
		if _, ok := s.Has(d); ok {
			t.Error("more is kept than there is room for")
		}
	} else if call.CodeOf(err) != call.Busy { // the other upload is too new to go
		t.Error(err)
	}
}

// Zeros take no room on the disk, whatever their place, and are read again.
func TestSparse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, blob.Options{})
	b := make([]byte, 5<<20+123)
	some, _ := random(1, 5000)
	for _, at := range []int{1 << 20, 3<<20 + 77} {
		copy(b[at:], some)
	}
	d := sum(b)
	for _, cut := range []int{0, 100_001} {
		r := fetch(t, s, d, len(b), (&source{data: b, cut: cut}).from)
		read(t, r, b)
		path := filepath.Join(dir, hexName(d))
		until(t, "kept", func() bool { return exists(path) })
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := st.Sys().(*syscall.Stat_t).Blocks * 512; st.Size() != int64(len(b)) || n > 1<<20 {
			t.Errorf("%d bytes take %d on the disk", st.Size(), n)
		}
		r.Close()
		s.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir, blob.Options{})
	}
}

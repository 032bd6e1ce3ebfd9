package overlord

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"dominion/blob"
)

// A job can end while a machine still asks for a file of it. What it pinned makes room
// for others then.
func TestCopiesPinNothingAfterTheirEnd(t *testing.T) {
	store, err := blob.Open(t.TempDir(), blob.Options{Max: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	n := byte(0)
	put := func(content []byte) (blob.Digest, error) {
		n++
		d, id := blob.Digest(sha256.Sum256(content)), blob.UploadID{n}
		if _, err := store.Receive(t.Context(), id, 0, bytes.NewReader(content)); err != nil {
			return d, err
		}
		return d, store.Commit(id, d, int64(len(content)))
	}
	content := bytes.Repeat([]byte("x"), 600)
	d, err := put(content)
	if err != nil {
		t.Fatal(err)
	}
	text, err := (&blob.Manifest{Entries: []blob.Entry{{Path: ".", Type: blob.File, Mode: 0o644, Size: 600, Digest: &d}}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := put(text)
	if err != nil {
		t.Fatal(err)
	}
	b := &blobs{o: &Overlord{}, store: store, copies: make(map[blob.Digest]*copied)}
	c := &copied{b: b, manifest: manifest, size: int64(len(text)), unpin: []func(){store.Pin([]blob.Digest{manifest})}, refs: 1}
	b.copies[manifest] = c
	c.end()
	if size, ok, err := c.sizeOf(t.Context(), d, ""); err != nil || !ok || size != 600 {
		t.Fatalf("%d, %v, %v", size, ok, err)
	}
	if _, err := put(bytes.Repeat([]byte("y"), 900)); err != nil {
		t.Errorf("what no job names any more takes up the room: %v", err)
	}
}

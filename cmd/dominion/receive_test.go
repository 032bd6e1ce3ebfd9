package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dominion/blob"
	"dominion/client"
	"dominion/module/copy"
)

// framed appends a frame, of a file with what is sent of it and its digest.
func framed(b []byte, f copy.Frame, content []byte) []byte {
	text, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
	if f.Type != blob.File {
		return b
	}
	sum := sha256.Sum256(content)
	return append(append(b, content[f.Offset:]...), sum[:]...)
}

// in gives a receiver what a machine sends, in pieces of random sizes.
func in(t *testing.T, dir, asked string, sent []byte) *receiver {
	t.Helper()
	r := newReceiver(dir, "m1", asked)
	t.Cleanup(r.close)
	for len(sent) > 0 {
		n := 1 + rand.IntN(min(len(sent), 3000))
		r.take(sent[:n])
		sent = sent[n:]
	}
	return r
}

func everything(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

var end = framed(nil, copy.Frame{Path: ".", End: true}, nil)

func TestReceive(t *testing.T) {
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	file := func(p string, content []byte) copy.Frame {
		return copy.Frame{Path: p, Type: blob.File, Mode: 0o640, Mtime: 1_700_000_000_000_000_000, Size: int64(len(content))}
	}
	var sent []byte
	sent = framed(sent, copy.Frame{Path: ".", Type: blob.Dir, Mode: 0o750}, nil)
	sent = framed(sent, copy.Frame{Path: "d", Type: blob.Dir, Mode: 0o500}, nil)
	sent = framed(sent, file("d/big", big), big)
	sent = framed(sent, file("none", nil), nil)
	whole := append(bytes.Clone(sent), end...)
	if r := in(t, dir, "/srv/www", whole); r.problem() != "" {
		t.Fatal(r.problem())
	}
	if got := everything(t, dir); !slices.Equal(got, []string{"m1/srv/www/d/big", "m1/srv/www/none"}) {
		t.Errorf("there are %q", got)
	}
	st, err := os.Stat(filepath.Join(dir, "m1/srv/www/d/big"))
	if err != nil || st.Mode() != 0o640 || st.ModTime().Unix() != 1_700_000_000 {
		t.Errorf("%v %v, %v", st.Mode(), st.ModTime(), err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "m1/srv/www/d/big")); err != nil || !bytes.Equal(b, big) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	// It breaks off, and goes on.
	dir = t.TempDir()
	r := in(t, dir, "/srv/www", whole[:1_000_000])
	if r.problem() != "the end is missing" {
		t.Errorf("cut: %q", r.problem())
	}
	r.close()
	text, ok := resumeOf(filepath.Join(dir, "m1"), "/srv/www")
	at, err := copy.ParseResume(text)
	if !ok || err != nil || at.Path != "d/big" || at.Offset < 900_000 || at.Size != int64(len(big)) {
		t.Fatalf("resume %q, %v, %v", text, ok, err)
	}
	f := file("d/big", big)
	f.Offset = at.Offset
	rest := append(framed(framed(nil, f, big), file("none", nil), nil), end...)
	if r := in(t, dir, "/srv/www", rest); r.problem() != "" {
		t.Fatal(r.problem())
	}
	if got := everything(t, dir); !slices.Equal(got, []string{"m1/srv/www/d/big", "m1/srv/www/none"}) {
		t.Errorf("after it went on there are %q", got)
	}
	if _, ok := resumeOf(filepath.Join(dir, "m1"), "/srv/www"); ok {
		t.Error("it is to go on, and is whole")
	}
}

// A machine in the wrong hands writes nothing outside of its own directory.
func TestReceiveHostile(t *testing.T) {
	content := []byte("evil")
	for name, sent := range map[string][]byte{
		"out":             framed(nil, copy.Frame{Path: "../../x", Type: blob.File, Size: 4}, content),
		"absolute":        framed(nil, copy.Frame{Path: "/x", Type: blob.File, Size: 4}, content),
		"not shortest":    framed(nil, copy.Frame{Path: "a/../../../x", Type: blob.File, Size: 4}, content),
		"setuid":          framed(nil, copy.Frame{Path: "x", Type: blob.File, Size: 4, Mode: 0o4755}, content),
		"a link":          framed(nil, copy.Frame{Path: "x", Type: blob.Link}, nil),
		"negative":        framed(nil, copy.Frame{Path: "x", Type: blob.File, Size: -4}, nil),
		"offset":          framed(nil, copy.Frame{Path: "x", Type: blob.File, Size: 4, Offset: 2}, content),
		"other bytes":     append(framed(nil, copy.Frame{Path: "x", Type: blob.File, Size: 4}, content)[:60], bytes.Repeat([]byte("x"), 100)...),
		"long head":       binary.AppendUvarint(nil, 1<<40),
		"endless varint":  bytes.Repeat([]byte{0xff}, 100),
		"no JSON":         append(binary.AppendUvarint(nil, 3), "xyz"...),
		"after the end":   append(bytes.Clone(end), 'x'),
		"under a file":    framed(framed(nil, copy.Frame{Path: "x", Type: blob.File, Size: 4}, content), copy.Frame{Path: "x/y", Type: blob.File, Size: 4}, content),
		"in place of all": framed(nil, copy.Frame{Path: ".", Type: blob.File, Size: 4}, content),
	} {
		dir := t.TempDir()
		asked := "/srv/f"
		if name == "in place of all" {
			asked = "/"
		}
		r := in(t, filepath.Join(dir, "got"), asked, sent)
		if r.problem() == "" || r.err == nil {
			t.Errorf("%s: taken: %q", name, r.problem())
		}
		r.close()
		for _, n := range everything(t, dir) {
			if !strings.HasPrefix(n, "got/m1/") {
				t.Errorf("%s: wrote %s", name, n)
			}
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(append(framed(nil, copy.Frame{Path: "a", Type: blob.File, Size: 4}, []byte("text")), end...))
	f.Add(append(framed(nil, copy.Frame{Path: "../a", Type: blob.Dir}, nil), end...))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, sent []byte) {
		r := in(t, filepath.Join(dir, "got"), "/f", sent)
		r.close()
		for _, n := range everything(t, dir) {
			if !strings.HasPrefix(n, "got/m1/") {
				t.Fatalf("wrote %s", n)
			}
		}
		if err := os.RemoveAll(filepath.Join(dir, "got")); err != nil {
			t.Fatal(err)
		}
	})
}

// A machine that says that it sent everything, and of which nothing arrived, is told of.
func TestFetchOfNothing(t *testing.T) {
	f := &fetching{dir: t.TempDir(), path: "/x", machines: make(map[string]*receiver)}
	if err := f.take(&client.Output{Machine: "m1", Stream: "stdout", Data: end}); err != nil {
		t.Fatal(err)
	}
	f.answered([]string{"m1"})
	if err := f.verdict(nil); err != nil {
		t.Errorf("everything arrived: %v", err)
	}
	f.answered([]string{"m2", "m3"})
	err := f.verdict(nil)
	if e, ok := errors.AsType[*exitError](err); !ok || e.code != exitIncomplete || !strings.Contains(err.Error(), "2 minions did not arrive whole: m[2,3]: the end is missing") {
		t.Errorf("nothing arrived of two: %v", err)
	}
}

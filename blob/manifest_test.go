package blob_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/blob"
)

func sample() *blob.Manifest {
	_, a := random(1, 10)
	_, b := random(2, 20)
	return &blob.Manifest{Entries: []blob.Entry{
		{Path: ".", Type: blob.Dir, Mode: 0o755, Mtime: 1},
		{Path: "a", Type: blob.Dir, Mode: 0o700},
		{Path: "a/b", Type: blob.File, Mode: 0o4755, Mtime: 1700000000123456789, Size: 10, Digest: &a, Owner: &blob.Owner{User: "www", UID: 33, Group: "www", GID: 33}},
		{Path: "a/c", Type: blob.Link, Target: "../x y"},
		{Path: "a-b", Type: blob.File, Mode: 0o644, Size: 20, Digest: &b, Sparse: true},
		{Path: "é <ß>", Type: blob.File, Digest: &b, Size: 20},
	}}
}

func encoded(t testing.TB, m *blob.Manifest) []byte {
	t.Helper()
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestManifest(t *testing.T) {
	m := sample()
	b := encoded(t, m)
	got, err := blob.ReadManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, got); d != "" || got.Bytes != 50 {
		t.Errorf("read back (-want +got): %s", d)
	}
	for i := range len(b) {
		if _, err := blob.ReadManifest(bytes.NewReader(b[:i])); !errors.Is(err, blob.ErrManifest) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := blob.ReadManifest(io.MultiReader(bytes.NewReader(b), strings.NewReader("x"))); !errors.Is(err, blob.ErrManifest) {
		t.Errorf("something after the end: %v", err)
	}
}

func TestManifestMistakes(t *testing.T) {
	_, d := random(3, 1)
	file := func(p string) blob.Entry { return blob.Entry{Path: p, Type: blob.File, Size: 1, Digest: &d} }
	dir := func(p string) blob.Entry { return blob.Entry{Path: p, Type: blob.Dir} }
	for name, list := range map[string][]blob.Entry{
		"nothing":               nil,
		"no root":               {file("a")},
		"two roots":             {dir("."), dir(".")},
		"below a file":          {file("."), file("a")},
		"out":                   {dir("."), file("../a")},
		"out in the middle":     {dir("."), dir("a"), file("a/../../b")},
		"absolute":              {dir("."), file("/a")},
		"not shortest":          {dir("."), file("./a")},
		"an empty name":         {dir("."), dir("a"), file("a//b")},
		"a slash at the end":    {dir("."), dir("a/")},
		"nul":                   {dir("."), file("a\x00b")},
		"not UTF-8":             {dir("."), file("a\xff")},
		"a long name":           {dir("."), file(strings.Repeat("x", 256))},
		"a long path":           {dir("."), file(strings.Repeat("x/", 2100) + "x")},
		"twice":                 {dir("."), file("a"), file("a")},
		"out of order":          {dir("."), file("b"), file("a")},
		"out of order in parts": {dir("."), file("a-b"), dir("a")},
		"no directory":          {dir("."), file("a/b")},
		"in a file":             {dir("."), file("a"), file("a/b")},
		"in a link":             {dir("."), {Path: "a", Type: blob.Link, Target: "/"}, file("a/b")},
		"left directory":        {dir("."), dir("a"), dir("b"), file("a/c")},
		"a device":              {dir("."), {Path: "a", Type: "device"}},
		"a mode":                {dir("."), {Path: "a", Type: blob.Dir, Mode: 0o10000}},
		"no digest":             {{Path: ".", Type: blob.File, Size: 1}},
		"digest of a directory": {{Path: ".", Type: blob.Dir, Digest: &d}},
		"negative":              {{Path: ".", Type: blob.File, Size: -1, Digest: &d}},
		"too many bytes":        {dir("."), {Path: "a", Type: blob.File, Size: 1 << 62, Digest: &d}, {Path: "b", Type: blob.File, Size: 1 << 62, Digest: &d}},
		"a link to nowhere":     {{Path: ".", Type: blob.Link}},
		"a link's mode":         {{Path: ".", Type: blob.Link, Target: "x", Mode: 1}},
		"an owner":              {{Path: ".", Type: blob.Dir, Owner: &blob.Owner{User: strings.Repeat("x", 65)}}},
	} {
		if _, err := (&blob.Manifest{Entries: list}).Append(nil); !errors.Is(err, blob.ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := &blob.Manifest{Entries: slices.Repeat([]blob.Entry{dir("x")}, blob.MaxEntries+1)}
	many.Entries[0] = dir(".")
	if _, err := many.Append(nil); !errors.Is(err, blob.ErrManifest) {
		t.Errorf("too many: %v", err)
	}
}

func FuzzManifest(f *testing.F) {
	b := encoded(f, sample())
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte(`{"dominion_manifest":1,"entries":1,"bytes":0}` + "\n" + `{"path":".","type":"link","target":"x"}` + "\n"))
	f.Add([]byte(`{"dominion_manifest":1,"entries":1,"bytes":0}` + "\n" + `{"type":"dir","path":"."}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := blob.ReadManifest(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, blob.ErrManifest) {
				t.Fatalf("error %v does not wrap ErrManifest", err)
			}
			return
		}
		got, err := m.Append(nil)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("accepted %q but encodes back to %q, %v", b, got, err)
		}
	})
}

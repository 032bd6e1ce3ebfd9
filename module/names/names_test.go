package names

import (
	"strings"
	"testing"
)

func TestLookup(t *testing.T) {
	for name, want := range map[string]int{"root": 0, "0": 0, "4294967294": 4294967294, "54321": 54321} {
		if got, err := UID(t.Context(), nil, name); err != nil || got != want {
			t.Errorf("UID(%q) = %d, %v; want %d", name, got, err, want)
		}
		if got, err := GID(t.Context(), nil, name); err != nil || got != want {
			t.Errorf("GID(%q) = %d, %v; want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"", "-1", "4294967295", "no such user", "--service=x", "a:b", "a\nb"} {
		if got, err := UID(t.Context(), nil, name); err == nil {
			t.Errorf("UID(%q) = %d; want an error", name, got)
		}
		if _, err := GID(t.Context(), nil, name); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("GID(%q): %v; want an error of one line", name, err)
		}
	}
}

func TestNames(t *testing.T) {
	n := Learn(t.Context(), nil, []uint32{0, 0, 54321}, []uint32{0, 54321})
	for got, want := range map[string]string{n.User(0): "root", n.User(54321): "54321", n.User(7): "7", n.Group(0): "root", n.Group(54321): "54321"} {
		if got != want {
			t.Errorf("name %q; want %q", got, want)
		}
	}
}

func TestParse(t *testing.T) {
	got := parse([]byte("a:x:5:6:gecos:/:/bin/sh\n\n:x:6:\nb:x:-1:\nc:x:4294967295:\nd:x\nwheel:x:10:a,b\n"))
	if len(got) != 2 || got[5] != "a" || got[10] != "wheel" {
		t.Errorf("parse = %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("a:x:5:6:gecos:/:/bin/sh\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for id, name := range parse(b) {
			if id > maxID || name == "" || strings.ContainsAny(name, ":\n") {
				t.Fatalf("parse(%q) gives %d as %q", b, id, name)
			}
		}
	})
}

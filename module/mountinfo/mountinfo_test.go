package mountinfo

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := Parse([]byte("36 35 98:0 /mnt1 /m\\040t rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n" +
		"37 36 0:5 / /x rw - tmpfs none rw\n"))
	want := []Mount{
		{36, 35, "98:0", "/mnt1", "/m t", "rw,noatime", "ext3", "/dev/root", "rw,errors=continue"},
		{37, 36, "0:5", "/", "/x", "rw", "tmpfs", "none", "rw"},
	}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("Parse: %v (-want +got):\n%s", err, d)
	}
	for _, bad := range []string{"x\n", "\n", "a 35 98:0 / / rw - t s o\n", "1 b 98:0 / / rw - t s o\n", "1 2 98:0 / / rw t s o\n", "1 2 98:0 / / - t s o\n"} {
		if _, err := Parse([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("Parse(%q): %v; want ErrMalformed", bad, err)
		}
	}
}

func TestRead(t *testing.T) {
	got, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range got {
		if m.Point == "/proc" && m.Type == "proc" {
			return
		}
	}
	t.Errorf("no /proc in %v", got)
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Parse(b); err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("error %v does not wrap ErrMalformed", err)
		}
	})
}

func FuzzEscape(f *testing.F) {
	f.Add("a b\\040\n#\t")
	f.Fuzz(func(t *testing.T, s string) {
		if got := Unescape(Escape(s)); got != s {
			t.Fatalf("%q comes back as %q", s, got)
		}
	})
}

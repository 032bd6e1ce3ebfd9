package textdiff

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestUnified(t *testing.T) {
	for _, test := range []struct{ name, before, after, want string }{
		{"equal", "a\n", "a\n", ""},
		{"changed", "a\nb\n", "a\nc\n", "--- f\n+++ f\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"},
		{"new", "", "x\n", "--- f\n+++ f\n@@ -0,0 +1,1 @@\n+x\n"},
		{"no text", "a\n", "\xff", ""},
		{"zero byte", "a\x00", "b", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, cut := Unified("f", []byte(test.before), []byte(test.after)); got != test.want || cut != 0 {
				t.Errorf("Unified = %q, %d cut; want %q", got, cut, test.want)
			}
		})
	}
}

func TestUnifiedIsCut(t *testing.T) {
	got, cut := Unified("f", nil, []byte(strings.Repeat("\x01é\n", 50_000)))
	b, err := json.Marshal(got)
	if err != nil || len(b) > Max+2 || cut == 0 {
		t.Errorf("%d bytes, %d cut, %v", len(b), cut, err)
	}
}

//go:build fleet

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxSize is what the program may have in an initramfs.
const maxSize = 10 << 20

// The program is small, static, and brings neither SQL nor a framework along.
func TestFleetSmall(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "provisiond")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	info, err := os.Stat(bin)
	if err != nil || info.Size() > maxSize {
		t.Errorf("it has %d bytes, %v; at most %d", info.Size(), err, maxSize)
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, not := range []string{"database/sql", "modernc.org/", "github.com/spf13/", "connectrpc.com/", "dominion/store", "dominion/overlord", "dominion/minion", "dominion/session"} {
			if strings.HasPrefix(dep, not) {
				t.Errorf("it brings %s along", dep)
			}
		}
	}
}

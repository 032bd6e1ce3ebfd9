// Package smalldisk gives tests a disk that they can fill.
package smalldisk

import (
	"syscall"
	"testing"
)

// New mounts a tmpfs of that size ("64k", "2m") on a directory of the test's
// own and gives it; it is gone when the test ends. Without the right to mount
// the test is skipped, and says so.
func New(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=0700"); err != nil {
		t.Skipf("SKIPPED %s: it needs root, to mount a small tmpfs: %v", t.Name(), err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

//go:build !linux

package journal

import "os"

// datasync waits until what was written to f is on the disk.
func datasync(f *os.File) error { return f.Sync() }

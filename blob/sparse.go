package blob

import (
	"bytes"
	"io/fs"
	"os"
	"syscall"
)

// block is the size of the zeros that are not written.
const block = 4096

var zeros [block]byte

// WriteSparse writes a piece at the end of a file, behind which it has nothing, but the
// zeros that make up a block, or what is in the piece of one: they are holes then, read
// the same, and take no room on the disk.
func WriteSparse(f *os.File, b []byte, offset int64) error {
	hole := false
	for len(b) > 0 {
		zero, n := run(b, offset)
		if hole = zero; !zero {
			if _, err := f.WriteAt(b[:n], offset); err != nil {
				return err
			}
		}
		b, offset = b[n:], offset+int64(n)
	}
	if hole { // so that its size says how much is there
		return f.Truncate(offset)
	}
	return nil
}

// run gives how many bytes from the beginning on are to be treated alike: as zeros or not.
func run(b []byte, offset int64) (zero bool, n int) {
	for n < len(b) {
		end := min(n+block-int((offset+int64(n))%block), len(b))
		z := bytes.Equal(b[n:end], zeros[:end-n])
		if n > 0 && z != zero {
			return zero, n
		}
		zero, n = z, end
	}
	return zero, n
}

// Sparse says whether a file has holes.
func Sparse(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Blocks*512 < info.Size()
}

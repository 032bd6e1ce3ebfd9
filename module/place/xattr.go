package place

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAttributes bounds the list of names of a file's extended attributes, the
// limit of Linux (xattr(7)), and each value.
const maxAttributes = 64 << 10

// copyAttributes copies what a file system lets us: not every one has
// attributes, and not every user may set every one. Capabilities are left out,
// as the kernel would drop them when the file is written, and what signs the
// content would not fit it.
func copyAttributes(from, to *os.File) {
	names := make([]byte, maxAttributes)
	n, err := unix.Flistxattr(int(from.Fd()), names)
	if err != nil {
		return
	}
	value := make([]byte, maxAttributes)
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		switch name {
		case "", "security.capability", "security.ima", "security.evm":
			continue
		}
		if n, err := unix.Fgetxattr(int(from.Fd()), name, value); err == nil {
			_ = unix.Fsetxattr(int(to.Fd()), name, value[:n], 0) // as said above
		}
	}
}

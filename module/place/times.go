package place

import (
	"os"
	"time"
)

// SetTime sets the times of an open file, whatever its name is now.
func SetTime(f *os.File, t time.Time) error { return setTime(f, t) }

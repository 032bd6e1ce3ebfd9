package candidate

import "errors"

// ErrCrash is what Crash makes of writes.
var ErrCrash = errors.New("the machine crashed")

// Crash lets n more files be written, and none after: as if the machine had gone
// down then.
func (c *Candidate) Crash(n int) {
	write := c.write
	c.write = func(name string, content []byte) error {
		if n--; n < 0 {
			return ErrCrash
		}
		return write(name, content)
	}
}

// Running says whether Run has begun.
func (c *Candidate) Running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

//go:build fleet

package main_test

import (
	"bytes"
	"sync"
)

// output is what a running process has written so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// Bytes gives a copy.
func (o *output) Bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf.Bytes())
}

// String implements fmt.Stringer.
func (o *output) String() string { return string(o.Bytes()) }

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"
)

// maxLine is the longest line of live output kept before it is shown; a longer
// one is broken into several.
const maxLine = 4096 // bytes

// liveWriter shows output as it comes, whole lines, each after the name of its
// machine, escaped. It holds at most maxLine bytes per machine and stream.
type liveWriter struct {
	out, err io.Writer
	partial  map[liveKey][]byte
	buf      []byte
	paint    painter // of names
}

type liveKey struct{ machine, stream string }

func newLiveWriter(out, err io.Writer, p painter) *liveWriter {
	return &liveWriter{out: out, err: err, paint: p, partial: make(map[liveKey][]byte)}
}

// write takes a chunk of one machine's stream, before which dropped bytes were
// left out.
func (l *liveWriter) write(machine, stream string, data []byte, dropped uint64) error {
	k := liveKey{machine, stream}
	if dropped > 0 {
		if err := l.flush(k); err != nil {
			return err
		}
		if err := l.line(k, fmt.Appendf(nil, "[%d bytes left out]", dropped)); err != nil {
			return err
		}
	}
	pending := append(l.partial[k], data...)
	for len(pending) > 0 {
		i := bytes.IndexByte(pending, '\n')
		skip := 1
		switch {
		case i < 0 && len(pending) < maxLine:
			l.partial[k] = bytes.Clone(pending) // lets the chunk go
			return nil
		case i < 0 || i > maxLine:
			i, skip = cutRune(pending, maxLine), 0
		}
		if err := l.line(k, pending[:i]); err != nil {
			return err
		}
		pending = pending[i+skip:]
	}
	delete(l.partial, k)
	return nil
}

// cutRune is the largest length up to n that does not split a character.
func cutRune(b []byte, n int) int {
	n = min(n, len(b))
	for i := n; i > n-utf8.UTFMax && i > 0; i-- {
		if i == len(b) || utf8.RuneStart(b[i]) {
			return i
		}
	}
	return n
}

// end shows what the machines left without a line end. It is for the end of
// the job: a machine's last output may come after its result.
func (l *liveWriter) end() error {
	keys := slices.SortedFunc(maps.Keys(l.partial), func(a, b liveKey) int {
		return cmp.Or(cmp.Compare(a.machine, b.machine), -cmp.Compare(a.stream, b.stream))
	})
	for _, k := range keys {
		if err := l.flush(k); err != nil {
			return err
		}
	}
	return nil
}

func (l *liveWriter) flush(k liveKey) error {
	p, ok := l.partial[k]
	if !ok {
		return nil
	}
	delete(l.partial, k)
	return l.line(k, p)
}

func (l *liveWriter) line(k liveKey, text []byte) error {
	how := cyan
	if k.stream == "stderr" {
		how = yellow
	}
	l.buf = append(l.buf[:0], l.paint.paint(how, k.machine+":")...)
	l.buf = append(l.buf, ' ')
	l.buf = appendEscaped(l.buf, text, "\t")
	l.buf = append(l.buf, '\n')
	w := l.out
	if k.stream == "stderr" {
		w = l.err
	}
	if _, err := w.Write(l.buf); err != nil {
		return fmt.Errorf("write output of %s: %w", k.machine, err)
	}
	return nil
}

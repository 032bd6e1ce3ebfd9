package place

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrLarge is wrapped by the error of ReadFile for a file that has more than
// it may.
var ErrLarge = errors.New("too large")

// ReadFile reads the regular file of that name, at most limit bytes of it. A
// symbolic link is followed as Follow does.
func ReadFile(name string, limit int64) ([]byte, error) {
	p, err := Follow(name)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	f, _, err := p.File(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, p.fault("read", err)
	}
	if int64(len(b)) > limit {
		return nil, p.fault("read", fmt.Errorf("%w: it has more than %d bytes", ErrLarge, limit))
	}
	return b, nil
}

// WriteFile puts a file of that content in the place of that name, or of what
// a symbolic link there leads to, followed as Follow does.
func WriteFile(name string, content []byte, as As) error {
	p, err := Follow(name)
	if err != nil {
		return err
	}
	defer p.Close()
	d, err := p.Create()
	if err != nil {
		return err
	}
	defer d.Discard()
	if _, err := d.File.Write(content); err != nil {
		return p.fault("write", err)
	}
	return d.Commit(as)
}

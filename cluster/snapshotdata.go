package cluster

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"dominion/confd"
)

// deflateRatio is more than the best that DEFLATE can do.
const deflateRatio = 1100

// Pack compresses a document for a snapshot. What it gives may differ from one
// version of this program to the next, and its digest with it: who has signed a
// header keeps the compressed document. The error wraps ErrSnapshot when it is
// too large.
func Pack(document []byte) ([]byte, error) {
	if len(document) == 0 || len(document) > confd.MaxConfig {
		return nil, fmt.Errorf("%w: a document of %d bytes; from 1 to %d are allowed", ErrSnapshot, len(document), confd.MaxConfig)
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(document); err != nil {
		return nil, fmt.Errorf("compress cluster document: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress cluster document: %w", err)
	}
	if b.Len() > MaxPacked {
		return nil, fmt.Errorf("%w: a document of %d bytes compressed; at most %d are allowed", ErrSnapshot, b.Len(), MaxPacked)
	}
	return b.Bytes(), nil
}

// SetData fills in digest and sizes of a document and of what Pack made of it.
func (h *Header) SetData(document, packed []byte) {
	h.Digest, h.Packed, h.Size = sha256.Sum256(packed), int64(len(packed)), int64(len(document))
}

// CheckPacked says why packed is not what the header tells; nil when it is.
// Errors wrap ErrSnapshot.
func (h *Header) CheckPacked(packed []byte) error {
	switch {
	case int64(len(packed)) != h.Packed:
		return fmt.Errorf("%w: the data have %d bytes, and the header says %d", ErrSnapshot, len(packed), h.Packed)
	case sha256.Sum256(packed) != h.Digest:
		return fmt.Errorf("%w: the data do not have the digest %.16x… of the header", ErrSnapshot, h.Digest)
	}
	return nil
}

// Unpack gives the document of which packed is the compressed form, if both are
// those that the header tells. It never uses more memory than the header's Size
// and some. Errors wrap ErrSnapshot.
func (h *Header) Unpack(packed []byte) ([]byte, error) {
	if err := h.CheckPacked(packed); err != nil {
		return nil, err
	}
	if h.Size <= 0 || h.Size > confd.MaxConfig || h.Size > h.Packed*deflateRatio {
		return nil, fmt.Errorf("%w: %d bytes cannot be %d compressed", ErrSnapshot, h.Packed, h.Size)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSnapshot, err)
	}
	out := make([]byte, h.Size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, fmt.Errorf("%w: unpacking %d bytes: %v", ErrSnapshot, h.Size, err)
	}
	// The end must come now; it is also where the checksum is looked at.
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there are more than %d bytes, or they do not end well: %v", ErrSnapshot, h.Size, err)
	}
	return out, nil
}

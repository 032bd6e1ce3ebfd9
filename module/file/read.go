package file

import (
	"context"
	"crypto/md5"  //nolint:gosec // asked for by those who compare with old lists
	"crypto/sha1" //nolint:gosec // likewise
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"unicode/utf8"

	"dominion/module"
	"dominion/module/place"
)

type checksumIn struct {
	Path      string `json:"path" doc:"absolute path of the file" required:"true" max:"4095"`
	Algorithm string `json:"algorithm" doc:"how; sha1 and md5 prove nothing against an attacker" default:"sha256" enum:"sha256,sha512,sha1,md5"`
}

// Checksum is the answer of checksum.
type Checksum struct {
	Digest string `json:"digest" doc:"in hexadecimal"`
	Size   int64  `json:"size" doc:"bytes read"`
}

var algorithms = map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New, "sha1": sha1.New, "md5": md5.New}

func checksum(ctx context.Context, _ *module.Env, in checksumIn) (Checksum, error) {
	p, err := place.Follow(in.Path)
	if err != nil {
		return Checksum{}, err
	}
	defer p.Close()
	f, _, err := p.File(os.O_RDONLY)
	if err != nil {
		return Checksum{}, err
	}
	defer f.Close()
	h := algorithms[in.Algorithm]()
	r := reading(ctx, f)
	defer r.stop()
	n, err := io.Copy(h, r)
	if err != nil {
		return Checksum{}, fmt.Errorf("read %s: %w", p.Path(), err)
	}
	return Checksum{Digest: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

type readIn struct {
	Path   string `json:"path" doc:"absolute path of the file" required:"true" max:"4095"`
	Offset int64  `json:"offset" doc:"first byte to read; below 0, counted from the end"`
	Limit  int    `json:"limit" doc:"most bytes to read; fewer come when they would not fit into an answer" default:"262144" min:"1" max:"524288"`
}

// Content is the answer of read.
type Content struct {
	Content module.Bytes `json:"content" doc:"what was read"`
	Offset  int64        `json:"offset" doc:"where that begins"`
	Next    int64        `json:"next" doc:"where to read on"`
	Size    int64        `json:"size" doc:"bytes that the file has; 0 for many below /proc and /sys, which have some all the same"`
	End     bool         `json:"end" doc:"nothing follows"`
}

func read(ctx context.Context, _ *module.Env, in readIn) (Content, error) {
	p, err := place.Follow(in.Path)
	if err != nil {
		return Content{}, err
	}
	defer p.Close()
	f, info, err := p.File(os.O_RDONLY)
	if err != nil {
		return Content{}, err
	}
	defer f.Close()
	out := Content{Offset: in.Offset, Size: info.Size()}
	if out.Offset < 0 {
		out.Offset = max(0, info.Size()+in.Offset)
	}
	if out.Offset > 0 {
		if _, err := f.Seek(out.Offset, io.SeekStart); err != nil {
			return Content{}, fmt.Errorf("read %s: %w", p.Path(), err)
		}
	}
	// One more than is wanted tells whether anything follows.
	r := reading(ctx, f)
	defer r.stop()
	b, err := io.ReadAll(io.LimitReader(r, int64(in.Limit)+1))
	if err != nil {
		return Content{}, fmt.Errorf("read %s: %w", p.Path(), err)
	}
	out.Content = fit(b, in.Limit)
	out.End = len(out.Content) == len(b)
	out.Next = out.Offset + int64(len(out.Content))
	return out, nil
}

// fit gives the beginning of b that has at most limit bytes and fits into an
// answer, without half a character at its end unless that is all there is.
func fit(b []byte, limit int) []byte {
	all := module.Limit{Max: maxAnswer}
	_, _ = all.Write(b[:min(limit, len(b))])
	kept := all.Bytes()
	if len(kept) == len(b) {
		return kept
	}
	for n := 1; n < utf8.UTFMax && n < len(kept); n++ {
		if c := kept[len(kept)-n]; utf8.RuneStart(c) {
			if !utf8.FullRune(kept[len(kept)-n:]) {
				return kept[:len(kept)-n]
			}
			break
		}
	}
	return kept
}

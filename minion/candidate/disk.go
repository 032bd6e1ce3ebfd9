package candidate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"dominion/cluster"
	"dominion/confd"
	"dominion/session"
)

// Names below the state directory.
const (
	folder     = "cluster"
	fileHeader = folder + "/header"
	dataPrefix = "data-"
	keyPrefix  = "key-"
)

func dataName(h *cluster.Header) string { return dataPrefix + hex.EncodeToString(h.Digest[:]) }
func keyName(h *cluster.Header) string  { return keyPrefix + hex.EncodeToString(h.KeyDigest[:]) }

// fetch pulls a compressed document. What it gives has the size that the header
// tells, and has not been looked at.
func fetch(ctx context.Context, h *cluster.Header, pull Pull) ([]byte, error) {
	var b []byte
	for int64(len(b)) < h.Packed {
		piece, err := pull(ctx, h.Digest[:], int64(len(b)))
		if err != nil {
			return nil, err
		}
		if n := int64(len(piece)); n == 0 || n > session.MaxClusterPiece || int64(len(b))+n > h.Packed {
			return nil, fmt.Errorf("%w: a piece of %d bytes at %d of %d", cluster.ErrSnapshot, n, len(b), h.Packed)
		}
		b = append(b, piece...)
	}
	return b, nil
}

// read makes cluster data of a compressed document, if it is that of the header.
func read(h *cluster.Header, packed []byte) (*confd.Cluster, error) {
	document, err := h.Unpack(packed)
	if err != nil {
		return nil, err
	}
	data, err := confd.ParseConfig(document)
	if err != nil {
		return nil, fmt.Errorf("serial %d of the cluster data: %w", h.Serial, err)
	}
	if s := data.Serial(); s < 0 || uint64(s) != h.Serial {
		return nil, fmt.Errorf("%w: the data have the serial %d, and the header says %d", cluster.ErrSnapshot, s, h.Serial)
	}
	return data, nil
}

// keep writes a version to the disk. Until its header, the last, is there the one
// before counts, and nothing of it is touched.
func (c *Candidate) keep(header []byte, s *cluster.Signed, packed, key []byte) error {
	if err := c.write(folder+"/"+dataName(&s.Header), packed); err != nil {
		return err
	}
	if err := c.write(folder+"/"+keyName(&s.Header), key); err != nil {
		return err
	}
	if err := c.keepHeader(header); err != nil {
		return err
	}
	if err := c.clean(dataName(&s.Header), keyName(&s.Header)); err != nil {
		c.log.Warn("older cluster data not removed from the disk", "err", err)
	}
	return nil
}

func (c *Candidate) keepHeader(header []byte) error { return c.write(fileHeader, header) }

// clean removes everything but the header and those names, what a process that died
// left included.
func (c *Candidate) clean(but ...string) error {
	entries, err := fs.ReadDir(c.opt.Dir.Root().FS(), folder)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("clean up cluster data: %w", err)
	}
	stays := map[string]bool{strings.TrimPrefix(fileHeader, folder+"/"): true}
	for _, n := range but {
		stays[n] = true
	}
	for _, e := range entries {
		if !stays[e.Name()] {
			if err := c.opt.Dir.Remove(folder + "/" + e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// load takes up what is on the disk. Neither the dates of the signer's certificate
// nor revocation count here: both were judged when it came, and nothing but this
// machine's root could have changed it since. So what was taken is served on when
// its overlord has been gone for years.
func (c *Candidate) load() {
	header, err := c.opt.Dir.ReadFile(fileHeader)
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.clean(); err != nil { // of one that was never whole
			c.log.Warn("cluster data not cleaned up", "err", err)
		}
		return
	}
	var s *cluster.Signed
	if err == nil {
		s, err = cluster.Verify(c.opt.Trust, header, time.Time{})
	}
	if err != nil {
		c.unusable("header", err, c.anyKey())
		return
	}
	c.header, c.signed = header, s
	if !s.Candidate(c.opt.Name) || c.opt.Listen == Off {
		if err := c.clean(); err != nil {
			c.log.Warn("cluster data not removed from the disk", "err", err)
		}
		return
	}
	key, err := c.opt.Dir.ReadFile(folder + "/" + keyName(&s.Header))
	if err == nil && cluster.KeyDigest(key) != s.KeyDigest {
		err = errors.New("the key is not the one that the header names")
	}
	if err != nil {
		c.unusable("key", err, nil)
		return
	}
	packed, err := c.opt.Dir.ReadFile(folder + "/" + dataName(&s.Header))
	var data *confd.Cluster
	if err == nil {
		data, err = read(&s.Header, packed)
	}
	if err != nil {
		c.unusable("data", err, key)
		return
	}
	c.setServer(c.newServer(key), data)
	c.log.Info("cluster data read from the disk", "serial", s.Serial, "overlord", s.Signer, "nodes", data.Nodes(), "cluster", s.Cluster)
}

// unusable notes what is broken on the disk. With a key every query is answered
// with an error that says so; without one nobody would believe the answer.
func (c *Candidate) unusable(what string, err error, key []byte) {
	c.broken = fmt.Sprintf("the cluster data on the disk of this machine cannot be used (%s): %v", what, err)
	c.log.Error("cluster data on the disk cannot be used; the overlord is to bring them anew", "what", what, "err", err)
	if key == nil || c.opt.Listen == Off {
		return
	}
	s := c.newServer(key)
	s.SetError(fmt.Sprintf("Cannot load configuration from %s: %v", c.opt.Dir.Path()+"/"+folder, err))
	c.setServer(s, nil)
}

// anyKey gives a key that is what its name says, when no header tells which one it
// is; nil: there is none.
func (c *Candidate) anyKey() []byte {
	names, err := c.opt.Dir.List(folder)
	if err != nil {
		return nil
	}
	for _, n := range names {
		sum, ok := strings.CutPrefix(n, keyPrefix)
		if !ok {
			continue
		}
		key, err := c.opt.Dir.ReadFile(folder + "/" + n)
		if digest := cluster.KeyDigest(key); err == nil && hex.EncodeToString(digest[:]) == sum {
			return key
		}
	}
	return nil
}

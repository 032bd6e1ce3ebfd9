// Package candidate is the part of an agent that keeps a replica of the cluster
// data and answers confd queries from it.
//
// An overlord announces a version by its signed header (cluster.Signed). The
// replica judges the header, pulls the compressed document piece by piece, holds it
// against the header, reads it as the daemon would (confd.ParseConfig), writes it to
// the disk and only then serves it. What is on the disk is served again at the next
// start, before there is any session and whether there will be one or not.
//
// Below the state directory:
//
//	cluster/header       the newest header that was taken, as it came; written last
//	cluster/data-DIGEST  the compressed document, named by its SHA-256
//	cluster/key-DIGEST   the HMAC key, named likewise
//
// The first header that is taken binds the machine to its cluster and to the name of
// the overlord that signed it. A machine that a newer version does not name as a
// candidate drops data and key, and keeps the header: an older version is refused
// then, too.
package candidate

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"dominion/cluster"
	"dominion/confd"
	"dominion/pki"
	"dominion/session"
)

// Off is what Options.Listen says for a machine that serves nobody.
const Off = "off"

// settleTime is how long an announcement waits for the socket before it is answered.
const settleTime = 3 * time.Second

// Options are what a Candidate is made of.
type Options struct {
	// Name of the machine, as headers name it. Required.
	Name string
	// Dir is the agent's state directory. Required.
	Dir *pki.Dir
	// Trust believes overlords' certificates. Required.
	Trust *pki.Trust
	// Admit says why an overlord, whose certificate the root signed, may not bring
	// cluster data to this machine; nil: it may. Required.
	Admit func(id pki.Identity, leaf *x509.Certificate) error
	// Listen is where queries are answered, HOST:PORT over UDP, or Off. Required.
	Listen string
	// Now is the clock; nil: the system's.
	Now func() time.Time
	// Log; nil: silent.
	Log *slog.Logger
}

// Pull gets the piece of a compressed document that begins at offset, from the
// overlord that announced it: at most session.MaxClusterPiece bytes.
type Pull func(ctx context.Context, digest []byte, offset int64) ([]byte, error)

// Candidate is a machine's replica. Its methods are safe for concurrent use.
type Candidate struct {
	opt   Options
	log   *slog.Logger
	write func(name string, content []byte) error // Dir.WriteFile

	taking chan struct{} // of one: held while an announcement is dealt with
	said   string        // why the last one was not taken; covered by taking
	swap   chan struct{} // of one: server is another; only Run reads it

	mu      sync.Mutex      // covers what follows
	header  []byte          // the newest that was taken; nil: none
	signed  *cluster.Signed // what is in it
	broken  string          // why what is on the disk is not served; empty: it is, or there is nothing
	server  *confd.Server   // nil: nothing is to be served
	running bool            // Run is there to serve
	bound   *confd.Server   // the one that has the socket
	address string          // of the socket
	deaf    string          // why there is no socket; empty: none was tried, or it is there
	turn    chan struct{}   // closed when bound, deaf or running change
}

// Open reads what an earlier process kept. What is broken there is told in the log,
// and is no error: the overlord brings it anew. Nothing is served before Run.
func Open(opt Options) *Candidate {
	c := &Candidate{
		opt: opt, log: opt.Log, write: opt.Dir.WriteFile,
		taking: make(chan struct{}, 1), swap: make(chan struct{}, 1), turn: make(chan struct{}),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.opt.Now == nil {
		c.opt.Now = time.Now
	}
	c.load()
	return c
}

// Holds says whether the machine has cluster data, or a header of what it had, so
// that overlords ask it.
func (c *Candidate) Holds() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.signed != nil || c.broken != ""
}

// Take deals with one session.MethodCluster and gives the answer: when it is there,
// what was announced is on the disk and served, or Error says why not. ctx bounds it.
func (c *Candidate) Take(ctx context.Context, in session.ClusterArgs, pull Pull) session.ClusterResult {
	select {
	case c.taking <- struct{}{}:
		defer func() { <-c.taking }()
	case <-ctx.Done():
		return c.report(fmt.Errorf("another announcement is being dealt with: %w", context.Cause(ctx)))
	}
	var err error
	if len(in.Header) > 0 {
		err = c.take(ctx, in, pull)
		c.tell(err)
	}
	c.settle(ctx)
	return c.report(err)
}

// tell logs why something was not taken, once until it is something else; c.taking
// is held.
func (c *Candidate) tell(err error) {
	said := c.said
	if c.said = ""; err != nil {
		c.said = err.Error()
	}
	if err != nil && c.said != said {
		c.log.Error("cluster data not taken", "err", err)
	}
}

// report is the answer to an overlord. Refusals come first, then what is wrong here.
func (c *Candidate) report(err error) session.ClusterResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := session.ClusterResult{Header: c.header}
	if c.bound != nil && c.bound == c.server {
		r.Listen, r.Serving = c.address, c.server.Data() != nil
	}
	switch {
	case err != nil:
		r.Error = err.Error()
	case c.broken != "":
		r.Error = c.broken
	default:
		r.Error = c.deaf
	}
	return r
}

// take carries out one announcement; c.taking is held.
func (c *Candidate) take(ctx context.Context, in session.ClusterArgs, pull Pull) error {
	came, err := cluster.Verify(c.opt.Trust, in.Header, c.opt.Now())
	if err != nil {
		return err
	}
	if err := c.opt.Admit(pki.Identity{Role: pki.Overlord, Name: came.Signer}, came.Leaf); err != nil {
		return fmt.Errorf("cluster data signed by overlord/%s: %w", came.Signer, err)
	}
	have, whole := c.have()
	if err := judge(have, came, c.path()); err != nil {
		return err
	}
	same := have != nil && have.Same(&came.Header) && whole
	switch {
	case !came.Candidate(c.opt.Name) && same:
		return c.refresh(in.Header, came)
	case !came.Candidate(c.opt.Name):
		return c.drop(in.Header, came)
	case c.opt.Listen == Off:
		return errors.New("this machine serves no confd queries: its configuration says confd: {listen: off}")
	case same:
		return c.refresh(in.Header, came)
	}
	if len(in.Key) > cluster.MaxKey || cluster.KeyDigest(in.Key) != came.KeyDigest {
		return fmt.Errorf("%w: the key that came is not the one that the header names", cluster.ErrSnapshot)
	}
	packed, err := fetch(ctx, &came.Header, pull)
	if err != nil {
		return fmt.Errorf("get serial %d of the cluster data: %w", came.Serial, err)
	}
	data, err := read(&came.Header, packed)
	if err != nil {
		return err
	}
	if err := c.keep(in.Header, came, packed, in.Key); err != nil {
		return fmt.Errorf("keep serial %d of the cluster data: %w", came.Serial, err)
	}
	c.use(in.Header, came, data, in.Key, have)
	return nil
}

// refresh takes another signature of the version at hand: the overlord has a fresh
// certificate.
func (c *Candidate) refresh(header []byte, came *cluster.Signed) error {
	c.mu.Lock()
	same := bytes.Equal(c.header, header)
	c.mu.Unlock()
	if same {
		return nil
	}
	if err := c.keepHeader(header); err != nil {
		return fmt.Errorf("keep the header of serial %d of the cluster data: %w", came.Serial, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header, c.signed = header, came
	return nil
}

// have gives the newest header, and whether what belongs to it is at hand.
func (c *Candidate) have() (have *cluster.Signed, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.signed, c.broken == ""
}

// path names the file that binds this machine, for people.
func (c *Candidate) path() string { return filepath.Join(c.opt.Dir.Path(), fileHeader) }

// judge says why a header cannot follow the one at hand; nil: it can, or is the same
// again. What is on the disk may be broken all the same.
func judge(have, came *cluster.Signed, file string) error {
	switch {
	case have == nil:
	case have.Cluster != came.Cluster:
		return fmt.Errorf("this machine keeps data of cluster %s and takes none of cluster %s; if that is what it shall do, stop its agent, remove %s and start it again",
			have.Cluster, came.Cluster, file)
	case have.Signer != came.Signer:
		return fmt.Errorf("this machine keeps cluster data signed by overlord/%s and takes none signed by overlord/%s; if that is what it shall do, stop its agent, remove %s and start it again",
			have.Signer, came.Signer, file)
	case came.Serial < have.Serial:
		return fmt.Errorf("serial %d of the cluster data is older than %d, which this machine has", came.Serial, have.Serial)
	case came.Serial == have.Serial && !have.Same(&came.Header):
		return fmt.Errorf("two versions of the cluster data have the serial %d: this machine has another than came, and keeps it", came.Serial)
	}
	return nil
}

// use serves a version that is on the disk.
func (c *Candidate) use(header []byte, came *cluster.Signed, data *confd.Cluster, key []byte, before *cluster.Signed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header, c.signed, c.broken = header, came, ""
	if c.server != nil && before != nil && before.KeyDigest == came.KeyDigest {
		c.server.SetData(data)
	} else {
		c.setServer(c.newServer(key), data)
	}
	c.log.Info("cluster data taken", "serial", came.Serial, "overlord", came.Signer, "nodes", data.Nodes(), "cluster", came.Cluster)
}

func (c *Candidate) newServer(key []byte) *confd.Server {
	return confd.NewServer(confd.ServerConfig{Key: key, Log: c.log, Now: c.opt.Now})
}

// setServer gives Run another server, nil for none; c.mu is held.
func (c *Candidate) setServer(s *confd.Server, data *confd.Cluster) {
	if s != nil && data != nil {
		s.SetData(data)
	}
	c.server, c.deaf = s, ""
	select {
	case c.swap <- struct{}{}:
	default:
	}
}

// drop takes a header that does not name this machine: it serves no more.
func (c *Candidate) drop(header []byte, came *cluster.Signed) error {
	if err := c.keepHeader(header); err != nil {
		return fmt.Errorf("keep the header of serial %d of the cluster data: %w", came.Serial, err)
	}
	c.mu.Lock()
	was := c.server != nil
	c.header, c.signed, c.broken = header, came, ""
	c.setServer(nil, nil)
	c.mu.Unlock()
	if was {
		c.log.Info("no candidate any more: cluster data and key dropped", "serial", came.Serial, "overlord", came.Signer)
	}
	if err := c.clean(); err != nil {
		c.log.Error("cluster data and key not removed from the disk; the next start tries again", "err", err)
	}
	return nil
}

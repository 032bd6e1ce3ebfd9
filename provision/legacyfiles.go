package provision

import (
	"errors"
	"io/fs"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// LegacyPath is where files of capsules are served over plain HTTP, to the
// addresses of nodes that are approved, while the old protocol is.
const LegacyPath = "/legacy/"

// Words of LegacyPath.
const (
	legacyFolder = "vnfs"   // all that is served there
	sumQuery     = "sha256" // asks for the digest of a file, as sha256sum prints it
)

// Searches for the node of an address: it is not indexed.
const (
	lookBurst = 200
	lookEvery = 10 * time.Millisecond
)

// legacyFile is GET and HEAD /legacy/PATH.
func (s *Service) legacyFile(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return &Refusal{Status: http.StatusMethodNotAllowed, Code: "invalid", Detail: "not with this method", quiet: true}
	}
	from, err := source(r)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(r.URL.Path, LegacyPath)
	n, err := s.nodeAt(r, from)
	if err != nil {
		if f, ok := errors.AsType[*Refusal](err); ok && !f.quiet {
			f.why = LegacyPath + cut(name, 200) + ": " + f.why
			f.quiet = s.old.has(from.String(), s.cfg.Now())
		}
		return err
	}
	leave, err := s.enter("legacy/" + n.Name) // places of its own: an address proves little
	if err != nil {
		return err
	}
	defer leave()
	below, ok := strings.CutPrefix(name, legacyFolder+"/")
	if !ok {
		return denied(n.Name, "not a file of a capsule: "+LegacyPath+cut(name, 200))
	}
	root, err := s.root.OpenRoot(legacyFolder)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return noFile(n.Name, name)
	case err != nil:
		return denied(n.Name, legacyFolder+": "+err.Error())
	}
	defer root.Close()
	return s.serveFile(w, r, n, fileAsk{root: root, below: below, name: name, session: LegacyPath, from: from, how: " over plain HTTP"})
}

// nodeAt gives the node that is approved and was heard of last from an address,
// or that boots from it: somebody else who asks in its name meanwhile does not
// take its files away.
func (s *Service) nodeAt(r *http.Request, from netip.Addr) (n Node, err error) {
	name, hint := s.at.get(from)
	err = s.cfg.Store.View(r.Context(), func(v View) error {
		ok := false
		if hint {
			if n, ok, err = s.isAt(v, name, from); err != nil || ok {
				return err
			}
		}
		if !s.looks.take(s.cfg.Now()) {
			return busy("", "too many addresses to look up")
		}
		if n, ok, err = v.NodeAt(from); err == nil && !ok {
			err = denied("", "no node that is approved has this address")
		}
		return err
	})
	if err == nil {
		s.at.put(from, n.Name)
	}
	return n, err
}

// isAt gives a node, and says whether it is approved and at an address.
func (s *Service) isAt(v View, name string, from netip.Addr) (n Node, is bool, err error) {
	n, known, err := v.Node(name)
	if err != nil || !known || n.held() || n.Addr == from {
		return n, err == nil && known && !n.held(), err
	}
	nonce, has, err := v.NonceOf(name)
	return n, has && nonce.open(s.cfg.Now()) && nonce.Source == from, err
}

// maxAddresses is how many nodes of addresses are remembered.
const maxAddresses = 4096

// addresses remembers which node was found at an address; it is looked at again
// each time.
type addresses struct {
	mu   sync.Mutex
	node map[netip.Addr]string
}

func (a *addresses) get(addr netip.Addr) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name, ok := a.node[addr]
	return name, ok
}

func (a *addresses) put(addr netip.Addr, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.node == nil || len(a.node) >= maxAddresses {
		a.node = make(map[netip.Addr]string)
	}
	a.node[addr] = name
}

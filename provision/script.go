package provision

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"dominion/api/auditpb"
	"dominion/call"
	"dominion/nodescript"
)

// body reads a request. Afterwards the connection has no deadline for reading:
// what follows may take longer than a body may.
func body(w http.ResponseWriter, r *http.Request) (Request, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		return Request{}, invalid(fmt.Errorf("%w: %v", ErrRequest, err))
	}
	req, err := ParseRequest(b)
	if err != nil {
		return Request{}, invalid(err)
	}
	patient(w)
	return req, nil
}

// patient takes the deadline for reading from a connection: with it the server
// would end a request that takes longer.
func patient(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // tests' writers have none
}

// digestHeader gives a SHA-256 as the header Digest has it (RFC 3230).
func digestHeader(sum []byte) string { return "sha-256=" + base64.StdEncoding.EncodeToString(sum) }

// asks says which node a request of a state comes from: by the nonce of its
// boot in init, by its minion's certificate in every other.
func (s *Service) asks(v View, r *http.Request, req Request, p proof) (Node, error) {
	if req.State == StateInit {
		n, _, err := s.bootingNow(v, p)
		return n, err
	}
	n, err := s.running(v, r)
	if err == nil && !slices.Contains(s.cfg.States, req.State) {
		return n, s.noState(n, req.State)
	}
	return n, err
}

// noState is the answer to a node that asks in a state that is not on the list.
func (s *Service) noState(n Node, state string) *Refusal {
	return &Refusal{
		Status: http.StatusNotFound, Code: "not_found", node: n.Name,
		Detail: fmt.Sprintf("there is no state %q here; there are %s", state, strings.Join(s.cfg.States, ", ")),
	}
}

// script is POST script.
func (s *Service) script(w http.ResponseWriter, r *http.Request) error {
	req, err := body(w, r)
	if err != nil {
		return err
	}
	if req.State == "" || len(req.HWAddr) == 0 {
		return invalid(fmt.Errorf("%w: it takes hwaddr and state", ErrRequest))
	}
	from, err := source(r)
	if err != nil {
		return err
	}
	p := proof{hwaddrs: req.HWAddr, nonce: req.Nonce, source: from}
	var n Node
	err = s.cfg.Store.View(r.Context(), func(v View) error {
		n, err = s.asks(v, r, req, p)
		return err
	})
	if err != nil {
		return s.firstContact(r, req, from, err)
	}
	leave, err := s.admit(r, n.Name)
	if err != nil {
		return err
	}
	defer leave()
	n.Addr = from
	master := ""
	if a := reached(r); a.IsValid() {
		master = a.String()
	}
	made, err := s.cfg.Scripts.Assemble(r.Context(), n.forScripts(master), req.State)
	if err != nil {
		return fmt.Errorf("assemble the script of %s in state %s: %w", n.Name, req.State, err)
	}
	if err := s.hand(r.Context(), r, req, p, made); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/x-shellscript")
	h.Set("Content-Length", strconv.Itoa(len(made.Text)))
	h.Set("Digest", digestHeader(made.SHA256[:]))
	h.Set("Dominion-Node", n.Name)
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(made.Text) // who left runs none of it
	return nil
}

// hand notes that a node gets a script, before it does. What opened the state
// may have been withdrawn while the script was assembled.
func (s *Service) hand(ctx context.Context, r *http.Request, req Request, p proof, made *nodescript.Script) error {
	return s.cfg.Store.Update(ctx, func(tx Tx) error {
		n, err := s.asks(tx, r, req, p)
		if err != nil {
			return err
		}
		n.Addr, n.State, n.Contact, n.Script, n.Failure = p.source, req.State, s.cfg.Now(), made.SHA256[:], cut(made.Failure, 1000)
		if err := tx.PutNode(n); err != nil {
			return err
		}
		return tx.Audit(&auditpb.Record{
			TimeMs: s.cfg.Now().UnixMilli(), Actor: "node/" + n.Name, Action: "node.script", Subject: n.Name,
			Detail: scriptDetail(req.State, p.source.String(), made), Digest: made.SHA256[:],
		})
	})
}

// maxList is how many bytes of an audit record list scripts.
const maxList = 3500

// scriptDetail says which scripts made a node's, with the digests of their
// files, the first 16 digits of each.
func scriptDetail(state, to string, made *nodescript.Script) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s, %d bytes", state, to, len(made.Text))
	if made.Failure != "" {
		fmt.Fprintf(&b, "; a report of the failure: %s", cut(made.Failure, 300))
	}
	for i, ran := range made.Ran {
		if b.Len() > maxList-300 {
			fmt.Fprintf(&b, "; and %d scripts more", len(made.Ran)-i)
			break
		}
		fmt.Fprintf(&b, "; %s %s", cut(ran.Path, 250), hex.EncodeToString(ran.SHA256[:8]))
	}
	return cut(b.String(), maxList)
}

// firstContact makes a node known that asks for init without having booted by
// us. It gets nothing all the same.
func (s *Service) firstContact(r *http.Request, req Request, from netip.Addr, why error) error {
	if req.State != StateInit || req.Nonce != "" {
		return why
	}
	known := func(v View) (n Node, ok bool, err error) {
		for _, hw := range req.HWAddr {
			if n, ok, err = v.NodeOf(hw); err != nil || ok {
				break
			}
		}
		return n, ok, err
	}
	idle := false
	err := s.cfg.Store.View(r.Context(), func(v View) error {
		n, ok, err := known(v)
		idle = ok && (!n.held() || n.Addr == from && s.cfg.Now().Sub(n.Contact) < contactEvery)
		if !ok && err == nil {
			idle = !s.meets.take(s.cfg.Now())
		}
		return err
	})
	if err != nil || idle {
		return cmp.Or(err, why)
	}
	err = s.cfg.Store.Update(r.Context(), func(tx Tx) error {
		n, ok, err := known(tx)
		if err != nil || ok && !n.held() {
			return err
		}
		if ok {
			return s.heard(tx, n, from)
		}
		return s.meet(tx, req.HWAddr[0], from, "")
	})
	if err != nil && call.CodeOf(err) != call.Busy {
		return err
	}
	return why
}

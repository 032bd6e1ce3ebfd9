package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"dominion/api/auditpb"
)

// Joining is the answer to POST join.
type Joining struct {
	Token     string   `json:"token"` // enrols the minion of the node, once
	Pin       string   `json:"pin"`   // of the fleet's root
	Overlords []string `json:"overlords"`
	Name      string   `json:"name"` // that the minion is to enrol with
}

// join is POST join. A nonce gives one token; its use ends the nonce.
func (s *Service) join(w http.ResponseWriter, r *http.Request) error {
	req, err := body(w, r)
	if err != nil {
		return err
	}
	from, err := source(r)
	if err != nil {
		return err
	}
	p := proof{hwaddrs: req.HWAddr, nonce: req.Nonce, source: from}
	var name string
	err = s.cfg.Store.Update(r.Context(), func(tx Tx) error {
		n, nonce, err := s.bootingNow(tx, p)
		if err != nil {
			return err
		}
		if !nonce.Claimed.IsZero() {
			return &Refusal{
				Status: http.StatusConflict, Code: "conflict", node: n.Name,
				Detail: "the token of this boot was given at " + nonce.Claimed.UTC().Format(time.RFC3339),
			}
		}
		name, nonce.Claimed = n.Name, s.cfg.Now()
		return tx.PutNonce(nonce)
	})
	if err != nil {
		return err
	}
	token, err := s.token(r.Context(), p, name)
	if err != nil {
		return err
	}
	server, _ := s.cfg.At(reached(r))
	b, err := json.Marshal(Joining{Token: token, Pin: s.cfg.Pin, Overlords: []string{server}, Name: name})
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // who left has none; its next boot gets another
	return nil
}

// token makes the join token of a boot that has claimed it, and notes that it is
// given.
func (s *Service) token(ctx context.Context, p proof, name string) (string, error) {
	token, id, err := s.cfg.Token(ctx, name)
	if err != nil {
		return "", errors.Join(fmt.Errorf("make the join token of %s: %w", name, err), s.unclaim(ctx, p))
	}
	err = s.cfg.Store.Update(ctx, func(tx Tx) error {
		n, nonce, err := s.bootingNow(tx, p)
		if err != nil {
			return err
		}
		nonce.Token = id
		if err := tx.PutNonce(nonce); err != nil {
			return err
		}
		return tx.Audit(&auditpb.Record{
			TimeMs: s.cfg.Now().UnixMilli(), Actor: "node/" + n.Name, Action: "node.join", Subject: n.Name,
			Detail: fmt.Sprintf("token/%s to %s", id, p.source),
		})
	})
	return token, err
}

// unclaim lets a boot ask again for the token that could not be made.
func (s *Service) unclaim(ctx context.Context, p proof) error {
	return s.cfg.Store.Update(context.WithoutCancel(ctx), func(tx Tx) error {
		_, nonce, err := s.bootingNow(tx, p)
		if err != nil || nonce.Token != "" {
			return nil // it is over: nobody asks again
		}
		nonce.Claimed = time.Time{}
		return tx.PutNonce(nonce)
	})
}

// result is POST result. In init it counts also after the nonce was used: the
// new system may be up before the script has ended.
func (s *Service) result(w http.ResponseWriter, r *http.Request) error {
	req, err := body(w, r)
	if err != nil {
		return err
	}
	from, err := source(r)
	if err != nil {
		return err
	}
	if req.State == "" {
		return invalid(fmt.Errorf("%w: it takes a state", ErrRequest))
	}
	err = s.cfg.Store.Update(r.Context(), func(tx Tx) error {
		n, err := s.ran(tx, r, req, proof{hwaddrs: req.HWAddr, nonce: req.Nonce, source: from})
		if err != nil {
			return err
		}
		now := s.cfg.Now()
		n.Addr, n.Contact = from, now
		n.Ended = Run{State: req.State, At: now, Exit: req.Exit, Took: time.Duration(req.TookMS) * time.Millisecond, Detail: cut(req.Detail, 1000)}
		if err := tx.PutNode(n); err != nil {
			return err
		}
		return tx.Audit(&auditpb.Record{
			TimeMs: now.UnixMilli(), Actor: "node/" + n.Name, Action: "node.result", Subject: n.Name,
			Detail: fmt.Sprintf("%s from %s: exit %d after %d ms, script %s; %s", req.State, from, req.Exit, req.TookMS, cut(req.Digest, maxDigest), cut(req.Detail, 1000)),
		})
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// ran gives the node that reports a result.
func (s *Service) ran(v View, r *http.Request, req Request, p proof) (Node, error) {
	if req.State != StateInit {
		return s.asks(v, r, req, p)
	}
	n, nonce, err := s.booting(v, p)
	if err == nil && !s.cfg.Now().Before(nonce.Expires) {
		err = denied(n.Name, "the nonce expired")
	}
	return n, err
}

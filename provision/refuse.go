package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
)

// Refusal is the answer to who gets nothing.
type Refusal struct {
	Status int    `json:"-"`      // of HTTP
	Code   string `json:"code"`   // invalid, denied, not_found, conflict, busy, unavailable, internal
	Detail string `json:"detail"` // text for people

	node  string // that is meant: a name or a hardware address; empty: none is known
	why   string // for the audit log; empty: Detail
	quiet bool   // it is no news for the audit log

	notAdded bool // the old protocol has a line for it
}

// Error implements error.
func (f *Refusal) Error() string { return f.Detail }

// denied is the answer to whom nothing is to be told: all that the audit log
// gets to know is in why.
func denied(node, why string) *Refusal {
	return &Refusal{Status: http.StatusForbidden, Code: "denied", Detail: "this node may not have that now", node: node, why: why}
}

func invalid(err error) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Code: "invalid", Detail: err.Error()}
}

// refuse makes a refusal of an error, and puts it on the audit log, as far as
// that is not full of them already.
func (s *Service) refuse(r *http.Request, action string, err error) *Refusal {
	return s.refuseTo(r.Context(), r.RemoteAddr, action, err)
}

// refuseTo is refuse for who asks from host:port.
func (s *Service) refuseTo(ctx context.Context, from, action string, err error) *Refusal {
	f, ok := errors.AsType[*Refusal](err)
	if !ok {
		return s.broken(ctx, from, action, err)
	}
	if f.quiet {
		return f
	}
	why := f.why
	if why == "" {
		why = f.Detail
	}
	s.cfg.Log.Warn("node refused", "from", from, "action", action, "node", f.node, "why", cut(why, 500))
	meter := s.meter
	if f.Status == http.StatusNotFound { // of a node, so that it does not hide what strangers do
		meter = s.asked
	}
	s.record(ctx, meter, &auditpb.Record{
		Actor: "address/" + host(from), Action: "denied", Subject: cut(f.node, 260), Detail: action + ": " + cut(why, 500),
	})
	return f
}

// broken is the refusal for what is no fault of the node.
func (s *Service) broken(ctx context.Context, from, action string, err error) *Refusal {
	if ctx.Err() != nil {
		return &Refusal{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "the request was given up"}
	}
	if code := call.CodeOf(err); code == call.Unavailable || code == call.AuditRefused || code == call.Busy {
		s.cfg.Log.Error("request of a node not answered", "from", from, "action", action, "error", err)
		return &Refusal{Status: http.StatusServiceUnavailable, Code: "unavailable", Detail: "the overlord takes no requests now; ask again"}
	}
	s.cfg.Log.Error("request of a node failed", "from", from, "action", action, "error", err)
	return &Refusal{Status: http.StatusInternalServerError, Code: "internal", Detail: "the overlord's log says more"}
}

// record puts what strangers cause on the audit log: at most 60 records a
// minute; the next one says how many were left out.
func (s *Service) record(ctx context.Context, meter *audit.Meter, rec *auditpb.Record) {
	more, ok := meter.Take()
	if !ok {
		return
	}
	if more > 0 {
		rec.Detail += fmt.Sprintf(" (%d records like this before it were left out)", more)
	}
	rec.TimeMs = s.cfg.Now().UnixMilli()
	// Who is refused must not be able to prevent the record by leaving.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	if err := s.cfg.Store.Update(last, func(tx Tx) error { return tx.Audit(rec) }); err != nil {
		s.cfg.Log.Error("refusal not on the audit log", "error", err)
	}
}

// write sends the refusal.
func (f *Refusal) write(w http.ResponseWriter) {
	b, err := json.Marshal(f)
	if err != nil { // two strings: it cannot fail
		b = []byte("{}")
	}
	h := w.Header()
	for _, k := range []string{"Etag", "Digest", "Dominion-Node", "Accept-Ranges"} {
		h.Del(k)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)+1))
	h.Set("Cache-Control", "no-store")
	if f.Status == http.StatusTooManyRequests || f.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "5")
	}
	w.WriteHeader(f.Status)
	_, _ = w.Write(append(b, '\n')) // who left does not need it
}

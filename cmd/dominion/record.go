package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"dominion/api/apipb"
	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
)

// recordDoc is one audit record in json. Leaf is the whole record as it was
// hashed; the other keys are read from it for people.
type recordDoc struct {
	Index    uint64      `json:"index"`
	Time     *time.Time  `json:"time,omitempty"`
	Actor    string      `json:"actor,omitempty"`
	Action   string      `json:"action,omitempty"`
	Subject  string      `json:"subject,omitempty"`
	Detail   string      `json:"detail,omitempty"`
	Digest   string      `json:"digest,omitempty"` // hex SHA-256
	Order    *orderDoc   `json:"order,omitempty"`
	Results  *resultsDoc `json:"results,omitempty"`
	Problem  string      `json:"problem,omitempty"` // why the leaf cannot be read
	Leaf     []byte      `json:"leaf"`
	LeafHash string      `json:"leaf_hash"` // hex
}

// orderDoc is what an operator signed.
type orderDoc struct {
	Job        string    `json:"job"`
	Method     string    `json:"method"`
	Machines   int       `json:"machines"`
	Names      string    `json:"names"`
	Unknown    string    `json:"unknown,omitempty"`
	Reach      string    `json:"reach,omitempty"` // of a delegation: those of names that this overlord was to reach
	IssuedAt   time.Time `json:"issued_at"`
	Expiry     time.Time `json:"expiry"`
	ArgsDigest string    `json:"args_digest"` // hex
}

// resultsDoc is one group of equal results.
type resultsDoc struct {
	Job    string `json:"job"`
	Group  uint64 `json:"group"`
	Names  string `json:"names"`
	Status string `json:"status"`
	Reason string `json:"reason"`
	Output string `json:"output_sha256"` // hex, as the machines sent it
	Stored string `json:"stored_sha256"` // hex, as it is kept
}

func recordDocOf(r *apipb.AuditRecord) recordDoc {
	doc := recordDoc{Index: r.GetIndex(), Leaf: r.GetBody(), LeafHash: hex.EncodeToString(r.GetLeafHash())}
	rec, err := audit.Decode(r.GetBody())
	if err != nil {
		doc.Problem = err.Error()
		return doc
	}
	doc.Time, doc.Actor, doc.Action, doc.Subject, doc.Detail = jsonTime(rec.GetTimeMs()), rec.GetActor(), rec.GetAction(), rec.GetSubject(), rec.GetDetail()
	doc.Digest = hex.EncodeToString(rec.GetDigest())
	doc.Order, doc.Results = orderDocOf(rec.GetOrder()), resultsDocOf(rec.GetResults())
	return doc
}

func orderDocOf(p *auditpb.Order) *orderDoc {
	if p == nil {
		return nil
	}
	d := &orderDoc{Names: p.GetNames(), Unknown: p.GetUnknown(), Reach: p.GetReach()}
	o, err := call.ParseOrder(p.GetOrder())
	if err != nil {
		d.Method = err.Error()
		return d
	}
	d.Job, d.Method, d.Machines, d.ArgsDigest = o.Job.String(), o.Method, o.Count, hex.EncodeToString(o.ArgsDigest[:])
	d.IssuedAt, d.Expiry = o.IssuedAt.UTC(), o.Expiry.UTC()
	return d
}

func resultsDocOf(p *auditpb.Results) *resultsDoc {
	if p == nil {
		return nil
	}
	return &resultsDoc{
		Job: jobText(p.GetJob()), Group: p.GetGroup(), Names: p.GetNames(), Status: call.Status(p.GetStatus()).String(),
		Reason: reason(call.Code(p.GetCode()), p.GetDetail()), Output: hex.EncodeToString(p.GetOutputSha256()), Stored: hex.EncodeToString(p.GetStoredSha256()),
	}
}

func jobText(b []byte) string {
	var id call.JobID
	if copy(id[:], b) != len(id) || len(b) != len(id) {
		return hex.EncodeToString(b)
	}
	return id.String()
}

// recordLine shows a record on one line.
func recordLine(d recordDoc) string {
	when := ""
	if d.Time != nil {
		when = stamp(d.Time.UnixMilli())
	}
	words := []string{fmt.Sprintf("%6d", d.Index), when, d.Actor, d.Action, d.Subject}
	switch {
	case d.Problem != "":
		words = append(words, "DAMAGED: "+d.Problem)
	case d.Order != nil && d.Order.Reach != "": // it passed through: what it does is for the machines' logs
		words = append(words, fmt.Sprintf("to %s of %d machines", d.Order.Reach, d.Order.Machines))
	case d.Order != nil:
		words = append(words, d.Order.Method+" on "+d.Order.Names)
	case d.Results != nil:
		words = append(words, strings.TrimSuffix(d.Results.Names+" "+d.Results.Status+": "+d.Results.Reason, ": "))
	}
	if d.Detail != "" && (d.Order == nil || d.Detail != d.Order.Method) {
		words = append(words, d.Detail)
	}
	for i, w := range words {
		words[i] = escapeLine(w)
	}
	return strings.Join(words, "  ")
}

// recordTable shows everything about a record.
func recordTable(d recordDoc) table {
	t := table{{"index", fmt.Sprint(d.Index)}}
	add := func(name, value string) {
		if value != "" {
			t = append(t, []string{name, value})
		}
	}
	if d.Time != nil {
		add("time", d.Time.Format(time.RFC3339Nano))
	}
	add("actor", d.Actor)
	add("action", d.Action)
	add("subject", d.Subject)
	add("detail", d.Detail)
	add("problem", d.Problem)
	if o := d.Order; o != nil {
		add("job", o.Job)
		add("method", o.Method)
		add("machines", fmt.Sprintf("%s (%d)", o.Names, o.Machines))
		add("unknown", o.Unknown)
		add("to reach", o.Reach)
		add("issued", o.IssuedAt.Format(time.RFC3339))
		add("expires", o.Expiry.Format(time.RFC3339))
		add("arguments", o.ArgsDigest)
	}
	if r := d.Results; r != nil {
		add("job", r.Job)
		add("machines", r.Names)
		add("status", r.Status)
		add("reason", r.Reason)
		add("output", r.Output)
		add("stored", r.Stored)
	}
	add("digest", d.Digest)
	add("leaf hash", d.LeafHash)
	return t
}

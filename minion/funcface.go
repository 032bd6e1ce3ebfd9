package minion

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"dominion/api/auditpb"
	"dominion/audit"
	"dominion/call"
	"dominion/funcd"
	"dominion/pki"
)

// Stages of a record of a call on the Func face, MinionRecord.stage.
const (
	stageWhole = 0 // nothing follows
	stageBegun = 1
	stageEnded = 2
)

// maxFuncDetail bounds a detail in such records: they travel to the overlord.
const maxFuncDetail = 512

// openFace makes the Func face of this machine, if there is to be one.
func (d *daemon) openFace() error {
	if d.cfg.funcACL == "" {
		return nil
	}
	d.acl = funcd.OpenACL(d.cfg.funcACL, d.log)
	opt := funcd.Options{
		Machine: d.cfg.name, Version: d.cfg.version, Table: d.agent.verifier.table, Modules: funcd.Builtin(), ACL: d.acl, Admit: d.agent.admitAny,
		Record: funcRecorder{d.agent}, Facts: d.agent.funcFacts, Running: d.cfg.running, Now: d.cfg.now, Log: d.log,
	}
	if d.cfg.funcOverride {
		opt.Override = d.agent.isOverlord
	}
	var err error
	d.face, err = funcd.New(opt)
	return err
}

// newList tells those whom a newer list of revocations concerns.
func (d *daemon) newList(signed []byte, list *pki.RevocationList) {
	if d.face != nil {
		d.face.Recheck()
	}
	if d.onList != nil {
		d.onList(signed, list)
	}
}

// admitAny believes any certificate under the root that was not revoked, and whose
// issuing CA was not.
func (a *Agent) admitAny(certs []*x509.Certificate) (pki.Verified, error) {
	v, err := a.trust.Verify(certs, a.now())
	if err != nil {
		return pki.Verified{}, err
	}
	if reason, revoked := a.verifier.revocations().Revoked(v.Leaf, v.Issuer); revoked {
		return pki.Verified{}, call.Errorf(call.Revoked, "the certificate of %s was revoked: %s", v.Identity, reason)
	}
	return v, nil
}

// isOverlord says whether an identity is that of an overlord which may have a session
// with this machine.
func (a *Agent) isOverlord(id pki.Identity) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return id.Role == pki.Overlord && a.known(id.Name)
}

// funcFacts gives the facts that calls on the Func face may be guarded by.
func (a *Agent) funcFacts() []funcd.Fact {
	doc, _ := a.currentFacts()
	var m map[string]any
	if json.Unmarshal(doc, &m) != nil { // none have been gathered yet
		return nil
	}
	m["runlevel"], m["cpu_vendor"] = runLevel(), cpuVendor()
	return funcd.FactsOf(m)
}

// runLevel gives the number that systemd's default target has had among run levels;
// empty when there is none.
func runLevel() string {
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		to, err := os.Readlink(dir + "/default.target")
		if err != nil {
			continue
		}
		return map[string]string{"graphical.target": "5", "multi-user.target": "3", "rescue.target": "1"}[filepath.Base(to)]
	}
	return ""
}

// cpuVendor gives the vendor of the first processor; empty when the kernel does not
// say.
func cpuVendor() string {
	b, err := readBounded("/proc/cpuinfo", 4<<20)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "vendor_id" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// funcRecorder writes calls on the Func face to the machine's own log, and lets the
// overlords know that there is something to be had.
type funcRecorder struct{ a *Agent }

// Begin implements funcd's recorder.
func (k funcRecorder) Begin(r funcd.Record) error {
	if k.a.own.log == nil {
		return call.Errorf(call.Unavailable, "this machine keeps no log; nothing was run")
	}
	if err := k.a.own.ready(); err != nil {
		return err
	}
	m := k.record(r, stageBegun)
	if r.Whole {
		m.Stage = stageWhole
	}
	if _, err := k.a.own.log.Append(m); err != nil {
		if errors.Is(err, audit.ErrRecord) {
			return err
		}
		return call.Errorf(call.Unavailable, "this machine's own audit log cannot be written: %s; nothing was run", why(err))
	}
	k.a.tellRecords()
	return nil
}

// End implements funcd's recorder. A record that the log does not take is kept, and no
// call starts before it is written.
func (k funcRecorder) End(r funcd.Record) {
	if err := k.a.own.ran(k.record(r, stageEnded)); err != nil {
		k.a.log.Error("end of a func call not recorded", "call_id", r.ID, "err", err)
	}
	k.a.tellRecords()
}

// Refused implements funcd's recorder, at the rate of all refusals.
func (k funcRecorder) Refused(r funcd.Record) {
	before, ok := k.a.own.wants(k.a.now())
	if !ok || k.a.own.log == nil {
		return
	}
	if err := k.a.own.refused(k.record(r, stageWhole), before); err != nil {
		k.a.log.Error("refusal not recorded", "err", err)
	}
	k.a.tellRecords()
}

func (k funcRecorder) record(r funcd.Record, stage uint32) *auditpb.MinionRecord {
	return &auditpb.MinionRecord{
		TimeMs: k.a.now().UnixMilli(), Job: r.ID[:], Method: cut(r.Method, call.MaxMethod), ArgsDigest: r.Args, Code: uint32(r.Code),
		OutputSha256: r.Output, Detail: cut(r.Detail, maxFuncDetail), Caller: r.Caller, Address: r.Address, Stage: stage,
	}
}

// forwards gives the log from which records go to the overlords; nil without a Func
// face.
func (d *daemon) forwards() forwardLog {
	if d.cfg.funcACL == "" {
		return nil
	}
	return d.own
}

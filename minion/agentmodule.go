package minion

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"slices"

	"dominion/audit"
	"dominion/call"
	"dominion/module"
	"dominion/module/site"
)

// maxLogPage bounds the records in one answer of agent.log, in bytes before
// base64.
const maxLogPage = 512 << 10

// Modules gives every module of a minion: Builtin and the agent's own. own is
// the log that agent.log shows, signed with key; a table for its schemas alone
// needs neither.
func Modules(own *audit.FileLog, key crypto.Signer) []module.Module { return modules(own, key, nil) }

// modules is Modules with those of the site behind the module "module".
func modules(own *audit.FileLog, key crypto.Signer, others *site.Set) []module.Module {
	m := &agentModule{own: own, key: key}
	return append(slices.Clone(Builtin), others.Module(), module.Module{
		Name: "agent", Doc: "The agent itself.",
		Methods: []module.Method{
			module.Func("version", "Tells the agent's version.", module.Read, m.version, module.MethodOptions{}),
			module.Func("log", "Shows this machine's own log of what it ran, signed by its key.", module.Read, m.log, module.MethodOptions{}),
		},
	})
}

type agentModule struct {
	own *audit.FileLog
	key crypto.Signer
}

type versionIn struct{}

// VersionOut is the output of agent.version.
type VersionOut struct {
	Version string `json:"version" doc:"version of the agent"`
}

func (m *agentModule) version(_ context.Context, env *module.Env, _ versionIn) (VersionOut, error) {
	return VersionOut{Version: env.Version}, nil
}

type logIn struct {
	From  int64 `json:"from" doc:"index of the first record" min:"0" default:"0"`
	Limit int   `json:"limit" doc:"most records to give" min:"1" max:"1000" default:"1000"`
}

// LogOut is the output of agent.log: a page of the log and the head of the
// whole log as it was at that moment. LogOut.Page and LogOut.SignedHead give them as
// package audit checks them.
type LogOut struct {
	From      int64    `json:"from" doc:"index of the first record of this page; later than asked for when older ones are no longer kept"`
	Before    string   `json:"before" doc:"base64: the Merkle tree of the records before this page"`
	Records   []string `json:"records" doc:"base64: encoded records, the leaves of the tree"`
	Head      string   `json:"head" doc:"log id, number of records and root, as text"`
	Signature string   `json:"signature" doc:"base64: of the head by this machine's key"`
	First     int64    `json:"first" doc:"index of the oldest record that is kept"`
}

func (m *agentModule) log(_ context.Context, _ *module.Env, in logIn) (LogOut, error) {
	if m.own == nil {
		return LogOut{}, call.Errorf(call.Unavailable, "this agent keeps no log")
	}
	// The head first: what is appended meanwhile is cut off the page.
	at := m.own.Checkpoint()
	head, err := audit.SignMinionHead(at, m.key)
	if err != nil {
		return LogOut{}, err
	}
	page, err := m.own.Read(in.From, in.Limit)
	if err != nil {
		return LogOut{}, err
	}
	out := LogOut{
		From: page.From, Before: base64.StdEncoding.EncodeToString(page.Before), Records: []string{},
		Head: head.Text, Signature: base64.StdEncoding.EncodeToString(head.Signature), First: m.own.First(),
	}
	size := 0
	for i, leaf := range page.Leaves {
		if size += len(leaf); page.From+int64(i) >= at.Size || i > 0 && size > maxLogPage {
			break
		}
		out.Records = append(out.Records, base64.StdEncoding.EncodeToString(leaf))
	}
	return out, nil
}

// ParseLogOut reads the output of agent.log, which comes from a machine that may
// lie. The error is a *call.Error with code Invalid.
func ParseLogOut(b []byte) (LogOut, error) {
	var o LogOut
	if err := json.Unmarshal(b, &o); err != nil {
		return LogOut{}, call.Errorf(call.Invalid, "output of agent.log: %v", err)
	}
	return o, nil
}

// Page gives the records as audit.Page.Check wants them. The error is a
// *call.Error with code Invalid.
func (o LogOut) Page() (audit.Page, error) {
	p := audit.Page{From: o.From}
	var err error
	if p.Before, err = base64.StdEncoding.DecodeString(o.Before); err != nil {
		return audit.Page{}, call.Errorf(call.Invalid, "before: %v", err)
	}
	for i, r := range o.Records {
		leaf, err := base64.StdEncoding.DecodeString(r)
		if err != nil {
			return audit.Page{}, call.Errorf(call.Invalid, "record %d: %v", i, err)
		}
		p.Leaves = append(p.Leaves, leaf)
	}
	return p, nil
}

// SignedHead gives the head to be opened with the machine's public key. The
// error is a *call.Error with code Invalid.
func (o LogOut) SignedHead() (audit.MinionHead, error) {
	sig, err := base64.StdEncoding.DecodeString(o.Signature)
	if err != nil {
		return audit.MinionHead{}, call.Errorf(call.Invalid, "signature: %v", err)
	}
	return audit.MinionHead{Text: o.Head, Signature: sig}, nil
}

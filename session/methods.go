package session

import "encoding/json"

// The session's own methods: they need no order, and each goes one way.
// Arguments and results are JSON; bytes are base64 in it.
const (
	MethodFacts       = "session.facts"       // minion to overlord: its facts; overlord to minion, without arguments: send them
	MethodRenew       = "session.renew"       // minion to overlord: RenewArgs, answered by RenewResult
	MethodRevocations = "session.revocations" // overlord to minion: RevocationsArgs, answered by RevocationsResult
	MethodJob         = "session.job"         // overlord to minion: JobArgs, answered by JobResult
	MethodCheckpoint  = "session.checkpoint"  // overlord to minion: CheckpointArgs, whose head may be empty, answered by CheckpointResult
)

// RenewArgs asks for a new certificate of the same identity.
type RenewArgs struct {
	CSR []byte `json:"csr"` // PKCS#10, DER
}

// RenewResult holds the new certificate.
type RenewResult struct {
	Chain [][]byte `json:"chain"` // DER: leaf, issuing CA, root
}

// RevocationsArgs carries a new revocation list.
type RevocationsArgs struct {
	List []byte `json:"list"` // an encoded fleetpb.Signed
}

// CheckpointArgs carries the overlord's newest checkpoint and its proof.
type CheckpointArgs struct {
	Head []byte `json:"head"` // an encoded fleetpb.LogHead
}

// RevocationsResult says which list a minion uses now.
type RevocationsResult struct {
	Number uint64 `json:"number"`
}

// CheckpointResult says what a minion remembers now. A head that it does not
// accept is answered with call.AuditRefused instead.
type CheckpointResult struct {
	Checkpoints [][]byte `json:"checkpoints"` // signed notes, one for each log id
}

// JobArgs asks how far a job has come that the overlord, or one that shares its
// store, has sent.
type JobArgs struct {
	Job string `json:"job"` // call.JobID.String
	// Cancel withdraws it first: what waits never starts, what runs is told to end.
	Cancel bool `json:"cancel,omitempty"`
}

// JobState is how far a job has come on a machine.
type JobState string

// The states of a job on a machine.
const (
	JobNone     JobState = "none"     // this journal never heard of it
	JobRunning  JobState = "running"  // it waits to start, or runs; ask again
	JobFinished JobState = "finished" // with the result
)

// JobResult answers JobArgs. Whether a method ran that was started when the
// machine went down is not known: such a job is finished, with call.Unknown.
type JobResult struct {
	State  JobState        `json:"state"`
	Code   uint32          `json:"code,omitempty"`
	Detail string          `json:"detail,omitempty"`
	TookUs uint64          `json:"took_us,omitempty"`
	Output json.RawMessage `json:"output,omitempty"` // at most 1 MiB
}

// MethodGrant carries the request of a new overlord up, minion's side to
// overlord: GrantArgs, answered by GrantResult.
const MethodGrant = "session.grant"

// Limits of what is passed on for others.
const (
	MaxGrant = 32 << 10 // bytes of GrantArgs, encoded
	MaxVia   = 16       // overlords that may pass one request on
)

// GrantArgs is the request of a new overlord, or of one that renews, as it goes
// from overlord to overlord up to the host of the root's key.
type GrantArgs struct {
	CSR        []byte `json:"csr"`         // PKCS#10, DER
	IssuingCSR []byte `json:"issuing_csr"` // PKCS#10, DER
	LogKey     []byte `json:"log_key"`
	LogID      string `json:"log_id"`
	Signature  []byte `json:"signature"` // by the key of CSR, over all of the above
	Token      string `json:"token,omitempty"`
	Renew      bool   `json:"renew,omitempty"` // it holds a certificate for the key of CSR
	// From is where the request came from and Via who passed it on before the one
	// that sends it: the word of those who did.
	From string   `json:"from,omitempty"`
	Via  []string `json:"via,omitempty"` // at most MaxVia
}

// GrantState is how such a request fares.
type GrantState string

// The states.
const (
	GrantWaiting  GrantState = "pending"
	GrantGranted  GrantState = "granted"
	GrantRejected GrantState = "rejected"
)

// GrantResult answers GrantArgs. Who asked verifies it.
type GrantResult struct {
	State        GrantState `json:"state"`
	Chain        [][]byte   `json:"chain,omitempty"`   // DER: leaf, root
	Issuing      []byte     `json:"issuing,omitempty"` // DER
	LogKey       []byte     `json:"log_key,omitempty"` // the root's statement
	Detail       string     `json:"detail,omitempty"`
	RetryAfterMs uint64     `json:"retry_after_ms,omitempty"`
	Revocations  []byte     `json:"revocations,omitempty"` // the signed list
	Fingerprint  string     `json:"fingerprint,omitempty"`
	RootHost     string     `json:"root_host,omitempty"` // the overlord that holds the root's key
}

// MethodRevoke carries a sub-overlord's request to revoke certificates of its
// machines up, as MethodGrant does: RevokeArgs, answered by RevokeResult.
const MethodRevoke = "session.revoke"

// MaxRevoke is the size of the largest RevokeArgs in bytes, encoded.
const MaxRevoke = 256 << 10

// RevokeArgs is the request, signed by the overlord whose machines they were.
type RevokeArgs struct {
	Overlord  string   `json:"overlord"`
	Leaves    [][]byte `json:"leaves"` // DER
	Reason    string   `json:"reason"`
	Actor     string   `json:"actor"`
	Signature []byte   `json:"signature"`
	Hops      int      `json:"hops,omitempty"` // overlords that have passed it on; at most MaxVia
}

// RevokeResult holds the list that names them.
type RevokeResult struct {
	Number uint64 `json:"number"`
	List   []byte `json:"list"` // an encoded fleetpb.Signed
}

// MethodRecover carries a sub-overlord's request to explain its restored audit log up,
// as MethodGrant does: RecoverArgs, answered by RecoverResult.
const MethodRecover = "session.recover"

// MaxRecover is the size of the largest RecoverArgs in bytes, encoded.
const MaxRecover = 8 << 10

// RecoverArgs is the request, signed by the overlord whose log it is.
type RecoverArgs struct {
	Overlord  string `json:"overlord"`
	Recovery  []byte `json:"recovery"` // an encoded fleetpb.Recovery
	Actor     string `json:"actor"`
	Token     string `json:"token"`
	Signature []byte `json:"signature"`
	Hops      int    `json:"hops,omitempty"` // overlords that have passed it on; at most MaxVia
}

// RecoverResult holds the root's statement.
type RecoverResult struct {
	Statement []byte `json:"statement"` // an encoded fleetpb.Signed
}

// An overlord calls these at the agent inside a sub-overlord.
const (
	// MethodDelegate passes an order on; its arguments are an encoded
	// fleetpb.Delegate. The receiver opens a stream "events" of apipb.CallEvents, each
	// behind its length as a varint, and with live output another, "output".
	// The answer, without output, comes when every machine has a stored result.
	MethodDelegate = "session.delegate"
	// MethodMap asks for what is directly below: MapArgs, answered by MapResult.
	MethodMap = "session.map"
	// MethodGroups asks who is in groups: GroupsArgs, answered by GroupsResult.
	MethodGroups = "session.groups"
)

// MapArgs asks an overlord for the machines directly below it, or below the
// one that Path leads to from there.
type MapArgs struct {
	Path  []string `json:"path,omitempty"`  // at most call.MaxHops; each overlord takes the first off
	After string   `json:"after,omitempty"` // the last name of the page before; empty: from the first
}

// MapResult answers MapArgs.
type MapResult struct {
	Machines []MapMachine `json:"machines"` // sorted by name; at most MaxMapPage
	More     bool         `json:"more,omitempty"`
}

// MaxMapPage is how many machines one MapResult names.
const MaxMapPage = 10_000

// MapMachine is a machine of an overlord.
type MapMachine struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint,omitempty"` // sha256:… of its key
	Alive       bool   `json:"alive,omitempty"`       // it has a session
	Overlord    bool   `json:"overlord,omitempty"`
	Problem     string `json:"problem,omitempty"` // why it has no session
}

// GroupsArgs asks who is in groups, as an overlord and those below it know them.
type GroupsArgs struct {
	Names []string `json:"names"`          // without @
	Hops  int      `json:"hops,omitempty"` // overlords that have passed it on; at most call.MaxHops
}

// GroupsResult answers GroupsArgs. A group that nobody knows is left out. What
// each overlord said stays apart, so that who asks can hold it against the map:
// an overlord's word counts for machines below itself alone.
type GroupsResult struct {
	Groups map[string]string       `json:"groups,omitempty"` // name to folded members, as this overlord knows them
	Below  map[string]GroupsResult `json:"below,omitempty"`  // answers of its sub-overlords, by name
	Silent string                  `json:"silent,omitempty"` // folded; sub-overlords that did not answer
}

// Limits of GroupsArgs and GroupsResult.
const (
	MaxGroups       = 2048    // groups in one question
	MaxGroupsAnswer = 3 << 20 // bytes of a GroupsResult, encoded
)

// MethodOrders is what a sub-overlord asks its parent when their session begins:
// which of the orders that it has open from there are over. OrdersArgs, answered by
// OrdersResult.
const MethodOrders = "session.orders"

// MaxOrders is how many orders one OrdersArgs may name.
const MaxOrders = 1000

// OrdersArgs names orders that the parent passed on.
type OrdersArgs struct {
	Jobs []string `json:"jobs"` // call.JobID.String of the orders; at most MaxOrders
}

// OrdersResult answers OrdersArgs.
type OrdersResult struct {
	Over []string `json:"over,omitempty"` // those that were withdrawn, or whose results nobody awaits any more
}

// MethodCluster is how an overlord announces a version of the cluster data to a
// machine, or asks which one it has: ClusterArgs, answered by ClusterResult when the
// machine has taken it and serves it, or why it does not.
const MethodCluster = "session.cluster"

// ClusterArgs announces a version of the cluster data; without a header it asks.
type ClusterArgs struct {
	Header []byte `json:"header,omitempty"` // an encoded fleetpb.ClusterSigned
	Key    []byte `json:"key,omitempty"`    // the HMAC key; for candidates alone
}

// ClusterResult says what a machine has.
type ClusterResult struct {
	Header  []byte `json:"header,omitempty"`  // of the newest version that it took, as it came
	Serving bool   `json:"serving,omitempty"` // it answers queries with that version
	Listen  string `json:"listen,omitempty"`  // where: the address of its socket
	Error   string `json:"error,omitempty"`   // why it did not take what was announced, or does not serve
}

// MethodClusterData is how a machine gets the data of a version that was announced,
// piece by piece: ClusterDataArgs, answered by ClusterDataResult.
const MethodClusterData = "session.clusterdata"

// MaxClusterPiece is how many bytes one ClusterDataResult holds: in base64 they fit
// into one RESULT.
const MaxClusterPiece = 180 << 10

// ClusterDataArgs asks for a piece of a compressed document.
type ClusterDataArgs struct {
	Digest []byte `json:"digest"`           // SHA-256 of the compressed document
	Offset int64  `json:"offset,omitempty"` // bytes
}

// ClusterDataResult is a piece: it ends at MaxClusterPiece, or with the document.
type ClusterDataResult struct {
	Data []byte `json:"data"`
}

// MethodRecords carries what a machine's own log holds of calls on its Func face up:
// RecordsArgs, answered by RecordsResult.
const MethodRecords = "session.records"

// Limits of one RecordsArgs.
const (
	MaxRecords     = 256       // leaves
	MaxRecordsSize = 256 << 10 // bytes of them
	MaxRecordLeaf  = 4 << 10   // bytes of one
)

// RecordsArgs are leaves of the machine's own log, in their order. Without leaves it
// asks how far the overlord has them, or says that there are none up to Next.
type RecordsArgs struct {
	Log    string       `json:"log"`              // id of the machine's own log
	Leaves []RecordLeaf `json:"leaves,omitempty"` // of calls on the Func face
	Next   int64        `json:"next,omitempty"`   // index up to which there are no others
	// Lost is how many leaves, of any kind, were removed before this overlord could be
	// given what there was among them.
	Lost int64 `json:"lost,omitempty"`
}

// RecordLeaf is one leaf with its index.
type RecordLeaf struct {
	Index int64  `json:"index"`
	Leaf  []byte `json:"leaf"` // an encoded auditpb.MinionRecord
}

// RecordsResult says up to which index the overlord's own log durably has them.
type RecordsResult struct {
	Next int64 `json:"next"`
}

// MethodOffer tells of the methods that a machine offers beside those of its agent.
// The overlord asks, without arguments, for the offer whose digest was in HELLO or
// was told since: answered by OfferResult. The minion tells of another digest:
// OfferArgs, answered when the overlord has the offer.
const MethodOffer = "session.offer"

// OfferArgs says what is offered from now on.
type OfferArgs struct {
	Digest []byte `json:"digest,omitempty"` // SHA-256 of the offer; empty: nothing is offered
}

// OfferResult holds an offer.
type OfferResult struct {
	Offer []byte `json:"offer,omitempty"` // a module.Offer in JSON
}

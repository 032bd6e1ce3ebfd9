package session

// The session's own methods: they need no order, and each goes one way.
// Arguments and results are JSON; bytes are base64 in it.
const (
	MethodFacts       = "session.facts"       // minion to overlord: its facts; overlord to minion, without arguments: send them
	MethodRenew       = "session.renew"       // minion to overlord: RenewArgs, answered by RenewResult
	MethodRevocations = "session.revocations" // overlord to minion: RevocationsArgs, answered by RevocationsResult
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

package session

// MethodBlob asks an overlord for the bytes of a file, by their digest: BlobArgs,
// minion's side to overlord. It is answered with a stream of the call's that is named
// BlobStream, and then without output. See Session.Pull.
const MethodBlob = "session.blob"

// BlobStream is the name of that stream.
const BlobStream = "blob"

// BlobArgs names the bytes that are wanted: all from an offset on.
type BlobArgs struct {
	Digest string `json:"digest"`           // "sha256:…"
	Offset int64  `json:"offset,omitempty"` // bytes
	// Job is the order that names the digest; empty for a file of
	// MethodProvisionFile.
	Job string `json:"job,omitempty"` // call.JobID.String
}

// MethodProvisionFile asks the overlord above for a file that nodes may have, by its
// path: ProvisionFileArgs, sub-overlord to its parent, answered by
// ProvisionFileResult, or call.NotFound. For some time afterwards MethodBlob
// gives its bytes.
const MethodProvisionFile = "session.provisionfile"

// MaxProvisionPath is the length of such a path in bytes.
const MaxProvisionPath = 4096

// ProvisionFileArgs asks for a file below the directory of files.
type ProvisionFileArgs struct {
	Path string `json:"path"`           // slash-separated, relative
	Hops int    `json:"hops,omitempty"` // overlords that have passed it on; at most call.MaxHops
}

// ProvisionFileResult describes a file.
type ProvisionFileResult struct {
	Digest  string `json:"digest"`             // "sha256:…"
	Size    int64  `json:"size"`               // bytes
	MtimeMs int64  `json:"mtime_ms,omitempty"` // Unix time; 0: not known
}

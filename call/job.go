package call

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// JobID is a UUIDv7 (RFC 9562, section 5.7): it sorts by the time it was made.
type JobID [16]byte

// NewJobID makes an id for a job ordered now.
func NewJobID(now time.Time) JobID {
	var id JobID
	rand.Read(id[6:]) // never fails (crypto/rand since Go 1.24)
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// String gives the canonical text, 36 characters, lower case.
func (id JobID) String() string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// LogValue implements slog.LogValuer with String: sixteen numbers tell nobody anything.
func (id JobID) LogValue() slog.Value { return slog.StringValue(id.String()) }

// IsZero says whether id was never set.
func (id JobID) IsZero() bool { return id == JobID{} }

// ParseJobID reads what String wrote.
func ParseJobID(s string) (JobID, error) {
	var id JobID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(id) || len(s) != 36 {
		return JobID{}, fmt.Errorf("%q is not a job id", s)
	}
	copy(id[:], b)
	if id.String() != strings.ToLower(s) {
		return JobID{}, fmt.Errorf("%q is not a job id", s)
	}
	return id, nil
}

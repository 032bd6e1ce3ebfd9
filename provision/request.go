package provision

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"dominion/nodescript"
)

// Bounds of what nodes send.
const (
	MaxBody   = 64 << 10 // bytes of a request
	MaxAddrs  = 16       // hardware addresses in it
	MaxArgs   = 64       // words after the state
	MaxArg    = 1024     // bytes of one
	MaxDetail = 4 << 10  // bytes of what a result says
	maxDigest = 128      // bytes of its digest
)

// ErrRequest is wrapped by every error about a request that is malformed.
var ErrRequest = errors.New("malformed request")

// nonceLen is the length of a nonce's text: 256 random bits in hex.
const nonceLen = 64

// Request is the body of every request of provision/1; each uses its part.
type Request struct {
	HWAddr []string `json:"hwaddr"` // of the node's interfaces, the one it booted from first
	State  string   `json:"state,omitempty"`
	Args   []string `json:"args,omitempty"` // the words after the state; nothing reads them
	Nonce  string   `json:"nonce,omitempty"`

	Digest string `json:"digest,omitempty"`  // of the script that ran, as its header said
	Exit   int    `json:"exit,omitempty"`    // 0 to 255
	TookMS int64  `json:"took_ms,omitempty"` // how long it ran
	Detail string `json:"detail,omitempty"`  // text for people
}

// ParseRequest reads a body. Fields that are not known are left alone, so that
// a newer client may add some. Hardware addresses come out as ParseHWAddr
// gives them. Every error wraps ErrRequest.
func ParseRequest(body []byte) (Request, error) {
	var r Request
	if len(body) > MaxBody {
		return Request{}, fmt.Errorf("%w: more than %d bytes", ErrRequest, MaxBody)
	}
	if !utf8.Valid(body) {
		return Request{}, fmt.Errorf("%w: not UTF-8", ErrRequest)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&r); err != nil {
		return Request{}, fmt.Errorf("%w: %v", ErrRequest, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Request{}, fmt.Errorf("%w: something follows it", ErrRequest)
	}
	return r, r.check()
}

func (r *Request) check() error {
	if len(r.HWAddr) > MaxAddrs || len(r.Args) > MaxArgs {
		return fmt.Errorf("%w: more than %d hardware addresses, or %d words", ErrRequest, MaxAddrs, MaxArgs)
	}
	for i, a := range r.HWAddr {
		hw, err := ParseHWAddr(a)
		if err != nil {
			return fmt.Errorf("%w: %v", ErrRequest, err)
		}
		r.HWAddr[i] = hw
	}
	for _, a := range r.Args {
		if len(a) > MaxArg {
			return fmt.Errorf("%w: a word of more than %d bytes", ErrRequest, MaxArg)
		}
	}
	if r.State != "" {
		if _, err := nodescript.ParseState(r.State); err != nil {
			return fmt.Errorf("%w: %v", ErrRequest, err)
		}
	}
	if r.Nonce != "" && !isNonce(r.Nonce) {
		return fmt.Errorf("%w: the nonce is not %d small hex digits", ErrRequest, nonceLen)
	}
	if r.Exit < 0 || r.Exit > 255 || r.TookMS < 0 || len(r.Digest) > maxDigest || len(r.Detail) > MaxDetail {
		return fmt.Errorf("%w: the result is out of bounds", ErrRequest)
	}
	return nil
}

func isNonce(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == nonceLen && s == strings.ToLower(s)
}

// credential is what shows that a request is of a node that boots.
type credential struct{ hwaddr, nonce string }

// nonceScheme begins the Authorization header of a file's request in init.
const nonceScheme = "Dominion-Nonce "

// Authorization gives the header for requests of files in state init.
func Authorization(hwaddr, nonce string) string {
	return nonceScheme + base64.StdEncoding.EncodeToString([]byte(hwaddr+"\x00"+nonce))
}

// parseAuthorization reads it. Every error wraps ErrRequest.
func parseAuthorization(s string) (credential, error) {
	b64, ok := strings.CutPrefix(s, nonceScheme)
	if !ok || len(b64) > 256 {
		return credential{}, fmt.Errorf("%w: not the authorization of a node", ErrRequest)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil {
		return credential{}, fmt.Errorf("%w: %v", ErrRequest, err)
	}
	hwaddr, nonce, ok := strings.Cut(string(b), "\x00")
	if !ok || !isNonce(nonce) {
		return credential{}, fmt.Errorf("%w: not a hardware address and a nonce", ErrRequest)
	}
	hw, err := ParseHWAddr(hwaddr)
	if err != nil {
		return credential{}, fmt.Errorf("%w: %v", ErrRequest, err)
	}
	return credential{hwaddr: hw, nonce: nonce}, nil
}

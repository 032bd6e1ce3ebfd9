package call

import (
	"errors"
	"fmt"
	"strings"
)

// MaxName is the length of the longest machine or operator name in bytes.
const MaxName = 253

// ErrName is wrapped by every error about a malformed name.
var ErrName = errors.New("not a machine name")

// ParseName checks a name and lower-cases it. A name is one or more DNS
// labels joined by dots (RFC 1123, section 2.1): letters, digits and inner
// hyphens, a label at most 63 bytes, the whole at most 253.
func ParseName(s string) (string, error) {
	if s == "" {
		return "", fmt.Errorf("%w: it is empty", ErrName)
	}
	if len(s) > MaxName {
		return "", fmt.Errorf("%w: %d bytes are more than %d", ErrName, len(s), MaxName)
	}
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			if !labelByte(s[i]) {
				return "", fmt.Errorf("%w: %q holds %q", ErrName, s, s[i:i+1])
			}
			continue
		}
		label := s[start:i]
		switch {
		case label == "":
			return "", fmt.Errorf("%w: %q has an empty label", ErrName, s)
		case len(label) > 63:
			return "", fmt.Errorf("%w: %q has a label of %d bytes, more than 63", ErrName, s, len(label))
		case label[0] == '-' || label[len(label)-1] == '-':
			return "", fmt.Errorf("%w: a label of %q begins or ends with a hyphen", ErrName, s)
		}
		start = i + 1
	}
	return strings.ToLower(s), nil
}

func labelByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-'
}

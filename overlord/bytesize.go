package overlord

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bytes is a number of bytes, written as "500M", "20G" or "1T": powers of 1024.
type Bytes int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error {
	digits, unit := n.Value, int64(1)
	if i := strings.IndexByte("KMGT", lastByte(digits)); i >= 0 {
		digits, unit = digits[:len(digits)-1], 1<<(10*(i+1))
	}
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || v < 0 || v > math.MaxInt64/unit {
		return fmt.Errorf("line %d: %q is not a number of bytes such as 20G", n.Line, n.Value)
	}
	*b = Bytes(v * unit)
	return nil
}

// lastByte is 0 for an empty text.
func lastByte(s string) byte {
	if s == "" {
		return 0
	}
	return s[len(s)-1]
}

package overlord

import (
	"strings"
	"testing"

	"dominion/config"
)

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "1": 1, "4096": 4096, "1K": 1 << 10, "500M": 500 << 20, "20G": 20 << 30, "3T": 3 << 40,
		"": -1, "G": -1, "-1": -1, "1.5G": -1, "20GB": -1, "20g": -1, "9999999999T": -1, "9223372036854775808": -1,
	} {
		c, err := config.Parse[Config]("overlord.yaml", []byte("blobs: {max: '"+text+"'}"))
		if want < 0 {
			if err == nil || !strings.Contains(err.Error(), "is not a number of bytes such as 20G") {
				t.Errorf("%q: %v, %v", text, c.Blobs.Max, err)
			}
			continue
		}
		if err != nil || c.Blobs.Max != want {
			t.Errorf("%q: %d, %v; want %d", text, c.Blobs.Max, err, want)
		}
	}
}

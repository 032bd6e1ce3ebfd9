//go:build fleet

package confd

import (
	"encoding/json"
	"fmt"
	"net"
	"testing"
)

// Genuine is a genuine daemon for tests outside this package.
type Genuine struct{ d *daemon }

// StartGenuine runs the genuine daemon on a configuration.
func StartGenuine(t testing.TB, config []byte) Genuine { return Genuine{startGaneti(t, config)} }

// Compare starts the daemon again on a configuration, and compares its answers with
// those of our server.
func (g Genuine) Compare(t *testing.T, name string, config []byte, more ...Request) {
	t.Helper()
	g.d.t = t
	compareConfig(t, g.d, name, config, more...)
}

// AskGenuine has the genuine client ask the daemon, and gives the answer and its
// serial.
func (g Genuine) AskGenuine(t *testing.T, typ Type, query any) string {
	t.Helper()
	var out struct {
		TimedOut bool `json:"timed_out"`
		Status   int
		Answer   json.RawMessage
		Serial   int64
	}
	c := startDriver(t, g.d.port, net.IP(g.d.ip).String())
	if err := json.Unmarshal(c.do(map[string]any{"type": typ, "query": query, "coverage": 1}), &out); err != nil {
		t.Fatal(err)
	}
	if out.TimedOut {
		return "silence"
	}
	return fmt.Sprintf("%d %s %d", out.Status, out.Answer, out.Serial)
}

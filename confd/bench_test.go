package confd

import (
	"net/netip"
	"testing"
	"time"
)

// BenchmarkAnswer is one datagram without the socket: 7 nodes.
func BenchmarkAnswer(b *testing.B) {
	for name, r := range map[string]Request{"ping": Ping().Request, "role": NodeRole("alpha.lab.example").Request, "garbage": {}} {
		b.Run(name, func(b *testing.B) {
			w := labServer(b).newWorker()
			r.Rsalt = "00000000-1111-4222-8333-444444444444"
			in, err := r.Append(nil, []byte(testKey), time.Now())
			if err != nil {
				b.Fatal(err)
			}
			if name == "garbage" {
				in[len(in)-10] ^= 1
			}
			var out []byte
			from := netip.MustParseAddr("192.0.2.1")
			b.ReportAllocs()
			for b.Loop() {
				out = w.answer(out[:0], in, from)
			}
		})
	}
}

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const proc = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 0
   2: 0100007F:0017 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 1235 1 0
   3: 0100007F 00000000:0000 0A 0 0 0     0        0 1 1 0
   4: 01007F:0016 00000000:0000 0A 0:0 0:0 0     0        0 1 1 0
`

func TestParseSockets(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the sample is that of a little-endian machine")
	}
	got := parseSockets(proc, "tcp", tcpListen)
	want := []socket{
		{Port{Protocol: "tcp", Address: "127.0.0.1", Port: 22}, 1234},
		{Port{Protocol: "tcp", Address: "::1", Port: 8080, UID: 1000}, 77},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(socket{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// FuzzParse: nothing that the kernel writes, or somebody in its place, breaks
// the readers.
func FuzzParse(f *testing.F) {
	f.Add(proc, "socket:[12]", []byte{})
	if b, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_UNSPEC); err == nil {
		f.Add("", "", b)
	}
	f.Fuzz(func(t *testing.T, text, link string, routes []byte) {
		for _, s := range parseSockets(text, "tcp", tcpListen) {
			if s.Port.Port < 0 || s.Port.Port > 65535 || s.Address == "" {
				t.Errorf("%+v", s)
			}
		}
		parseSocketLink(link)
		for _, family := range []int{syscall.AF_INET, syscall.AF_INET6} {
			all, _ := parseRoutes(routes, family, strconv.Itoa)
			for _, r := range all {
				if r.To == "" || r.Kind == "" {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}

// nameServer answers from a table of addresses, and not at all to what begins
// with "silent".
func nameServer(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if reply := answer(b[:n]); reply != nil {
				_, _ = pc.WriteTo(reply, from)
			}
		}
	}()
	return pc.LocalAddr().String()
}

// answer makes a reply (RFC 1035 section 4) with one A record of known.example.
func answer(q []byte) []byte {
	end := 12
	var labels []string
	for end < len(q) && q[end] != 0 {
		n := int(q[end])
		labels = append(labels, string(q[end+1:end+1+n]))
		end += 1 + n
	}
	end += 5
	name := strings.Join(labels, ".")
	if strings.HasPrefix(name, "silent") {
		return nil
	}
	r := append([]byte{}, q[:end]...)
	binary.BigEndian.PutUint16(r[2:], 0x8180)
	binary.BigEndian.PutUint16(r[8:], 0)
	binary.BigEndian.PutUint16(r[10:], 0)
	kind := binary.BigEndian.Uint16(q[end-4:])
	if name != "known.example" {
		binary.BigEndian.PutUint16(r[2:], 0x8183) // no such name
		return r
	}
	if kind == 1 {
		binary.BigEndian.PutUint16(r[6:], 1)
		r = append(r, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9)
	}
	return r
}

func TestResolve(t *testing.T) {
	server := nameServer(t)
	for _, test := range []struct {
		name string
		in   ResolveIn
		want []string
		err  string
	}{
		{"address", ResolveIn{Name: "known.example.", Type: "address", Server: server, Seconds: 5}, []string{"192.0.2.9"}, ""},
		{"no mx", ResolveIn{Name: "known.example.", Type: "mx", Server: server, Seconds: 5}, nil, ""},
		{"unknown", ResolveIn{Name: "unknown.example.", Type: "address", Server: server, Seconds: 5}, nil, ""},
		{"silent", ResolveIn{Name: "silent.example.", Type: "address", Server: server, Seconds: 0.2}, nil, "look up silent.example.: no answer within 0.2s"},
		{"hosts", ResolveIn{Name: "localhost", Type: "address", Server: server, Seconds: 5}, []string{"127.0.0.1"}, ""},
		{"bad server", ResolveIn{Name: "x", Type: "address", Server: "nosuch", Seconds: 5}, nil, `invalid: server "nosuch"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := resolve(t.Context(), nil, test.in)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
				t.Fatalf("%+v, %v; want %q", got, err, test.err)
			}
			if test.name == "hosts" && len(got.Records) > 0 {
				got.Records = got.Records[:1] // ::1 may be there too
			}
			if d := cmp.Diff(test.want, got.Records); d != "" || got.Found != (len(test.want) > 0) {
				t.Errorf("%+v (-want +got):\n%s", got, d)
			}
		})
	}
}

// TestEnds: who withdraws the call does not wait for an answer.
func TestEnds(t *testing.T) {
	mine := errors.New("withdrawn")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, mine)
	defer cancel()
	if _, err := resolve(ctx, nil, ResolveIn{Name: "silent.example.", Type: "address", Server: nameServer(t), Seconds: 50}); !errors.Is(err, mine) {
		t.Errorf("resolve: %v", err)
	}
	ln, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := check(ctx, nil, CheckIn{Host: "127.0.0.1", Port: ln.LocalAddr().(*net.UDPAddr).Port, Protocol: "udp", Seconds: 50}); !errors.Is(err, mine) {
		t.Errorf("check: %v", err)
	}
}

package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// server answers as a time server whose clock is off by some time; change may
// spoil the answer, or say not to send it.
func server(t *testing.T, off time.Duration, change func(n int, reply []byte) bool) int {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 100)
		for n := 0; ; n++ {
			size, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if size != packetSize || b[0] != client {
				continue
			}
			r := make([]byte, packetSize)
			r[0], r[1] = 4<<3|4, 2
			copy(r[24:], b[40:48])
			now := stamp(time.Now().Add(off))
			binary.BigEndian.PutUint64(r[32:], now)
			binary.BigEndian.PutUint64(r[40:], now)
			if change == nil || change(n, r) {
				_, _ = pc.WriteTo(r, from)
			}
		}
	}()
	return pc.LocalAddr().(*net.UDPAddr).Port
}

func stamp(t time.Time) uint64 {
	return uint64(t.Unix()+2208988800)<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

func TestOffset(t *testing.T) {
	for _, test := range []struct {
		name   string
		off    time.Duration
		change func(n int, reply []byte) bool
		err    string
		count  int
	}{
		{"right", 0, nil, "", 3},
		{"ahead", 90 * time.Second, nil, "", 3},
		{"behind by years", -4 * 365 * 24 * time.Hour, nil, "", 3},
		{"in the next era", 20 * 365 * 24 * time.Hour, nil, "", 3},
		{"one is lost", time.Second, func(n int, _ []byte) bool { return n != 1 }, "", 2},
		{"one is spoilt", time.Second, func(n int, r []byte) bool {
			if n == 0 {
				r[0] = 0
			}
			return true
		}, "", 2},
		{"silent", 0, func(int, []byte) bool { return false }, "no answer within 100ms", 0},
		{"somebody else's", 0, func(_ int, r []byte) bool { r[24]++; return true }, "no answer within 100ms", 0},
		{"kiss of death", 0, func(_ int, r []byte) bool { r[1] = 0; copy(r[12:], "RATE"); return true }, `it says "RATE"`, 0},
		{"not set", 0, func(_ int, r []byte) bool { r[0] |= 3 << 6; return true }, "its own clock is not set", 0},
		{"too far", 0, func(_ int, r []byte) bool { r[1] = 16; return true }, "its own clock is not set", 0},
		{"a client", 0, func(_ int, r []byte) bool { r[0] = 4<<3 | 3; return true }, "does not answer as a time server", 0},
		{"no time", 0, func(_ int, r []byte) bool { clear(r[40:]); return true }, "does not answer as a time server", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := offset(t.Context(), nil, OffsetIn{Server: "127.0.0.1", Port: server(t, test.off, test.change), Samples: 3, Seconds: 0.1})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("%+v, %v; want %q", got, err, test.err)
				}
				return
			}
			want := float64(test.off.Milliseconds())
			if err != nil || math.Abs(got.OffsetMillis-want) > 50 || got.Answers != test.count || got.Stratum != 2 || got.DelayMillis > 100 {
				t.Errorf("%+v, %v; want %v ms", got, err, want)
			}
		})
	}
}

func TestOffsetEnds(t *testing.T) {
	mine := errors.New("withdrawn")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, mine)
	defer cancel()
	if _, err := offset(ctx, nil, OffsetIn{Server: "127.0.0.1", Port: server(t, 0, func(int, []byte) bool { return false }), Samples: 8, Seconds: 6}); !errors.Is(err, mine) {
		t.Errorf("%v", err)
	}
	if _, err := offset(t.Context(), nil, OffsetIn{Server: "no-such-name.invalid", Port: 123, Samples: 1, Seconds: 1}); err == nil {
		t.Error("a name that nobody knows")
	}
}

// FuzzPacket: what is accepted tells a time; all else has one error.
func FuzzPacket(f *testing.F) {
	r := make([]byte, packetSize)
	r[0], r[1], r[32], r[40] = 4<<3|4, 2, 1, 1
	f.Add(r)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePacket(b)
		if err != nil {
			if !errors.Is(err, errPacket) {
				t.Fatalf("error %v does not wrap errPacket", err)
			}
			return
		}
		ours := time.Unix(1_800_000_000, 0)
		if d := near(p.transmit, ours).Sub(ours); d.Abs() > 69*365*24*time.Hour {
			t.Errorf("%x is %v away", p.transmit, d)
		}
	})
}

func TestStatus(t *testing.T) {
	got, err := here.status(t.Context(), nil, none{})
	if err != nil || time.Since(got.Time).Abs() > time.Minute || got.Abbreviation == "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestZone(t *testing.T) {
	rules, err := os.ReadFile("/usr/share/zoneinfo/Asia/Kolkata") // no summer time since 1945
	if err != nil {
		t.Skipf("SKIPPED %s: %v (Debian: tzdata)", t.Name(), err)
	}
	root := t.TempDir()
	m := machine{root}
	status := func() Status {
		t.Helper()
		s, err := m.status(t.Context(), nil, none{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := status(); s.Zone != "UTC" || s.OffsetSeconds != 0 {
		t.Errorf("without a zone: %+v", s)
	}
	etc := filepath.Join(root, "etc")
	if err := errors.Join(os.Mkdir(etc, 0o755), os.WriteFile(etc+"/localtime", rules, 0o644)); err != nil {
		t.Fatal(err)
	}
	if s := status(); s.Zone != "" || s.OffsetSeconds != 19800 || s.Abbreviation != "IST" {
		t.Errorf("rules alone: %+v", s)
	}
	if err := os.WriteFile(etc+"/timezone", []byte("Asia/Kolkata\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s := status(); s.Zone != "Asia/Kolkata" {
		t.Errorf("Debian's file: %+v", s)
	}
	if err := errors.Join(os.Remove(etc+"/localtime"), os.Symlink("/usr/share/zoneinfo/Asia/Tokyo", etc+"/localtime")); err != nil {
		t.Fatal(err)
	}
	if s := status(); s.Zone != "Asia/Tokyo" || s.OffsetSeconds != 32400 {
		t.Errorf("a link: %+v", s)
	}
	if err := errors.Join(os.Remove(etc+"/localtime"), os.WriteFile(etc+"/localtime", []byte("garbage"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if s, err := m.status(t.Context(), nil, none{}); err == nil {
		t.Errorf("garbage: %+v", s)
	}
}

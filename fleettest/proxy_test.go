package fleettest_test

import (
	"bytes"
	"io"
	"net"
	"testing"

	"dominion/fleettest"
)

// record makes a TLS record with n bytes.
func record(n int) []byte {
	return append([]byte{23, 3, 3, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{'x'}, n)...)
}

func TestProxy(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() { // ends with the listener; its connections end with the proxy's
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	p := fleettest.NewProxy(t, echo.Addr().String(), 1)
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", p.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// passes sends records one by one and counts those that come back whole.
	passes := func(c net.Conn, most int) (n int) {
		one := record(300)
		for ; n < most; n++ {
			if _, err := c.Write(one); err != nil {
				return n
			}
			if got := make([]byte, len(one)); readFull(c, got) != nil || !bytes.Equal(got, one) {
				return n
			}
		}
		return n
	}
	calm := dial()
	if n := passes(calm, 100); n != 100 {
		t.Errorf("%d of 100 records passed", n)
	}
	p.CutAfter(5, 9)
	for range 20 {
		if n := passes(dial(), 100); n < 4 || n > 9 {
			t.Errorf("%d records passed; want 5 to 9 in one direction", n)
		}
	}
	if n := passes(calm, 100); n > 20 {
		t.Errorf("%d more records passed on an older connection", n)
	}
	if n := p.Cuts(); n != 21 {
		t.Errorf("%d cuts are counted; want 21", n)
	}
	p.CutAfter(0, 0)
	last := dial()
	if n := passes(last, 100); n != 100 {
		t.Errorf("%d of 100 records passed", n)
	}
	p.CutAll()
	if n := passes(last, 1); n != 0 {
		t.Error("a connection outlived CutAll")
	}
}

func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	return err
}

package session

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/pki"
)

func FuzzHeader(f *testing.F) {
	f.Add(frame(TypeHello, 0, nil))
	f.Add(frame(TypePing, 1<<63, nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("error %v does not wrap ErrProtocol", err)
			}
			return
		}
		if got := h.Append(nil); !bytes.Equal(got, b[:HeaderSize]) {
			t.Fatalf("accepted %x but encodes back to %x", b[:HeaderSize], got)
		}
	})
}

func FuzzBodies(f *testing.F) {
	f.Add(encode(&fleetpb.Hello{Features: []string{"a"}, JournalId: make([]byte, 16)}))
	f.Add(encode(&fleetpb.Result{Code: 1, Detail: "x", Output: []byte("{}")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeHello(b); err != nil && !errors.Is(err, ErrProtocol) {
			t.Fatalf("HELLO: error %v does not wrap ErrProtocol", err)
		}
		if _, err := DecodeResult(b); err != nil && !errors.Is(err, ErrProtocol) {
			t.Fatalf("RESULT: error %v does not wrap ErrProtocol", err)
		}
	})
}

// FuzzSession sends arbitrary bytes after HELLO to a session that answers calls
// and reads streams. Serve must end with an error of ours, with no goroutine left and
// nothing kept from the pool.
func FuzzSession(f *testing.F) {
	open := frame(TypeOpen, 1, encode(&fleetpb.Open{CallId: 1, Name: "stdout"}))
	f.Add(bytes.Join([][]byte{open, frame(TypeData, 1, []byte("hello")), frame(TypeClose, 1, nil)}, nil))
	f.Add(bytes.Join([][]byte{frame(TypeCall, 3, encode(&fleetpb.Call{Method: "a.b"})), frame(TypeCancel, 3, nil)}, nil))
	f.Add(bytes.Join([][]byte{frame(TypeResult, 1, encode(&fleetpb.Result{Output: []byte("{}")})), frame(TypePong, 2, nil)}, nil))
	f.Add(frame(TypeGoaway, 0, encode(&fleetpb.Goaway{Code: 20, RetryAfterMs: 1 << 63})))
	f.Add(frame(TypeCredit, 2, encode(&fleetpb.Credit{Bytes: 100})))
	f.Add(frame(200, 2, []byte("future"))[:15])
	ca := newAuthority(f)
	o, m := ca.options(f, "overlord/main", pki.Minion), ca.options(f, "minion/web1", pki.Overlord)
	f.Fuzz(func(t *testing.T, b []byte) {
		pool := NewPool(0)
		var tasks sync.WaitGroup
		opt := &Options{
			Answer: true, Credit: pool, Limits: Limits{Linger: time.Millisecond, Calls: 4, Streams: 4},
			Ready: func(s *Session) {
				_ = s.Start(1, &counter{}, nil)
				_ = s.StartPing(2, &counter{})
				if st, err := s.Open(t.Context(), 1, "stdin"); err == nil {
					tasks.Go(func() { _, _ = st.Write(make([]byte, 1000)) })
				}
			},
			Handler: &handler{
				call: func(s *Session, id uint64, c *fleetpb.Call) {
					_ = s.Reply(id, &fleetpb.Result{Output: c.Args[:min(len(c.Args), 9)]})
				},
				open: func(s *Session, st *Stream) {
					st.Accept()
					tasks.Go(func() { _, _ = io.Copy(io.Discard, st) })
				},
			},
		}
		mc, oc := connect(t, m, o)
		s, err := New(oc, opt)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(t.Context()) }()
		_, _ = mc.Write(append(frame(TypeHello, 0, nil), b...))
		_ = mc.CloseWrite()
		_, _ = io.Copy(io.Discard, mc)
		_ = mc.Close()
		if err := receive(t, done, "end of Serve"); err == nil {
			t.Fatal("Serve = nil")
		}
		tasks.Wait()
		if free, waiting := pool.Free(); free != DefaultPool || waiting != 0 {
			t.Fatalf("%d bytes of the pool are free, %d streams wait", free, waiting)
		}
	})
}

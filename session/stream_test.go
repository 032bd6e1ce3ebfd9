package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
)

// accepting is a Handler that accepts every stream and hands it out.
func accepting(n int) (*handler, chan *Stream) {
	c := make(chan *Stream, n)
	return &handler{open: func(s *Session, st *Stream) { st.Accept(); c <- st }}, c
}

// pattern is n bytes of which each window looks different.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func TestStreamCarriesBytes(t *testing.T) {
	both(t, func(t *testing.T, reverse bool) {
		h, streams := accepting(1)
		f := pair(t, &Options{Handler: h}, &Options{Handler: h}, reverse)
		for name, s := range map[string]*Session{"from the minion": f.minion, "from the overlord": f.overlord} {
			out := must(s.Open(t.Context(), 5, "stdout"))(t)
			in := receive(t, streams, "stream")
			if in.CallID() != 5 || in.Name() != "stdout" || in.ID() != out.ID() || (in.ID()%2 == 1) != s.Dialled() {
				t.Errorf("%s: stream %d %q of call %d", name, in.ID(), in.Name(), in.CallID())
			}
			data := pattern(3 << 20)
			go func() {
				for p := range slices.Chunk(data, 70001) {
					if _, err := out.Write(p); err != nil {
						t.Errorf("Write: %v", err)
					}
				}
				_ = out.Close()
			}()
			got, err := io.ReadAll(in)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%s: read %d bytes, %v; want the %d written", name, len(got), err, len(data))
			}
			if in.window != 0 || in.s.streamsIn.Load() != 0 {
				t.Errorf("after the end: window %d, %d streams", in.window, in.s.streamsIn.Load())
			}
		}
	})
}

func TestTinyWrites(t *testing.T) {
	h, streams := accepting(1)
	f := pair(t, &Options{Handler: h}, &Options{}, false)
	out := must(f.minion.Open(t.Context(), 1, "stdout"))(t)
	in := receive(t, streams, "stream")
	for i := range 2000 {
		if _, err := out.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all is buffered", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return in.credit == MinWindow-2000
	})
	in.mu.Lock()
	if len(in.chunks) != 1 {
		t.Errorf("2,000 single bytes hold %d buffers; want 1", len(in.chunks))
	}
	in.mu.Unlock()
	_ = out.Close()
	if got, err := io.ReadAll(in); err != nil || len(got) != 2000 || got[1999] != 1999&0xff {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// A sender never has more under way than the window.
func TestSenderWaitsForCredit(t *testing.T) {
	h, streams := accepting(1)
	f := pair(t, &Options{Handler: h}, &Options{}, false)
	out := must(f.minion.Open(t.Context(), 1, "stdout"))(t)
	in := receive(t, streams, "stream")
	wrote := make(chan error, 1)
	go func() {
		_, err := out.Write(make([]byte, 10<<20))
		wrote <- err
	}()
	eventually(t, "the window is used up", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return in.credit == 0
	})
	// Small calls pass a stream that nobody reads.
	for id := range uint64(100) {
		w := newWaiter()
		if err := f.overlord.StartPing(id+1, w); err != nil {
			t.Fatal(err)
		}
		receive(t, w.body, "PONG")
	}
	if len(wrote) != 0 {
		t.Error("10 MiB were written though nobody read")
	}
	in.CloseWithReason("seen enough")
	if e, ok := errors.AsType[*StreamError](receive(t, wrote, "end of Write")); !ok || e.Reason != "seen enough" {
		t.Errorf("Write ended with %v; want the reader's reason", e)
	}
	if free, _ := f.overlord.pool.Free(); free != DefaultPool {
		t.Errorf("%d bytes of the pool are free; want all", free)
	}
}

func TestStreamNotAccepted(t *testing.T) {
	f := pair(t, &Options{}, &Options{}, false)
	out := must(f.minion.Open(t.Context(), 1, "stdout"))(t)
	_, err := out.Write([]byte("x"))
	if e, ok := errors.AsType[*StreamError](err); !ok || e.Reason != "not wanted" {
		t.Errorf("Write = %v; want not wanted", err)
	}
	if n := f.overlord.streamsIn.Load(); n != 0 {
		t.Errorf("%d streams are counted", n)
	}
}

func TestStreamErrors(t *testing.T) {
	why := errors.New("the job was withdrawn")
	for name, c := range map[string]struct {
		end   func(f *fleet, cancel context.CancelCauseFunc, out, in *Stream)
		write func(error) bool
		read  func(error) bool
	}{
		"writer closes": {
			func(_ *fleet, _ context.CancelCauseFunc, out, _ *Stream) { _ = out.Close() },
			func(err error) bool { return errors.Is(err, ErrStreamClosed) },
			func(err error) bool { return errors.Is(err, io.EOF) },
		},
		"writer gives a reason": {
			func(_ *fleet, _ context.CancelCauseFunc, out, _ *Stream) { out.CloseWithReason("pipe broke") },
			func(err error) bool { return errors.Is(err, ErrStreamClosed) },
			func(err error) bool {
				e, ok := errors.AsType[*StreamError](err)
				return ok && e.Reason == "pipe broke"
			},
		},
		"writer's context ends": {
			func(_ *fleet, cancel context.CancelCauseFunc, _, _ *Stream) { cancel(why) },
			func(err error) bool { return errors.Is(err, why) },
			func(err error) bool {
				e, ok := errors.AsType[*StreamError](err)
				return ok && e.Reason == "cancelled"
			},
		},
		"reader closes": {
			func(_ *fleet, _ context.CancelCauseFunc, _, in *Stream) { _ = in.Close() },
			func(err error) bool { _, ok := errors.AsType[*StreamError](err); return ok },
			func(err error) bool { return errors.Is(err, ErrStreamClosed) },
		},
		"session closes": {
			func(f *fleet, _ context.CancelCauseFunc, _, _ *Stream) { f.overlord.Close(call.Revoked, "revoked") },
			func(err error) bool { return call.CodeOf(err) == call.SessionLost },
			func(err error) bool { return call.CodeOf(err) == call.SessionLost },
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, streams := accepting(1)
			f := pair(t, &Options{Handler: h}, &Options{}, false)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			out := must(f.minion.Open(ctx, 1, "stdout"))(t)
			in := receive(t, streams, "stream")
			read, wrote := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := out.Write(make([]byte, MinWindow+1)) // one byte more than there is credit for, as nobody reads
				wrote <- err
			}()
			eventually(t, "the window is used up", func() bool {
				in.mu.Lock()
				defer in.mu.Unlock()
				return in.credit == 0
			})
			c.end(f, cancel, out, in)
			if err := receive(t, wrote, "end of Write"); !c.write(err) {
				t.Errorf("Write ended with %v", err)
			}
			go func() {
				_, err := io.Copy(io.Discard, in)
				if err == nil {
					err = io.EOF
				}
				read <- err
			}()
			if err := receive(t, read, "end of Read"); !c.read(err) {
				t.Errorf("Read ended with %v", err)
			}
			eventually(t, "the window is given back", func() bool {
				free, _ := f.overlord.pool.Free()
				return free == DefaultPool && f.overlord.streamsIn.Load() == 0
			})
		})
	}
}

func TestReaderWaitsAndEnds(t *testing.T) {
	h, streams := accepting(1)
	f := pair(t, &Options{Handler: h}, &Options{}, false)
	out := must(f.minion.Open(t.Context(), 1, "stdout"))(t)
	in := receive(t, streams, "stream")
	read := make(chan error, 1)
	go func() {
		_, err := in.Read(make([]byte, 10))
		read <- err
	}()
	in.CloseWithReason("enough")
	if err := receive(t, read, "end of Read"); !errors.Is(err, ErrStreamClosed) {
		t.Errorf("Read = %v; want closed", err)
	}
	if _, err := out.Read(nil); err == nil {
		t.Error("Read of the opener's end worked")
	}
	if _, err := in.Write(nil); err == nil {
		t.Error("Write to the other end worked")
	}
	out.Accept() // means nothing there
}

func TestTooManyStreams(t *testing.T) {
	stats := new(Stats)
	h, streams := accepting(10)
	f := pair(t, &Options{Handler: h, Limits: Limits{Streams: 2}, Stats: stats}, &Options{Limits: Limits{Streams: 3}}, false)
	var out []*Stream
	for range 3 {
		out = append(out, must(f.minion.Open(t.Context(), 1, "stdout"))(t))
	}
	_, err := out[2].Write([]byte("x"))
	if e, ok := errors.AsType[*StreamError](err); !ok || stats.Busy.Load() != 1 {
		t.Errorf("Write to the stream over the peer's limit = %v, %v", e, err)
	}
	out[2] = must(f.minion.Open(t.Context(), 1, "stdout"))(t) // its place was given back
	if _, err := out[2].Write([]byte("x")); err == nil {
		t.Error("Write to a stream over the peer's limit worked")
	}
	in := receive(t, streams, "stream")
	in.CloseWithReason("done")
	out[2] = must(f.minion.Open(t.Context(), 1, "stdout"))(t)
	receive(t, streams, "stream")
	if in := receive(t, streams, "stream"); in.ID() != out[2].ID() {
		t.Errorf("stream %d came; want %d", in.ID(), out[2].ID())
	}
	for _, st := range out {
		_ = st.Close()
	}
	if n := f.minion.streamsOut.Load(); n != 0 {
		t.Errorf("%d streams are counted after all were closed", n)
	}
	for range 3 {
		must(f.minion.Open(t.Context(), 1, "stdout"))(t)
	}
	if _, err := f.minion.Open(t.Context(), 1, "stdout"); err != nil && call.CodeOf(err) != call.Busy {
		t.Errorf("Open over our limit = %v; want busy", err)
	}
	if _, err := f.minion.Open(t.Context(), 1, string(make([]byte, MaxName+1))); call.CodeOf(err) != call.Invalid {
		t.Errorf("Open with a long name = %v; want invalid", err)
	}
}

// With a pool for eight streams, thirty-two still all arrive, and the pool is whole
// afterwards.
func TestPoolExhausted(t *testing.T) {
	pool := NewPool(0)
	pool.size, pool.free = 8*MinWindow, 8*MinWindow
	var done sync.WaitGroup
	most := make(chan int, 1000)
	o := &Options{Credit: pool, Handler: &handler{open: func(s *Session, st *Stream) {
		st.Accept()
		done.Go(func() {
			n, err := io.Copy(io.Discard, st)
			if n != 300<<10 || err != nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
			_, waiting := pool.Free()
			most <- waiting
		})
	}}}
	f := pair(t, o, &Options{}, false)
	var writers sync.WaitGroup
	for range 32 {
		out := must(f.minion.Open(t.Context(), 1, "stdout"))(t)
		writers.Go(func() {
			if _, err := out.Write(make([]byte, 300<<10)); err != nil {
				t.Errorf("Write: %v", err)
			}
			_ = out.Close()
		})
	}
	writers.Wait()
	eventually(t, "all streams begin", func() bool { return f.overlord.streamsIn.Load() == 0 })
	done.Wait()
	if free, waiting := pool.Free(); free != pool.size || waiting != 0 {
		t.Errorf("%d of %d bytes are free, %d wait", free, pool.size, waiting)
	}
	close(most)
	seen := 0
	for n := range most {
		seen = max(seen, n)
	}
	if seen == 0 {
		t.Error("no stream had to wait: the test shows nothing")
	}
}

// A stream that waits for the pool can be closed; nothing is lost.
func TestCloseWhileWaitingForThePool(t *testing.T) {
	pool := NewPool(0)
	pool.size, pool.free = MinWindow, MinWindow
	h, streams := accepting(3)
	f := pair(t, &Options{Credit: pool, Handler: h}, &Options{}, false)
	var in []*Stream
	for range 3 {
		must(f.minion.Open(t.Context(), 1, "stdout"))(t)
		in = append(in, receive(t, streams, "stream"))
	}
	if free, waiting := pool.Free(); free != 0 || waiting != 2 {
		t.Fatalf("%d bytes are free, %d wait; want 0 and 2", free, waiting)
	}
	in[1].CloseWithReason("changed my mind")
	if _, waiting := pool.Free(); waiting != 1 {
		t.Errorf("%d wait; want 1", waiting)
	}
	in[0].CloseWithReason("done")
	eventually(t, "the last one has its window", func() bool {
		in[2].mu.Lock()
		defer in[2].mu.Unlock()
		return in[2].window == MinWindow
	})
	in[2].granted() // as if its turn had come as it was closed
	in[2].CloseWithReason("done")
}

func TestWindowGrowsWithUse(t *testing.T) {
	h, streams := accepting(1)
	f := pair(t, &Options{Handler: h}, &Options{}, false)
	out := must(f.minion.Open(t.Context(), 1, "stdout"))(t)
	in := receive(t, streams, "stream")
	go func() {
		_, _ = out.Write(make([]byte, 20<<20))
		_ = out.Close()
	}()
	largest, buf := 0, make([]byte, 32<<10)
	for {
		_, err := in.Read(buf)
		in.mu.Lock()
		largest = max(largest, in.window)
		in.mu.Unlock()
		if err != nil {
			break
		}
	}
	if largest <= MinWindow || largest > MaxWindow {
		t.Errorf("the window grew to %d; want more than %d and at most %d", largest, MinWindow, MaxWindow)
	}
}

// The p99 of small calls stays low while many streams run at full speed and
// one of them is not read at all.
func TestSmallCallsPassStreams(t *testing.T) {
	h := &handler{open: func(s *Session, st *Stream) {
		st.Accept()
		if st.Name() == "stopped" {
			return // accepted, never read; closed with the session
		}
		go func() { _, _ = io.Copy(io.Discard, st) }()
	}}
	stats := new(Stats)
	f := pair(t, &Options{Handler: h, Stats: stats}, &Options{}, false)
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for i := range 8 {
		name := "stdout"
		if i == 0 {
			name = "stopped"
		}
		out := must(f.minion.Open(ctx, 1, name))(t)
		writers.Go(func() {
			for {
				if _, err := out.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
	}
	eventually(t, "the streams run", func() bool { return stats.StreamBytes.Load() > 16<<20 })
	began, before := time.Now(), stats.StreamBytes.Load()
	var took []time.Duration
	for id := range uint64(1000) {
		w := newWaiter()
		began := time.Now()
		if err := f.overlord.StartPing(id+1, w); err != nil {
			t.Fatal(err)
		}
		receive(t, w.body, "PONG")
		took = append(took, time.Since(began))
	}
	rate := float64(stats.StreamBytes.Load()-before) / 1e6 / time.Since(began).Seconds()
	cancel()
	writers.Wait()
	slices.Sort(took)
	t.Logf("small calls beside 7 streams (%.0f MB/s) and a stopped one: p50 %s, p99 %s", rate, took[500], took[990])
}

func TestResultStreamNotTaken(t *testing.T) {
	for name, c := range map[string]struct{ given, want call.Code }{
		"success becomes a failure": {call.OK, call.Failed}, "a failure stays what it is": {call.Timeout, call.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			replied := make(chan error, 1)
			m := &Options{Handler: &handler{call: func(s *Session, id uint64, _ *fleetpb.Call) {
				go func() {
					replied <- s.Reply(id, &fleetpb.Result{Code: uint32(c.given), Output: make([]byte, 5<<20)})
				}()
			}}}
			h, streams := accepting(1)
			f := pair(t, &Options{Handler: h}, m, false)
			w := newWaiter()
			if err := f.overlord.Start(1, w, encode(&fleetpb.Call{Method: "test.echo"})); err != nil {
				t.Fatal(err)
			}
			receive(t, streams, "stream").CloseWithReason("too much")
			r := must(DecodeResult(receive(t, w.body, "RESULT")))(t)
			if call.Code(r.Code) != c.want || r.OutputStream != 0 || len(r.Output) != 0 {
				t.Errorf("the result has code %d, stream %d, %d bytes; want code %d and no output", r.Code, r.OutputStream, len(r.Output), c.want)
			}
			if err := receive(t, replied, "end of Reply"); err != nil {
				t.Errorf("Reply = %v", err)
			}
		})
	}
}

func TestCallWithTooMuchOutput(t *testing.T) {
	m := &Options{Handler: &handler{call: func(s *Session, id uint64, c *fleetpb.Call) {
		go func() { _ = s.Reply(id, &fleetpb.Result{Output: make([]byte, MaxCallOutput+1)}) }()
	}}}
	f := pair(t, &Options{}, m, false)
	_, err := f.overlord.Call(t.Context(), "test.echo", nil)
	if call.CodeOf(err) != call.Failed {
		t.Errorf("Call = %v; want failed", err)
	}
}

// A call whose caller leaves while the output comes gives its window back.
func TestCallLeavesDuringOutput(t *testing.T) {
	for i := range 30 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			m := &Options{Handler: &handler{call: func(s *Session, id uint64, c *fleetpb.Call) {
				go func() { _ = s.Reply(id, &fleetpb.Result{Output: make([]byte, MaxCallOutput)}) }()
			}}}
			f := pair(t, &Options{}, m, false)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*200*time.Microsecond)
			defer cancel()
			_, _ = f.overlord.Call(ctx, "test.echo", nil)
			eventually(t, "the window is given back", func() bool {
				free, _ := f.overlord.pool.Free()
				return free == DefaultPool
			})
		})
	}
}

package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"dominion/api/fleetpb"
	"dominion/call"
)

// giver answers each call with a stream "blob" of data and then with a result.
func giver(data []byte, name, reason string, r *fleetpb.Result) *Options {
	return &Options{Handler: &handler{call: func(s *Session, id uint64, _ *fleetpb.Call) {
		go func() {
			if name != "" {
				st, err := s.Open(context.Background(), id, name)
				if err == nil {
					if _, err = st.Write(data); err == nil {
						st.CloseWithReason(reason)
					}
				}
			}
			_ = s.Reply(id, r)
		}()
	}}}
}

func TestPull(t *testing.T) {
	both(t, func(t *testing.T, reverse bool) {
		data := pattern(3 << 20)
		f := pair(t, giver(data, "blob", "", &fleetpb.Result{}), &Options{}, reverse)
		for range 3 {
			p, err := f.minion.Pull(t.Context(), MethodBlob, []byte("{}"), "blob")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(p)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("read %d bytes, %v; want the %d", len(got), err, len(data))
			}
			if _, err := p.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("Read after the end = %v", err)
			}
			p.Close()
		}
		eventually(t, "nothing is left", func() bool {
			ours, _ := f.minion.Pending()
			return ours == 0 && f.minion.streamsIn.Load() == 0 && f.overlord.streamsOut.Load() == 0
		})
	})
}

func TestPullFails(t *testing.T) {
	denied := &fleetpb.Result{Code: uint32(call.Denied), Detail: "not yours"}
	for name, x := range map[string]struct {
		stream, reason string
		result         *fleetpb.Result
		want           call.Code
		begun          bool
	}{
		"refused":         {"", "", denied, call.Denied, false},
		"no stream":       {"", "", &fleetpb.Result{}, call.Internal, false},
		"another stream":  {"other", "", &fleetpb.Result{}, call.Internal, false},
		"refused midway":  {"blob", "broken", denied, call.Denied, true},
		"broken midway":   {"blob", "broken", &fleetpb.Result{}, call.Internal, true},
		"refused at last": {"blob", "", denied, call.Denied, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := pair(t, giver(pattern(1000), x.stream, x.reason, x.result), &Options{}, false)
			p, err := f.minion.Pull(t.Context(), MethodBlob, nil, "blob")
			if (err == nil) != x.begun {
				t.Fatalf("Pull = %v", err)
			}
			if err == nil {
				defer p.Close()
				_, err = io.ReadAll(p)
			}
			if call.CodeOf(err) != x.want {
				t.Errorf("error %v; want code %v", err, x.want)
			}
		})
	}
}

// Who does not read on says so; the giver's stream and call end.
func TestPullLeft(t *testing.T) {
	f := pair(t, giver(pattern(3<<20), "blob", "", &fleetpb.Result{}), &Options{}, false)
	p, err := f.minion.Pull(t.Context(), MethodBlob, nil, "blob")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(p, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, ErrStreamClosed) {
		t.Errorf("Read after Close = %v", err)
	}
	eventually(t, "the giver has ended", func() bool {
		_, theirs := f.overlord.Pending()
		return theirs == 0 && f.overlord.streamsOut.Load() == 0
	})
	lost, err := f.minion.Pull(t.Context(), MethodBlob, nil, "blob")
	if err != nil {
		t.Fatal(err)
	}
	defer lost.Close()
	f.overlord.Close(call.Unavailable, "stopping")
	if _, err := io.ReadAll(lost); err == nil {
		t.Error("a lost session gives all bytes")
	}
}

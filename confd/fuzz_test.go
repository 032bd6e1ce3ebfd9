package confd

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzRequest feeds datagrams to the parser, as they are and as inner messages
// that are signed properly, so that the fuzzer gets behind the signature. What is
// accepted says the same when it is written and read again, and is answered within
// the limit.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(workedRequest))
	for _, c := range innerCases() {
		f.Add([]byte(c))
	}
	for _, b := range datagramCases("x", workedTime) {
		f.Add(b)
	}
	key := []byte(testKey)
	w := testServer(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, d := range [][]byte{b, newSigner(key).sealRequest(nil, b, workedTime)} {
			r, err := ParseRequest(d, key, workedTime)
			out := w.answer(nil, d, netip.MustParseAddr("192.0.2.1"))
			if err != nil {
				if !errors.Is(err, ErrMalformed) || out != nil {
					t.Fatalf("error %v, answered with %q", err, out)
				}
				continue
			}
			if len(out) > MaxReply {
				t.Fatalf("a reply of %d bytes", len(out))
			}
			if len(out) > 0 {
				if _, salt, err := ParseReply(out, key); err != nil || salt != r.Rsalt {
					t.Fatalf("our reply %q: salt %q, %v", out, salt, err)
				}
			}
			again, err := r.Append(nil, key, workedTime)
			if err != nil {
				continue // it was large
			}
			back, err := ParseRequest(again, key, workedTime)
			if d := cmp.Diff(r, back, cmp.AllowUnexported(Query{})); d != "" || err != nil {
				t.Fatalf("%q: %v, differs (-first +again):\n%s", b, err, d)
			}
		}
	})
}

// FuzzReply is FuzzRequest for replies.
func FuzzReply(f *testing.F) {
	f.Add([]byte(workedReply))
	f.Add([]byte(`{"protocol":1,"status":1,"answer":{"a":[1.50,null,"\ud800"]},"serial":-7}`))
	key := []byte(testKey)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, d := range [][]byte{b, newSigner(key).sealRequest(nil, b, workedTime)} {
			r, salt, err := ParseReply(d, key)
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Fatalf("error %v does not wrap ErrMalformed", err)
				}
				continue
			}
			back, salt2, err := ParseReply(r.Append(nil, salt, key), key)
			if err != nil || salt2 != salt || !bytes.Equal(back.Answer, r.Answer) || back.Serial != r.Serial || back.Status != r.Status {
				t.Fatalf("%q: %+v becomes %+v, %v", b, r, back, err)
			}
			canonical(r.Answer)
			for _, read := range []func(*Reply) error{
				func(r *Reply) error { _, err := new(PipsByInstanceIPs(nil, nil)).Answer(r); return err },
				func(r *Reply) error { _, err := new(NodeDRBD("")).Answer(r); return err },
				func(r *Reply) error { _, err := new(NodeInstances("")).Answer(r); return err },
				func(r *Reply) error { _, err := new(InstanceDisks("")).Answer(r); return err },
				func(r *Reply) error { _, err := new(NodeRole("")).Answer(r); return err },
			} {
				_, said := errors.AsType[*AnswerError](read(&r))
				if err := read(&r); err != nil && !said && !errors.Is(err, ErrMalformed) {
					t.Fatalf("error %v wraps nothing of ours", err)
				}
			}
		}
	})
}

// FuzzConfig feeds configurations to the parser. What is accepted is written
// such that it is accepted again, and says the same then.
func FuzzConfig(f *testing.F) {
	f.Add(labConfig(f))
	f.Add([]byte(`{"version":1.5,"cluster":{"tags":["b","a","a"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("error %v does not wrap ErrConfig", err)
			}
			return
		}
		once := c.config.append(nil)
		again, err := ParseConfig(once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice := again.config.append(nil); !bytes.Equal(once, twice) {
			t.Fatalf("%s becomes %s", once, twice)
		}
	})
}

// FuzzValue: any JSON that is accepted is written such that it reads the same.
func FuzzValue(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.50,-0,1e3,true,null,"\u00e9\ud83d\ude00\ud800"]}`, `[1.]`, "\"\xed\xa0\x80\"", `[[[]]]`, `0.0000001`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sc := scanner{b: b}
		v, ok := sc.value(0)
		if !ok || !sc.end() {
			return
		}
		skip := scanner{b: b}
		if !skip.skip(0) || !skip.end() {
			t.Fatalf("%q is a value that cannot be skipped", b)
		}
		once := v.append(nil)
		sc = scanner{b: once}
		w, ok := sc.value(0)
		if twice := w.append(nil); !ok || !bytes.Equal(once, twice) {
			t.Fatalf("%q becomes %q becomes %q", b, once, twice)
		}
		if up, ok := v.appendUpTo(nil, len(once)); !ok || !bytes.Equal(up, once) {
			t.Fatalf("appendUpTo %q; append %q", up, once)
		}
		if _, ok := v.appendUpTo(nil, len(once)-1); ok {
			t.Fatal("appendUpTo exceeds its limit")
		}
		if c := canonical(b); canonical([]byte(c)) != c {
			t.Fatalf("canonical %q is not", c)
		}
	})
}

// FuzzPath: no path leads anywhere but to a value or to nothing.
func FuzzPath(f *testing.F) {
	for _, p := range pathCases() {
		f.Add(p)
	}
	c := lab(f)
	f.Fuzz(func(t *testing.T, p string) {
		if v := c.config.walk(p); v == &c.config {
			t.Fatalf("%q leads to everything", p)
		}
		showString(p)
	})
}

// FuzzHandle feeds a client with datagrams while a request is outstanding.
func FuzzHandle(f *testing.F) {
	f.Add([]byte(workedReply))
	f.Add(replyTo("salt", `"a"`, 7))
	calls := 0
	c := newTestClient(f, ClientConfig{Peers: peers(1), Callback: func(*Upcall) { calls++ }, Port: 1, Now: func() time.Time { return workedTime }})
	r := Ping().Request
	r.Rsalt = "salt"
	if err := c.SendRequest(&r, nil, 0, true); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := calls
		c.HandleResponse(b, netip.MustParseAddr("127.0.0.1"), 1)
		_, salt, err := ParseReply(b, []byte(testKey))
		if good := err == nil && salt == "salt"; (calls > before) != good {
			t.Fatalf("%q: callback called %v; a good reply: %v", b, calls > before, good)
		}
	})
}

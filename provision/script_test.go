package provision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"dominion/call"
	"dominion/nodescript"
)

// post gives the answer to a request from an address.
func (b *bench) post(what, from string, r Request) *httptest.ResponseRecorder {
	b.t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		b.t.Fatal(err)
	}
	req := httptest.NewRequestWithContext(b.t.Context(), http.MethodPost, Path+what, bytes.NewReader(text))
	req.RemoteAddr = from + ":1234"
	w := httptest.NewRecorder()
	b.Handler().ServeHTTP(w, req)
	return w
}

// What could not be put on the log is not handed out.
func TestScriptNeedsItsRecord(t *testing.T) {
	var b *bench
	b = newBench(t, func(c *Config) {
		c.Approve = []Rule{{MAC: "*"}}
		c.Scripts = scripts(func(context.Context, nodescript.Node, string) (*nodescript.Script, error) {
			b.m.mu.Lock()
			defer b.m.mu.Unlock()
			b.m.fail = call.Errorf(call.Unavailable, "the disk is full")
			return &nodescript.Script{Text: []byte("secret")}, nil
		})
	})
	r := Request{HWAddr: []string{macA}, State: "init", Nonce: b.claim(macA, "192.0.2.1").Nonce}
	if w := b.post("script", "192.0.2.1", r); w.Code != 503 || strings.Contains(w.Body.String(), "secret") || w.Header().Get("Retry-After") == "" {
		t.Errorf("without a record: %d %s", w.Code, w.Body)
	}
}

// What opened the state may be withdrawn while the script is put together.
func TestScriptOfABootThatEndsMeanwhile(t *testing.T) {
	var b *bench
	b = newBench(t, func(c *Config) {
		c.Approve = []Rule{{MAC: "*"}}
		c.Scripts = scripts(func(context.Context, nodescript.Node, string) (*nodescript.Script, error) {
			if _, err := b.Set(t.Context(), "operator/alice", []string{"n0000"}, Change{Boot: new(BootHold)}); err != nil {
				t.Error(err)
			}
			return &nodescript.Script{Text: []byte("secret")}, nil
		})
	})
	r := Request{HWAddr: []string{macA}, State: "init", Nonce: b.claim(macA, "192.0.2.1").Nonce}
	if w := b.post("script", "192.0.2.1", r); w.Code != 403 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("the boot ended: %d %s", w.Code, w.Body)
	}
	if b.logged("node.script") != 1 || b.logged("denied "+macA+" node.script") != 1 {
		t.Errorf("log: %q", b.m.records())
	}
}

// A script that cannot be put together is a report, with status 200, and is
// seen in the node's state.
func TestScriptThatFails(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.Approve = []Rule{{MAC: "*"}}
		c.Scripts = scripts(func(context.Context, nodescript.Node, string) (*nodescript.Script, error) {
			s := &nodescript.Script{Text: []byte("exit 1\n"), SHA256: sha256.Sum256([]byte("exit 1\n")), Failure: "init/all/10-x: it ended with status 4"}
			for range 500 {
				s.Ran = append(s.Ran, nodescript.Ran{Path: "init/all/" + strings.Repeat("x", 200)})
			}
			return s, nil
		})
	})
	r := Request{HWAddr: []string{macA}, State: "init", Nonce: b.claim(macA, "192.0.2.1").Nonce}
	if w := b.post("script", "192.0.2.1", r); w.Code != 200 || w.Body.String() != "exit 1\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if n := b.node("n0000"); n.Failure != "init/all/10-x: it ended with status 4" || n.State != "init" {
		t.Errorf("node is %+v", n)
	}
	last := b.m.log[len(b.m.log)-1]
	if !strings.Contains(last.Detail, "a report of the failure: init/all/10-x") || !strings.Contains(last.Detail, "scripts more") || len(last.Detail) > 4096 ||
		!bytes.Equal(last.Digest, b.node("n0000").Script) {
		t.Errorf("record: %d bytes, %v", len(last.Detail), last)
	}
}

// An assembly that cannot begin is the overlord's fault, and says nothing of it.
func TestScriptsFolderUnreadable(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.Approve = []Rule{{MAC: "*"}}
		c.Scripts = scripts(func(context.Context, nodescript.Node, string) (*nodescript.Script, error) {
			return nil, errors.New("open /secret/place: input/output error")
		})
	})
	r := Request{HWAddr: []string{macA}, State: "init", Nonce: b.claim(macA, "192.0.2.1").Nonce}
	if w := b.post("script", "192.0.2.1", r); w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Who asks for init without having booted by us becomes known, and gets
// nothing; in another state nobody becomes known.
func TestFirstContactWithoutABoot(t *testing.T) {
	b := newBench(t, nil)
	for range 2 {
		if w := b.post("script", "192.0.2.1", Request{HWAddr: []string{macA, macB}, State: "init"}); w.Code != 403 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if w := b.post("script", "192.0.2.1", Request{HWAddr: []string{macB}, State: "ready"}); w.Code != 403 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(b.m.nodes) != 1 || b.node("n0000").HWAddr != macA || b.logged("node.create") != 1 {
		t.Errorf("%d nodes; log: %q", len(b.m.nodes), b.m.records())
	}
}

// A token that cannot be made may be asked for again; one that was made may not,
// and the error of making it is not told.
func TestJoinAgainWhenThereWasNoToken(t *testing.T) {
	full := true
	b := newBench(t, func(c *Config) {
		c.Approve = []Rule{{MAC: "*"}}
		c.Token = func(context.Context, string) (string, string, error) {
			if full {
				return "", "", call.Errorf(call.Busy, "10000 tokens are valid")
			}
			return "token", "id", nil
		}
	})
	r := Request{HWAddr: []string{macA}, Nonce: b.claim(macA, "192.0.2.1").Nonce}
	if w := b.post("join", "192.0.2.1", r); w.Code != 503 || strings.Contains(w.Body.String(), "10000") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	full = false
	if w := b.post("join", "192.0.2.1", r); w.Code != 200 || !strings.Contains(w.Body.String(), `"token":"token"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := b.post("join", "192.0.2.1", r); w.Code != 409 || b.logged("denied n0000 node.join: the token of this boot was given at") != 1 {
		t.Errorf("%d %s; %q", w.Code, w.Body, b.m.records())
	}
}

// Of many that ask for the token of one boot at the same time one gets it.
func TestJoinAtTheSameTime(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Approve = []Rule{{MAC: "*"}} })
	r := Request{HWAddr: []string{macA}, Nonce: b.claim(macA, "192.0.2.1").Nonce}
	codes := make(chan int, 10)
	for range cap(codes) {
		go func() { codes <- b.post("join", "192.0.2.1", r).Code }()
	}
	given := 0
	for range cap(codes) {
		switch c := <-codes; c {
		case 200:
			given++
		case 409:
		default:
			t.Errorf("status %d", c)
		}
	}
	if given != 1 {
		t.Errorf("%d tokens of one boot", given)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"hwaddr":["52:54:00:00:00:01"],"state":"init","args":["a","b"],"nonce":"` + strings.Repeat("0f", 32) + `"}`))
	f.Add([]byte(`{"hwaddr":["52-54-00-00-00-0a"],"state":"ready","digest":"sha-256=x","exit":3,"took_ms":5,"detail":"é"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Fatalf("error %v does not wrap ErrRequest", err)
			}
			return
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRequest(text)
		if err != nil {
			t.Fatalf("accepted %q but not %q: %v", b, text, err)
		}
		if text2, err := json.Marshal(again); err != nil || !bytes.Equal(text, text2) {
			t.Fatalf("%q became %q, then %q, %v", b, text, text2, err)
		}
	})
}

func FuzzParseAuthorization(f *testing.F) {
	f.Add(Authorization("52:54:00:00:00:01", strings.Repeat("0f", 32)))
	f.Add("Dominion-Nonce AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseAuthorization(s)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Fatalf("error %v does not wrap ErrRequest", err)
			}
			return
		}
		if again, err := parseAuthorization(Authorization(c.hwaddr, c.nonce)); err != nil || again != c {
			t.Fatalf("%q became %+v, then %+v, %v", s, c, again, err)
		}
	})
}

func FuzzParseHWAddr(f *testing.F) {
	for _, s := range []string{"52:54:00:00:00:01", "52-54-00-00-00-0a", "01:00:5e:00:00:01", "00:00:00:00:00:00", "5254.0000.0001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hw, err := ParseHWAddr(s)
		if err != nil {
			if !errors.Is(err, ErrHWAddr) {
				t.Fatalf("error %v does not wrap ErrHWAddr", err)
			}
			return
		}
		if again, err := ParseHWAddr(hw); err != nil || again != hw || len(hw) != 17 || strings.ToUpper(hw) != hw {
			t.Fatalf("%q became %q, then %q, %v", s, hw, again, err)
		}
	})
}

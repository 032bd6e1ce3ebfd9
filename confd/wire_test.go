package confd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	workedTime    = time.Unix(1700000000, 900_000_000)
	workedRsalt   = "00000000-1111-4222-8333-444444444444"
	workedRequest = `plj0{"msg": "{\"protocol\": 1, \"type\": 1, \"query\": \"alpha.lab.example\", \"rsalt\": \"00000000-1111-4222-8333-444444444444\"}\n", "salt": "1700000000", "hmac": "85df5e1ca4fe04222ce48bb88583b50a357fecb7"}` + "\n"
	workedReply   = `plj0{"hmac":"f31b30e3f62127eaff6784dbd85674e605ee4e79","msg":"{\"protocol\":1,\"status\":0,\"answer\":0,\"serial\":42}","salt":"00000000-1111-4222-8333-444444444444"}`
)

// The bytes that the genuine client and daemon produced.
func TestWorkedBytes(t *testing.T) {
	r := NodeRole("alpha.lab.example").Request
	r.Rsalt = workedRsalt
	got, err := r.Append([]byte("before"), []byte(testKey), workedTime)
	if err != nil || string(got) != "before"+workedRequest {
		t.Errorf("Append = %q, %v; want %q", got, err, workedRequest)
	}
	back, err := ParseRequest([]byte(workedRequest), []byte(testKey), workedTime)
	r.Protocol = 1
	if d := cmp.Diff(r, back, cmp.AllowUnexported(Query{})); d != "" || err != nil {
		t.Errorf("ParseRequest: %v, differs (-want +got):\n%s", err, d)
	}
	s := NewServer(ServerConfig{Key: []byte(testKey), Now: func() time.Time { return workedTime }})
	s.SetData(lab(t))
	if got := s.newWorker().answer(nil, []byte(workedRequest), netip.Addr{}); string(got) != workedReply {
		t.Errorf("the reply is %q; want %q", got, workedReply)
	}
	reply, salt, err := ParseReply([]byte(workedReply), []byte(testKey))
	want := Reply{Protocol: 1, Status: StatusOK, Answer: []byte("0"), Serial: 42}
	if d := cmp.Diff(want, reply); d != "" || salt != workedRsalt || err != nil {
		t.Errorf("ParseReply: %q, %v, differs (-want +got):\n%s", salt, err, d)
	}
	if got := want.Append(nil, workedRsalt, []byte(testKey)); string(got) != workedReply {
		t.Errorf("Reply.Append = %q; want %q", got, workedReply)
	}
}

// The check values of Ganeti's own tests.
func TestSignature(t *testing.T) {
	for _, tt := range []struct{ key, salt, text, want string }{
		{"", "", "", "fbdb1d1b18aa6c08324b7d64b71fb76370690e1d"},
		{"3YzMxZWE", "", "Hello World", "ef4f3bda82212ecb2f7ce868888a19092481f1fd"},
		{"3YzMxZWE", "xyz0", "Hello World", "7f264f8114c9066afc9bb7636e1786d996d3cc0d"},
		{"TguMTA2K", "abc9", "", "17a4adc34d69c0d367d4ffbef96fd41d4df7a6e8"},
	} {
		s := newSigner([]byte(tt.key))
		for range 2 {
			if got := fmt.Sprintf("%x", *s.sign([]byte(tt.salt), []byte(tt.text))); got != tt.want {
				t.Errorf("key %q, salt %q, text %q: %s; want %s", tt.key, tt.salt, tt.text, got, tt.want)
			}
		}
	}
}

// testServer is a server at a fixed time.
func testServer(t testing.TB) *worker {
	s := NewServer(ServerConfig{Key: []byte(testKey), Now: func() time.Time { return workedTime }})
	s.SetData(lab(t))
	return s.newWorker()
}

// inner signs an inner message and gives the reply's; nil: silence.
func (w *worker) inner(t testing.TB, msg string) *Reply {
	t.Helper()
	b := w.answer(nil, newSigner(w.s.cfg.Key).sealRequest(nil, []byte(msg), workedTime), netip.Addr{})
	if b == nil {
		return nil
	}
	r, _, err := ParseReply(b, w.s.cfg.Key)
	if err != nil {
		t.Fatalf("our reply %q: %v", b, err)
	}
	return &r
}

// What the original does otherwise: the whole list of our exceptions, but for
// those of the file.
func TestExceptions(t *testing.T) {
	w := testServer(t)
	for _, typ := range []string{"0.0", "1e1", "0.5", "1.5", "1.9", "0e0", "0.", "1.0", "-0.0", "1E0", "18446744073709551616"} {
		if r := w.inner(t, `{"protocol":1,"type":`+typ+`,"rsalt":"x"}`); r != nil {
			t.Errorf("type %s is answered: %+v", typ, r)
		}
	}
	for _, salt := range []string{" 1700000000", "0x6553f100", "(1700000000)", "1700000000 ", "+1700000000", "-1700000000", "", "1.7e9", "１700000000"} {
		msg := `{"protocol":1,"type":0,"rsalt":"x"}`
		s := newSigner([]byte(testKey))
		b := fmt.Appendf(nil, `plj0{"msg":%s,"salt":%s,"hmac":"%x"}`, appendText(nil, msg), appendText(nil, salt), *s.sign([]byte(salt), []byte(msg)))
		if got := w.answer(nil, b, netip.Addr{}); got != nil {
			t.Errorf("salt %q is answered", salt)
		}
	}
	long := strings.Repeat("n", 50000)
	if r := w.inner(t, `{"protocol":1,"type":1,"query":"`+long+`","rsalt":"x"}`); r == nil || !strings.Contains(string(r.Answer), long) {
		t.Errorf("a request of 50,000 bytes: %+v", r)
	}
	for _, text := range []string{`\u00e9`, `\ud83d\ude00`, `\ud800`, `\udc00\ud800`, `\u0000`, `\uffff`} {
		r := w.inner(t, `{"protocol":1,"type":7,"query":"x","rsalt":"`+text+`"}`)
		if r == nil {
			t.Errorf("rsalt %s is not answered", text)
		}
		r = w.inner(t, `{"protocol":1,"type":1,"query":"`+text+`","rsalt":"x"}`)
		if want := `details:\nNode name ` + text + ` not found"`; r == nil || !strings.HasSuffix(string(r.Answer), want) {
			t.Errorf("node %s: %s; want …%s", text, r.Answer, want)
		}
	}
}

// The window is 300 s, both edges included.
func TestWindow(t *testing.T) {
	ping := Ping().Request
	for _, tt := range []struct {
		off  time.Duration
		good bool
	}{{0, true}, {-300, true}, {300, true}, {-301, false}, {301, false}, {-1700000000, false}, {1 << 32, false}} {
		b, err := ping.Append(nil, []byte(testKey), time.Unix(workedTime.Unix()+int64(tt.off), 0))
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseRequest(b, []byte(testKey), workedTime)
		if (err == nil) != tt.good || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%d s off: %v", int64(tt.off), err)
		}
	}
}

// An answer that no datagram holds is a signed error; one byte less is sent.
func TestTooLarge(t *testing.T) {
	var cfg map[string]any
	if err := json.Unmarshal(labConfig(t), &cfg); err != nil {
		t.Fatal(err)
	}
	cluster := cfg["cluster"].(map[string]any)
	overhead := 0
	for _, n := range []int{1000, 60000, -1, 0, 1, 70000, 1 << 20} {
		if n < 2 { // exactly what fits, and one less and more
			n += MaxReply - overhead
		}
		cluster["file_storage_dir"] = strings.Repeat("d", n)
		b, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseConfig(b)
		if err != nil {
			t.Fatal(err)
		}
		w := testServer(t)
		w.s.SetData(c)
		out := w.answer(nil, newSigner([]byte(testKey)).sealRequest(nil, []byte(`{"protocol":1,"type":10,"query":"/cluster/file_storage_dir","rsalt":"x"}`), workedTime), netip.Addr{})
		r, _, err := ParseReply(out, []byte(testKey))
		if err != nil {
			t.Fatal(err)
		}
		if overhead == 0 {
			overhead = len(out) - n
		}
		fits := overhead+n <= MaxReply
		if ok := r.Status == StatusOK && len(r.Answer) == n+2; ok != fits || !fits && (r.Serial != 0 || !strings.Contains(string(r.Answer), "too large for a datagram")) {
			t.Errorf("%d bytes, fits %v: datagram of %d, status %d, serial %d, %.80s", n, fits, len(out), r.Status, r.Serial, r.Answer)
		}
	}
}

// A reply goes out within MaxReply or not at all, whatever the rsalt adds to it.
func TestLongRsalt(t *testing.T) {
	w := testServer(t)
	for _, n := range []int{10000, 61000, 65300, 65400, 65500} {
		b := newSigner([]byte(testKey)).sealRequest(nil, []byte(`{"protocol":1,"type":4,"rsalt":"`+strings.Repeat("s", n)+`"}`), workedTime)
		if out := w.answer(nil, b, netip.Addr{}); len(out) > MaxReply || n < 65000 && len(out) < n {
			t.Errorf("rsalt of %d: reply of %d bytes", n, len(out))
		}
	}
}

func TestAppendLimit(t *testing.T) {
	r := NodeRole(strings.Repeat("n", MaxRequest)).Request
	if b, err := r.Append([]byte("x"), nil, workedTime); err == nil || string(b) != "x" {
		t.Errorf("Append of %d bytes: %v", len(b), err)
	}
}

// Replies from elsewhere are read whatever their form, and only when whole.
func TestParseReply(t *testing.T) {
	seal := func(msg string) []byte { return newSigner([]byte(testKey)).sealRequest(nil, []byte(msg), workedTime) }
	for _, msg := range []string{
		`{"serial": 7, "answer": {"a": [1, null]}, "status": 1, "protocol": 99}`, "{\n\"protocol\":1,\"status\":0,\"answer\":null,\"serial\":-1}\n",
	} {
		if _, salt, err := ParseReply(seal(msg), []byte(testKey)); err != nil || salt != "1700000000" {
			t.Errorf("%s: %q, %v", msg, salt, err)
		}
	}
	for name, b := range map[string][]byte{
		"empty": {}, "magic alone": []byte(Magic), "another magic": bytes.Replace([]byte(workedReply), []byte("plj0"), []byte("plj1"), 1),
		"cut": []byte(workedReply[:100]), "no serial": seal(`{"protocol":1,"status":0,"answer":0}`), "no answer": seal(`{"protocol":1,"status":0,"serial":0}`),
		"status text": seal(`{"protocol":1,"status":"0","answer":0,"serial":1}`), "serial 1.5": seal(`{"protocol":1,"status":0,"answer":0,"serial":1.5}`),
		"more": seal(`{"protocol":1,"status":0,"answer":0,"serial":1,"x":1}`), "broken answer": seal(`{"protocol":1,"status":0,"answer":tru,"serial":1}`),
		"huge serial": seal(`{"protocol":1,"status":0,"answer":0,"serial":99999999999999999999}`), "other key": (&Reply{Answer: []byte("0")}).Append(nil, "x", []byte("k")),
		"array": seal(`[]`), "nothing": seal(``), "altered": bytes.Replace([]byte(workedReply), []byte(`serial\":42`), []byte(`serial\":43`), 1),
	} {
		if r, _, err := ParseReply(b, []byte(testKey)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

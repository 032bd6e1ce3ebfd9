package candidate_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/cluster"
	"dominion/pki"
	"dominion/session"
)

func TestTakeAndServe(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	if r := m.asked(); m.Holds() || r.Header != nil || r.Serving || r.Error != "" || r.Listen != "" {
		t.Errorf("a machine that never was a candidate: %s, holds %v", m.show(r), m.Holds())
	}
	m.good(w.version(2))
	m.serves(2)
	m.good(w.version(3))
	m.serves(3)
	if !m.Holds() {
		t.Error("it does not hold what it serves")
	}
	pulls := w.pulls
	m.good(w.version(3)) // again
	if w.pulls != pulls {
		t.Error("the same version was pulled twice")
	}
	resigned := w.version(3)
	resigned.Made = resigned.Made.Add(time.Hour)
	again := resigned.args()
	if r := m.Take(t.Context(), again, w.pull); r.Error != "" || !r.Serving || !bytes.Equal(r.Header, again.Header) {
		t.Errorf("signed again: %s; want the new header", m.show(r))
	}
	m.restart()
	if r := m.asked(); !bytes.Equal(r.Header, again.Header) || !r.Serving || w.pulls != pulls {
		t.Errorf("signed again, after a restart: %s; want the new header", m.show(r))
	}
	if files := m.files(); len(files) != 3 {
		t.Errorf("files %q; want a header, data and a key", files)
	}
}

// Neither a dead overlord nor certificates that have ended keep a candidate from
// serving after a restart.
func TestServesFromDisk(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	m.good(w.version(2))
	m.opt.Now = func() time.Time { return w.now.Add(2 * pki.RootLife) }
	m.restart()
	if r := m.asked(); m.serial(r) != 2 || !r.Serving {
		t.Errorf("after a restart: %s", m.show(r))
	}
	m.serves(2)
	// What comes now is judged by today's date.
	if r := m.announce(w.version(3)); !strings.Contains(r.Error, "expired") || m.serial(r) != 2 || !r.Serving {
		t.Errorf("a version signed with a certificate that has expired: %s", m.show(r))
	}
}

func TestRefuses(t *testing.T) {
	w, fleet := newWorld(t), newWorld(t)
	issuing, err := pki.NewKey()
	w.must(err)
	ca, err := w.root.NewIssuing("main", issuing.Public(), w.now)
	w.must(err)
	web, err := (&pki.Authority{Cert: ca, Key: issuing}).Sign(pki.Template{Identity: pki.Identity{Role: pki.Minion, Name: "c1"}, PublicKey: w.key.Public()}, w.now)
	w.must(err)
	plain := func(v *version) session.ClusterArgs { return v.args() }
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		z.Write(b)
		z.Close()
		return out.Bytes()
	}
	packed := func(b []byte, size int64) *version {
		v := w.version(6)
		v.Digest, v.Packed, v.Size = sha256.Sum256(b), int64(len(b)), size
		w.data[v.Digest] = b
		return v
	}
	short := func(ctx context.Context, digest []byte, offset int64) ([]byte, error) {
		if offset > 0 {
			return nil, nil
		}
		b, err := w.pull(ctx, digest, offset)
		return b[:len(b)/2], err
	}
	for _, tt := range []struct {
		name string
		v    *version
		args func(*version) session.ClusterArgs
		pull func(context.Context, []byte, int64) ([]byte, error)
		want string
	}{
		{"older", w.version(4), plain, w.pull, "serial 4 of the cluster data is older than 5"},
		{"fork", w.version(5).change(func(v *version) { v.Candidates = append(v.Candidates, "n9") }), plain, w.pull, "two versions of the cluster data have the serial 5"},
		{"fork by key", w.version(5).change(func(v *version) { v.key, v.KeyDigest = keyTwo, cluster.KeyDigest(keyTwo) }), plain, w.pull, "two versions"},
		{"another cluster", w.of(w.first.Bytes(), 6, "another"), plain, w.pull, "takes none of cluster another"},
		{"another overlord", w.version(6).change(func(v *version) { v.signer = "dc1" }), plain, w.pull, "takes none signed by overlord/dc1"},
		{"an overlord that is none of this machine's", w.version(6).change(func(v *version) { v.signer = "stranger" }), plain, w.pull, "not enrolled with overlord/stranger"},
		{"another fleet", fleet.version(6), plain, fleet.pull, "certificate not trusted"},
		{"signed by a machine", w.version(6), func(v *version) session.ClusterArgs {
			h, err := cluster.Sign(v.Header, w.key, web)
			w.must(err)
			return session.ClusterArgs{Header: h, Key: keyOne}
		}, w.pull, "certificate not trusted"},
		{"a changed byte", w.version(6), func(v *version) session.ClusterArgs {
			a := v.args()
			a.Header = bytes.Replace(a.Header, []byte("c1"), []byte("c2"), 1)
			return a
		}, w.pull, "bad cluster snapshot"},
		{"another key", w.version(6).change(func(v *version) { v.key = keyTwo }), plain, w.pull, "the key that came is not the one"},
		{"no key", w.version(6).change(func(v *version) { v.key = nil }), plain, w.pull, "the key that came is not the one"},
		{"other data", w.version(6), plain, func(ctx context.Context, digest []byte, offset int64) ([]byte, error) {
			b, err := w.pull(ctx, digest, offset)
			b = slices.Clone(b)
			b[len(b)/2] ^= 1
			return b, err
		}, "do not have the digest"},
		{"data that are cut", w.version(6), plain, short, "a piece of 0 bytes"},
		{"more data than there should be", w.version(6), plain, func(context.Context, []byte, int64) ([]byte, error) {
			return make([]byte, session.MaxClusterPiece), nil
		}, "a piece of"},
		{"a piece that is too large", packed(make([]byte, 2*session.MaxClusterPiece), 10), plain, func(context.Context, []byte, int64) ([]byte, error) {
			return make([]byte, session.MaxClusterPiece+1), nil
		}, "a piece of"},
		{"data that do not come", w.version(6), plain, func(context.Context, []byte, int64) ([]byte, error) {
			return nil, errors.New("no such data")
		}, "get serial 6 of the cluster data: no such data"},
		{"no gzip", packed([]byte("plain text, which is not compressed"), 5), plain, w.pull, "invalid header"},
		{"a bomb", packed(zip(make([]byte, 16<<20)), 1000), plain, w.pull, "more than 1000 bytes"},
		{"less than the header says", packed(zip([]byte("{}")), 3), plain, w.pull, "unexpected EOF"},
		{"no configuration", w.of([]byte(`{"cluster": 7}`), 6, w.first.UUID()), plain, w.pull, "parsing configuration"},
		{"another serial in the data", w.version(6).change(func(v *version) { v.Serial = 7 }), plain, w.pull, "the data have the serial 6, and the header says 7"},
		{"nothing but noise", w.version(6), func(*version) session.ClusterArgs {
			return session.ClusterArgs{Header: []byte("noise"), Key: keyOne}
		}, w.pull, "bad cluster snapshot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			m := w.machine()
			m.good(w.version(5))
			before := m.files()
			r := m.Take(t.Context(), tt.args(tt.v), tt.pull)
			if !strings.Contains(r.Error, tt.want) {
				t.Errorf("error %q; want one that says %q", r.Error, tt.want)
			}
			if m.serial(r) != 5 || !r.Serving || !slices.Equal(m.files(), before) {
				t.Errorf("after it: %s, files %q; want serial 5, serving, and files %q", m.show(r), m.files(), before)
			}
			m.restart()
			m.serves(5)
			m.good(w.version(8))
			m.serves(8)
		})
	}
}

// The error of a machine that belongs to another cluster says how to change that.
func TestRefusalNamesTheFile(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	m.good(w.version(2))
	other := w.of(w.first.Bytes(), 1, "another")
	r := m.announce(other)
	file := m.dir.Path() + "/cluster/header"
	if !strings.Contains(r.Error, "remove "+file) {
		t.Fatalf("error %q does not name %s", r.Error, file)
	}
	m.stop()
	w.must(m.dir.Remove("cluster/header"))
	m.start()
	if m.Holds() {
		t.Error("it holds something without a header")
	}
	m.good(other)
	if files := m.files(); len(files) != 3 {
		t.Errorf("files %q", files)
	}
}

// Whatever was written when the machine went down, the version before or the new
// one is served afterwards, whole.
func TestCrashBetweenWrites(t *testing.T) {
	for n := range 4 {
		w := newWorld(t)
		m := w.machine()
		m.good(w.version(2))
		next := w.version(3).change(func(v *version) { v.key, v.KeyDigest = keyTwo, cluster.KeyDigest(keyTwo) })
		m.Crash(n)
		r := m.announce(next)
		if n < 3 && !strings.Contains(r.Error, "the machine crashed") {
			t.Fatalf("after %d writes: %s", n, m.show(r))
		}
		if n < 3 { // a disk that takes no more is no reason not to serve
			if m.serial(r) != 2 || !r.Serving {
				t.Errorf("after %d writes: %s; want serial 2, serving", n, m.show(r))
			}
			m.serves(2)
		}
		w.must(m.dir.WriteFile("cluster/data-torn", []byte("left by somebody")))
		w.must(m.dir.Root().WriteFile("cluster/.tmp-torn", []byte("half of someth"), 0o600))
		m.restart()
		want, key := uint64(2), keyOne
		if n == 3 {
			want, key = 3, keyTwo
		}
		if r := m.asked(); m.serial(r) != want || !r.Serving || r.Error != "" {
			t.Errorf("after %d writes and a restart: %s; want serial %d", n, m.show(r), want)
		}
		if q, err := m.query(key, 5*time.Second); err != nil || q.Reply.Serial != int64(want) {
			t.Errorf("after %d writes: serial %d by confd, error %v", n, q.Reply.Serial, err)
		}
		m.good(w.version(4))
		if files := m.files(); len(files) != 3 || m.Exists("cluster/.tmp-torn") {
			t.Errorf("after %d writes: files %q", n, files)
		}
	}
}

// A machine that is removed drops data and key, and still refuses what is older.
func TestRemoved(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	m.good(w.version(2))
	at := m.asked().Listen
	gone := w.version(3).change(func(v *version) { v.Candidates, v.key = []string{"n1"}, nil })
	for range 2 {
		r := m.announce(gone)
		if r.Error != "" || r.Serving || r.Listen != "" || m.serial(r) != 3 {
			t.Fatalf("removed: %s", m.show(r))
		}
		if files := m.files(); !slices.Equal(files, []string{"header"}) {
			t.Errorf("files %q; want the header alone", files)
		}
		if !m.Holds() {
			t.Error("it does not say that it has a header")
		}
		m.restart()
	}
	if r := m.announce(w.version(2)); !strings.Contains(r.Error, "older") || r.Serving {
		t.Errorf("an older version that names it: %s", m.show(r))
	}
	if conn, err := listen(t, at); err != nil {
		t.Errorf("its port is not free: %v", err)
	} else {
		conn.Close()
	}
	m.good(w.version(4))
	m.serves(4)
}

// A removal that the disk did not take whole is made whole at the next start.
func TestRemovedAndCrashed(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	m.good(w.version(2))
	gone := w.version(3).change(func(v *version) { v.Candidates, v.key = []string{"n1"}, nil })
	m.stop()
	w.must(m.dir.WriteFile("cluster/header", gone.args().Header)) // and then the power went
	m.start()
	if r := m.asked(); r.Serving || m.serial(r) != 3 {
		t.Errorf("%s", m.show(r))
	}
	if files := m.files(); !slices.Equal(files, []string{"header"}) {
		t.Errorf("files %q; want the header alone", files)
	}
}

func TestKeyRotation(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	m.stop()
	m.opt.Listen = freePort(t) // so that the address stays
	m.start()
	m.good(w.version(2))
	at := m.asked().Listen
	m.good(w.version(3).change(func(v *version) { v.key, v.KeyDigest = keyTwo, cluster.KeyDigest(keyTwo) }))
	if now := m.asked().Listen; now != at {
		t.Errorf("it listens on %s, before on %s", now, at)
	}
	if q, err := m.query(keyTwo, 5*time.Second); err != nil || q.Reply.Serial != 3 {
		t.Errorf("with the new key: serial %d, %v", q.Reply.Serial, err)
	}
	if q, err := m.query(keyOne, 300*time.Millisecond); err == nil {
		t.Errorf("with the old key there is an answer: %s", q.Reply.Answer)
	}
	if files := m.files(); len(files) != 3 {
		t.Errorf("files %q: the old key is still there", files)
	}
}

func TestOff(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	m.good(w.version(2))
	m.stop()
	m.opt.Listen = "off"
	m.start()
	if r := m.announce(w.version(2)); r.Serving || r.Listen != "" || !strings.Contains(r.Error, "confd: {listen: off}") {
		t.Errorf("%s", m.show(r))
	}
	if r := m.announce(w.version(3)); r.Serving || m.serial(r) != 2 || !strings.Contains(r.Error, "confd: {listen: off}") {
		t.Errorf("%s", m.show(r))
	}
	if files := m.files(); !slices.Equal(files, []string{"header"}) {
		t.Errorf("files %q: the key stays where nobody needs it", files)
	}
	m.stop()
	m.opt.Listen = "127.0.0.1:0"
	m.start()
	m.good(w.version(3))
	m.serves(3)
}

// FuzzTake: whatever is announced, only what the overlord signed changes anything.
func FuzzTake(f *testing.F) {
	w := newWorld(f)
	m := w.machine()
	m.good(w.version(5))
	good := w.version(6).args()
	f.Add(good.Header[:len(good.Header)-1], good.Key, []byte("x"))
	f.Add([]byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, header, key, piece []byte) {
		w.t = t
		r := m.Take(t.Context(), session.ClusterArgs{Header: header, Key: key}, func(context.Context, []byte, int64) ([]byte, error) { return piece, nil })
		if m.serial(r) != 5 || !r.Serving || r.Error == "" && len(header) > 0 && !bytes.Equal(header, r.Header) {
			t.Fatalf("after %x: %s", header, m.show(r))
		}
	})
}

package candidate_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/confd"
)

func (m *machine) Exists(name string) bool {
	_, err := m.dir.Root().Stat(name)
	return err == nil
}

func listen(t *testing.T, at string) (*net.UDPConn, error) {
	t.Helper()
	return confd.Listen(t.Context(), at)
}

// freePort gives an address that nobody listened on a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	conn, err := listen(t, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

// until polls for what must come true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it did not come true that %s", what)
		}
	}
}

// What is broken on the disk is told, answered with a signed error as long as there
// is a key, and healed by the next announcement of the same version.
func TestBrokenDisk(t *testing.T) {
	damage := func(m *machine, prefix string, how func(path string) error) {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(m.dir.Path(), "cluster", prefix+"*"))
		if err != nil || len(names) != 1 {
			t.Fatalf("files %q, %v", names, err)
		}
		if err := how(names[0]); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(path string) error { return os.Truncate(path, 20) }
	turn := func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		return os.WriteFile(path, b, 0o600)
	}
	for _, tt := range []struct {
		name, file string
		how        func(string) error
		answers    bool // with an error
		header     bool // is known
	}{
		{"data cut", "data-", cut, true, true},
		{"data changed", "data-", turn, true, true},
		{"data gone", "data-", os.Remove, true, true},
		{"key changed", "key-", turn, false, true},
		{"key gone", "key-", os.Remove, false, true},
		{"header cut", "header", cut, true, false},
		{"header changed", "header", turn, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.machine()
			m.good(w.version(2))
			m.stop()
			damage(m, tt.file, tt.how)
			m.start()
			r := m.asked()
			if r.Serving || !strings.Contains(r.Error, "cannot be used") || (m.serial(r) == 2) != tt.header || !m.Holds() {
				t.Errorf("%s, holds %v", m.show(r), m.Holds())
			}
			if tt.answers {
				q, err := m.query(keyOne, 5*time.Second)
				if err != nil || q.Reply.Status != confd.StatusError || !strings.Contains(string(q.Reply.Answer), "Cannot load configuration") {
					t.Errorf("by confd: %s, %v; want a signed error", q.Reply.Answer, err)
				}
			}
			m.good(w.version(2)) // what the overlord announces when it is asked by HELLO
			m.serves(2)
			if files := m.files(); len(files) != 3 {
				t.Errorf("files %q", files)
			}
			m.restart()
			m.serves(2)
		})
	}
}

// A port that is taken is reported and tried again.
func TestPortTaken(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	m.stop()
	m.opt.Listen = freePort(t)
	taken, err := listen(t, m.opt.Listen)
	w.must(err)
	m.start()
	r := m.announce(w.version(2))
	if r.Serving || m.serial(r) != 2 || !strings.Contains(r.Error, "address already in use") {
		t.Errorf("while the port is taken: %s", m.show(r))
	}
	m.restart()
	r = m.announce(w.version(3))
	if r.Serving || m.serial(r) != 3 || !strings.Contains(r.Error, "address already in use") {
		t.Errorf("while the port is still taken: %s", m.show(r))
	}
	taken.Close()
	until(t, "it serves", func() bool { return m.asked().Serving })
	m.serves(3)
}

// Announcements, questions, queries and restarts all at once: afterwards the
// highest serial is served, and serials never went down on the way.
func TestMany(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	m.stop()
	m.opt.Listen = freePort(t)
	m.start()
	const last = 12
	versions := make([]*version, last+1)
	for s := 2; s <= last; s++ {
		versions[s] = w.version(uint64(s))
	}
	m.good(versions[2])
	var wg sync.WaitGroup
	for s := 3; s <= last; s++ {
		args := versions[s].args()
		wg.Go(func() {
			r := m.Take(t.Context(), args, func(_ context.Context, digest []byte, offset int64) ([]byte, error) {
				return (&world{data: w.data}).pull(t.Context(), digest, offset)
			})
			if got := m.serial(r); got < uint64(s) {
				t.Errorf("serial %d announced: %s", s, m.show(r))
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			var highest int64
			for range 10 {
				q, err := m.query(keyOne, 5*time.Second)
				if err != nil || q.Reply.Serial < highest {
					t.Errorf("by confd: serial %d after %d, %v", q.Reply.Serial, highest, err)
				}
				highest = q.Reply.Serial
			}
		})
	}
	wg.Wait()
	m.serves(last)
}

// An announcement that waits for another ends with its context.
func TestTakeWaits(t *testing.T) {
	w := newWorld(t)
	m := w.machine()
	pulling, done := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		defer close(done)
		m.Take(ctx, w.version(2).args(), func(ctx context.Context, _ []byte, _ int64) ([]byte, error) {
			close(pulling)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
	}()
	<-pulling
	short, stop := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, fmt.Errorf("no time left"))
	defer stop()
	if r := m.Take(short, w.version(3).args(), w.pull); !strings.Contains(r.Error, "no time left") {
		t.Errorf("%s", m.show(r))
	}
	cancel(fmt.Errorf("the session ended"))
	<-done
	m.good(w.version(3))
}

package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/pki"
)

// crowd is what the test binary does when it is started as simulated minions:
// environment "ADDR N", a certificate and a key on stdin, in hexadecimal, one in a
// line. It ends when stdin does.
func crowd(env string) {
	var addr, cert, key string
	var n int
	_, _ = fmt.Sscan(env, &addr, &n)
	_, _ = fmt.Scan(&cert, &key)
	k, err := x509.ParsePKCS8PrivateKey(unhex(key))
	if err != nil {
		panic(err)
	}
	chain := &tls.Certificate{PrivateKey: k}
	for c := range strings.SplitSeq(cert, ",") {
		chain.Certificate = append(chain.Certificate, unhex(c))
	}
	cfg := ClientTLS(TLSOptions{
		Certificate: func() (*tls.Certificate, error) { return chain, nil },
		Verify:      func(tls.ConnectionState) error { return nil },
	})
	answer := &handler{call: func(s *Session, id uint64, c *fleetpb.Call) {
		_ = s.Reply(id, &fleetpb.Result{Output: c.Args})
	}}
	opt := &Options{Handler: answer, Credit: NewPool(0)}
	slots := make(chan struct{}, 64)
	for range n {
		slots <- struct{}{}
		go func() {
			conn, err := Dial(context.Background(), addr, cfg)
			<-slots
			if err != nil {
				panic(err)
			}
			s, err := New(conn, opt)
			if err != nil {
				panic(err)
			}
			_ = s.Serve(context.Background())
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// gather starts a crowd of n minions and gives their sessions at the overlord's
// side, and the resident bytes that each costs idle.
func gather(b *testing.B, n int) ([]*Session, float64) {
	b.Helper()
	ca := newAuthority(b)
	cert := ca.issue(b, "minion/web1")
	before := resident()
	sessions := make(chan *Session, n)
	opt := &Options{Answer: true, Handler: &handler{}, Credit: NewPool(0), Ready: func(s *Session) { sessions <- s }, Heartbeat: NewClock(0, 0)}
	runClock(b, opt.Heartbeat)
	p := listen(b, ListenOptions{Fleet: ca.options(b, "overlord/main", pki.Minion), Serve: func(ctx context.Context, conn *tls.Conn) {
		s, err := New(conn, opt)
		if err != nil {
			b.Error(err)
			return
		}
		_ = s.Serve(ctx)
	}})
	chain := []string{hex.EncodeToString(cert.Certificate[0])}
	for range crowdChain {
		chain = append(chain, hex.EncodeToString(ca.cert.Raw))
	}
	key := must(x509.MarshalPKCS8PrivateKey(cert.PrivateKey))(b)
	child := exec.CommandContext(b.Context(), os.Args[0])
	child.Env = append(os.Environ(), fmt.Sprintf("SESSION_CROWD=%s %d", p.addr, n))
	child.Stderr = os.Stderr
	stdin := must(child.StdinPipe())(b)
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = stdin.Close()
		_ = child.Wait()
	})
	_, _ = fmt.Fprintln(stdin, strings.Join(chain, ","), hex.EncodeToString(key))
	var all []*Session
	for range n {
		all = append(all, receive(b, sessions, "session"))
	}
	for range 3 {
		pingAll(b, all, uint64(1))
	}
	return all, (resident() - before) / float64(n)
}

// crowdChain is the number of CA certificates that a minion of the crowd sends
// after its own: an issuing CA and the root would be two.
const crowdChain = 1

// resident is the process's memory after a collection, in bytes.
func resident() float64 {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	b, _ := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return float64(pages * os.Getpagesize())
}

// fanout is the Waiter of one broadcast.
type fanout struct {
	left atomic.Int64
	lost atomic.Int64
	done chan struct{}
}

func newFanout(n int) *fanout {
	f := &fanout{done: make(chan struct{})}
	f.left.Store(int64(n))
	return f
}

func (f *fanout) Result(*Session, uint64, []byte) { f.one() }
func (f *fanout) Lost(*Session, uint64, error)    { f.lost.Add(1); f.one() }
func (f *fanout) one() {
	if f.left.Add(-1) == 0 {
		close(f.done)
	}
}

func pingAll(b *testing.B, all []*Session, id uint64) {
	f := newFanout(len(all))
	for _, s := range all {
		if err := s.StartPing(id, f); err != nil {
			b.Fatal(err)
		}
	}
	receive(b, f.done, "all PONGs")
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFanout calls every minion of a crowd in a second process: the
// overlord's CPU of a call or ping (budget: 20 us), and the resident memory of an
// idle session (budget: 24 KiB).
func BenchmarkFanout(b *testing.B) {
	body := encode(&fleetpb.Call{Method: "test.ping", Args: make([]byte, 178)})
	for _, n := range []int{1000, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			all, idle := gather(b, n)
			id := uint64(1000)
			measure := func(name string, start func(s *Session, id uint64, w Waiter) error) {
				b.Run(name, func(b *testing.B) {
					began, rounds := cpu(), 0
					for b.Loop() {
						id++
						rounds++
						f := newFanout(n)
						for _, s := range all {
							if err := start(s, id, f); err != nil {
								b.Fatal(err)
							}
						}
						<-f.done
						if f.lost.Load() > 0 {
							b.Fatal("sessions were lost")
						}
					}
					b.ReportMetric(float64((cpu()-began).Microseconds())/float64(rounds*n), "cpu-us/call")
					b.ReportMetric(idle, "idle-B/session")
				})
			}
			measure("call", func(s *Session, id uint64, w Waiter) error { return s.Start(id, w, body) })
			measure("ping", func(s *Session, id uint64, w Waiter) error { return s.StartPing(id, w) })
		})
	}
}

// BenchmarkStream is one stream at full speed, both ends in this process.
func BenchmarkStream(b *testing.B) {
	h, streams := accepting(1)
	f := pair(b, &Options{Handler: h}, &Options{}, false)
	out, err := f.minion.Open(b.Context(), 1, "stdout")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	in := receive(b, streams, "stream")
	wg.Go(func() { _, _ = io.Copy(io.Discard, in) })
	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := out.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	_ = out.Close()
	wg.Wait()
}

// BenchmarkHandshake is a connection, HELLO and its end, both ends in this process.
func BenchmarkHandshake(b *testing.B) {
	ca := newAuthority(b)
	p := listen(b, ListenOptions{Fleet: ca.options(b, "overlord/main", pki.Minion)})
	cfg := ClientTLS(ca.options(b, "minion/web1", pki.Overlord))
	for b.Loop() {
		conn, err := Dial(b.Context(), p.addr, cfg)
		if err != nil {
			b.Fatal(err)
		}
		s, err := New(conn, &Options{Handler: &handler{}, Ready: func(s *Session) { s.Close(0, "") }})
		if err != nil {
			b.Fatal(err)
		}
		_ = s.Serve(b.Context())
	}
}

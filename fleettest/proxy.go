package fleettest

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// recordHeader is the length of the header of a TLS record: type, version and
// two bytes of length (RFC 8446, section 5.1).
const recordHeader = 5

// Proxy forwards TCP connections that carry TLS to one address, whole records
// at a time, and cuts them when it is told to. It ends with the test.
type Proxy struct {
	to string
	ln net.Listener

	mu       sync.Mutex
	rand     *rand.Rand
	min, max int // records after which a connection is cut; 0: it is not
	cuts     int
	conns    map[*pair]struct{}
	over     bool
	running  sync.WaitGroup
}

// pair is one forwarded connection.
type pair struct {
	near, far *net.TCPConn
	once      sync.Once
}

// NewProxy starts a proxy on a loopback address of its own. What it does at
// random follows from seed.
func NewProxy(t testing.TB, to string, seed uint64) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{to: to, ln: ln, rand: rand.New(rand.NewPCG(seed, 1)), conns: make(map[*pair]struct{})}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		ln.Close()
		p.CutAll()
		p.running.Wait()
	})
	return p
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.ln.Addr().String() }

// CutAfter cuts each connection once a number of records from least to most,
// chosen for each direction of each connection, has passed; 0, 0: none is cut.
// Half of the cuts are resets, and half leave a part of the next record behind.
func (p *Proxy) CutAfter(least, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.min, p.max = least, most
}

// CutAll cuts every connection now.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	conns := make([]*pair, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	for _, c := range conns {
		p.cut(c, false)
	}
}

// Cuts is how many connections were cut.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

func (p *Proxy) accept() {
	for {
		near, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.running.Go(func() { p.forward(near.(*net.TCPConn)) })
	}
}

func (p *Proxy) forward(near *net.TCPConn) {
	far, err := net.Dial("tcp", p.to)
	if err != nil {
		_ = near.SetLinger(0) // refused, as it would be without us
		near.Close()
		return
	}
	c := &pair{near: near, far: far.(*net.TCPConn)}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	over := p.over
	p.mu.Unlock()
	if over {
		c.close()
	}
	var both sync.WaitGroup
	both.Go(func() { p.copy(c, c.near, c.far) })
	both.Go(func() { p.copy(c, c.far, c.near) })
	both.Wait()
	c.close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (c *pair) close() {
	c.once.Do(func() {
		c.near.Close()
		c.far.Close()
	})
}

// cut ends a connection; both ends see a reset, or an end in the middle.
func (p *Proxy) cut(c *pair, reset bool) {
	c.once.Do(func() {
		if reset {
			_ = c.near.SetLinger(0)
			_ = c.far.SetLinger(0)
		}
		p.mu.Lock()
		p.cuts++ // before anybody can see the cut
		p.mu.Unlock()
		c.near.Close()
		c.far.Close()
	})
}

// limit draws when a direction is cut; 0: not now.
func (p *Proxy) limit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max == 0 {
		return 0
	}
	return p.min + p.rand.IntN(p.max-p.min+1)
}

func (p *Proxy) coin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rand.IntN(2) == 0
}

// copy forwards one direction until it ends or is cut.
func (p *Proxy) copy(c *pair, from, to *net.TCPConn) {
	buf := make([]byte, recordHeader+1<<16)
	limit := 0
	for seen := 1; ; seen++ {
		if _, err := io.ReadFull(from, buf[:recordHeader]); err != nil {
			_ = to.CloseWrite()
			return
		}
		n := recordHeader + int(binary.BigEndian.Uint16(buf[3:]))
		if _, err := io.ReadFull(from, buf[recordHeader:n]); err != nil {
			_ = to.CloseWrite()
			return
		}
		if limit == 0 {
			if limit = p.limit(); limit > 0 && limit < seen {
				limit += seen // it was told while the connection lasted
			}
		}
		if limit > 0 && seen > limit {
			part := 0
			if p.coin() {
				part = n / 2
			}
			_, _ = to.Write(buf[:part]) // the connection ends here in any case
			p.cut(c, p.coin())
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			c.close()
			return
		}
	}
}

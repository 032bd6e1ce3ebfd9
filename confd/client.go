package confd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// The errors of a client. What wraps them says more.
var (
	ErrCallback       = errors.New("callback is required")
	ErrNoPeers        = errors.New("peer list is empty")
	ErrPeerAddress    = errors.New("peer address is invalid")
	ErrMixedFamilies  = errors.New("peers must be of the same address family")
	ErrCoverage       = errors.New("not enough candidates known to provide the desired coverage")
	ErrNoRsalt        = errors.New("request has no rsalt")
	ErrDuplicateRsalt = errors.New("request with this rsalt is outstanding")
	ErrType           = errors.New("invalid request type")
	ErrTooBig         = errors.New("request is too big")
	ErrClosed         = errors.New("client is closed")
)

// maxWaiting is how many datagrams a client holds that nobody has received yet;
// more wait in the socket.
const maxWaiting = 64

// ClientConfig is what a client needs.
type ClientConfig struct {
	// Key signs requests and verifies replies: the bytes of the key file, its
	// newline included.
	Key []byte
	// Peers are the candidates' addresses, all IPv4 or all IPv6, no host names.
	// Required.
	Peers []string
	// Callback is told of every reply and of every request that expired.
	// Required for SendRequest; Query does without. It is called by whoever
	// receives or expires, never with a lock held, and may be called from
	// several goroutines at a time.
	Callback Callback
	// Port of the peers; 0: that of ganeti-confd/udp in the services database, else 1814.
	Port int
	// Coverage is how many peers Query asks at first: 0: at most 6, -1: all.
	Coverage int
	// Log; nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock; nil: the system's.
	Now func() time.Time
}

// Client asks candidates and takes their answers. Its methods are safe for
// concurrent use.
type Client struct {
	cfg  ClientConfig
	log  *slog.Logger
	conn *net.UDPConn
	in   chan packet
	done chan struct{} // closed by Close
	wg   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	peers    []netip.Addr
	requests map[string]*outstanding
	queue    []outgoing
	signer   *signer
}

type packet struct {
	payload []byte
	from    netip.AddrPort
}

type outgoing struct {
	to      netip.Addr
	payload []byte
}

// outstanding is one request that waits for replies.
type outstanding struct {
	request  Request
	args     any
	expiry   time.Time
	sent     map[netip.Addr]bool // whom it went to
	received map[netip.Addr]bool
	changed  chan struct{} // closed when received grows, or the request ends
	callback Callback
	// anywhere: its rsalt says which peer replies, not the address.
	anywhere bool
}

// NewClient makes a client and opens its socket. Close closes it.
func NewClient(cfg ClientConfig) (*Client, error) {
	peers, err := parsePeers(cfg.Peers)
	if err != nil {
		return nil, err
	}
	if cfg.Port == 0 {
		cfg.Port = defaultPort()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	network := "udp4"
	if peers[0].Is6() {
		network = "udp6"
	}
	conn, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, fmt.Errorf("open a socket for confd: %w", err)
	}
	c := &Client{
		cfg: cfg, log: cfg.Log, conn: conn, in: make(chan packet, maxWaiting), done: make(chan struct{}),
		peers: peers, requests: make(map[string]*outstanding), signer: newSigner(cfg.Key),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.wg.Go(c.read)
	return c, nil
}

// defaultPort is that of the services database, or the usual one.
func defaultPort() int {
	if p, err := net.LookupPort("udp", "ganeti-confd"); err == nil {
		return p
	}
	return DefaultPort
}

func parsePeers(list []string) ([]netip.Addr, error) {
	if len(list) == 0 {
		return nil, ErrNoPeers
	}
	peers := make([]netip.Addr, len(list))
	for i, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%w: %q", ErrPeerAddress, s)
		}
		if peers[i] = a.Unmap(); peers[i].Is4() != peers[0].Is4() {
			return nil, fmt.Errorf("%w: %s and %s", ErrMixedFamilies, list[0], s)
		}
	}
	return peers, nil
}

// Close closes the socket, forgets what is outstanding, and waits for what the
// client started. Who waits for a reply is told that it timed out.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	close(c.done)
	for salt := range c.requests {
		c.drop(salt)
	}
	c.mu.Unlock()
	err := c.conn.Close()
	c.wg.Wait()
	return err
}

// read hands datagrams from the socket to whoever receives.
func (c *Client) read() {
	b := make([]byte, 1<<16)
	for {
		n, from, err := c.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			select {
			case <-c.done:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		p := packet{append([]byte(nil), b[:n]...), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
		select {
		case c.in <- p:
		case <-c.done:
			return
		}
	}
}

// UpdatePeerList replaces the peers, by the rules of NewClient; their family
// must be that of the socket. What is outstanding stays as it was sent.
func (c *Client) UpdatePeerList(list []string) error {
	peers, err := parsePeers(list)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if peers[0].Is4() != c.peers[0].Is4() {
		return fmt.Errorf("%w: this client's socket is of the other one", ErrMixedFamilies)
	}
	c.peers = peers
	return nil
}

// NewRsalt draws the rsalt of a request: a random UUID.
func NewRsalt() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// SendRequest sends a request to peers chosen at random: coverage of them, at
// most 6 when it is 0, all when it is -1. args is handed to the callback. With
// async nothing is sent until FlushSendQueue. All get the same bytes.
//
// The errors are, in this order, ErrCallback, ErrCoverage, ErrNoRsalt,
// ErrDuplicateRsalt, ErrType and ErrTooBig; then nothing is outstanding. One
// of sending leaves the request outstanding.
func (c *Client) SendRequest(r *Request, args any, coverage int, async bool) error {
	if c.cfg.Callback == nil {
		return ErrCallback
	}
	c.mu.Lock()
	n, err := cover(coverage, len(c.peers))
	targets := slices.Clone(c.peers)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if r.Rsalt == "" {
		return ErrNoRsalt
	}
	c.ExpireRequests()
	mrand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	if err := c.enqueue(&outstanding{request: *r, args: args, callback: c.cfg.Callback}, targets[:n]); err != nil {
		return err
	}
	if async {
		return nil
	}
	return c.FlushSendQueue()
}

// cover gives the number of peers that a coverage means.
func cover(coverage, peers int) (int, error) {
	switch {
	case coverage == 0:
		return min(peers, DefaultCoverage), nil
	case coverage == -1:
		return peers, nil
	case coverage < -1 || coverage > peers:
		return 0, fmt.Errorf("%w: %d of %d", ErrCoverage, coverage, peers)
	}
	return coverage, nil
}

// enqueue registers a request and queues its datagrams.
func (c *Client) enqueue(o *outstanding, targets []netip.Addr) error {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &o.request
	switch {
	case c.closed:
		return ErrClosed
	case c.requests[r.Rsalt] != nil:
		return fmt.Errorf("%w: %q", ErrDuplicateRsalt, r.Rsalt)
	case r.Type < 0 || r.Type >= types:
		return fmt.Errorf("%w: %d", ErrType, r.Type)
	}
	o.expiry, o.changed = now.Add(ExpireTimeout), make(chan struct{})
	o.sent, o.received = make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	if err := c.pack(o, targets, now); err != nil {
		return err
	}
	c.requests[r.Rsalt] = o
	return nil
}

// pack queues a request's datagram for each of the targets.
func (c *Client) pack(o *outstanding, targets []netip.Addr, now time.Time) error {
	payload := c.signer.sealRequest(nil, o.request.message(nil), now)
	if len(payload) > MaxRequest {
		return fmt.Errorf("%w: %d bytes; a datagram holds %d", ErrTooBig, len(payload), MaxRequest)
	}
	for _, t := range targets {
		o.sent[t] = true
		c.queue = append(c.queue, outgoing{t, payload})
	}
	return nil
}

// FlushSendQueue sends all that is queued, in order. A peer that cannot be sent
// to does not keep the others from their datagrams; the error is about all of
// those.
func (c *Client) FlushSendQueue() error {
	c.mu.Lock()
	queue := c.queue
	c.queue = nil
	c.mu.Unlock()
	var errs []error
	for _, o := range queue {
		if _, err := c.conn.WriteToUDPAddrPort(o.payload, netip.AddrPortFrom(o.to, uint16(c.cfg.Port))); err != nil {
			errs = append(errs, fmt.Errorf("send to %s: %w", o.to, err))
		}
	}
	return errors.Join(errs...)
}

// ExpireRequests forgets the requests that are overdue, and tells the callback.
func (c *Client) ExpireRequests() {
	now := c.cfg.Now()
	var gone []*outstanding
	c.mu.Lock()
	for salt, o := range c.requests {
		if !now.Before(o.expiry) {
			gone = append(gone, o)
			c.drop(salt)
		}
	}
	c.mu.Unlock()
	for _, o := range gone {
		o.callback(&Upcall{Salt: o.request.Rsalt, Kind: Expired, Request: o.request, Args: o.args, Client: c})
	}
}

// drop forgets a request. The lock is held.
func (c *Client) drop(salt string) {
	close(c.requests[salt].changed)
	delete(c.requests, salt)
}

// HandleResponse takes a datagram that came from ip and port. What is no reply,
// is not signed with the key, answers nothing outstanding, or comes from a peer
// that was not asked is dropped, with a line in the debug log. A peer's second
// reply counts only once, but is passed to the callback. A reply counts when the
// callback has returned. Overdue requests expire.
func (c *Client) HandleResponse(payload []byte, ip netip.Addr, port uint16) {
	c.handle(payload, ip, port)
	c.ExpireRequests()
}

func (c *Client) handle(payload []byte, ip netip.Addr, port uint16) {
	ip = ip.Unmap()
	c.mu.Lock()
	reply, salt, err := parseReply(c.signer, payload)
	if err != nil {
		c.mu.Unlock()
		c.log.Debug("discarding broken package", "from", ip, "error", err)
		return
	}
	o := c.requests[salt]
	if o == nil || !o.anywhere && !o.sent[ip] {
		c.mu.Unlock()
		c.log.Debug("discarding reply to nothing that was asked there", "from", ip, "rsalt", salt)
		return
	}
	c.mu.Unlock()
	o.callback(&Upcall{Salt: salt, Kind: Replied, Request: o.request, Reply: reply, ServerIP: ip, ServerPort: port, Args: o.args, Client: c})
	// Only now: who waits for the reply may rely on what the callback did.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.requests[salt] == o && !o.received[ip] {
		o.received[ip] = true
		close(o.changed)
		o.changed = make(chan struct{})
	}
}

// ReceiveReply waits for one datagram, at most that long, and hands it to
// HandleResponse. True means that one came, whatever it was.
func (c *Client) ReceiveReply(timeout time.Duration) bool {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case p := <-c.in:
		c.HandleResponse(p.payload, p.from.Addr(), p.from.Port())
		return true
	case <-t.C:
	case <-c.done:
	}
	return false
}

// NeededReplies is how many of so many peers must answer: all of fewer than
// three, all but one of fewer than five, else half of them and one.
func NeededReplies(peers int) int {
	switch {
	case peers < 3:
		return max(peers, 0)
	case peers < 5:
		return peers - 1
	}
	return peers/2 + 1
}

// WaitForReply waits until enough of the peers that a request went to have
// replied, and receives meanwhile. It gives whether that took longer than
// timeout, how many peers were sent the request and how many replied; for a
// request that is not known, or is not any more, true, 0 and 0. The request does
// not expire before that.
func (c *Client) WaitForReply(rsalt string, timeout time.Duration) (timedOut bool, sent, received int) {
	c.mu.Lock()
	if o := c.requests[rsalt]; o != nil {
		o.expiry = o.expiry.Add(timeout)
	}
	c.mu.Unlock()
	t := time.NewTimer(timeout)
	defer t.Stop()
	late := false
	for {
		c.mu.Lock()
		o := c.requests[rsalt]
		if o == nil {
			c.mu.Unlock()
			return true, 0, 0
		}
		sent, received, changed := len(o.sent), len(o.received), o.changed
		c.mu.Unlock()
		if received >= NeededReplies(sent) {
			return false, sent, received
		}
		if late {
			return true, sent, received
		}
		select {
		case p := <-c.in:
			c.HandleResponse(p.payload, p.from.Addr(), p.from.Port())
		case <-changed:
		case <-c.done:
		case <-t.C:
			late = true
		}
	}
}

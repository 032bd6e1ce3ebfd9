package session

import (
	"container/list"
	"sync"
)

// Windows of streams, in bytes.
const (
	MaxWindow   = 256 << 10 // largest window of one stream
	MinWindow   = 32 << 10  // what each stream begins with
	DefaultPool = 256 << 20 // all windows of a process
)

// Pool bounds the memory of all streams of a process: a stream that is read
// holds a part of it, its window, until it ends. Each begins with MinWindow and
// doubles as it is used, as long as a quarter of the pool stays free for newcomers.
// When nothing is left a stream waits its turn without a byte of credit, so that its
// sender waits too; it holds nothing meanwhile, so nobody waits for it.
type Pool struct {
	mu    sync.Mutex
	size  int
	free  int
	queue list.List // of *Stream, waiting for MinWindow
}

// NewPool makes a pool of size bytes; at least one MaxWindow, zero means DefaultPool.
func NewPool(size int) *Pool {
	if size == 0 {
		size = DefaultPool
	}
	size = max(size, MaxWindow)
	return &Pool{size: size, free: size}
}

// Free gives the bytes that no stream holds, and the number of streams that wait.
func (p *Pool) Free() (bytes, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.free, p.queue.Len()
}

// begin takes MinWindow for st and says true, or queues it: its granted method
// is called later, by whoever gives room back.
func (p *Pool) begin(st *Stream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue.Len() == 0 && p.free >= MinWindow {
		p.free -= MinWindow
		return true
	}
	st.turn = p.queue.PushBack(st)
	return false
}

// grow takes n bytes more if newcomers keep enough.
func (p *Pool) grow(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue.Len() > 0 || p.free-n < p.size/4 {
		return false
	}
	p.free -= n
	return true
}

// end gives back what st held and takes it out of the queue; then the next
// streams get their turn.
func (p *Pool) end(st *Stream, held int) {
	p.mu.Lock()
	if st.turn != nil {
		p.queue.Remove(st.turn)
		st.turn = nil
	}
	p.free += held
	var next []*Stream
	for p.free >= MinWindow && p.queue.Len() > 0 {
		st := p.queue.Remove(p.queue.Front()).(*Stream)
		st.turn = nil
		p.free -= MinWindow
		next = append(next, st)
	}
	p.mu.Unlock()
	for _, st := range next {
		st.granted()
	}
}

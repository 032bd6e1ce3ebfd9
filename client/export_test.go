package client

import (
	"net/http"
	"time"
)

// Patience sets how long a connection waits for a silent overlord; it is for
// connections that were not used yet.
func (c *Conn) Patience(stream, ping, answer time.Duration) {
	*c.patience = patience{stream: stream, ping: ping, answer: answer, whole: answer, first: time.Millisecond, most: 50 * time.Millisecond}
}

// PingEvery sets when a silent TLS connection is given up.
func (c *Conn) PingEvery(after, wait time.Duration) {
	c.http.HTTP2 = &http.HTTP2Config{SendPingTimeout: after, PingTimeout: wait}
}

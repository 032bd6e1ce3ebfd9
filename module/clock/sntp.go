package clock

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"dominion/call"
	"dominion/module"
)

// OffsetIn is the input of offset.
type OffsetIn struct {
	Server  string  `json:"server" doc:"the time server: a name or an address" required:"true" min:"1" max:"253" pattern:"[A-Za-z0-9_.:%-]+"`
	Port    int     `json:"port" doc:"its port" default:"123" min:"1" max:"65535"`
	Samples int     `json:"samples" doc:"how often it is asked; the answer that came fastest counts" default:"3" min:"1" max:"8"`
	Seconds float64 `json:"seconds" doc:"how long to wait for each answer" default:"2" min:"0.01" max:"6"`
}

// Offset is the answer of offset.
type Offset struct {
	Server       string    `json:"server" doc:"the address that answered"`
	OffsetMillis float64   `json:"offset_millis" doc:"what must be added to the machine's clock to get the server's"`
	DelayMillis  float64   `json:"delay_millis" doc:"how long the answer was on its way; the offset is wrong by half of that at most"`
	Stratum      int       `json:"stratum" doc:"how far the server is from a reference clock"`
	ServerTime   time.Time `json:"server_time" doc:"what the server's clock said, UTC"`
	Answers      int       `json:"answers" doc:"how many answers came"`
}

func offset(ctx context.Context, _ *module.Env, in OffsetIn) (Offset, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", net.JoinHostPort(in.Server, strconv.Itoa(in.Port)))
	if err != nil {
		return Offset{}, fmt.Errorf("ask %s for the time: %w", in.Server, err)
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	var all []sample
	var last error
	for range in.Samples {
		s, err := ask(ctx, conn, time.Duration(in.Seconds*float64(time.Second)))
		if cause := context.Cause(ctx); cause != nil {
			return Offset{}, cause
		}
		if err != nil {
			last = err
			continue
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return Offset{}, call.Errorf(call.Failed, "ask %s (%s) for the time: %v", in.Server, host, last)
	}
	best := slices.MinFunc(all, func(a, b sample) int { return cmp.Compare(a.delay, b.delay) })
	return Offset{
		Server: host, OffsetMillis: millis(best.offset), DelayMillis: millis(best.delay), Stratum: best.stratum,
		ServerTime: best.server.UTC().Truncate(time.Millisecond), Answers: len(all),
	}, nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// sample is what one exchange tells.
type sample struct {
	offset, delay time.Duration
	stratum       int
	server        time.Time
}

const (
	packetSize = 48
	client     = 0<<6 | 4<<3 | 3 // no warning, version 4, mode client
)

// ask does one exchange of SNTP (RFC 4330). What stands in the request as the
// time of sending is random: it says nothing about us, and only who saw it can
// answer.
func ask(ctx context.Context, conn net.Conn, wait time.Duration) (sample, error) {
	request := make([]byte, packetSize)
	request[0] = client
	_, _ = rand.Read(request[40:]) // it never fails
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return sample{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	sent := time.Now()
	if _, err := conn.Write(request); err != nil {
		return sample{}, err
	}
	reply := make([]byte, 512)
	for {
		n, err := conn.Read(reply)
		came := time.Now()
		if err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				return sample{}, fmt.Errorf("no answer within %s", wait)
			}
			return sample{}, err
		}
		p, err := parsePacket(reply[:n])
		if err != nil {
			return sample{}, err
		}
		if p.origin != binary.BigEndian.Uint64(request[40:]) {
			continue // late, or somebody else's
		}
		took := came.Sub(sent) // by the clock that nobody sets
		received, replied := near(p.receive, sent), near(p.transmit, sent)
		delay := max(0, took-replied.Sub(received))
		middle := received.Add(replied.Sub(received) / 2)
		return sample{offset: middle.Sub(sent.Add(took / 2)), delay: delay, stratum: p.stratum, server: replied}, nil
	}
}

var errPacket = errors.New("it does not answer as a time server does")

// packet is what counts in an answer: times are seconds since 1900 with 32
// bits behind the point.
type packet struct {
	stratum                   int
	origin, receive, transmit uint64
}

// parsePacket reads an answer (RFC 4330 section 4) and refuses one that does
// not tell the time.
func parsePacket(b []byte) (packet, error) {
	if len(b) < packetSize || b[0]&7 != 4 || b[0]>>3&7 < 1 || b[0]>>3&7 > 4 {
		return packet{}, errPacket
	}
	p := packet{
		stratum: int(b[1]), origin: binary.BigEndian.Uint64(b[24:]), receive: binary.BigEndian.Uint64(b[32:]), transmit: binary.BigEndian.Uint64(b[40:]),
	}
	switch {
	case p.stratum == 0:
		return packet{}, fmt.Errorf("%w: it says %.4q", errPacket, b[12:16])
	case p.stratum > 15 || b[0]>>6 == 3:
		return packet{}, fmt.Errorf("%w: its own clock is not set", errPacket)
	case p.transmit == 0 || p.receive == 0:
		return packet{}, errPacket
	}
	return p, nil
}

// near is the time that a timestamp means: seconds begin anew every 136 years,
// and that nearest to ours is taken.
func near(stamp uint64, ours time.Time) time.Time {
	const from1900 = 2208988800 // seconds from 1900 to 1970
	seconds, part := int64(stamp>>32)-from1900, int64(stamp&0xffffffff)
	const era = int64(1) << 32
	for seconds < ours.Unix()-era/2 {
		seconds += era
	}
	for seconds > ours.Unix()+era/2 {
		seconds -= era
	}
	return time.Unix(seconds, part*int64(time.Second)>>32)
}

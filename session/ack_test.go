package session

import (
	"slices"
	"testing"
	"time"

	"dominion/api/fleetpb"
	"dominion/call"
)

// What is to be acknowledged waits for the heartbeat, or for many others.
func TestAcknowledge(t *testing.T) {
	got := make(chan *fleetpb.Ack, 8)
	clock := NewClock(time.Hour, 0)
	f := pair(t, &Options{Heartbeat: clock}, &Options{Handler: &handler{ack: func(_ *Session, id uint64, a *fleetpb.Ack) {
		if id != 0 || a.State != fleetpb.Ack_STORED {
			t.Errorf("ACK of %d with state %v", id, a.State)
		}
		got <- a
	}}}, false)
	job := func(i int) call.JobID { return call.JobID{byte(i >> 8), byte(i), 15: 1} }
	f.overlord.Acknowledge(job(1))
	f.overlord.Acknowledge(job(2))
	select {
	case a := <-got:
		t.Errorf("%d jobs were acknowledged at once", len(a.Jobs))
	case <-time.After(20 * time.Millisecond):
	}
	f.overlord.ping()
	one, two := job(1), job(2)
	if a := receive(t, got, "ACK"); !slices.EqualFunc(a.Jobs, [][]byte{one[:], two[:]}, slices.Equal) {
		t.Errorf("with the heartbeat came %x", a.Jobs)
	}
	last := f.overlord.LastHeard()
	f.overlord.ping()
	eventually(t, "a PONG comes", func() bool { return f.overlord.LastHeard().After(last) })
	for i := range maxAcks + 1 {
		f.overlord.Acknowledge(job(i))
	}
	if a := receive(t, got, "ACK"); len(a.Jobs) != maxAcks {
		t.Errorf("%d jobs were acknowledged together; want %d", len(a.Jobs), maxAcks)
	}
	f.overlord.Close(call.OK, "the test ends")
	<-f.overlord.Done()
	f.overlord.Acknowledge(job(1)) // nobody is there any more
	if n := len(f.overlord.acks); n != 16 {
		t.Errorf("%d bytes wait in a session that is over; want those of one job", n)
	}
}

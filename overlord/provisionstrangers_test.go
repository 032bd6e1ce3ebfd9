package overlord

import (
	"context"
	"fmt"
	"testing"
	"time"

	"dominion/call"
	"dominion/provision"
)

// Who asks for names that he made up does not keep others from the kernel that was there.
func TestStrangersAskAbove(t *testing.T) {
	life, end := context.WithCancel(t.Context())
	end() // nobody is asked
	o := &Overlord{life: life}
	defer o.background.Wait()
	a := newAbove(o)
	a.known["boot/kernel"] = &aboveReply{ready: make(chan struct{}), until: time.Now().Add(-time.Second), remote: &provision.Remote{}}
	var err error
	for i := 0; i < 2*strangerBurst && err == nil; i++ {
		_, err = a.find(fmt.Sprintf("vnfs/none%d/kernel", i), 0, true)
	}
	if call.CodeOf(err) != call.Busy {
		t.Fatalf("strangers ask for as much as they like: %v", err)
	}
	f, err := a.find("boot/kernel", 0, true)
	if err != nil {
		t.Fatalf("the kernel: %v", err)
	}
	<-f.ready
}

// One sub-overlord that asks without end leaves room for others.
func TestLookers(t *testing.T) {
	var l lookers
	n := 0
	for ; n < 2*maxLooking && l.enter("greedy"); n++ {
	}
	if n < aboveWidth || n >= maxLooking {
		t.Errorf("%d questions of one at once; want %d to less than %d", n, aboveWidth, maxLooking)
	}
	if !l.enter("other") {
		t.Error("there is no room for another one")
	}
	l.leave("other")
	for range n {
		l.leave("greedy")
	}
	if l.all != 0 || len(l.of) != 0 {
		t.Errorf("left over: %d, %v", l.all, l.of)
	}
}

package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"dominion/call"
	"dominion/client"
)

func TestInterrupts(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ordered bool
		signals []os.Signal
		leaves  bool
		told    int
	}{
		{"none", true, nil, false, 0},
		{"before the order", false, []os.Signal{os.Interrupt}, true, 0},
		{"one", true, []os.Signal{os.Interrupt}, false, 1},
		{"two", true, []os.Signal{os.Interrupt, os.Interrupt}, true, 1},
		{"asked to end", true, []os.Signal{syscall.SIGTERM}, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			told := make(chan string, 10)
			ctx, in := watchInterrupts(t.Context(), func(format string, _ ...any) { told <- format })
			if tt.ordered {
				in.follow(&client.Job{}) // nothing was sent, so cancelling it is easy
			}
			for _, s := range tt.signals {
				in.signals <- s
			}
			if tt.leaves {
				<-ctx.Done()
				if !errors.Is(context.Cause(ctx), errInterrupted) {
					t.Errorf("cause %v; want interrupted", context.Cause(ctx))
				}
			}
			for range tt.told {
				<-told
			}
			if !tt.leaves && ctx.Err() != nil {
				t.Errorf("left: %v", context.Cause(ctx))
			}
			in.stop()
			if n := len(told); n > 0 {
				t.Errorf("told %d things more", n)
			}
		})
	}
}

func TestHangups(t *testing.T) {
	reread := make(chan struct{}, 2)
	h := watchHangups(func() { reread <- struct{}{} })
	h.in <- syscall.SIGHUP
	<-reread
	if s := <-h.out; s != syscall.SIGHUP {
		t.Errorf("the daemon got %v", s)
	}
	h.stop()
}

// Who leaves while an order is on its way is told which job may go on.
func TestInterruptedWhileOrdering(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	id := call.NewJobID(time.Now())
	ordering := &client.JobError{ID: id, What: client.Ordering, Err: context.Canceled}
	if err := interruptedOr(ctx, ordering); !errors.Is(err, ordering) {
		t.Errorf("before: %v", err)
	}
	leave()
	for _, tt := range []struct {
		err   error
		words string
	}{
		{ordering, id.String()},
		{&client.JobError{ID: id, What: "cancel", Err: context.Canceled}, "interrupted"},
		{context.Canceled, "interrupted"},
	} {
		code, text := verdict(interruptedOr(ctx, tt.err))
		if code != exitInterrupted || !strings.Contains(text, tt.words) {
			t.Errorf("%v: %d, %q; want 130 and %q", tt.err, code, text, tt.words)
		}
	}
}

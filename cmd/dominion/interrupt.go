package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"dominion/client"
	"dominion/target"
)

// interrupts gives Ctrl-C its two meanings while a job runs: the first cancels
// what has not started and says what still runs, the second leaves at once.
// Before the job is ordered, and for SIGTERM, the first leaves.
type interrupts struct {
	signals chan os.Signal
	jobs    chan *client.Job
	stopped chan struct{}
	wait    sync.WaitGroup
	cancel  context.CancelCauseFunc
	tell    func(format string, args ...any)
	asked   atomic.Bool // to withdraw the job
}

// watchInterrupts begins to watch; the context ends with errInterrupted when
// the user leaves. tell is called by another goroutine.
func watchInterrupts(ctx context.Context, tell func(string, ...any)) (context.Context, *interrupts) {
	ctx, cancel := context.WithCancelCause(ctx)
	in := &interrupts{
		signals: make(chan os.Signal, 2), jobs: make(chan *client.Job), stopped: make(chan struct{}), cancel: cancel, tell: tell,
	}
	signal.Notify(in.signals, os.Interrupt, syscall.SIGTERM)
	in.wait.Go(func() { in.run(ctx) })
	return ctx, in
}

func (in *interrupts) run(ctx context.Context) {
	var job *client.Job
	for {
		select {
		case <-in.stopped:
			return
		case job = <-in.jobs:
		case s := <-in.signals:
			if job == nil || in.asked.Load() || s == syscall.SIGTERM {
				in.cancel(errInterrupted)
				continue
			}
			in.asked.Store(true)
			in.wait.Go(func() { in.withdraw(ctx, job) })
		}
	}
}

func (in *interrupts) withdraw(ctx context.Context, job *client.Job) {
	in.tell("interrupted: cancelling what has not started; press Ctrl-C again to leave at once")
	left, err := job.Cancel(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		in.tell("%v", err)
	case len(left.Running) > 0:
		in.tell("still running on %s; waiting for the end", target.Fold(left.Running))
	}
}

// verdict gives a job that is incomplete because the user withdrew it the exit
// code of that. One that every machine answered all the same is done.
func (in *interrupts) verdict(err error) error {
	if e, ok := errors.AsType[*exitError](err); ok && e.code == exitIncomplete && in.asked.Load() {
		return &exitError{exitInterrupted, e.text}
	}
	return err
}

// follow says which job the next Ctrl-C is about.
func (in *interrupts) follow(job *client.Job) { in.jobs <- job }

// stop ends watching and waits until nothing of it runs any more.
func (in *interrupts) stop() {
	signal.Stop(in.signals)
	close(in.stopped)
	in.cancel(nil)
	in.wait.Wait()
}

// teller writes notes of another goroutine beside the progress line.
func (a *app) teller(cmd string, bar *progress) func(string, ...any) {
	return func(format string, args ...any) {
		bar.clear()
		fmt.Fprintf(a.err, "%s: %s\n", cmd, escapeText(fmt.Sprintf(format, args...)))
	}
}

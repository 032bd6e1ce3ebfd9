package overlord

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log/slog"
	"testing"
	"time"

	"dominion/call"
	"dominion/job"
)

// A job that the overlord's end cuts off is open in the store: a machine that
// says at that moment that it has finished it must go on keeping its result, so
// the job is not taken for one that nobody knows.
func TestJobCutOffStaysKnown(t *testing.T) {
	names := []string{"m1"}
	tree, err := call.NewNames(names)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now, salt, args := time.Now().Truncate(time.Millisecond), make([]byte, call.SaltSize), []byte("{}")
	order := &call.Order{
		Job: call.NewJobID(now), Method: "test.ping", ArgsDigest: call.Digest(salt, args), IssuedAt: now, NotBefore: now,
		Expiry: now.Add(time.Hour), Count: 1, Root: tree.Root(),
	}
	signed, err := call.Sign(order, key, []byte("cert"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := job.NewPlan(job.Request{Signed: signed, Salt: salt, Args: args, Whom: job.Whom{Names: names}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	o := &Overlord{log: slog.New(slog.DiscardHandler)}
	var stop context.CancelFunc
	o.life, stop = context.WithCancel(t.Context())
	stop()
	r := o.newRunning(p, nil)
	o.jobs.add(r)
	o.carryOut(r)
	if o.jobs.job(order.Job) == nil {
		t.Error("the job is off the table, and is not closed")
	}
}

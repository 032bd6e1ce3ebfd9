package overlord

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"dominion/api/apipb"
	"dominion/call"
	"dominion/pki"
)

// A large group is changed in the time of its size: the store's writer, and so
// every order, waits for it.
func TestRemoveFromALargeGroup(t *testing.T) {
	o := opened(t)
	alice := caller{Identity: pki.Identity{Role: pki.Operator, Name: "alice"}}
	names := make([]string, 200_000)
	for i := range names {
		names[i] = fmt.Sprintf("n%06d", i)
	}
	if _, err := o.keep.setGroup(t.Context(), alice, "all", slices.Clone(names), apipb.SetGroupRequest_REPLACE); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(names)
	begun := time.Now()
	left, err := o.keep.setGroup(t.Context(), alice, "all", names[1:], apipb.SetGroupRequest_REMOVE)
	if err != nil || !slices.Equal(left, names[:1]) {
		t.Errorf("%d are left, %v; want %s alone", len(left), err, names[0])
	}
	if d := time.Since(begun); d > 15*time.Second { // without a table: minutes
		t.Errorf("it took %s", d)
	}
	if _, err := o.keep.setGroup(t.Context(), alice, "none", names, apipb.SetGroupRequest_REMOVE); call.CodeOf(err) != call.OK {
		t.Errorf("remove from a group that is not there: %v", err)
	}
}

// What is in memory, which targets and policy ask, is what is in the store.
func TestGroupsChangedAtOnce(t *testing.T) {
	o := opened(t)
	alice := caller{Identity: pki.Identity{Role: pki.Operator, Name: "alice"}}
	const n = 64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := o.keep.setGroup(t.Context(), alice, "web", []string{fmt.Sprintf("n%02d", i)}, apipb.SetGroupRequest_ADD); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if members, _ := o.keep.group("web"); len(members) != n {
		t.Errorf("%d members in memory; want %d", len(members), n)
	}
}

// A change whose caller leaves is in memory as it is in the store.
func TestGroupChangedAndCallerLeft(t *testing.T) {
	o := opened(t)
	alice := caller{Identity: pki.Identity{Role: pki.Operator, Name: "alice"}}
	ctx, leave := context.WithCancel(t.Context())
	o.keep.reading.Lock() // the change waits here to be read again
	done := make(chan error)
	go func() {
		_, err := o.keep.setGroup(ctx, alice, "web", []string{"web1"}, apipb.SetGroupRequest_REPLACE)
		done <- err
	}()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if rows, err := o.keep.db.Groups(t.Context()); err != nil || time.Now().After(deadline) {
			t.Fatalf("the group is not in the store: %v", err)
		} else if len(rows) == 1 {
			break
		}
	}
	leave()
	o.keep.reading.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if members, _ := o.keep.group("web"); !slices.Equal(members, []string{"web1"}) {
		t.Errorf("members in memory %q; want web1", members)
	}
}

package overlord_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"dominion/overlord"
	"dominion/provision"
)

// A rack that is switched on: 200 nodes boot at once, each from its address, and
// ask for a script that ten programs make. All have it within 30 s.
func TestProvisionTwoHundredNodesAtOnce(t *testing.T) {
	const nodes, scripts, limit = 200, 10, 30 * time.Second
	s := newSite(t, func(c *overlord.ProvisionConfig) { c.Approve = overlord.ApproveRules{{MAC: "52:54:00:*"}} })
	want := ""
	for i := range scripts {
		s.put(fmt.Sprintf("nodescripts/init/all/%02d-x", 10+i), fmt.Sprintf("#!/bin/sh\necho echo %d $NODENAME\n", i), 0o755)
		want += fmt.Sprintf("echo %d %%[1]s\n", i)
	}
	machines := make([]*metal, nodes)
	for i := range machines {
		machines[i] = s.metal(fmt.Sprintf("52:54:00:00:01:%02X", i), fmt.Sprintf("127.0.1.%d", i+1), nil)
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		took   []time.Duration
		begin  = make(chan struct{})
		broken []string
	)
	for _, m := range machines {
		wg.Go(func() {
			<-begin
			at := time.Now()
			m.boot()
			a := m.post("script", provision.Request{State: "init"})
			d := time.Since(at)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, d)
			if name := a.header.Get("Dominion-Node"); a.status != http.StatusOK || string(a.body) != fmt.Sprintf(want, name) || a.header.Get("Digest") != digestOf(a.body) {
				broken = append(broken, m.hwaddr+": "+a.String())
			}
		})
	}
	at := time.Now()
	close(begin)
	wg.Wait()
	all := time.Since(at)
	if len(took) != nodes {
		t.Fatalf("%d of %d nodes got to the end", len(took), nodes)
	}
	slices.Sort(took)
	t.Logf("figure: %d nodes with %d scripts each, boot script and script, new nodes: all in %v; p50 %v, p99 %v, most %v", nodes, scripts,
		all.Round(time.Millisecond), took[nodes/2].Round(time.Millisecond), took[nodes*99/100].Round(time.Millisecond), took[nodes-1].Round(time.Millisecond))
	if len(broken) > 0 {
		t.Errorf("%d nodes did not get their script: %s", len(broken), broken[0])
	}
	if took[nodes-1] > limit {
		t.Errorf("the last one took %v", took[nodes-1])
	}
	for action, want := range map[string]int{"node.create": nodes, "node.boot": nodes, "node.script": nodes} {
		if got := len(s.audited(action)); got != want {
			t.Errorf("%d records %s; want %d", got, action, want)
		}
	}
}

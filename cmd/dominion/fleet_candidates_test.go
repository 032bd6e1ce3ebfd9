//go:build fleet

package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/confd"
	"dominion/fleettest"
)

// quorum is a site whose machines m01 and on are candidates, each at an address of
// its own and all at one port, as they would be elsewhere.
type quorum struct {
	*site
	port   int
	names  []string
	agents map[string]*daemon
	key    []byte
	file   string // of the key
}

// address is where a candidate answers.
func (q *quorum) address(name string) string {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "m"))
	if err != nil {
		q.t.Fatal(err)
	}
	return fmt.Sprintf("127.0.1.%d", n)
}

// addresses are those of candidates, for --peers.
func (q *quorum) addresses(names ...string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = q.address(n)
	}
	return strings.Join(out, ",")
}

// startQuorum starts an overlord and n machines, makes all of them candidates, the
// first the master, and returns when each serves.
func startQuorum(t *testing.T, binary string, n int) *quorum {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := conn.LocalAddr().(*net.UDPAddr).Port
	conn.Close()
	q := &quorum{site: newSite(t, binary), port: port, agents: make(map[string]*daemon)}
	q.up("--autosign", "m*")
	for i := range n {
		q.names = append(q.names, fmt.Sprintf("m%02d", i+1))
		q.join(q.names[i])
	}
	q.await(n)
	q.root.run("cluster", "set-master", q.names[0]).exits(0)
	q.root.run(append([]string{"cluster", "candidate", "add"}, q.names[1:]...)...).exits(0)
	for _, name := range q.names {
		q.root.run("cluster", "node", "set", name, "--primary", q.address(name)).exits(0)
	}
	q.key = []byte(q.root.run("cluster", "key", "show").exits(0).out.String())
	q.file = q.write("hmac.key", string(q.key))
	q.serving(q.names...)
	return q
}

// join starts the agent of a machine.
func (q *quorum) join(name string) {
	q.t.Helper()
	config := q.write(name+".yaml", fmt.Sprintf("confd: {listen: %q}\n", net.JoinHostPort(q.address(name), strconv.Itoa(q.port))))
	q.agents[name] = q.minion(name, "--config", config)
}

func (q *quorum) show() *apipb.ClusterShowResponse {
	q.t.Helper()
	resp, err := q.conn.Cluster.Show(q.t.Context(), connect.NewRequest(&apipb.ClusterShowRequest{}))
	if err != nil {
		q.t.Fatal(err)
	}
	return resp.Msg
}

// serving waits until the overlord shows those candidates as current.
func (q *quorum) serving(names ...string) {
	q.t.Helper()
	q.until(fmt.Sprintf("%v serve what is in force", names), func() bool {
		n := 0
		for _, c := range q.show().Candidates {
			if c.State == "current" && slices.Contains(names, c.Name) {
				n++
			}
		}
		return n == len(names)
	})
}

// ask asks candidates for the master by the command, and wants that answer from a
// quorum. It gives the serial.
func (q *quorum) ask(master string, names ...string) int64 {
	q.t.Helper()
	c := q.root.run("confd", "query", "master", "--peers", q.addresses(names...), "--port", strconv.Itoa(q.port), "--key", q.file, "-o", "json").exits(0)
	var doc struct {
		Answer string
		Serial int64
		Quorum bool
		Agreed int
		Needed int
	}
	if err := json.Unmarshal([]byte(c.out.String()), &doc); err != nil {
		q.t.Fatal(err)
	}
	if doc.Answer != master || !doc.Quorum || doc.Agreed < doc.Needed {
		q.t.Errorf("%s: %s; want master %s by quorum", c.line, c.out, master)
	}
	return doc.Serial
}

// have waits until each of those candidates itself answers with that serial or a
// higher one, and gives how long the last took from began on.
func (q *quorum) have(serial int64, began time.Time, names ...string) time.Duration {
	q.t.Helper()
	took := make([]time.Duration, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			c, err := confd.NewClient(confd.ClientConfig{Key: q.key, Peers: []string{q.address(name)}, Port: q.port})
			if err != nil {
				q.t.Error(err)
				return
			}
			defer c.Close()
			for time.Since(began) < fleettest.Patience {
				ctx, stop := context.WithTimeout(q.t.Context(), time.Second)
				ask := confd.Master()
				r, err := c.Query(ctx, ask.Request)
				stop()
				if err == nil && r.Reply.Serial >= serial {
					took[i] = time.Since(began)
					return
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-q.t.Context().Done():
				}
			}
			q.t.Errorf("%s has no serial %d after %s", name, serial, fleettest.Patience)
		})
	}
	wg.Wait()
	return slices.Max(took)
}

// Six candidates answer by quorum when the overlord is dead, and when two of them
// are, too. A restarted overlord changes the master, and soon all candidates say so.
// One that was away catches up by itself.
func testCandidates(t *testing.T, binary string) {
	q := startQuorum(t, binary, 6)
	q.ask("m01", q.names...)
	q.overlord.kill()
	q.ask("m01", q.names...)
	for _, name := range []string{"m05", "m06"} {
		q.agents[name].kill()
	}
	q.ask("m01", q.names...)
	// They serve what is on their disks before there is any overlord again.
	before := q.ask("m01", "m01")
	q.join("m05")
	q.have(before, time.Now(), "m05")

	const rounds = 5
	var changed, restarted []time.Duration
	live := q.names[:5]
	for i := range rounds {
		if i > 0 {
			q.overlord.kill()
		}
		q.up()
		began := time.Now()
		q.await(len(live))
		master := live[(i+1)%len(live)]
		set := time.Now()
		q.root.run("cluster", "set-master", master).exits(0)
		serial := int64(q.show().Serial)
		changed = append(changed, q.have(serial, set, live...))
		restarted = append(restarted, time.Since(began))
		if got := q.ask(master, q.names...); got != serial {
			t.Errorf("round %d: serial %d by quorum; want %d", i+1, got, serial)
		}
	}
	slices.Sort(changed)
	slices.Sort(restarted)
	t.Logf("5 candidates at the new serial after set-master: median %s, longest %s; counted from the overlord's restart: median %s",
		changed[rounds/2].Round(time.Millisecond), changed[rounds-1].Round(time.Millisecond), restarted[rounds/2].Round(time.Millisecond))
	if m := changed[rounds/2]; m > 10*time.Second {
		t.Errorf("all candidates have the new serial after %s in the median; 2 s are meant, 10 s are allowed for a busy machine", m)
	}
	states := make(map[string]string)
	for _, c := range q.show().Candidates {
		states[c.Name] = c.State
	}
	if states["m06"] != "away" {
		t.Errorf("the state of m06 is %q; want away", states["m06"])
	}
	// The one that was away all the time.
	serial := int64(q.show().Serial)
	q.join("m06")
	took := q.have(serial, time.Now(), "m06")
	t.Logf("a candidate that was away is at the new serial %s after it was started", took.Round(time.Millisecond))
	q.serving(q.names...)
	set := time.Now()
	q.root.run("cluster", "set-master", "m06").exits(0)
	took = q.have(int64(q.show().Serial), set, q.names...)
	t.Logf("all 6 candidates are at the next serial %s after set-master was started", took.Round(time.Millisecond))
	q.ask("m06", q.names...)
}

// A candidate that is none any more keeps neither data nor key, and one whose files
// are damaged gets them anew.
func testCandidateFiles(t *testing.T, binary string) {
	q := startQuorum(t, binary, 3)
	q.root.run("cluster", "candidate", "remove", "m03").exits(0)
	dir := q.dir + "/m03/cluster"
	q.until("m03 has dropped data and key", func() bool {
		names, err := os.ReadDir(dir)
		return err == nil && len(names) == 1 && names[0].Name() == "header"
	})
	q.ask("m01", "m01", "m02")

	q.agents["m02"].kill()
	q.overlord.kill()
	files, err := os.ReadDir(q.dir + "/m02/cluster")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "data-") {
			if err := os.Truncate(q.dir+"/m02/cluster/"+f.Name(), 100); err != nil {
				t.Fatal(err)
			}
		}
	}
	q.join("m02")
	q.agents["m02"].awaitSaid("cluster data on the disk cannot be used")
	q.until("m02 answers with a signed error", func() bool {
		c := q.root.run("confd", "query", "master", "--peers", q.address("m02"), "--port", strconv.Itoa(q.port), "--key", q.file)
		return strings.Contains(c.err.String(), "Cannot load configuration")
	})
	q.up()
	q.serving("m01", "m02")
	q.ask("m01", "m01", "m02")

	// A rotated key: the old one is no use at any candidate.
	q.root.run("cluster", "key", "rotate").exits(0)
	key := q.root.run("cluster", "key", "show").exits(0).out.String()
	if key == string(q.key) || len(key) != 65 {
		t.Fatalf("the new key has %d bytes, or is the old one", len(key))
	}
	q.serving("m01", "m02")
	q.root.run("confd", "query", "master", "--peers", q.addresses("m01", "m02"), "--port", strconv.Itoa(q.port), "--key", q.file, "--timeout", "1s").exits(1)
	q.key = []byte(key)
	q.file = q.write("hmac.key", key)
	q.ask("m01", "m01", "m02")
	for _, d := range q.agents {
		if strings.Contains(d.said(), strings.TrimSpace(key)) {
			t.Errorf("the log of %s holds the key", d.name)
		}
	}
	if strings.Contains(q.overlord.said(), strings.TrimSpace(key)) {
		t.Error("the log of the overlord holds the key")
	}
}

// A candidate that is killed at any moment of a change has the version before or the
// new one, whole, and answers from it as soon as it is back.
func testCandidateKilled(t *testing.T, binary string) {
	q := startQuorum(t, binary, 2)
	for i := range 12 {
		before := int64(q.show().Serial)
		change := q.root.start("cluster", "set-master", q.names[i%2])
		select { // a moment within the change or near it
		case <-time.After(time.Duration(i*10) * time.Millisecond):
		case <-t.Context().Done():
		}
		q.agents["m02"].kill()
		q.join("m02")
		change.exits(0)
		q.have(before, time.Now(), "m02")
	}
	q.serving(q.names...)
	if log := q.agents["m02"].said(); strings.Contains(log, "cannot be used") {
		t.Errorf("the data on the disk of m02 were not whole at a start: %s", q.agents["m02"].tail())
	}
}

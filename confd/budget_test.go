//go:build bench

package confd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// echoVariable makes this program an echo server on the address it holds.
const echoVariable = "DOMINION_TEST_ECHO"

func TestMain(m *testing.M) {
	if addr := os.Getenv(echoVariable); addr != "" {
		echo(addr)
	}
	os.Exit(m.Run())
}

// echo sends back what it receives: one goroutine, one datagram per system call.
func echo(addr string) {
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		panic(err)
	}
	conn, err := net.ListenUDP("udp", a)
	if err != nil {
		panic(err)
	}
	b := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			panic(err)
		}
		if _, err := conn.WriteToUDPAddrPort(b[:n], from); err != nil {
			panic(err)
		}
	}
}

// peer is a server in a process of its own.
type peer struct {
	addr *net.UDPAddr
	pid  int
}

// run starts a server and waits until it answers to the datagram.
func run(t *testing.T, port int, env []string, ping []byte, name string, args ...string) peer {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p := peer{&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, cmd.Process.Pid}
	conn, err := net.DialUDP("udp", nil, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 1<<16)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		_, _ = conn.Write(ping)
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := conn.Read(b); err == nil {
			return p
		}
	}
	t.Fatalf("%s does not answer", name)
	return p
}

// cpu gives the processor time that a process has used, of all its threads.
func (p peer) cpu(t *testing.T) time.Duration {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads of %d: %v", p.pid, err)
	}
	var sum time.Duration
	for _, path := range tasks {
		var ran int64
		b, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended
		}
		if _, err := fmt.Sscan(string(b), &ran); err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(ran)
	}
	return sum
}

const outstandingRequests = 16

// figures of one run; or of several: their medians, but for rate, which is that
// of a run that little disturbed (the 90th in a hundred), and lost, the sum.
type figures struct {
	rate     float64 // replies per second
	middle   float64 // the median rate
	cpu      float64 // µs per reply
	p50, p99 float64 // µs
	lost     int
	size     int // of a reply
}

// load keeps 16 requests outstanding for a while.
func load(t *testing.T, p peer, r Request, d time.Duration) figures {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadBuffer(8 << 20)
	var requests [outstandingRequests][]byte
	var sent [outstandingRequests]time.Time
	for i := range requests {
		r.Rsalt = fmt.Sprintf("slot-%02d", i)
		if requests[i], err = r.Append(nil, []byte(testKey), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	send := func(i int) {
		sent[i] = time.Now()
		if _, err := conn.Write(requests[i]); err != nil {
			t.Fatal(err)
		}
	}
	var took []time.Duration
	f := figures{}
	before, start := p.cpu(t), time.Now()
	for i := range requests {
		send(i)
	}
	b := make([]byte, 1<<16)
	for time.Since(start) < d {
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(b)
		if err != nil {
			f.lost += outstandingRequests
			for i := range requests {
				send(i)
			}
			continue
		}
		at := bytes.LastIndex(b[:n], []byte("slot-"))
		slot := int(b[at+5]-'0')*10 + int(b[at+6]-'0')
		took = append(took, time.Since(sent[slot]))
		f.size = n
		send(slot)
	}
	wall := time.Since(start)
	slices.Sort(took)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	f.rate, f.cpu = float64(len(took))/wall.Seconds(), us(p.cpu(t)-before)/float64(len(took))
	f.p50, f.p99 = us(took[len(took)/2]), us(took[len(took)*99/100])
	return f
}

// gathered are the figures of many short runs.
func gathered(runs []figures) figures {
	of := func(q float64, get func(figures) float64) float64 {
		var list []float64
		for _, r := range runs {
			list = append(list, get(r))
		}
		slices.Sort(list)
		return list[int(q*float64(len(list)-1)+0.5)]
	}
	f := figures{
		rate: of(0.9, func(f figures) float64 { return f.rate }), middle: of(0.5, func(f figures) float64 { return f.rate }),
		cpu: of(0.5, func(f figures) float64 { return f.cpu }), p50: of(0.5, func(f figures) float64 { return f.p50 }),
		p99: of(0.5, func(f figures) float64 { return f.p99 }), size: runs[0].size,
	}
	for _, r := range runs {
		f.lost += r.lost
	}
	return f
}

// grown is the configuration of testdata with n nodes in place of its own, the
// master among them.
func grown(t *testing.T, n int) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/config.data")
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	one := c["nodes"].(map[string]any)["c1c1c1c1-0000-4000-8000-000000000001"].(map[string]any)
	nodes := make(map[string]any)
	for i := range n {
		uuid := fmt.Sprintf("c1c1c1c1-0000-4000-8000-%012d", i+1)
		node := make(map[string]any)
		for k, v := range one {
			node[k] = v
		}
		node["uuid"], node["name"] = uuid, fmt.Sprintf("node%04d.lab.example", i)
		node["primary_ip"] = fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)
		nodes[uuid] = node
	}
	c["nodes"], c["instances"], c["disks"] = nodes, map[string]any{}, map[string]any{}
	if b, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	return b
}

// The budget: node role at 0.7 of a bare echo's replies per second, whatever the
// number of nodes. The servers take turns of 60 ms, and what is compared are the
// turns that nothing else on the machine disturbed; the medians and the processor
// time of each reply are printed, too.
func TestBudgetsConfd(t *testing.T) {
	binary := os.Getenv("DOMINION_BINARY")
	if binary == "" {
		t.Fatal("DOMINION_BINARY is not set; run make bench")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ping := Ping().Request
	ping.Rsalt = "x"
	hello, err := ping.Append(nil, []byte(testKey), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	bare := run(t, port, []string{echoVariable + "=127.0.0.1:" + strconv.Itoa(port)}, hello, self)
	var roles []float64
	for _, n := range []int{5, 100, 1000, 5000} {
		dir := t.TempDir()
		data, lib := grown(t, n), filepath.Join(dir, "var/lib/ganeti")
		for _, sub := range []string{lib, filepath.Join(dir, "var/log/ganeti"), filepath.Join(dir, "var/run/ganeti"), filepath.Join(dir, "run/ganeti")} {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		config, key := filepath.Join(lib, "config.data"), filepath.Join(lib, "hmac.key")
		for path, b := range map[string][]byte{config: data, key: []byte(testKey)} {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		port := freePort(t)
		ours := run(t, port, nil, hello, binary, "confd", "serve", "--config-data", config, "--key", key, "--listen", "127.0.0.1:"+strconv.Itoa(port))
		var genuine *peer
		if _, err := os.Stat(ganetiDaemon); err == nil {
			port := freePort(t)
			genuine = new(run(t, port, []string{"GANETI_ROOTDIR=" + dir, "GANETI_HOSTNAME=test"}, hello, ganetiDaemon,
				"-f", "--no-user-checks", "--syslog=no", "-b", "127.0.0.1", "-p", strconv.Itoa(port)))
		} else {
			fmt.Println("budget: SKIPPED beside the genuine daemon: Debian's package ganeti is not installed")
		}
		name := fmt.Sprintf("node%04d.lab.example", n/2)
		kinds := []struct {
			what string
			r    Request
		}{{"node role", NodeRole(name).Request}, {"ping", ping}, {"node list", NodePips().Request}}
		for _, k := range kinds {
			if k.what == "node list" && n > 1000 {
				continue
			}
			ratio, f := rounds(t, bare, ours, genuine, k.r, fmt.Sprintf("%s, %d nodes", k.what, n))
			if k.what == "node role" {
				roles = append(roles, f.cpu)
				least(t, fmt.Sprintf("confd node role beside an echo, %d nodes", n), ratio, 0.7)
			}
		}
	}
	budget(t, "CPU of a node role with 5000 nodes, of that with 5", roles[len(roles)-1]/roles[0], 1.25, "")
}

// rounds measures one kind of request and prints the figures.
func rounds(t *testing.T, bare, ours peer, genuine *peer, r Request, what string) (float64, figures) {
	t.Helper()
	const each, times = 60 * time.Millisecond, 40
	var echoes, mine, theirs []figures
	for range times {
		echoes = append(echoes, load(t, bare, r, each))
		mine = append(mine, load(t, ours, r, each))
		if genuine != nil && len(theirs) < times/4 {
			theirs = append(theirs, load(t, *genuine, r, 4*each))
		}
	}
	show := func(who string, f figures) {
		fmt.Printf("budget: %-22s %-8s %7.0f replies/s (median %7.0f) of %5d bytes, p50 %6.0f µs, p99 %6.0f µs, CPU %6.1f µs, lost %d\n",
			what, who, f.rate, f.middle, f.size, f.p50, f.p99, f.cpu, f.lost)
	}
	e, m := gathered(echoes), gathered(mine)
	show("echo", e)
	show("dominion", m)
	if genuine != nil {
		g := gathered(theirs)
		show("ganeti", g)
		fmt.Printf("budget: %-22s %.1f times the genuine daemon\n", what, m.rate/g.rate)
	}
	fmt.Printf("budget: %-22s %.2f of the echo; of the medians %.2f; processor time of a reply: the echo's is %.2f of ours\n", what, m.rate/e.rate, m.middle/e.middle, e.cpu/m.cpu)
	return m.rate / e.rate, m
}

// budget prints a figure beside its budget. A figure over it fails the run.
func budget(t *testing.T, what string, figure, at float64, unit string) {
	t.Helper()
	word := "within"
	if figure > at {
		word = "OVER"
		t.Fail()
	}
	fmt.Printf("budget: %-64s %10.2f %-4s of %8.2f %-4s %s\n", what, figure, unit, at, unit, word)
}

// least is budget for what must be no less.
func least(t *testing.T, what string, figure, at float64) {
	t.Helper()
	word := "within"
	if figure < at {
		word = "UNDER"
		t.Fail()
	}
	fmt.Printf("budget: %-64s %10.2f      at least %4.2f %s\n", what, figure, at, word)
}

//go:build fleet

package confd

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ganetiPython is the interpreter that Debian's Python packages are for.
const ganetiPython = "/usr/bin/python3"

// needGaneti skips where Ganeti is not installed, and fails where it should be.
func needGaneti(t testing.TB) {
	t.Helper()
	_, noDaemon := os.Stat(ganetiDaemon)
	noClient := exec.Command(ganetiPython, "-c", "import sys; sys.path.insert(0, '/usr/share/ganeti/default'); import ganeti.confd.client").Run()
	if noDaemon == nil && noClient == nil {
		return
	}
	if _, err := exec.LookPath("apt-get"); err == nil && os.Getuid() == 0 {
		t.Fatalf("Debian's package ganeti is not there, although tools/setup.sh could install it: %v, %v", noDaemon, noClient)
	}
	t.Skip("SKIPPED: needs Debian's package ganeti: apt-get install ganeti")
}

// daemon is a genuine ganeti-confd with a directory of its own.
type daemon struct {
	t    testing.TB
	root string
	ip   net.IP
	port int
	cmd  *exec.Cmd
	addr *net.UDPAddr
}

// startGaneti runs the genuine daemon on a configuration; nil: none.
func startGaneti(t testing.TB, config []byte) *daemon {
	t.Helper()
	return startGanetiOn(t, config, net.IPv4(127, 0, 0, 1))
}

func startGanetiOn(t testing.TB, config []byte, ip net.IP) *daemon {
	t.Helper()
	needGaneti(t)
	d := &daemon{t: t, root: t.TempDir(), ip: ip}
	for _, dir := range []string{"var/lib/ganeti", "var/log/ganeti", "var/run/ganeti", "run/ganeti"} {
		if err := os.MkdirAll(filepath.Join(d.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.write("hmac.key", []byte(testKey))
	d.start(config)
	t.Cleanup(d.stop)
	return d
}

func (d *daemon) path(name string) string { return filepath.Join(d.root, "var/lib/ganeti", name) }

func (d *daemon) write(name string, b []byte) {
	d.t.Helper()
	if err := os.WriteFile(d.path(name), b, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// start starts the process and waits until it answers.
func (d *daemon) start(config []byte) {
	d.t.Helper()
	if config != nil {
		d.write("config.data", config)
	}
	d.port = freePort(d.t)
	d.addr = &net.UDPAddr{IP: d.ip, Port: d.port}
	d.cmd = exec.Command(ganetiDaemon, "-f", "--no-user-checks", "--syslog=no", "-b", d.ip.String(), "-p", strconv.Itoa(d.port))
	d.cmd.Env = append(os.Environ(), "GANETI_ROOTDIR="+d.root, "GANETI_HOSTNAME=test", "LC_ALL=C.UTF-8")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for d.ask(Ping().Request, 50*time.Millisecond) == nil {
		if time.Now().After(deadline) {
			d.t.Fatal("ganeti-confd does not answer")
		}
	}
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// ask sends a request and gives the reply; nil: none.
func (d *daemon) ask(r Request, wait time.Duration) *Reply {
	d.t.Helper()
	r.Rsalt = NewRsalt()
	b, err := r.Append(nil, []byte(testKey), time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	conn, err := net.DialUDP("udp", nil, d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(b); err != nil {
		return nil
	}
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		d.t.Fatal(err)
	}
	in := make([]byte, 1<<16)
	n, err := conn.Read(in)
	if err != nil {
		return nil
	}
	reply, salt, err := ParseReply(in[:n], []byte(testKey))
	if err != nil || salt != r.Rsalt {
		d.t.Fatalf("the genuine reply %q: %v", in[:n], err)
	}
	return &reply
}

// pyClient is Ganeti's own client in a Python process.
type pyClient struct {
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Scanner
}

func startDriver(t testing.TB, port int, peers ...string) *pyClient {
	t.Helper()
	needGaneti(t)
	key := filepath.Join(t.TempDir(), "hmac.key")
	if err := os.WriteFile(key, []byte(testKey), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, ganetiPython, "-W", "ignore", "testdata/client.py", key, strconv.Itoa(port), strings.Join(peers, ","))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	d := &pyClient{t: t, in: in, out: bufio.NewScanner(out)}
	d.out.Buffer(nil, 1<<24)
	return d
}

// do sends a line and gives the outcome.
func (d *pyClient) do(line any) json.RawMessage {
	d.t.Helper()
	b, err := json.Marshal(line)
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.in.Write(append(b, '\n')); err != nil {
		d.t.Fatal(err)
	}
	if !d.out.Scan() {
		d.t.Fatalf("the genuine client is gone: %v", d.out.Err())
	}
	return json.RawMessage(strings.Clone(d.out.Text()))
}

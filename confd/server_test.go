package confd

import (
	"context"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// testKey is a key file's content, its line end included.
const testKey = "3f1b6a52-0000-4000-8000-confdtestkey0\n"

func labConfig(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/config.data")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lab gives the configuration of testdata.
func lab(t testing.TB) *Cluster {
	t.Helper()
	c, err := ParseConfig(labConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve starts a server on addr and gives its port; 0 in port: any.
func serve(t testing.TB, addr string, port int, s *Server) int {
	t.Helper()
	conn, err := Listen(t.Context(), net.JoinHostPort(addr, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, conn, s)
}

func serveOn(t testing.TB, conn *net.UDPConn, s *Server) int {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return conn.LocalAddr().(*net.UDPAddr).Port
}

func labServer(t testing.TB) *Server {
	s := NewServer(ServerConfig{Key: []byte(testKey)})
	s.SetData(lab(t))
	return s
}

func newTestClient(t testing.TB, cfg ClientConfig) *Client {
	t.Helper()
	if cfg.Key == nil {
		cfg.Key = []byte(testKey)
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Every kind of query, asked with its typed request, over real sockets.
func TestQueryTyped(t *testing.T) {
	port := serve(t, "127.0.0.1", 0, labServer(t))
	c := newTestClient(t, ClientConfig{Peers: []string{"127.0.0.1"}, Port: port})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	askLab(t, ctx, c)
}

// askLab asks a peer that has testdata/config.data every kind of query.
func askLab(t *testing.T, ctx context.Context, c *Client) {
	t.Helper()
	check(t, ctx, c, Ping(), 0, int64(3000000))
	check(t, ctx, c, NodeRole("alpha.lab.example"), 42, RoleMaster)
	check(t, ctx, c, NodeRole("alpha"), 42, RoleCandidate)
	check(t, ctx, c, Master(), 42, "alpha.lab.example")
	check(t, ctx, c, MasterFields(FieldMasterPip, FieldIP), 42, []string{"192.0.2.1", "192.0.2.200"})
	check(t, ctx, c, PipByInstanceIP("203.0.113.11", new("br1")), 42, "192.0.2.2")
	check(t, ctx, c, PipsByInstanceIPs([]string{"203.0.113.10", "x"}, nil), 42, []Pip{{Pip: "192.0.2.3", Serial: 42}, {Status: StatusError}})
	check(t, ctx, c, CandidatePips(), 42, []string{"192.0.2.3", "192.0.2.2", "192.0.2.1"})
	check(t, ctx, c, InstanceIPs(nil), 42, []string{"203.0.113.10", "203.0.113.20", "203.0.113.30"})
	check(t, ctx, c, InstanceIPs(new("")), 42, []string{})
	check(t, ctx, c, NodeDRBD("alpha"), 11, []Minor{{"alpha.lab.example", 1, "web.lab.example", "disk/0", "secondary", "beta.lab.example"}})
	check(t, ctx, c, Config("/cluster/tags/0"), 42, []byte(`"alpha"`))
	answer(t, ctx, c, NodePips(), 42)
	answer(t, ctx, c, Collectors(), 42)
	if i := answer(t, ctx, c, NodeInstances("beta"), 12); len(i.Primary) != 1 || len(i.Secondary) != 1 || i.Primary[0].Name != "web.lab.example" {
		t.Errorf("instances of beta: %+v", i)
	}
	if d := answer(t, ctx, c, InstanceDisks("web"), 21); len(d) != 2 || d[0].Name != "root" || len(d[0].Children) != 2 {
		t.Errorf("disks of web: %+v", d)
	}
}

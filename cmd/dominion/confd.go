package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"dominion/confd"
)

func (a *app) confdCmd() *cobra.Command {
	return parent("confd", "Serve and ask facts about the cluster",
		`Confd is Ganeti's protocol for facts about a cluster: one signed UDP datagram
asks, one answers. Several candidates are asked, and what enough of them agree on
is believed. Whoever has the key can ask, and can forge answers.`,
		`  dominion confd serve --config-data /var/lib/ganeti/config.data --key /var/lib/ganeti/hmac.key
  dominion confd query master --peers 192.0.2.1,192.0.2.2,192.0.2.3 --key hmac.key`,
		a.confdServeCmd(), a.confdQueryCmd())
}

// serveFlags are the flags of dominion confd serve.
type serveFlags struct {
	data, key, listen, level string
	limit                    int
}

func (a *app) confdServeCmd() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve --config-data FILE --key FILE",
		Short: "Answer confd queries from a Ganeti cluster's file",
		Long: `Serve answers from FILE, a config.data as Ganeti 3.0 writes it, and reads it again
when it is replaced or rewritten. A new version that is broken does not replace
good data: the log says so. Without data every query is answered with an error
that tells why.

The key is read once. All its bytes count, a line end too.`,
		Example: `  dominion confd serve --config-data /var/lib/ganeti/config.data --key /var/lib/ganeti/hmac.key
  dominion confd serve --config-data config.data --key hmac.key --listen 192.0.2.1:1814`,
		Args: args(0, 0, "flags only"),
	}
	cmd.RunE = a.raw(func(ctx context.Context, _ *cobra.Command, _ []string) error {
		if f.data == "" || f.key == "" {
			return usagef("give --config-data FILE and --key FILE")
		}
		var level slog.LevelVar
		if err := level.UnmarshalText([]byte(f.level)); err != nil {
			return usagef("--log-level %q: use debug, info, warn or error", f.level)
		}
		ctx, stop := daemonContext(ctx)
		defer stop()
		signal.Ignore(syscall.SIGHUP) // there is nothing to read again that is not read anyway
		return serveConfd(ctx, &f, a.daemonLog(&level))
	})
	fl := cmd.Flags()
	fl.StringVar(&f.data, "config-data", "", "`FILE` with the cluster data")
	fl.StringVar(&f.key, "key", "", "`FILE` with the HMAC key")
	fl.StringVar(&f.listen, "listen", fmt.Sprintf(":%d", confd.DefaultPort), "UDP `ADDR` to answer on")
	fl.IntVar(&f.limit, "limit", 0, "`BYTES` per second that a source may get beyond what it sends; -1: no limit (default 4 MiB, none for loopback)")
	fl.StringVar(&f.level, "log-level", "info", "`LEVEL`: debug, info, warn, error")
	return cmd
}

func serveConfd(ctx context.Context, f *serveFlags, log *slog.Logger) error {
	key, err := readKey(f.key)
	if err != nil {
		return err
	}
	if _, err := net.ResolveUDPAddr("udp", f.listen); err != nil {
		return usagef("--listen %q: %v", f.listen, err)
	}
	conn, err := confd.Listen(ctx, f.listen)
	if err != nil {
		return err
	}
	srv := confd.NewServer(confd.ServerConfig{Key: key, Log: log, Limit: f.limit})
	file := srv.Load(f.data)
	log.Info("serving confd", "addr", conn.LocalAddr().String(), "file", f.data)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { file.Follow(ctx); return nil })
	g.Go(func() error { return srv.Serve(ctx, conn) })
	return g.Wait()
}

// maxKey is the largest key file that is read, in bytes.
const maxKey = 64 << 10

// readKey reads an HMAC key: every byte of the file.
func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	if len(b) > maxKey {
		return nil, fmt.Errorf("read the key: %s has more than %d bytes", path, maxKey)
	}
	return b, nil
}

// errNoAnswer ends a query that nobody answered.
var errNoAnswer = errors.New("no peer answered; are --peers, --port and --key right, and the clocks within 5 minutes?")

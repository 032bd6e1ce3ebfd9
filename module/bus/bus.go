// Package bus reaches the system services of this machine over D-Bus: those
// on the system bus, and systemd on its own socket where no bus runs.
package bus

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/godbus/dbus/v5"
)

// The sockets. None is ever taken from the agent's environment.
const (
	Socket  = "/run/dbus/system_bus_socket" // of the system bus
	Systemd = "/run/systemd/private"        // of systemd itself, for root
)

// Dial connects to a message bus by the path of its socket. The connection
// ends with ctx; the caller closes it.
func Dial(ctx context.Context, socket string) (*dbus.Conn, error) {
	conn, err := Direct(ctx, socket)
	if err != nil {
		return nil, err
	}
	if err := conn.Hello(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("D-Bus at %s: %w", socket, ended(ctx, err))
	}
	return conn, nil
}

// Direct connects to a program that speaks D-Bus on a socket of its own,
// without a bus between.
func Direct(ctx context.Context, socket string) (*dbus.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() }) // the library does not look at ctx while it authenticates
	defer stop()
	conn, err := dbus.DialUnix(nc.(*net.UnixConn), dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("D-Bus at %s: %w", socket, ended(ctx, err))
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("D-Bus at %s: %w", socket, ended(ctx, err))
	}
	return conn, nil
}

// ended prefers the cause of ctx to what followed from it.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

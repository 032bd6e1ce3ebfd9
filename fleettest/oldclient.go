package fleettest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"time"
)

// OldClient is a node's provisiond as it was before Dominion: the client of the
// plain-text protocol on TCP 987. It does what that program does on the wire, no
// more and no less: one line with a zero byte after it, and then whatever comes
// goes straight into a shell, until the server closes or says nothing for five
// seconds. A script that broke off is run as far as it came.
type OldClient struct {
	Server string // host:port
	From   string // address that it has; empty: any
	Shell  string // command that reads the script; empty: /bin/sh
	Dir    string // that it runs in; empty: this process's
}

// Limits of the old client.
const (
	oldSilence = 5 * time.Second
	oldConnect = 2 * time.Second
	oldTries   = 5
)

// OldReply is what came of one round.
type OldReply struct {
	Wire   []byte        // all that the server sent
	Silent bool          // it gave up after five seconds of silence
	Exit   int           // 255: no server answered
	Output []byte        // of the shell
	Took   time.Duration // from the request to the end of the reply
	Gap    time.Duration // the longest silence
}

// Run asks once: STATE and its words.
func (c OldClient) Run(ctx context.Context, words ...string) (OldReply, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return OldReply{Exit: 255}, nil //nolint:nilerr // that is how it says so
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(strings.Join(words, " ") + "\n\x00")); err != nil {
		return OldReply{}, err
	}
	shell := c.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", shell)
	cmd.Dir = c.Dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err != nil {
		return OldReply{}, err
	}
	if err := cmd.Start(); err != nil {
		return OldReply{}, err
	}
	r, rerr := feed(conn, in)
	in.Close()
	werr := cmd.Wait()
	r.Output, r.Exit = out.Bytes(), cmd.ProcessState.ExitCode()
	if _, status := errors.AsType[*exec.ExitError](werr); status {
		werr = nil
	}
	return r, errors.Join(rerr, werr)
}

func (c OldClient) dial(ctx context.Context) (conn net.Conn, err error) {
	d := &net.Dialer{Timeout: oldConnect}
	if c.From != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(c.From)}
	}
	for range oldTries {
		if conn, err = d.DialContext(ctx, "tcp", c.Server); err == nil {
			return conn, nil
		}
		select {
		case <-time.After(oldConnect):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// feed copies what comes to a shell, which begins before the rest is there.
func feed(conn net.Conn, shell io.Writer) (r OldReply, err error) {
	begin := time.Now()
	last := begin
	buf := make([]byte, 1024)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(oldSilence)); err != nil {
			return r, err
		}
		n, err := conn.Read(buf)
		r.Gap, r.Took, last = max(r.Gap, time.Since(last)), time.Since(begin), time.Now()
		r.Wire = append(r.Wire, buf[:n]...)
		if _, werr := shell.Write(buf[:n]); werr != nil && n > 0 {
			return r, nil //nolint:nilerr // the shell has ended: the rest is for nobody
		}
		switch ne, timeout := errors.AsType[net.Error](err); {
		case errors.Is(err, io.EOF):
			return r, nil
		case timeout && ne.Timeout():
			r.Silent = true
			return r, nil
		case err != nil:
			return r, err
		}
	}
}

package provisiond

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ran is what became of a script.
type ran struct {
	exit   int
	took   time.Duration
	detail string // empty when all went well
}

// room is a private directory for the time of one script.
type room struct {
	dir string
	env []string
}

// makeRoom writes what the script finds: getfile, its session, and the file for
// the minion that enrols.
func makeRoom(self string, s *script, sess session, environ []string) (*room, error) {
	dir, err := privateDir()
	if err != nil {
		return nil, fmt.Errorf("make a directory for the script: %w", err)
	}
	r := &room{dir: dir}
	if err := r.fill(self, s, sess, environ); err != nil {
		return nil, errors.Join(fmt.Errorf("make a directory for the script: %w", err), r.remove())
	}
	return r, nil
}

// privateDir prefers memory to a disk: there are secrets in it.
func privateDir() (string, error) {
	if dir, err := os.MkdirTemp("/run", "provisiond-"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "provisiond-")
}

func (r *room) fill(self string, s *script, sess session, environ []string) error {
	bin := filepath.Join(r.dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return err
	}
	if err := os.Symlink(self, filepath.Join(bin, Getfile)); err != nil {
		return err
	}
	b, err := json.Marshal(sess)
	if err != nil {
		return err
	}
	file := filepath.Join(r.dir, "session")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, kv := range environ {
		name, v, _ := strings.Cut(kv, "=")
		switch name {
		case "PATH":
			path = v
		case sessionEnv, joinEnv:
		default:
			r.env = append(r.env, kv)
		}
	}
	r.env = append(r.env, "PATH="+bin+":"+path, sessionEnv+"="+file)
	if s.join != nil {
		file := filepath.Join(r.dir, "join")
		if err := os.WriteFile(file, s.join, 0o600); err != nil {
			return err
		}
		r.env = append(r.env, joinEnv+"="+file)
	}
	return nil
}

func (r *room) remove() error { return os.RemoveAll(r.dir) }

// run gives the script to a shell. When ctx ends the shell gets SIGINT, and 5 s
// later SIGKILL.
func (r *room) run(ctx context.Context, shell string, text []byte, out, errs *os.File) ran {
	began := time.Now()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", shell) //nolint:gosec // the shell is the administrator's own word, and running what the overlord sends is the purpose
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(text), out, errs, r.env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	res := ran{took: time.Since(began)}
	switch state := cmd.ProcessState; {
	case state == nil:
		res.exit, res.detail = 127, fmt.Sprintf("start the shell: %v", err)
	case state.Success():
	default:
		res.exit = state.ExitCode()
		res.detail = "the script ended with status " + fmt.Sprint(res.exit)
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			res.exit = 128 + int(ws.Signal())
			res.detail = "the shell was killed: " + ws.Signal().String()
		}
	}
	return res
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tour shows a few commands and what they answer.
func (d *demo) tour(ctx context.Context) error {
	for _, s := range []struct {
		why  string
		args []string
	}{
		{"A sign of life from every session: no order, no job.", []string{"ping", "*"}},
		{"A method: the order is signed for exactly these machines. Equal answers are shown once.", []string{"call", "*", "test.ping"}},
		{"Typed arguments, checked before anything is sent.", []string{"call", "web*", "test.add", "a=1", "b=2"}},
		{"A command on every machine, without a shell.", []string{"run", "*", "--fold", "--", "uname", "-r"}},
		{"What fails is listed with its reason, and the exit code says so.", []string{"call", "web01,nosuch", "test.fail", "disk is full"}},
		{"Who did what: every record, and every checkpoint, verified.", []string{"audit", "verify"}},
	} {
		if err := d.show(ctx, s.why, s.args); err != nil {
			return err
		}
	}
	return nil
}

// show runs one command as the user would.
func (d *demo) show(ctx context.Context, why string, args []string) error {
	if err := d.say("\n# %s\n$ dominion %s\n", why, shellLine(args)); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, d.exe, args...) //nolint:gosec // this very program
	cmd.Env = append(slices.Clone(d.env), "DOMINION_STATE="+d.state(), "XDG_CONFIG_HOME="+filepath.Join(d.dir, "config"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = demoGrace
	err := cmd.Run()
	if ctx.Err() != nil {
		return errInterrupted
	}
	if ee, ok := errors.AsType[*exec.ExitError](err); ok && ee.ExitCode() == exitIncomplete {
		return d.say("(exit code %d: incomplete)\n", exitIncomplete)
	}
	if err != nil {
		return fmt.Errorf("dominion %s: %w", shellLine(args), err)
	}
	return nil
}

// shellLine writes words as one would type them.
func shellLine(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a
		if strings.ContainsAny(a, "*?[]@! '\"$&;|<>(){}\\") || a == "" {
			out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}

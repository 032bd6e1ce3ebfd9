package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dominion/call"
	"dominion/client"
	"dominion/enrol"
	"dominion/pki"
)

func (a *app) loginCmd() *cobra.Command {
	var (
		pin, tokenFile, name string
		wait                 time.Duration
	)
	cmd := &cobra.Command{
		Use:   "login --overlord ADDR --pin PIN NAME",
		Short: "Become an operator on this machine",
		Long: `Login makes a key on this machine, gets the certificate of operator NAME for it,
and keeps both in ~/.config/dominion/CONTEXT (CONTEXT is --name, or else NAME).
From then on every command finds the overlord through that context.

The token is what dominion operator add printed; give it in a file, or in
DOMINION_TOKEN. Without a token login waits until dominion cert sign NAME; it can
be interrupted and started again meanwhile.

The pin is what dominion pin prints on the overlord's host. The server must be
an overlord directly under that root; nothing is trusted on first use.`,
		Example: `  dominion login --overlord dc1.example.org --pin sha256:… --token-file alice.token alice
  DOMINION_TOKEN=… dominion login --overlord 10.0.0.1:51235 --pin sha256:… --name lab alice`,
		Args: args(1, 1, "the operator's name"),
	}
	cmd.RunE = a.do(func(ctx context.Context, cmd *cobra.Command, words []string) error {
		oc, err := a.loginContext(words[0], pin, name)
		if err != nil {
			return err
		}
		token, err := a.readToken(tokenFile)
		if err != nil {
			return err
		}
		if wait > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, wait, fmt.Errorf("no certificate within %s", wait))
			defer cancel()
		}
		return a.login(ctx, cmd.CommandPath(), oc, token)
	})
	f := cmd.Flags()
	f.StringVar(&pin, "pin", "", "`PIN` of the fleet's root, sha256:…")
	f.StringVar(&tokenFile, "token-file", "", "`FILE` with the token, or - for standard input (or DOMINION_TOKEN)")
	f.StringVar(&name, "name", "", "call the context `CONTEXT` (default: the operator's name)")
	f.DurationVar(&wait, "wait", 0, "give up after this `DURATION` (default: never)")
	return cmd
}

// loginContext checks the words of login.
func (a *app) loginContext(operator, pin, name string) (*client.Context, error) {
	id, err := call.ParseName(operator)
	if err != nil {
		return nil, usagef("%q is no name for an operator: use letters, digits, hyphens and dots", operator)
	}
	if a.overlord == "" {
		return nil, usagef("give the overlord's address with --overlord HOST:PORT")
	}
	addr, err := client.Address(a.overlord)
	if err != nil {
		return nil, usagef("--overlord: %v", errorDetail(err))
	}
	if pin == "" {
		return nil, usagef("give the root's pin with --pin; on the overlord's host dominion pin prints it")
	}
	if err := pki.CheckPin(pin); err != nil {
		return nil, usagef("--pin: %v", err)
	}
	if name == "" {
		name = id
	}
	if name, err = call.ParseName(name); err != nil {
		return nil, usagef("--name %q: use letters, digits, hyphens and dots", name)
	}
	return &client.Context{Name: name, Overlord: addr, Pin: pin, Operator: id}, nil
}

// errorDetail gives the text of a *call.Error without its code.
func errorDetail(err error) string {
	if e, ok := errors.AsType[*call.Error](err); ok && e.Detail != "" {
		return e.Detail
	}
	return err.Error()
}

func (a *app) login(ctx context.Context, cmd string, oc *client.Context, token string) error {
	dir, err := client.ContextsDir()
	if err != nil {
		return err
	}
	key, err := client.PrepareLogin(dir, oc.Name)
	if err != nil {
		return err
	}
	opt := enrol.Options{
		Address: oc.Overlord, Pin: oc.Pin, Identity: pki.Identity{Role: pki.Operator, Name: oc.Operator}, Key: key, Token: token,
		Attempts: 3, Progress: a.loginProgress(cmd, oc.Operator),
	}
	granted, err := enrol.Ask(ctx, opt)
	if err != nil {
		if errors.Is(err, pki.ErrUntrusted) {
			return fmt.Errorf("%w; is the pin right, and is an overlord at %s?", err, oc.Overlord)
		}
		return err
	}
	if err := client.FinishLogin(dir, oc, granted.Chain); err != nil {
		return err
	}
	leaf := granted.Chain[0]
	a.note("%s: operator %s at %s, certificate until %s, renewed by itself while in use; context %s is the current one",
		cmd, oc.Operator, oc.Overlord, leaf.NotAfter.UTC().Format(time.RFC3339), oc.Name)
	return nil
}

// loginProgress tells each thing once that keeps the certificate from coming.
func (a *app) loginProgress(cmd, operator string) func(enrol.Progress) {
	last := ""
	return func(p enrol.Progress) {
		text := fmt.Sprintf("waiting for: dominion cert sign %s; the key is %s", operator, p.Fingerprint)
		if p.Err != nil {
			text = fmt.Sprintf("%v; trying again", p.Err)
		}
		if text != last {
			a.note("%s: %s", cmd, text)
		}
		last = text
	}
}

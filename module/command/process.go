package command

import (
	"context"
	"strings"

	"dominion/call"
	"dominion/module"
	"dominion/module/run"
)

// system is how programs are run; tests have less patience.
var system = runner{run.System}

type runner struct{ run.Runner }

func (t runner) run(ctx context.Context, env *module.Env, argv []string, opt Options) (Result, error) {
	if err := context.Cause(ctx); err != nil { // before anything is looked up for it
		return Result{}, run.NotStarted(err)
	}
	c, err := prepare(ctx, env, argv, opt)
	if err != nil {
		return Result{}, err
	}
	r, err := t.Run(ctx, c)
	if r == nil {
		return Result{}, err
	}
	res := Result{Exit: r.Exit, Signal: r.Signal}
	res.Stdout, res.StdoutBase64, res.StdoutCut = text(&r.Stdout)
	res.Stderr, res.StderrBase64, res.StderrCut = text(&r.Stderr)
	return res, err
}

func prepare(ctx context.Context, env *module.Env, argv []string, opt Options) (run.Command, error) {
	for _, s := range append([]string{opt.Dir}, argv...) {
		if strings.ContainsRune(s, 0) {
			return run.Command{}, call.Errorf(call.Invalid, "a zero byte in %.60q", s)
		}
	}
	who, err := findAccount(ctx, opt.User)
	if err != nil {
		return run.Command{}, err
	}
	vars, path, err := environment(who, env.Machine, opt.Env)
	if err != nil {
		return run.Command{}, err
	}
	if err := directory(opt.Dir); err != nil {
		return run.Command{}, err
	}
	file, err := lookPath(argv[0], opt.Dir, path)
	if err != nil {
		return run.Command{}, err
	}
	return run.Command{
		Path: file, Args: argv, Env: vars, Dir: opt.Dir, Credential: who.credential, Stdin: opt.Stdin,
		Stdout: env.Stdout, Stderr: env.Stderr, KeepStdout: keepStdout, KeepStderr: keepStderr, Job: env.Job,
	}, nil
}

// Package sysctl is the module of kernel parameters, those below /proc/sys.
//
// A parameter has the name that sysctl(8) gives it, its parts separated by
// dots, or by slashes where a part has a dot itself: net.ipv4.ip_forward,
// net/ipv4/conf/eth0.100/forwarding. A value that shall last is a line in a file
// of its own, which the machine reads when it starts (sysctl.d(5)).
package sysctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"dominion/call"
	"dominion/module"
)

// Bounds.
const (
	maxValue   = 4096
	maxAnswer  = 700 << 10
	maxEntries = 100_000 // looked at by one list
	maxDepth   = 16
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "sysctl",
	Doc: "Kernel parameters, named as by sysctl(8): net.ipv4.ip_forward, or with slashes where a part has a dot, as in net/ipv4/conf/eth0.100/forwarding. " +
		"Values that last are kept in " + keptFile + ".",
	Methods: []module.Method{
		module.Func("get", "Gives the values of parameters.", module.Read, system.get, module.MethodOptions{}),
		module.Func("list", "Lists parameters and their values.", module.Read, system.list, module.MethodOptions{}),
		module.Func("set", "Sets a parameter.", module.Change, system.set, module.MethodOptions{}),
		module.Func("forget", "Keeps a value no longer for the next start; it stays as it is until then.", module.Change, system.forget, module.MethodOptions{}),
	},
}

// keptFile is read after all others in its directory, 99-sysctl.conf among
// them, which often is /etc/sysctl.conf.
const keptFile = "/etc/sysctl.d/99-zz-dominion.conf"

// kernel is where parameters are.
type kernel struct {
	proc, kept string
}

// system is the machine's; tests have files of their own.
var system = kernel{proc: "/proc/sys", kept: keptFile}

// Parameter is one, and its value.
type Parameter struct {
	Name  string `json:"name" doc:"its name"`
	Value string `json:"value" doc:"its value, at most 4096 bytes"`
}

// Values is the answer of get and list.
type Values struct {
	Parameters []Parameter `json:"parameters" doc:"the parameters"`
	More       bool        `json:"more,omitempty" doc:"there are more than fit into an answer"`
}

type getIn struct {
	Names []string `json:"names" doc:"their names" required:"true" min:"1" max:"500"`
}

// file turns a name into a path below /proc/sys, and into the one form that
// answers use.
func file(name string) (file, shown string, err error) {
	file = name
	if dot, slash := strings.IndexByte(name, '.'), strings.IndexByte(name, '/'); dot >= 0 && (slash < 0 || dot < slash) {
		file = strings.NewReplacer(".", "/", "/", ".").Replace(name) // as sysctl(8) does it
	}
	for part := range strings.SplitSeq(file, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\x00\n=# \t") {
			return "", "", call.Errorf(call.Invalid, "%.100q is no name of a kernel parameter, such as net.ipv4.ip_forward", name)
		}
	}
	return file, show(file), nil
}

// show is the name of a file below /proc/sys.
func show(file string) string {
	if strings.Contains(file, ".") {
		return file
	}
	return strings.ReplaceAll(file, "/", ".")
}

func (k kernel) get(_ context.Context, _ *module.Env, in getIn) (Values, error) {
	root, err := os.OpenRoot(k.proc)
	if err != nil {
		return Values{}, err
	}
	defer root.Close()
	out := Values{Parameters: []Parameter{}}
	size := 0
	for _, name := range in.Names {
		file, shown, err := file(name)
		if err != nil {
			return Values{}, err
		}
		value, err := read(root, file)
		if err != nil {
			return Values{}, fault(shown, err)
		}
		if size += 40 + 6*(len(shown)+len(value)); size > maxAnswer {
			out.More = true
			break
		}
		out.Parameters = append(out.Parameters, Parameter{shown, value})
	}
	return out, nil
}

// fault says what is wrong with a parameter.
func fault(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return call.Errorf(call.Failed, "this kernel has no parameter %q", name)
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	if errors.Is(err, syscall.EINVAL) {
		return call.Errorf(call.Failed, "the kernel refuses that value for %s: %v", name, err)
	}
	return fmt.Errorf("parameter %s: %w", name, err)
}

// read reads a value. Lines after the first stay in it; the last line feed
// does not.
func read(root *os.Root, file string) (string, error) {
	f, err := root.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is a directory of parameters")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxValue))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.ToValidUTF8(string(b), "\ufffd"), "\n"), nil
}

type listIn struct {
	Match string `json:"match" doc:"only names that match this pattern, in which * is any text and ? any character; a name without * is that of a directory too" max:"255"`
}

func (k kernel) list(ctx context.Context, _ *module.Env, in listIn) (Values, error) {
	root, err := os.OpenRoot(k.proc)
	if err != nil {
		return Values{}, err
	}
	defer root.Close()
	w := lister{ctx: ctx, root: root, match: in.Match, out: Values{Parameters: []Parameter{}}}
	if _, err := path.Match(flat(in.Match), ""); err != nil {
		return Values{}, call.Errorf(call.Invalid, "match %.100q: %v", in.Match, err)
	}
	if err := w.directory(".", 0); err != nil {
		return Values{}, err
	}
	return w.out, nil
}

// lister walks through the parameters.
type lister struct {
	ctx        context.Context //nolint:containedctx // it lives as long as one call
	root       *os.Root
	match      string
	out        Values
	seen, size int
}

func (w *lister) directory(dir string, depth int) error {
	f, err := w.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if err := context.Cause(w.ctx); err != nil {
			return err
		}
		if w.seen++; w.seen > maxEntries || w.out.More {
			w.out.More = true
			return nil
		}
		file := path.Join(dir, e.Name())
		switch {
		case e.IsDir() && depth < maxDepth:
			err := w.directory(file, depth+1)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return err
			}
		case e.Type().IsRegular() && w.wanted(file):
			w.add(file)
		}
	}
	return nil
}

// wanted matches names with dots in place of slashes, so that * goes across
// both.
func (w *lister) wanted(file string) bool {
	if w.match == "" {
		return true
	}
	name, match := flat(file), flat(w.match)
	if ok, _ := path.Match(match, name); ok {
		return true
	}
	return !strings.ContainsAny(match, "*?[") && strings.HasPrefix(name, match+".")
}

func flat(name string) string { return strings.ReplaceAll(name, "/", ".") }

// add adds a parameter unless it cannot be read, as those that are only
// written.
func (w *lister) add(file string) {
	value, err := read(w.root, file)
	if err != nil {
		return
	}
	p := Parameter{show(file), value}
	if w.size += 40 + 6*(len(p.Name)+len(p.Value)); w.size > maxAnswer {
		w.out.More = true
		return
	}
	w.out.Parameters = append(w.out.Parameters, p)
}

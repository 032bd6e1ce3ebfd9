package packages

import (
	"context"
	"strings"

	"dominion/call"
)

type aptManager struct {
	tools
	apt, cache, query string // files
}

func (a *aptManager) name() string { return "apt" }

func (a *aptManager) list(ctx context.Context) ([]Package, error) {
	out, err := a.output(ctx, a.query, "--show", `--showformat=${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n`)
	if err != nil {
		return nil, err
	}
	return parseDpkg(out), nil
}

// parseDpkg reads what list has dpkg-query write: of each package, whether it
// is wanted and what it is ("ii ", "rc "; dpkg-query(1)), name, version and
// architecture. What is not, or not wholly, unpacked is not installed.
func parseDpkg(out string) []Package {
	var all []Package
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 4 || len(f[0]) < 2 || f[1] == "" {
			continue
		}
		switch f[0][1] { // n: not installed, c: only its configuration is left, H: half installed
		case 'i', 'U', 'F', 'W', 't':
			all = append(all, Package{Name: f[1], Version: f[2], Arch: f[3]})
		}
	}
	return all
}

func (a *aptManager) refresh(ctx context.Context) error {
	_, err := a.output(ctx, a.apt, "-qq", "update")
	return err
}

// locked knows the words of apt and dpkg, which have no status of their own for it.
func (a *aptManager) locked(err error) bool {
	s := err.Error()
	return strings.Contains(s, "Could not get lock ") || strings.Contains(s, "is another process using it?") || strings.Contains(s, "Unable to lock ")
}

func (a *aptManager) pending(ctx context.Context) ([]Update, error) {
	plan, err := a.simulate(ctx, "dist-upgrade")
	if err != nil {
		return nil, err
	}
	var all []Update
	for _, s := range plan {
		if s.verb == "Inst" && s.from != "" {
			all = append(all, Update{Name: s.name, Arch: s.arch, From: s.from, To: s.to, Origin: s.origin})
		}
	}
	return all, nil
}

// verb gives the words by which apt-get is told what to do.
func (a *aptManager) verb(t task) []string {
	words := []string{"-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"}
	if t.downgrade {
		words = append(words, "--allow-downgrades")
	}
	switch {
	case t.verb == "install":
		words = append(words, "install")
	case t.verb == "remove" && t.purge:
		words = append(words, "purge")
	case t.verb == "remove":
		words = append(words, "remove")
	case len(t.names) == 0:
		return append(words, "--with-new-pkgs", "upgrade") // nothing is removed for it
	default:
		words = append(words, "--only-upgrade", "install")
	}
	return append(append(words, "--"), t.names...)
}

func (a *aptManager) plan(ctx context.Context, t task) ([]Change, error) {
	if err := a.check(ctx, t); err != nil {
		return nil, err
	}
	steps, err := a.simulate(ctx, a.verb(t)...)
	if err != nil {
		return nil, err
	}
	var all []Change
	for _, s := range steps {
		switch s.verb {
		case "Inst":
			all = append(all, Change{Name: s.name, Arch: s.arch, From: s.from, To: s.to})
		case "Remv", "Purg":
			all = append(all, Change{Name: s.name, From: s.from})
		}
	}
	return all, nil
}

func (a *aptManager) simulate(ctx context.Context, words ...string) ([]step, error) {
	out, err := a.output(ctx, a.apt, append([]string{"-q", "--simulate", "--yes"}, words...)...)
	if err != nil {
		return nil, err
	}
	return parseSimulation(out), nil
}

func (a *aptManager) do(ctx context.Context, t task) error {
	if err := a.check(ctx, t); err != nil {
		return err
	}
	_, err := a.output(ctx, a.apt, append([]string{"-qq", "--yes"}, a.verb(t)...)...)
	return err
}

// check sees to it that every name to install is that of a package: apt-get
// takes any other for a regular expression, and "x.y" would install "xzy".
func (a *aptManager) check(ctx context.Context, t task) error {
	if t.verb != "install" {
		return nil // only names of installed packages come here
	}
	var names []string
	for _, n := range t.names {
		name, _, _ := strings.Cut(n, "=")
		names = append(names, name)
	}
	out, err := a.output(ctx, a.cache, append([]string{"policy", "--"}, names...)...)
	if err != nil {
		return err
	}
	known := parsePolicy(out)
	for _, n := range names {
		if !known[n] {
			return call.Errorf(call.Failed, "apt knows no package %q; with refresh=true it fetches the lists before", n)
		}
	}
	return nil
}

// parsePolicy gives the names in what apt-cache policy writes: a line "name:"
// for each, and indented lines about it.
func parsePolicy(out string) map[string]bool {
	known := map[string]bool{}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutSuffix(strings.TrimSuffix(line, "\n"), ":"); ok && name != "" && name[0] != ' ' {
			name, _, _ = strings.Cut(name, ":") // of another architecture
			known[name] = true
		}
	}
	return known
}

// step is a line of what apt-get --simulate would do.
type step struct {
	verb, name, arch, from, to, origin string
}

// parseSimulation reads lines such as
//
//	Inst base [1.0] (1.1 Debian:12/stable [amd64])
//	Inst app (2.0 Debian:12/stable, Debian-Security:12/stable-security [all]) [x ]
//	Remv app [2.0]
//
// and leaves out all others.
func parseSimulation(out string) []step {
	var all []step
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "Inst" && f[0] != "Remv" && f[0] != "Purg" {
			continue
		}
		name, _, _ := strings.Cut(f[1], ":")
		s := step{verb: f[0], name: name}
		if v, ok := strings.CutPrefix(f[2], "["); ok {
			s.from = strings.TrimSuffix(v, "]")
		}
		if _, rest, ok := strings.Cut(line, "("); ok && s.verb == "Inst" {
			rest, _, _ = strings.Cut(rest, ")")
			g := strings.Fields(rest)
			if len(g) < 2 {
				continue
			}
			s.to = g[0]
			if arch := g[len(g)-1]; strings.HasPrefix(arch, "[") {
				s.arch = strings.Trim(arch, "[]")
				g = g[:len(g)-1]
			}
			s.origin = strings.Join(g[1:], " ")
		}
		all = append(all, s)
	}
	return all
}

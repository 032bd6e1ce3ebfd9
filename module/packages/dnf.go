package packages

import (
	"context"
	"slices"
	"strings"

	"dominion/call"
	"dominion/module/run"
)

type dnfManager struct {
	tools
	dnf, rpm string // files
}

func (d *dnfManager) name() string { return "dnf" }

// Statuses of dnf (dnf(8)).
const (
	dnfAborted = 1   // by --assumeno, or for an error
	dnfLocked  = 200 // with exit_on_lock
)

func (d *dnfManager) run(ctx context.Context, words ...string) (string, error) {
	args := append([]string{"--setopt=exit_on_lock=1"}, d.m.dnf...)
	return d.output(ctx, d.dnf, append(args, words...)...)
}

func (d *dnfManager) list(ctx context.Context) ([]Package, error) {
	args := append([]string{}, d.m.rpm...)
	out, err := d.output(ctx, d.rpm, append(args, "-qa", "--qf", `%{NAME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{ARCH}\n`)...)
	if err != nil {
		return nil, err
	}
	return parseRPM(out), nil
}

// parseRPM reads what list has rpm write: name, version and architecture. Keys
// that verify packages look like packages too, and have no architecture.
func parseRPM(out string) []Package {
	var all []Package
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) == 3 && f[0] != "" && f[2] != "(none)" {
			all = append(all, Package{Name: f[0], Version: f[1], Arch: f[2]})
		}
	}
	return all
}

func (d *dnfManager) refresh(ctx context.Context) error {
	_, err := d.run(ctx, "--quiet", "--assumeyes", "--refresh", "makecache")
	return err
}

func (d *dnfManager) locked(err error) bool {
	status, ok := run.Status(err)
	return ok && status == dnfLocked
}

func (d *dnfManager) pending(ctx context.Context) ([]Update, error) {
	out, err := d.run(ctx, "--quiet", "repoquery", "--upgrades", "--latest-limit=1", "--qf", `%{name}\t%{evr}\t%{arch}\t%{repoid}\n`)
	if err != nil {
		return nil, err
	}
	installed, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	return parseUpgrades(out, installed), nil
}

// parseUpgrades reads what pending has dnf write. An older dnf ends each line
// itself, so that empty ones come between.
func parseUpgrades(out string, installed []Package) []Update {
	var all []Update
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 4 || f[0] == "" {
			continue
		}
		u := Update{Name: f[0], To: plainVersion(f[1]), Arch: f[2], Origin: f[3]}
		for _, p := range installed {
			if p.Name == u.Name && p.Arch == u.Arch {
				u.From = p.Version
			}
		}
		all = append(all, u)
	}
	return all
}

// plainVersion leaves out an epoch of 0, which is that of a package without one.
func plainVersion(evr string) string { return strings.TrimPrefix(evr, "0:") }

// verb gives the words by which dnf is told what to do. Names that begin with
// a letter or digit are no options.
func (d *dnfManager) verb(t task) []string {
	words := []string{t.verb}
	for _, n := range t.names {
		words = append(words, strings.Replace(n, "=", "-", 1))
	}
	return words
}

func (d *dnfManager) plan(ctx context.Context, t task) ([]Change, error) {
	rows, err := d.table(ctx, t)
	if err != nil {
		return nil, err
	}
	installed, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	have := map[[2]string]string{}
	for _, p := range installed {
		have[[2]string{p.Name, p.Arch}] = p.Version
	}
	changes := make([]Change, len(rows))
	for i, r := range rows {
		if r.replaces {
			r.From = have[[2]string{r.Name, r.Arch}]
		}
		changes[i] = r.Change
	}
	return changes, nil
}

// table has dnf say what it would do. It downgrades without being told to,
// which here is an error.
func (d *dnfManager) table(ctx context.Context, t task) ([]row, error) {
	out, err := d.run(ctx, append([]string{"--assumeno"}, d.verb(t)...)...)
	rows := parseTable(out)
	if status, ok := run.Status(err); ok && status == dnfAborted && len(rows) > 0 {
		err = nil // aborted by ourselves
	}
	for _, r := range rows {
		if r.older && !t.downgrade && err == nil {
			err = call.Errorf(call.Failed, "%s would become the older version %s; downgrade=true allows that", r.Name, r.To)
		}
	}
	return rows, err
}

func (d *dnfManager) do(ctx context.Context, t task) error {
	if !t.downgrade && slices.ContainsFunc(t.names, func(n string) bool { return strings.Contains(n, "=") }) {
		if _, err := d.table(ctx, t); err != nil {
			return err
		}
	}
	_, err := d.run(ctx, append([]string{"--quiet", "--assumeyes"}, d.verb(t)...)...)
	return err
}

// row is a row of dnf's table of a transaction.
type row struct {
	Change
	replaces bool // another version, whose number is not in the table
	older    bool
}

// parseTable reads the table that dnf shows before it begins: sections such as
// "Upgrading:", and rows with name, architecture, version, repository and
// size. A row begins with one blank; what begins with more goes on with the
// row before, which was too long.
func parseTable(out string) []row {
	var all []row
	section := ""
	var cells []string
	end := func() {
		if len(cells) >= 3 {
			all = append(all, rowOf(section, cells))
		}
		cells = nil
	}
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n ")
		switch {
		case strings.HasPrefix(line, "   ") && section != "":
			if f := strings.Fields(line); len(f) >= 3 && f[0] == "replacing" { // replacing NAME.ARCH VERSION
				if i := strings.LastIndexByte(f[1], '.'); i > 0 {
					all = append(all, row{Change: Change{Name: f[1][:i], Arch: f[1][i+1:], From: plainVersion(f[2])}})
				}
				continue
			}
			cells = append(cells, strings.Fields(line)...)
		case strings.HasPrefix(line, " ") && section != "":
			end()
			cells = strings.Fields(line)
		default:
			end()
			section = ""
			if s, ok := strings.CutSuffix(line, ":"); ok {
				section = s
			}
		}
	}
	end()
	return all
}

func rowOf(section string, cells []string) row {
	c := Change{Name: cells[0], Arch: cells[1], To: plainVersion(cells[2])}
	switch {
	case strings.HasPrefix(section, "Removing"):
		c.From, c.To = c.To, ""
	case strings.HasPrefix(section, "Upgrading"), strings.HasPrefix(section, "Downgrading"), strings.HasPrefix(section, "Reinstalling"):
		return row{Change: c, replaces: true, older: section == "Downgrading"}
	}
	return row{Change: c}
}

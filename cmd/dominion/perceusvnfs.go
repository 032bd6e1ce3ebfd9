package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"dominion/vnfs"
)

func (p *perceus) vnfsVerbs() []perceusVerb {
	on := func(name, doc string, run func(ctx context.Context, s *vnfs.Store, words []string) error) perceusVerb {
		return perceusVerb{name, doc, func(ctx context.Context, words []string) error { return p.capsules(ctx, words, run) }, false}
	}
	gone := func(name string) perceusVerb {
		return perceusVerb{name, "Not here: see dominion vnfs --help", func(context.Context, []string) error {
			p.fail("perceus vnfs %s: programs of a capsule are not run here; change its root file system where that was made,\n"+
				"import it under a new name with dominion vnfs import, and set nodes to that", name)
			return &exitError{code: exitUsage}
		}, false}
	}
	return []perceusVerb{
		on("clone", "Make a copy of an imported VNFS capsule", p.vnfsClone),
		gone("close"),
		gone("configure"),
		on("delete", "Delete/remove an installed VNFS capsule", p.vnfsDelete),
		on("import", "Import a new VNFS capsule into Perceus", p.vnfsImport),
		on("export", "Export an existing VNFS to a file (capsule)", p.vnfsExport),
		on("list", "List configured VNFS capsules", p.vnfsList),
		gone("livesync"),
		gone("mount"),
		gone("rebuild"),
		gone("umount"),
	}
}

// capsules runs what a verb does with the capsules of this host.
func (p *perceus) capsules(ctx context.Context, words []string, run func(ctx context.Context, s *vnfs.Store, words []string) error) error {
	dir, err := new(statedirFlag).find(ctx, p.a)
	if err != nil {
		return err
	}
	s, err := p.a.openCapsules(dir)
	if err != nil {
		return err
	}
	defer s.Close()
	return run(ctx, s, words)
}

// vnfsName looks at the name of a capsule that has to be there.
func vnfsName(s *vnfs.Store, name string) error {
	switch _, err := s.Get(name); {
	case errors.Is(err, vnfs.ErrName):
		return usagef("VNFS name contains illegal characters!")
	case errors.Is(err, vnfs.ErrNone):
		return failedf("VNFS '%s' does not exist!", name)
	default:
		return err
	}
}

func (p *perceus) vnfsList(_ context.Context, s *vnfs.Store, words []string) error {
	names, err := s.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		shown := len(words) == 0
		for _, pattern := range words {
			like, err := path.Match(pattern, name)
			if err != nil {
				return usagef("%q is no pattern", pattern)
			}
			shown = shown || like
		}
		if !shown {
			continue
		}
		if err := p.a.text("%s\n", name); err != nil {
			return err
		}
	}
	return nil
}

func (p *perceus) vnfsClone(_ context.Context, s *vnfs.Store, words []string) error {
	if len(words) != 2 {
		return usagef("USAGE: perceus vnfs clone [source name] [copy name]")
	}
	if err := vnfsName(s, words[0]); err != nil {
		return err
	}
	if vnfs.CheckName(words[1]) != nil {
		return usagef("VNFS clone name contains illegal characters!")
	}
	if _, err := s.Get(words[1]); err == nil {
		return failedf("Can not overwrite an existing VNFS ('%s')", words[1])
	}
	if err := p.info("Creating a working VNFS copy '%s' to '%s'...", words[0], words[1]); err != nil {
		return err
	}
	_, err := s.Clone(words[0], words[1])
	return err
}

func (p *perceus) vnfsDelete(ctx context.Context, s *vnfs.Store, words []string) error {
	if len(words) != 1 {
		return usagef("USAGE: perceus vnfs delete [vnfs name]")
	}
	name := words[0]
	if err := vnfsName(s, name); err != nil {
		return err
	}
	if err := p.a.vnfsUnused(ctx, s, words); err != nil {
		return fmt.Errorf("%w; dominion vnfs delete --force %s removes it all the same", err, name)
	}
	yes, err := p.confirm(ctx, "Are you sure you wish to delete VNFS '"+name+"'?", words)
	if err != nil || !yes {
		return err
	}
	stays, err := s.Delete(name)
	for _, file := range stays {
		p.warn("Not unlinking nodescript: %s", filepath.Join(s.Dir(), file))
	}
	if err != nil {
		return err
	}
	return p.info("VNFS '%s' has been successfully deleted.", name)
}

func (p *perceus) vnfsImport(ctx context.Context, s *vnfs.Store, words []string) error {
	if len(words) != 1 {
		return usagef("USAGE: perceus vnfs import [path to VNFS file]")
	}
	if info, err := os.Stat(words[0]); err != nil || !info.Mode().IsRegular() {
		return usagef("USAGE: perceus vnfs import [path to VNFS file]")
	}
	name, ok := strings.CutSuffix(filepath.Base(words[0]), ".vnfs")
	if !ok {
		return usagef("%s is not a valid Perceus VNFS capsule (*.vnfs)", words[0])
	}
	if err := p.info("Importing '%s'", name); err != nil {
		return err
	}
	if _, err := s.Get(name); err == nil {
		return failedf("VNFS '%s' is already installed!", name)
	}
	c, err := s.Import(ctx, name, vnfs.Import{Source: words[0], Progress: p.a.packing()})
	if err != nil {
		return errors.Join(err, p.info("There was an error importing the VNFS '%s'!", name))
	}
	if c.Image == "" {
		p.warn("VNFS '%s' has no image of a root file system; its own programs, which make one, are not run here", name)
	}
	return p.info("VNFS '%s' has been successfully imported.", name)
}

// plainFile is what Perceus took for the name of a file.
var plainFile = regexp.MustCompile(`^[a-zA-Z0-9_./-]+$`)

func (p *perceus) vnfsExport(ctx context.Context, s *vnfs.Store, words []string) error {
	if len(words) == 0 || len(words) > 2 {
		return usagef("USAGE: perceus vnfs export [vnfs name] (exported file name)")
	}
	name := words[0]
	if err := vnfsName(s, name); err != nil {
		return err
	}
	file := filepath.Join(p.a.getenv("HOME"), "vnfs-exports", name+".vnfs")
	if len(words) == 2 {
		file = words[1]
	}
	if !plainFile.MatchString(file) {
		return usagef("VNFS file name contains illegal characters!")
	}
	if err := errors.Join(p.info("Exporting: %s", name), p.info("Creating:  %s", file)); err != nil {
		return err
	}
	err := os.MkdirAll(filepath.Dir(file), 0o750)
	if err == nil {
		err = bzip2To(ctx, file, func(w io.Writer) error { return s.ExportPerceus(ctx, name, w) })
	}
	if err != nil {
		return errors.Join(err, p.info("There was an error exporting the VNFS '%s'!", name))
	}
	return p.info("VNFS '%s' has been successfully exported.", name)
}

// bzip2To writes a file in the place of another, whole, compressed with bzip2.
func bzip2To(ctx context.Context, file string, write func(io.Writer) error) error {
	program, err := exec.LookPath("bzip2")
	if err != nil {
		return fmt.Errorf("compress: %w; Debian has it in package bzip2; dominion vnfs export needs none", err)
	}
	out, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*.part")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) //nolint:errcheck // it has its place by then, or nobody wants it
	defer out.Close()
	cmd := exec.CommandContext(ctx, program, "-c") //nolint:gosec // found in the PATH of who calls
	var said strings.Builder
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"LC_ALL=C"}, out, &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	err = errors.Join(write(in), in.Close())
	if werr := cmd.Wait(); werr != nil {
		return fmt.Errorf("compress: %w: %s", werr, strings.TrimSpace(said.String()))
	}
	if err := errors.Join(err, out.Sync()); err != nil {
		return err
	}
	return os.Rename(out.Name(), file)
}

func (p *perceus) infoVerbs() []perceusVerb {
	return []perceusVerb{
		{"about", "Print information about this program", func(context.Context, []string) error { return p.about() }, false},
		{"config", "Return various configuration parameters", p.config, false},
		{"system", "Print system information (useful for troubleshooting)", p.system, false},
	}
}

func (p *perceus) about() error {
	return p.a.text(`
This is Dominion %s. It has the commands of Perceus for the nodes that it provisions,
and many more of its own: dominion --help.

`, buildVersion())
}

// config prints what Perceus' scripts asked for.
func (p *perceus) config(ctx context.Context, words []string) error {
	if len(words) != 1 {
		return usagef("USAGE: perceus info config [key]")
	}
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	how := all.GetProvision()
	var value string
	switch words[0] {
	case "statedir":
		value = filepath.Clean(how.GetStatedir())
	case "sysconfdir":
		value = "/etc"
	case "vnfs transfer method":
		value = cmp.Or(how.GetMethod(), "http")
	case "vnfs transfer prefix":
		value = how.GetPrefix()
	case "vnfs transfer master":
		host, _, _ := net.SplitHostPort(how.GetBootAddress()) // none: no address either
		if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
			value = host
		}
		value = cmp.Or(how.GetMaster(), value)
	}
	if value == "" {
		p.warn("That configuration key does not exist")
		return &exitError{code: exitFailed}
	}
	return p.a.text("%s\n", value)
}

func (p *perceus) system(ctx context.Context, _ []string) error {
	all, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	how := all.GetProvision()
	var b strings.Builder
	line := func(format string, words ...any) { fmt.Fprintf(&b, format+"\n", words...) }
	line("Dominion %s\n", buildVersion())
	for _, f := range [][2]string{
		{"statedir:", filepath.Clean(how.GetStatedir())},
		{"rules of node scripts:", how.GetRules()},
		{"states:", strings.Join(how.GetStates(), ", ")},
		{"vnfs transfer method:", cmp.Or(how.GetMethod(), "http")},
		{"vnfs transfer master:", how.GetMaster()},
		{"vnfs transfer prefix:", how.GetPrefix()},
		{"boot files:", how.GetBootAddress()},
	} {
		line("%s", strings.TrimRight(fmt.Sprintf("     %-25s %s", f[0], f[1]), " "))
	}
	line("\nPerceus Status:\n\n   Nodes configured:           %d\n   Imported VNFS capsules:", len(all.GetNodes()))
	for _, c := range how.GetCapsules() {
		line("      %s", c)
	}
	line("   Module Summary:\n")
	return p.a.text("%s", b.String())
}

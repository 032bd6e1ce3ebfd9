package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dominion/vnfs"
)

func (a *app) vnfsCmd() *cobra.Command {
	return parent("vnfs", "Keep what nodes boot and run",
		`A VNFS capsule is a kernel, an initramfs and a root file system, below
STATEDIR/vnfs/NAME; node scripts fetch its files with getfile vnfs/NAME/FILE. These
commands change that directory on the overlord's host, and need no overlord that runs.`,
		`  dominion vnfs import /srv/chroots/debian13
  dominion vnfs list
  dominion vnfs clone debian13 debian13-test`,
		a.vnfsImportCmd(), a.vnfsExportCmd(), a.vnfsListCmd(), a.vnfsCloneCmd(), a.vnfsDeleteCmd())
}

// vnfsDo runs what a command does with the capsules.
func (a *app) vnfsDo(f *statedirFlag, do func(ctx context.Context, s *vnfs.Store, words []string) error) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, _ *cobra.Command, words []string) error {
		if a.overlord != "" || a.context != "" {
			return usagef("capsules are changed on the overlord's own host, without --overlord and --context")
		}
		dir, err := f.find(ctx, a)
		if err != nil {
			return err
		}
		s, err := a.openCapsules(dir)
		if err != nil {
			return err
		}
		defer s.Close()
		if err = do(ctx, s, words); errors.Is(err, vnfs.ErrName) {
			return usagef("%v", err)
		}
		return err
	})
}

// openCapsules opens STATEDIR, or says what makes it.
func (a *app) openCapsules(dir string) (*vnfs.Store, error) {
	s, err := vnfs.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; an overlord with provision: {enabled: true} makes it when it starts, and dominion nodescript install does; --statedir names another", err)
	}
	return s, err
}

// completeCapsules completes names of capsules.
func (a *app) completeCapsules(f *statedirFlag, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, words []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(words) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionWait)
		defer cancel()
		dir, err := f.find(ctx, a)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := vnfs.Open(dir)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer s.Close()
		names, _ := s.Names() // without an answer there is nothing to offer
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// capsuleDoc is a capsule in JSON.
type capsuleDoc struct {
	Name      string    `json:"name"`
	Kernel    string    `json:"kernel,omitempty"` // paths as getfile takes them
	Initramfs string    `json:"initramfs,omitempty"`
	Image     string    `json:"image,omitempty"`
	Scripts   []string  `json:"nodescripts,omitempty"`
	Size      int64     `json:"size"` // bytes
	Made      time.Time `json:"made"`
}

func capsuleDocOf(c vnfs.Capsule) capsuleDoc {
	return capsuleDoc{c.Name, c.Kernel, c.Initramfs, c.Image, c.Scripts, c.Size, c.Made.UTC().Truncate(time.Second)}
}

// capsuleMade tells of a new capsule, and what nodes boot that have it.
func (a *app) capsuleMade(c vnfs.Capsule, statedir string) error {
	all := true // nodes have something to boot that is not the capsule's
	for _, name := range []string{"kernel", "initramfs"} {
		_, err := os.Stat(filepath.Join(statedir, "boot", name))
		all = all && err == nil
	}
	switch {
	case c.Kernel == "" && c.Initramfs == "" && !all:
		a.note("nothing boots its nodes yet: dominion boot build-initramfs makes what all nodes boot; --kernel and --initramfs give it its own")
	case c.Kernel == "" && c.Initramfs == "":
		a.note("its nodes boot the kernel and initramfs of all, STATEDIR/boot/; --kernel and --initramfs give it its own")
	case c.Initramfs == "":
		a.note("capsule %s has a kernel and no initramfs: that of all, STATEDIR/boot/initramfs, has to have the modules of this kernel", c.Name)
	case c.Kernel == "":
		a.note("capsule %s has an initramfs and no kernel: it has to have the modules of that of all, STATEDIR/boot/kernel", c.Name)
	}
	if c.Image == "" {
		a.note("capsule %s has no image of a root file system", c.Name)
	}
	if a.output != outText {
		return a.document(capsuleDocOf(c))
	}
	return a.text("capsule %s: %s, %d node scripts\n", c.Name, bytesText(c.Size), len(c.Scripts))
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= unit.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

func (a *app) vnfsImportCmd() *cobra.Command {
	var f statedirFlag
	var in vnfs.Import
	cmd := &cobra.Command{
		Use: "import SOURCE [NAME]", Short: "Make a capsule of a directory or a tar",
		Long: `Import makes a capsule of SOURCE: a directory, or a tar that may be compressed with
gzip, bzip2 or zstd.

A root file system (etc/ and usr/ or bin/ at its top) is packed as it is, without what
is mounted below it, into rootfs.tar.gz. A capsule (kernel, initramfs, an image or
nodescripts/ at its top), what export wrote and Perceus' .vnfs files too, is taken
over file by file.

--kernel and --initramfs are what its nodes boot to be provisioned, as made by
dominion boot build-initramfs; without them it is what all nodes boot.

Scripts in nodescripts/STATE/ are linked to where nodes of the capsule get them.
NAME is that of SOURCE without its ending when it is left out.`,
		Example: "  dominion vnfs import /srv/chroots/debian13\n  dominion vnfs import debian13.tar.zst debian13-test --kernel kernel --initramfs initramfs",
		Args:    args(1, 2, "a source and a name"),
	}
	cmd.RunE = a.vnfsDo(&f, func(ctx context.Context, s *vnfs.Store, words []string) error {
		in.Source = words[0]
		name := capsuleName(in.Source)
		if len(words) == 2 {
			name = words[1]
		}
		in.Progress = a.packing()
		c, err := s.Import(ctx, name, in)
		if err != nil {
			return err
		}
		return a.capsuleMade(c, s.Dir())
	})
	f.on(cmd)
	cmd.Flags().StringVar(&in.Kernel, "kernel", "", "`FILE` with the kernel that provisions its nodes")
	cmd.Flags().StringVar(&in.Initramfs, "initramfs", "", "`FILE` with the initramfs that belongs to it")
	return cmd
}

// packing tells on a terminal how far an import has come.
func (a *app) packing() func(int64) {
	if !a.errTerm {
		return nil
	}
	var last time.Time
	return func(n int64) {
		if now := time.Now(); now.Sub(last) >= time.Second {
			if !last.IsZero() {
				a.note("%s packed", bytesText(n))
			}
			last = now
		}
	}
}

// capsuleName is what a source is called when nobody says otherwise.
func capsuleName(source string) string {
	if abs, err := filepath.Abs(source); err == nil {
		source = abs
	}
	name := filepath.Base(source)
	for _, end := range []string{".zst", ".gz", ".bz2", ".tar", ".tgz", ".tbz", ".vnfs"} {
		name = strings.TrimSuffix(name, end)
	}
	return name
}

func (a *app) vnfsExportCmd() *cobra.Command {
	var f statedirFlag
	cmd := &cobra.Command{
		Use: "export NAME [FILE]", Short: "Write a capsule to a tar",
		Long: `Export writes a capsule to FILE, NAME.tar.zst when it is left out, "-" for standard
output. It is compressed as its ending says: .tar, .tar.gz or .tgz, else zstd. A
FILE that is there is not written over.`,
		Example: "  dominion vnfs export debian13\n  dominion vnfs export debian13 - | ssh other dominion vnfs import /dev/stdin debian13",
		Args:    args(1, 2, "a capsule and a file"),
	}
	cmd.RunE = a.vnfsDo(&f, func(ctx context.Context, s *vnfs.Store, words []string) error {
		file := words[0] + ".tar.zst"
		if len(words) == 2 {
			file = words[1]
		}
		how := vnfs.Zstd
		switch {
		case strings.HasSuffix(file, ".gz"), strings.HasSuffix(file, ".tgz"):
			how = vnfs.Gzip
		case strings.HasSuffix(file, ".tar"):
			how = vnfs.Plain
		}
		if file == "-" {
			return s.Export(ctx, words[0], a.out, how)
		}
		if _, err := s.Get(words[0]); err != nil { // before there is a file
			return err
		}
		size, err := exportTo(file, func(w io.Writer) error { return s.Export(ctx, words[0], w, how) })
		if err != nil {
			return err
		}
		if a.output != outText {
			return a.document(exportDoc{words[0], file, size})
		}
		return a.text("%s: %s\n", file, bytesText(size))
	})
	f.on(cmd)
	cmd.ValidArgsFunction = a.completeCapsules(&f, 1)
	return cmd
}

// exportDoc is the answer of vnfs export in JSON.
type exportDoc struct {
	Name  string `json:"name"`
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// exportTo writes a new file, which is not there when that fails, and gives its size.
func exportTo(file string, write func(io.Writer) error) (size int64, err error) {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	err = write(out)
	if err == nil {
		size, err = out.Seek(0, io.SeekCurrent)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return 0, errors.Join(err, os.Remove(file))
	}
	return size, nil
}

func (a *app) vnfsListCmd() *cobra.Command {
	var f statedirFlag
	cmd := &cobra.Command{
		Use: "list", Short: "List the capsules",
		Example: "  dominion vnfs list\n  dominion vnfs list -o json",
		Args:    args(0, 0, "flags only"),
	}
	cmd.RunE = a.vnfsDo(&f, func(_ context.Context, s *vnfs.Store, _ []string) error {
		all, err := s.List()
		if err != nil {
			return err
		}
		var docs []capsuleDoc
		for _, c := range all {
			docs = append(docs, capsuleDocOf(c))
		}
		if len(docs) == 0 && a.output == outText {
			return a.text("no capsules; make one with: dominion vnfs import SOURCE\n")
		}
		return list(a, "capsules", docs, []string{"NAME", "SIZE", "KERNEL", "INITRAMFS", "IMAGE", "SCRIPTS", "MADE"}, func(d capsuleDoc) []string {
			row := []string{d.Name, bytesText(d.Size)}
			for _, p := range []string{d.Kernel, d.Initramfs, d.Image} {
				if p = filepath.Base(p); p == "." {
					p = "-"
				}
				row = append(row, p)
			}
			return append(row, fmt.Sprint(len(d.Scripts)), d.Made.Format("2006-01-02 15:04"))
		})
	})
	f.on(cmd)
	return cmd
}

func (a *app) vnfsCloneCmd() *cobra.Command {
	var f statedirFlag
	cmd := &cobra.Command{
		Use: "clone NAME NEW", Short: "Copy a capsule",
		Long:    "Clone copies a capsule with its node scripts, so that a change can be tried on a few nodes.",
		Example: "  dominion vnfs clone debian13 debian13-test",
		Args:    args(2, 2, "a capsule and a new name"),
	}
	cmd.RunE = a.vnfsDo(&f, func(_ context.Context, s *vnfs.Store, words []string) error {
		c, err := s.Clone(words[0], words[1])
		if err != nil {
			return err
		}
		return a.capsuleMade(c, s.Dir())
	})
	f.on(cmd)
	cmd.ValidArgsFunction = a.completeCapsules(&f, 1)
	return cmd
}

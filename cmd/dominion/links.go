package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// linkDoc is one name in links.
type linkDoc struct {
	Name string `json:"name"`
	Did  string `json:"did"`            // made, unchanged, refused, absent; with --dry-run "would be made" for made
	To   string `json:"to,omitempty"`   // what the link says
	Note string `json:"note,omitempty"` // why not
}

// What became of a link.
const (
	linkMade      = "made"
	linkWould     = "would be made"
	linkUnchanged = "unchanged"
	linkRefused   = "refused"
	linkAbsent    = "absent" // the program does not answer to that name yet
)

func (a *app) linksCmd() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "links DIR", Short: "Make links with the names of older programs",
		Long: `Links makes a symbolic link to this program in DIR for each name of a program of
Func, certmaster and Perceus that it answers to; called by that name it has the
options and the output of that program. Names that it does not answer to yet are
named, and not linked.

What is there already and is no link to this program stays, and makes the exit
code 1. A link is relative when it and the program are below the same directory of /.`,
		Example: "  dominion links /usr/local/sbin\n  dominion links /usr/local/sbin --dry-run -o json",
		Args:    args(1, 1, "a directory"),
	}
	cmd.RunE = a.do(func(_ context.Context, _ *cobra.Command, words []string) error {
		docs, err := makeLinks(words[0], dry)
		if err != nil {
			return err
		}
		var absent, refused []string
		var rows []linkDoc
		for _, d := range docs {
			switch d.Did {
			case linkAbsent:
				absent = append(absent, d.Name)
			case linkRefused:
				refused = append(refused, d.Name)
			}
			if d.Did != linkAbsent || a.output != outText {
				rows = append(rows, d)
			}
		}
		err = list(a, "links", rows, []string{"NAME", "DID", "TO", "NOTE"}, func(d linkDoc) []string { return []string{d.Name, d.Did, d.To, d.Note} })
		if err != nil {
			return err
		}
		if len(absent) > 0 && a.output == outText {
			a.note("this program does not answer yet to: %s", strings.Join(absent, " "))
		}
		if len(refused) > 0 {
			return fmt.Errorf("not replaced: %s; remove them first, if they are not needed", strings.Join(refused, " "))
		}
		return nil
	})
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be done")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

// makeLinks makes what is missing of the links in a directory.
func makeLinks(dir string, dry bool) ([]linkDoc, error) {
	program, err := ownPath()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("make links: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // a relative link counts from where it is
		return nil, fmt.Errorf("make links: %w", err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, usagef("%s is no directory", dir)
	}
	var docs []linkDoc
	for _, n := range otherNames() {
		if n.inner {
			continue
		}
		d := linkDoc{Name: n.name, Did: linkAbsent}
		if n.there() {
			if d, err = makeLink(dir, n.name, program, dry); err != nil {
				return nil, err
			}
		}
		docs = append(docs, d)
	}
	return docs, nil
}

// makeLink makes one link, unless something is there.
func makeLink(dir, name, program string, dry bool) (linkDoc, error) {
	d := linkDoc{Name: name, Did: linkMade, To: linkText(dir, program)}
	at := filepath.Join(dir, name)
	_, err := os.Lstat(at)
	switch {
	case err == nil && sameFile(at, program):
		d.Did = linkUnchanged
		d.To, _ = os.Readlink(at) // nothing for another name of the program's file
	case err == nil:
		d.Did, d.To, d.Note = linkRefused, "", "there is something else"
		if to, lerr := os.Readlink(at); lerr == nil {
			d.Note = "it is a link to " + to
		}
	case !errors.Is(err, fs.ErrNotExist):
	case dry:
		d.Did, err = linkWould, nil
	default:
		err = os.Symlink(d.To, at)
	}
	if err != nil {
		return d, fmt.Errorf("make links: %w", err)
	}
	return d, nil
}

// ownPath is where this program is, by the path by which it was called if that leads
// here: it may be a link that goes on being right when the program is renewed.
func ownPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	called, err := exec.LookPath(os.Args[0])
	if err == nil {
		called, err = filepath.Abs(called)
	}
	if err != nil || !sameFile(called, self) {
		return self, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(called))
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return filepath.Join(dir, filepath.Base(called)), nil
}

// sameFile says whether two paths lead to one file or directory.
func sameFile(one, other string) bool {
	a, err := os.Stat(one)
	if err != nil {
		return false
	}
	b, err := os.Stat(other)
	return err == nil && os.SameFile(a, b)
}

// linkText is what a link in a directory says to lead to a program: relative when
// both are below the same directory of the root, which are moved and mounted together.
func linkText(dir, program string) string {
	top := func(p string) string {
		first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		return first
	}
	if top(dir) == top(program) {
		if rel, err := filepath.Rel(dir, program); err == nil {
			return rel
		}
	}
	return program
}

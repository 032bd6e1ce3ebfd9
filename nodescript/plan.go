package nodescript

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Does says what becomes of a file in a folder that counts for a node.
type Does uint8

// What becomes of a file.
const (
	Runs          Does = iota // its output is part of the script
	Sent                      // Perceus193: not executable, so what follows its line #!/bin/sh is part of the script
	Fails                     // it should have a part and cannot: Candidate.Note says why
	Overridden                // Perceus193: a file of this name in a later folder takes its place
	NotExecutable             // Documented: it does not run
	Backup                    // its name ends in ~
	Hidden                    // its name begins with a dot
	Folder                    // it is a folder
)

var doesWords = [...]string{"runs", "sent", "fails", "overridden", "not executable", "backup", "hidden", "folder"}

// String gives the word for it, such as "not executable".
func (d Does) String() string { return doesWords[d] }

// Candidate is one file in a folder that counts for a node, and what becomes
// of it.
type Candidate struct {
	Folder string // relative to the state's own: all, vnfs/V, group/G, node/N
	Name   string
	Does   Does
	Order  int      // from 1, among those that Run, are Sent or Fail; 0: it has no part
	Ties   []string // Documented: the folders that have this name too, and whose script runs too
	By     string   // Overridden: the folder of the file that takes its place
	Over   []string // Perceus193: the folders whose file of this name it replaces
	Link   string   // what it says if it is a symbolic link
	Note   string   // Fails: why; and what is odd about others

	words []string // Perceus193: its name and arguments when that is not Name
}

// Path is the file's, relative to nodescripts/.
func (c Candidate) Path(state string) string { return state + "/" + c.Folder + "/" + c.Name }

// part says whether it is part of the script, or should be.
func (c Candidate) part() bool { return c.Does == Runs || c.Does == Sent || c.Does == Fails }

// listing is what is in one folder that counts.
type listing struct {
	folder  string
	entries []entry
	err     error // why the folder cannot be read
}

// plan decides what becomes of the files in the folders, which are in the order
// of Node.folders. The result is sorted: first those that have a part, in the
// order in which they have it, then the others by name.
func plan(r Rules, folders []listing) []Candidate {
	var all []Candidate
	for _, l := range folders {
		if l.err != nil {
			all = append(all, Candidate{Folder: l.folder, Does: Fails, Note: l.err.Error()})
		}
		for _, e := range l.entries {
			all = append(all, judge(r, l.folder, e))
		}
	}
	if r == Perceus193 {
		override(all)
	}
	// A stable sort keeps the order of the folders among equal names.
	slices.SortStableFunc(all, func(a, b Candidate) int {
		if a.part() != b.part() {
			if a.part() {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	for i := range all {
		if all[i].part() {
			all[i].Order = i + 1
		}
	}
	if r == Documented {
		tie(all)
	}
	return all
}

// tie marks those that have a part and are of one name, which stand together.
func tie(all []Candidate) {
	for from := 0; from < len(all); {
		to := from + 1
		for to < len(all) && all[from].part() && all[to].part() && all[from].Name != "" && all[to].Name == all[from].Name {
			to++
		}
		for i := from; i < to; i++ {
			for j := from; j < to; j++ {
				if i != j {
					all[i].Ties = append(all[i].Ties, all[j].Folder)
				}
			}
		}
		from = to
	}
}

// judge decides about one file, without regard to others of its name.
func judge(r Rules, folder string, e entry) Candidate {
	c := Candidate{Folder: folder, Name: e.name, Link: e.link}
	switch {
	case e.name[0] == '.':
		c.Does = Hidden
	case e.err == nil && e.mode.IsDir():
		c.Does = Folder
	// As Perl's /~$/, which looks before a line end too.
	case strings.HasSuffix(strings.TrimSuffix(e.name, "\n"), "~"):
		c.Does = Backup
	case errors.Is(e.err, ErrOutside):
		c.Does, c.Note = Fails, fmt.Sprintf("its link leaves the state directory: %s", e.link)
	case errors.Is(e.err, fs.ErrNotExist):
		c.Does, c.Note = Fails, fmt.Sprintf("its link leads to nothing: %s", e.link)
	case e.err != nil:
		c.Does, c.Note = Fails, e.err.Error()
	case !e.mode.IsRegular():
		c.Does, c.Note = Fails, errSpecial.Error()
	case e.mode&0o111 != 0:
		c.Does = Runs
	case r == Perceus193:
		c.Does = Sent
	default:
		c.Does = NotExecutable
	}
	return c
}

// override lets each file replace those of its name in the folders before its
// own, whatever its mode. Folders, hidden files and backups replace nothing.
func override(all []Candidate) {
	last := make(map[string]int)
	for i, c := range all {
		if !c.part() || c.Name == "" {
			continue
		}
		if j, ok := last[c.Name]; ok {
			all[i].Over = append(slices.Clip(all[j].Over), all[j].Folder)
			all[j].Over = nil
		}
		last[c.Name] = i
	}
	for i, c := range all {
		if j, ok := last[c.Name]; ok && c.part() && j != i {
			all[i].Does, all[i].By, all[i].Note = Overridden, all[j].Folder, ""
		}
	}
}

// Explain says of every file in the folders that count for the node in a state
// what becomes of it, in the order in which they run, and then those that do
// not. Nothing is run. An error wraps ErrRequest.
func (t *Tree) Explain(r Rules, n Node, state string) ([]Candidate, error) {
	if err := checkRequest(n, state); err != nil {
		return nil, err
	}
	var folders []listing
	for _, folder := range n.folders(r) {
		entries, err := t.list(scripts + "/" + state + "/" + folder)
		folders = append(folders, listing{folder, entries, err})
	}
	all := plan(r, folders)
	if r == Perceus193 {
		for i, c := range all {
			if c.part() {
				all[i] = t.asPerceus(c, state)
			}
		}
	}
	return all, nil
}

// asPerceus corrects what is decided about a file by what Perl's open does with
// its name, and by what is in it.
func (t *Tree) asPerceus(c Candidate, state string) Candidate {
	switch words := perlWords(c.Name); {
	case c.Does == Runs && strings.ContainsAny(c.Name, shellBytes):
		c.Does, c.Note = Fails, "Perceus gave its name to a shell, which takes it apart"
	case c.Does == Runs && (len(words) != 1 || words[0] != c.Name):
		c.Does, c.Note = Fails, "Perceus takes its name apart at the blanks, and finds nothing to run"
		if len(words) > 0 && t.executable(Candidate{Folder: c.Folder, Name: words[0]}.Path(state)) {
			c.Does, c.Note, c.words = Runs, fmt.Sprintf("Perceus takes its name apart at the blanks, and runs %q with the other words", words[0]), words
		}
	case c.Does == Sent:
		if text, err := t.literal(c.Path(state)); err != nil {
			c.Does, c.Note = Fails, err.Error()
		} else if text == nil {
			c.Does, c.Note = Fails, "it is not executable, and no line in it begins with #!/bin/sh: nothing to send"
		}
	}
	return c
}

// executable says whether a path leads to a file that can be run.
func (t *Tree) executable(name string) bool {
	_, info, err := t.resolve(scripts + "/" + name)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

package nodescript

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plainPlan says, slowly and by the letter of the rules, which files have a
// part in the script, in order, as FOLDER/NAME.
func plainPlan(r Rules, folders []listing) []string {
	var names []string
	at := make(map[string][]string) // name → folders, in order
	for _, l := range folders {
		for _, e := range l.entries {
			backup := strings.HasSuffix(e.name, "~") || strings.HasSuffix(e.name, "~\n")
			isFolder := e.err == nil && e.mode.IsDir()
			runs := e.err != nil || !e.mode.IsRegular() || e.mode&0o111 != 0 || r == Perceus193
			if strings.HasPrefix(e.name, ".") || isFolder || backup || !runs {
				continue
			}
			if at[e.name] == nil {
				names = append(names, e.name)
			}
			at[e.name] = append(at[e.name], l.folder)
		}
	}
	sort.Strings(names)
	var order []string
	for _, name := range names {
		in := at[name]
		if r == Perceus193 {
			in = in[len(in)-1:]
		}
		for _, folder := range in {
			order = append(order, folder+"/"+name)
		}
	}
	return order
}

// parts are the candidates that have a part, as plainPlan gives them.
func parts(all []Candidate) []string {
	var order []string
	for i, c := range all {
		if c.part() != (c.Order == i+1) || !c.part() && c.Order != 0 {
			order = append(order, fmt.Sprintf("order %d of %d", c.Order, i+1))
		}
		if c.part() {
			order = append(order, c.Folder+"/"+c.Name)
		}
	}
	return order
}

// FuzzPlan: any file names, modes and folders give what the plain version gives,
// and every file is there once.
func FuzzPlan(f *testing.F) {
	f.Add("10-a\x00\x0110-a\x00\x0210-a", uint8(0))
	f.Add("x~\n/./../.x/~/ /\xff/10-a b", uint8(1))
	f.Add("a/a/a/a/a/a", uint8(1))
	f.Fuzz(func(t *testing.T, words string, rules uint8) {
		r := Rules(rules % 2)
		folders := []listing{{folder: "all"}, {folder: "vnfs/v"}, {folder: "group/g"}, {folder: "node/n"}}
		modes := []fs.FileMode{0o755, 0o644, 0o001, fs.ModeDir | 0o755, fs.ModeNamedPipe | 0o755, 0}
		seen := make(map[string]bool)
		n := 0
		for i, name := range strings.FieldsFunc(words, func(r rune) bool { return r == '/' || r == 0 }) {
			where := (i + len(name)) % 4
			if seen[fmt.Sprint(where, name)] {
				continue
			}
			seen[fmt.Sprint(where, name)] = true
			e := entry{name: name, mode: modes[(i*7+len(words))%len(modes)]}
			if i%5 == 4 {
				e.err = []error{ErrOutside, fs.ErrNotExist, errors.New("else")}[i%3]
			}
			folders[where].entries = append(folders[where].entries, e)
			n++
		}
		all := plan(r, folders)
		if d := cmp.Diff(plainPlan(r, folders), parts(all)); d != "" {
			t.Errorf("%v: %s", r, d)
		}
		if len(all) != n {
			t.Errorf("%d candidates of %d files", len(all), n)
		}
		for _, c := range all {
			checkRelations(t, r, c, all)
		}
	})
}

// checkRelations holds what is said of others of a file's name against them.
func checkRelations(t *testing.T, r Rules, c Candidate, all []Candidate) {
	t.Helper()
	find := func(folder string) Candidate {
		i := slices.IndexFunc(all, func(o Candidate) bool { return o.Folder == folder && o.Name == c.Name })
		if i < 0 {
			t.Fatalf("%+v speaks of %s, where nothing is", c, folder)
		}
		return all[i]
	}
	for _, f := range c.Ties {
		if o := find(f); r != Documented || !o.part() || !slices.Contains(o.Ties, c.Folder) {
			t.Errorf("%+v is tied with %+v", c, o)
		}
	}
	for _, f := range c.Over {
		if o := find(f); r != Perceus193 || o.Does != Overridden || o.By != c.Folder {
			t.Errorf("%+v replaces %+v", c, o)
		}
	}
	if c.By != "" {
		if o := find(c.By); c.Does != Overridden || !slices.Contains(o.Over, c.Folder) {
			t.Errorf("%+v is overridden by %+v", c, o)
		}
	}
}

// FuzzNames: Perl's way with any name of a script, and any number in it, end
// without a panic; a name without odd bytes is one word.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"10-a", " 10-a", "10-a b", "9", "100-x", "00-", "99-zzz", "-", "\x00", "\u00fc ", "10-a\n"} {
		f.Add(s, "all")
	}
	f.Fuzz(func(t *testing.T, name, kind string) {
		if name == "" {
			return
		}
		words := perlWords(name)
		if !strings.ContainsAny(name, blanks) && !slices.Equal(words, []string{name}) {
			t.Errorf("perlWords(%q) = %q", name, words)
		}
		for _, w := range words {
			if w == "" || strings.ContainsAny(w, blanks) || !strings.Contains(name, w) {
				t.Errorf("perlWords(%q) = %q", name, words)
			}
		}
		l := &linter{rules: Perceus193}
		l.number("init/"+kind+"/"+name, kind, name)
		if len(l.found) > 2 {
			t.Errorf("%v", l.found)
		}
		n := Node{Name: name, Group: kind}
		if err := n.check(); err == nil {
			for _, r := range []Rules{Documented, Perceus193} {
				for _, folder := range n.folders(r) {
					if words := strings.Split(folder, "/"); len(words) > 2 || slices.Contains(words, "..") || slices.Contains(words, ".") || strings.ContainsRune(folder, 0) {
						t.Errorf("%+v has the folder %q", n, folder)
					}
				}
			}
		} else if !errors.Is(err, ErrRequest) {
			t.Errorf("%v does not wrap ErrRequest", err)
		}
		if s, err := ParseState(name); err == nil && (s != name || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "") || err != nil && !errors.Is(err, ErrRequest) {
			t.Errorf("ParseState(%q) = %q, %v", name, s, err)
		}
	})
}

// FuzzHead: any first line of a script is read as Linux reads it, without a
// panic.
func FuzzHead(f *testing.F) {
	for _, s := range []string{"#!/bin/sh", "#! /bin/sh -e \n", "#!\n", "#!", "", "#!/bin/sh\x00x", "#!\t\t/x\ty z\t\n", "\x7fELF\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h := parseHead(b)
		if strings.ContainsAny(h.interpreter, " \t\n\x00") || strings.ContainsAny(h.argument, "\n\x00") || h.interpreter == "" && h.argument != "" {
			t.Errorf("parseHead(%q) = %+v", b, h)
		}
		if h.interpreter != "" {
			if again := parseHead([]byte("#!" + h.interpreter + " " + h.argument)); len(b) < headBytes-2 && (again.interpreter != h.interpreter || again.argument != h.argument) {
				t.Errorf("parseHead(%q) = %+v, and again %+v", b, h, again)
			}
		}
		if sent, err := fromShebang(strings.NewReader(string(b))); err != nil || sent != nil && (!strings.HasPrefix(string(sent), "#!/bin/sh") || !strings.HasSuffix(string(b), string(sent[:len(sent)-1]))) {
			t.Errorf("fromShebang(%q) = %q, %v", b, sent, err)
		}
	})
}

func TestParseHead(t *testing.T) {
	for _, test := range []struct {
		in   string
		want head
	}{
		{"#!/bin/sh\necho", head{interpreter: "/bin/sh"}},
		{"#!/bin/sh", head{interpreter: "/bin/sh"}},
		{"#! /usr/bin/env  perl -w \n", head{interpreter: "/usr/bin/env", argument: "perl -w"}},
		{"#!\t/bin/sh\t-e\t\n", head{interpreter: "/bin/sh", argument: "-e"}},
		{"#!/bin/sh\r\n", head{interpreter: "/bin/sh\r"}},
		{"#!\n/bin/sh", head{}},
		{" #!/bin/sh", head{}},
		{"\x7fELF\x00", head{binary: true}},
		{"", head{}},
	} {
		if got := parseHead([]byte(test.in)); got != test.want {
			t.Errorf("parseHead(%q) = %+v; want %+v", test.in, got, test.want)
		}
	}
}

package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"dominion/call"
	"dominion/module"
	"dominion/module/mountinfo"
	"dominion/module/place"
	"dominion/module/textdiff"
)

// maxFstab bounds the file.
const maxFstab = 1 << 20

// Entry is one line of fstab(5).
type Entry struct {
	Source  string `json:"source" doc:"what is mounted: a device, UUID=…, server:/directory" required:"true" min:"1" max:"4095"`
	Path    string `json:"path" doc:"where; none for swap space" required:"true" min:"1" max:"4095"`
	Type    string `json:"type" doc:"type of the file system" required:"true" min:"1" max:"64"`
	Options string `json:"options" doc:"options, separated by commas" default:"defaults" min:"1" max:"4000"`
	Dump    int    `json:"dump" doc:"for dump(8)" min:"0" max:"9"`
	Pass    int    `json:"pass" doc:"when it is checked at the start: 1 first, 2 afterwards, 0 not at all" min:"0" max:"9"`
}

// Fstab is the answer of fstab.
type Fstab struct {
	Entries []Listed `json:"entries" doc:"the entries, in their order"`
	More    bool     `json:"more,omitempty" doc:"there are more than fit into an answer"`
}

// Listed is an entry of fstab.
type Listed struct {
	Entry
	Line    int  `json:"line" doc:"its line"`
	Mounted bool `json:"mounted" doc:"something is mounted there"`
}

type none struct{}

// parseEntry reads a line; ok is false for one without an entry.
func parseEntry(line string) (e Entry, ok bool) {
	f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
	if len(f) < 3 || strings.HasPrefix(f[0], "#") {
		return Entry{}, false
	}
	field := func(i int) string {
		if i < len(f) {
			return mountinfo.Unescape(f[i])
		}
		return ""
	}
	e = Entry{Source: field(0), Path: field(1), Type: field(2), Options: field(3)}
	e.Dump, _ = strconv.Atoi(field(4)) // what is no number counts as 0 to those who read it, too
	e.Pass, _ = strconv.Atoi(field(5))
	return e, true
}

// line writes an entry.
func (e Entry) line() string {
	f := []string{e.Source, e.Path, e.Type, e.Options}
	for i := range f {
		f[i] = mountinfo.Escape(f[i])
	}
	return fmt.Sprintf("%s\t%d\t%d\n", strings.Join(f, "\t"), e.Dump, e.Pass)
}

// same says that two entries are about the same place: swap space has none.
func (e Entry) same(other Entry) bool {
	if e.Path == "none" || other.Path == "none" {
		return e.Source == other.Source && e.Path == other.Path
	}
	return e.Path == other.Path
}

func (s machine) read() ([]byte, error) {
	b, err := place.ReadFile(s.fstab, maxFstab)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (s machine) list(_ context.Context, _ *module.Env, _ none) (Fstab, error) {
	b, err := s.read()
	if err != nil {
		return Fstab{}, err
	}
	mounts, err := mountinfo.Read()
	if err != nil {
		return Fstab{}, err
	}
	there := map[string]bool{}
	for _, m := range mounts {
		there[m.Point] = true
	}
	out := Fstab{Entries: []Listed{}}
	n, size := 0, 0
	for line := range bytes.Lines(b) {
		n++
		e, ok := parseEntry(string(line))
		if !ok {
			continue
		}
		if size += 200 + 6*len(line); size > maxAnswer {
			out.More = true
			break
		}
		mounted := there[e.Path]
		e.Source, e.Path, e.Type, e.Options = text(e.Source), text(e.Path), text(e.Type), text(e.Options)
		out.Entries = append(out.Entries, Listed{e, n, mounted})
	}
	return out, nil
}

// complete takes what is left out from the entry of fstab.
func (s machine) complete(in *mountIn) error {
	b, err := s.read()
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		if e, ok := parseEntry(string(line)); ok && e.Path == in.Path {
			in.Source = e.Source
			if in.Type == "" {
				in.Type = e.Type
			}
			if in.Options == "" {
				in.Options = e.Options
			}
			return nil
		}
	}
	return call.Errorf(call.Invalid, "there is no entry for %s in %s: give a source", in.Path, s.fstab)
}

type addIn struct {
	Entry
	DryRun bool `json:"dry_run" doc:"only say what would change"`
}

// Edited is the answer of fstab_add and fstab_remove.
type Edited struct {
	Changed bool   `json:"changed" doc:"whether the file was changed, or would be"`
	Diff    string `json:"diff,omitempty" doc:"what changes in it"`
}

func (s machine) add(_ context.Context, _ *module.Env, in addIn) (Edited, error) {
	for _, f := range []string{in.Source, in.Path, in.Type, in.Options} {
		if strings.ContainsAny(f, "\x00\n\r") {
			return Edited{}, call.Errorf(call.Invalid, "%.60q: a zero byte or a line feed", f)
		}
	}
	if in.Path != "none" && in.Path != "swap" && !strings.HasPrefix(in.Path, "/") {
		return Edited{}, call.Errorf(call.Invalid, "field path: got %.100q; wants an absolute path, or none for swap space", in.Path)
	}
	return s.edit(in.Entry, in.Entry.line(), in.DryRun)
}

type removeIn struct {
	Path   string `json:"path" doc:"the directory of the entry; none for swap space, with its source" required:"true" min:"1" max:"4095"`
	Source string `json:"source" doc:"what the entry mounts; needed for swap space only" max:"4095"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

func (s machine) remove(_ context.Context, _ *module.Env, in removeIn) (Edited, error) {
	return s.edit(Entry{Source: in.Source, Path: in.Path}, "", in.DryRun)
}

// edit puts a line in the place of the entry for the same directory.
func (s machine) edit(e Entry, line string, dry bool) (Edited, error) {
	old, err := s.read()
	if err != nil {
		return Edited{}, err
	}
	content, err := replace(old, e, line)
	if err != nil {
		return Edited{}, call.Errorf(call.Conflict, "%s: %v", s.fstab, err)
	}
	out := Edited{Changed: !bytes.Equal(old, content)}
	if !out.Changed {
		return out, nil
	}
	out.Diff, _ = textdiff.Unified(s.fstab, old, content)
	if dry {
		return out, nil
	}
	return out, place.WriteFile(s.fstab, content, place.As{})
}

var errTwice = errors.New("several entries for the same directory; which of them is meant is not known")

// replace gives the file with line in the place of the entry, or at the end;
// without a line the entry is gone. An entry that says the same stays as it is.
func replace(old []byte, e Entry, line string) ([]byte, error) {
	var out []byte
	found := false
	for l := range bytes.Lines(old) {
		is, ok := parseEntry(string(l))
		if !ok || !is.same(e) {
			out = append(out, l...)
			continue
		}
		if found {
			return nil, errTwice
		}
		found = true
		if line != "" && is == e {
			out = append(out, l...)
		} else {
			out = append(out, line...)
		}
	}
	if !found {
		if n := len(out); line != "" && n > 0 && out[n-1] != '\n' {
			out = append(out, '\n')
		}
		out = append(out, line...)
	}
	return out, nil
}

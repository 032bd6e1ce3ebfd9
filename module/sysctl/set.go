package sysctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"dominion/call"
	"dominion/module"
	"dominion/module/place"
	"dominion/module/textdiff"
)

// maxKept bounds the file of values that last.
const maxKept = 1 << 20

type setIn struct {
	Name    string `json:"name" doc:"its name" required:"true" min:"1" max:"512"`
	Value   string `json:"value" doc:"the value" required:"true" max:"4095"`
	Persist bool   `json:"persist" doc:"keep it for the next start of the machine too"`
	DryRun  bool   `json:"dry_run" doc:"only say what would change"`
}

// Set is the answer of set and forget.
type Set struct {
	Changed bool   `json:"changed" doc:"whether anything was changed, or would be"`
	Name    string `json:"name" doc:"the parameter"`
	Old     string `json:"old,omitempty" doc:"its value before"`
	Value   string `json:"value,omitempty" doc:"its value now, as the kernel says it, or the one it would be set to"`
	Diff    string `json:"diff,omitempty" doc:"what changes in the file of values that last"`
}

func (k kernel) set(_ context.Context, _ *module.Env, in setIn) (Set, error) {
	if strings.ContainsAny(in.Value, "\x00\n\r") {
		return Set{}, call.Errorf(call.Invalid, "field value: wants one line without zero bytes")
	}
	file, shown, err := file(in.Name)
	if err != nil {
		return Set{}, err
	}
	root, err := os.OpenRoot(k.proc)
	if err != nil {
		return Set{}, err
	}
	defer root.Close()
	old, err := read(root, file)
	if err != nil && !errors.Is(err, fs.ErrPermission) { // some can only be written
		return Set{}, fault(shown, err)
	}
	out := Set{Name: shown, Old: old, Value: in.Value}
	out.Changed = err != nil || !slices.Equal(strings.Fields(old), strings.Fields(in.Value))
	if out.Changed && !in.DryRun {
		if err := write(root, file, in.Value); err != nil {
			return Set{}, fault(shown, err)
		}
	}
	if !in.DryRun {
		if out.Value, err = read(root, file); err != nil {
			out.Value = in.Value
		}
	}
	if in.Persist {
		var kept bool
		if kept, out.Diff, err = k.keep(file, &in.Value, in.DryRun); err != nil {
			return out, err
		}
		out.Changed = out.Changed || kept
	}
	return out, nil
}

// write sets a value with one system call, as the kernel wants it.
func write(root *os.Root, file, value string) error {
	f, err := root.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

type forgetIn struct {
	Name   string `json:"name" doc:"its name" required:"true" min:"1" max:"512"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

func (k kernel) forget(_ context.Context, _ *module.Env, in forgetIn) (Set, error) {
	file, shown, err := file(in.Name)
	if err != nil {
		return Set{}, err
	}
	out := Set{Name: shown}
	out.Changed, out.Diff, err = k.keep(file, nil, in.DryRun)
	return out, err
}

// keep puts a line into the file of values that last, or takes it out. The
// file is made when it is missing, and its directory is not.
func (k kernel) keep(name string, value *string, dry bool) (changed bool, diff string, err error) {
	old, err := place.ReadFile(k.kept, maxKept)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, "", err
	}
	content := edit(old, name, value)
	if bytes.Equal(old, content) {
		return false, "", nil
	}
	diff, _ = textdiff.Unified(k.kept, old, content)
	if dry {
		return true, diff, nil
	}
	if err := place.WriteFile(k.kept, content, place.As{}); err != nil {
		return false, "", fmt.Errorf("keep the value of %s: %w", show(name), err)
	}
	return true, diff, nil
}

const head = "# Values that were set with dominion's sysctl.set and shall last.\n"

// edit gives the file with that value in place of every other of the
// parameter, at the end if it had none; nil takes it out.
func edit(old []byte, name string, value *string) []byte {
	var out []byte
	if len(old) == 0 && value != nil {
		out = append(out, head...)
	}
	line := ""
	if value != nil {
		line = name + " = " + *value + "\n"
		if !strings.Contains(name, ".") {
			line = strings.ReplaceAll(name, "/", ".") + " = " + *value + "\n"
		}
	}
	for l := range bytes.Lines(old) {
		key, _, isValue := strings.Cut(strings.TrimSpace(string(l)), "=")
		key = strings.TrimPrefix(strings.TrimSpace(key), "-") // an error there is no error
		if f, _, err := file(key); !isValue || err != nil || f != name {
			out = append(out, l...)
			continue
		}
		out = append(out, line...)
		line = ""
	}
	if n := len(out); line != "" && n > 0 && out[n-1] != '\n' {
		out = append(out, '\n')
	}
	return append(out, line...)
}

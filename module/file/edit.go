package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"dominion/call"
	"dominion/module"
	"dominion/module/place"
	"dominion/module/textdiff"
)

// Result is the answer of methods that change what a file has.
type Result struct {
	Changed bool   `json:"changed" doc:"whether anything was changed, or would be"`
	Created bool   `json:"created,omitempty" doc:"there was no such file"`
	Size    int64  `json:"size" doc:"bytes that the file has now, or would have"`
	SHA256  string `json:"sha256,omitempty" doc:"digest of its content then, in hexadecimal; left out by append with in_place"`
	Diff    string `json:"diff,omitempty" doc:"what changes in a text of at most 4 MiB, in the unified format; with dry_run or diff only"`
	DiffCut uint64 `json:"diff_cut,omitempty" doc:"bytes of it that were left out"`
}

// Show is the input of methods that can show what they change.
type Show struct {
	Diff bool `json:"diff" doc:"show what changes, as dry_run does"`
	Plan
}

// edit is a file about to be replaced.
type edit struct {
	place *place.Place
	old   *os.File    // nil: there is none
	info  fs.FileInfo // of old
}

// begin opens what is to be replaced. The caller closes the edit.
func begin(path string) (*edit, error) {
	p, err := place.Follow(path)
	if err != nil {
		return nil, err
	}
	e := &edit{place: p}
	e.old, e.info, err = p.File(os.O_RDONLY)
	if err != nil && !missing(err) {
		p.Close()
		return nil, err
	}
	return e, nil
}

func (e *edit) close() {
	if e.old != nil {
		e.old.Close()
	}
	e.place.Close()
}

// text reads the old content; nil when there is none. A file of more than
// maxText bytes is an error that wraps errLarge.
func (e *edit) text(ctx context.Context) ([]byte, error) {
	if e.old == nil {
		return nil, nil
	}
	if e.info.Size() > maxText {
		return nil, fmt.Errorf("read %s: %w", e.place.Path(), errLarge)
	}
	if _, err := e.old.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	r := reading(ctx, e.old)
	defer r.stop()
	b, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err == nil && len(b) > maxText {
		err = errLarge
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", e.place.Path(), err)
	}
	return b, nil
}

var errLarge = errors.New("more than 4 MiB, which is too large to be edited")

// replace puts content in place of what there is, unless that is it already.
func (e *edit) replace(ctx context.Context, content []byte, d dress, fresh bool, show Show) (Result, error) {
	sum := sha256.Sum256(content)
	out := Result{Created: e.old == nil, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
	old, err := e.text(ctx)
	large := errors.Is(err, errLarge)
	if err != nil && !large {
		return Result{}, err
	}
	other := large || !bytes.Equal(old, content)
	out.Changed = out.Created || other || d.differs(e.info)
	if (show.Diff || show.DryRun) && other && !large {
		out.Diff, out.DiffCut = textdiff.Unified(e.place.Path(), old, content)
	}
	if !out.Changed || show.DryRun {
		return out, nil
	}
	return out, e.commit(d, fresh, func(to io.Writer) error {
		_, err := to.Write(content)
		return err
	})
}

// commit writes the new file.
func (e *edit) commit(d dress, fresh bool, fill func(to io.Writer) error) error {
	draft, err := e.place.Create()
	if err != nil {
		return err
	}
	defer draft.Discard()
	if err := fill(draft.File); err != nil {
		return fmt.Errorf("write %s: %w", e.place.Path(), err)
	}
	return draft.Commit(place.As{Mode: d.mode, UID: d.uid, GID: d.gid, New: fresh})
}

type writeIn struct {
	Path    string       `json:"path" doc:"absolute path of the file" required:"true" max:"4095"`
	Content module.Bytes `json:"content" doc:"what the file shall have" required:"true" secret:"true"`
	Access
	New    bool   `json:"new" doc:"only write a file that does not exist yet"`
	SHA256 string `json:"sha256" doc:"only replace a file with this digest, in hexadecimal" pattern:"([0-9a-f]{64})?"`
	Show
}

func write(ctx context.Context, env *module.Env, in writeIn) (Result, error) {
	d, err := in.Access.look(ctx, env)
	if err != nil {
		return Result{}, err
	}
	e, err := begin(in.Path)
	if err != nil {
		return Result{}, err
	}
	defer e.close()
	if in.New && e.old != nil {
		return Result{}, call.Errorf(call.Conflict, "%s exists", e.place.Path())
	}
	if err := e.expect(ctx, in.SHA256); err != nil {
		return Result{}, err
	}
	return e.replace(ctx, in.Content, d, in.New, in.Show)
}

// expect holds the present content against the digest that somebody saw.
func (e *edit) expect(ctx context.Context, digest string) error {
	if digest == "" {
		return nil
	}
	if e.old == nil {
		return call.Errorf(call.Conflict, "%s does not exist, and should have the digest %s", e.place.Path(), digest)
	}
	h := sha256.New()
	r := reading(ctx, e.old)
	defer r.stop()
	if _, err := io.Copy(h, r); err != nil {
		return fmt.Errorf("read %s: %w", e.place.Path(), err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digest {
		return call.Errorf(call.Conflict, "%s has the digest %s; want %s", e.place.Path(), got, digest)
	}
	return nil
}

type appendIn struct {
	Path    string       `json:"path" doc:"absolute path of the file" required:"true" max:"4095"`
	Content module.Bytes `json:"content" doc:"what is added" required:"true" secret:"true"`
	Once    bool         `json:"once" doc:"add whole lines, and nothing when the file has them already, one after the other"`
	InPlace bool         `json:"in_place" doc:"write to the file itself, which a program may hold open, not to a copy that takes its place; a reader can see the addition in parts, and who loses power too"`
	Show
}

func appendTo(ctx context.Context, _ *module.Env, in appendIn) (Result, error) {
	if in.InPlace && in.Once {
		return Result{}, call.Errorf(call.Invalid, "fields once and in_place: only one of them")
	}
	e, err := begin(in.Path)
	if err != nil {
		return Result{}, err
	}
	defer e.close()
	switch {
	case in.InPlace:
		return e.inPlace(in)
	case !in.Once && e.info != nil && e.info.Size() > maxText:
		return e.copyAndAdd(ctx, in)
	}
	old, err := e.text(ctx)
	if err != nil {
		return Result{}, err
	}
	content := slices.Concat(old, in.Content)
	if in.Once {
		content = withLines(old, in.Content)
	}
	return e.replace(ctx, content, dress{}, false, in.Show)
}

// withLines gives old when it has the lines, and otherwise both.
func withLines(old, lines []byte) []byte {
	end := func(b []byte) []byte {
		if len(b) == 0 || b[len(b)-1] == '\n' {
			return b
		}
		return append(slices.Clip(b), '\n')
	}
	lines = end(lines)
	all := end(old)
	if bytes.HasPrefix(all, lines) || bytes.Contains(all, append([]byte{'\n'}, lines...)) {
		return old
	}
	return slices.Concat(all, lines)
}

// copyAndAdd is for files that are not held in memory.
func (e *edit) copyAndAdd(ctx context.Context, in appendIn) (Result, error) {
	if e.info.Size() > maxCopy {
		return Result{}, call.Errorf(call.Failed, "%s has %d bytes; more than %d are only added to with in_place", e.place.Path(), e.info.Size(), maxCopy)
	}
	out := Result{Changed: len(in.Content) > 0}
	h := sha256.New()
	fill := func(to io.Writer) error {
		r := reading(ctx, e.old)
		defer r.stop()
		n, err := io.Copy(io.MultiWriter(to, h), io.LimitReader(r, maxCopy))
		if err != nil {
			return err
		}
		h.Write(in.Content)
		out.Size = n + int64(len(in.Content))
		_, err = to.Write(in.Content)
		return err
	}
	var err error
	if out.Changed && !in.DryRun {
		err = e.commit(dress{}, false, fill)
	} else {
		err = fill(io.Discard)
	}
	if err != nil {
		return Result{}, err
	}
	out.SHA256 = hex.EncodeToString(h.Sum(nil))
	return out, nil
}

// inPlace adds with one system call at the end of the file as it is then.
func (e *edit) inPlace(in appendIn) (Result, error) {
	if e.old == nil {
		return Result{}, call.Errorf(call.Failed, "%s does not exist; in_place is for files that do", e.place.Path())
	}
	if err := sole(e.place, e.info); err != nil {
		return Result{}, err
	}
	out := Result{Changed: len(in.Content) > 0, Size: e.info.Size() + int64(len(in.Content))}
	if in.DryRun || !out.Changed {
		return out, nil
	}
	f, info, err := e.place.File(os.O_WRONLY | os.O_APPEND)
	if err != nil {
		return Result{}, err
	}
	defer f.Close()
	if err := sole(e.place, info); err != nil {
		return Result{}, err
	}
	n, err := f.Write(in.Content)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return Result{}, fmt.Errorf("add to %s: %d of %d bytes written: %w", e.place.Path(), n, len(in.Content), err)
	}
	if info, err = f.Stat(); err == nil {
		out.Size = info.Size()
	}
	return out, nil
}

package user

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"dominion/call"
	"dominion/module"
	"dominion/module/account"
	"dominion/module/place"
)

const (
	maxKeysFile = 1 << 20 // bytes of authorized_keys
	maxKeys     = 1000    // in one answer
)

// writing is held by who changes keys, so that of two calls at once neither
// loses what the other wrote.
var writing = make(chan struct{}, 1)

// Keys is the answer of keys.
type Keys struct {
	Name string `json:"name" doc:"the account"`
	File string `json:"file" doc:"the file of its keys"`
	Keys []Key  `json:"keys" doc:"the keys, in the order of the file; 1000 at most"`
	Cut  int    `json:"cut,omitempty" doc:"keys that were left out"`
}

// Key is a key that opens an account.
type Key struct {
	Type        string `json:"type" doc:"its kind, such as ssh-ed25519"`
	Fingerprint string `json:"fingerprint" doc:"SHA256:… as ssh-keygen -l shows it"`
	Comment     string `json:"comment,omitempty" doc:"its comment"`
	Options     string `json:"options,omitempty" doc:"what it may be used for"`
}

// KeyIn is the input of key_add.
type KeyIn struct {
	Which
	Key    string `json:"key" doc:"the key as a line of authorized_keys: options if any, type, base64 and a comment" required:"true" max:"32768"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

// KeyRemoveIn is the input of key_remove.
type KeyRemoveIn struct {
	Which
	Key    string `json:"key" doc:"the key, as for key_add, or its fingerprint, SHA256:…" required:"true" max:"32768"`
	DryRun bool   `json:"dry_run" doc:"only say what would change"`
}

// KeyChanged is the answer of key_add and key_remove.
type KeyChanged struct {
	Name        string `json:"name" doc:"the account"`
	Changed     bool   `json:"changed" doc:"whether anything was done, or would be"`
	Fingerprint string `json:"fingerprint" doc:"of the key"`
	Keys        int    `json:"keys" doc:"keys that open the account afterwards"`
}

func (m machine) keys(_ context.Context, _ *module.Env, in Which) (Keys, error) {
	u, err := m.NeedUser(in.Name)
	if err != nil {
		return Keys{}, err
	}
	lines, file, err := m.readKeys(u)
	if err != nil {
		return Keys{}, fmt.Errorf("keys of %s: %w", u.Name, err)
	}
	out := Keys{Name: u.Name, File: file, Keys: []Key{}}
	size := 0
	for _, l := range lines {
		k, err := parseKey(l)
		if err != nil {
			continue
		}
		size += 6 * (len(k.comment) + len(k.options)) // at most, as JSON
		if len(out.Keys) == maxKeys || size > module.MaxOutput/2 {
			out.Cut++
			continue
		}
		out.Keys = append(out.Keys, Key{Type: k.kind, Fingerprint: k.fingerprint(), Comment: valid(k.comment), Options: valid(k.options)})
	}
	return out, nil
}

func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func (m machine) keyAdd(ctx context.Context, _ *module.Env, in KeyIn) (KeyChanged, error) {
	k, err := parseKey(in.Key)
	if err != nil {
		return KeyChanged{}, call.Errorf(call.Invalid, "field \"key\": %v", err)
	}
	return m.changeKeys(ctx, in.Name, k.fingerprint(), in.DryRun, func(lines []string) []string {
		// One line for each key, in its place: when it comes again with other
		// options, those count and not the old ones.
		var after []string
		found := false
		for _, l := range lines {
			old, err := parseKey(l)
			switch {
			case err != nil || old.blob != k.blob:
				after = append(after, l)
			case !found && old == k:
				after, found = append(after, l), true
			case !found:
				after, found = append(after, k.String()), true
			}
		}
		if found {
			return after
		}
		return append(after, k.String())
	})
}

func (m machine) keyRemove(ctx context.Context, _ *module.Env, in KeyRemoveIn) (KeyChanged, error) {
	print := in.Key
	if !strings.HasPrefix(print, "SHA256:") {
		k, err := parseKey(in.Key)
		if err != nil {
			return KeyChanged{}, call.Errorf(call.Invalid, "field \"key\": %v, and no fingerprint", err)
		}
		print = k.fingerprint()
	}
	return m.changeKeys(ctx, in.Name, print, in.DryRun, func(lines []string) []string {
		return slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
			k, err := parseKey(l)
			return err == nil && k.fingerprint() == print
		})
	})
}

// changeKeys replaces the lines of a user's file by what change makes of them.
func (m machine) changeKeys(ctx context.Context, name, print string, dry bool, change func([]string) []string) (KeyChanged, error) {
	u, err := m.NeedUser(name)
	if err != nil {
		return KeyChanged{}, err
	}
	select {
	case writing <- struct{}{}:
		defer func() { <-writing }()
	case <-ctx.Done():
		return KeyChanged{}, context.Cause(ctx)
	}
	before, _, err := m.readKeys(u)
	if err != nil {
		return KeyChanged{}, fmt.Errorf("keys of %s: %w", u.Name, err)
	}
	after := change(before)
	out := KeyChanged{Name: u.Name, Fingerprint: print, Changed: !slices.Equal(before, after)}
	for _, l := range after {
		if _, err := parseKey(l); err == nil {
			out.Keys++
		}
	}
	if out.Changed && !dry {
		if err := m.writeKeys(u, after); err != nil {
			out.Changed = false
			return out, fmt.Errorf("keys of %s: %w", u.Name, err)
		}
	}
	return out, nil
}

// ssh is the directory of a user's keys.
func (m machine) ssh(u account.User) string {
	return filepath.Join("/", m.Root, u.Home, ".ssh")
}

// readKeys gives the lines of a user's file; none when it is not there.
func (m machine) readKeys(u account.User) (lines []string, file string, err error) {
	file = filepath.Join(m.ssh(u), "authorized_keys")
	if !filepath.IsAbs(u.Home) || u.Home == "/" && u.UID != 0 {
		return nil, file, call.Errorf(call.Failed, "%q is no home of its own", u.Home)
	}
	p, err := place.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, file, nil
	}
	if err != nil {
		return nil, file, err
	}
	defer p.Close()
	f, info, err := p.File(os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, file, nil
	}
	if err != nil {
		return nil, file, err
	}
	defer f.Close()
	if uid, ok := owner(info); !ok || uid != u.UID && uid != 0 {
		return nil, file, call.Errorf(call.Failed, "%s belongs to user number %d", file, uid)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeysFile+1))
	if err != nil {
		return nil, file, err
	}
	if len(b) > maxKeysFile {
		return nil, file, call.Errorf(call.Failed, "%s has more than %d bytes", file, maxKeysFile)
	}
	text := strings.TrimSuffix(string(b), "\n")
	if text == "" {
		return nil, file, nil
	}
	return strings.Split(text, "\n"), file, nil
}

func owner(info fs.FileInfo) (uint32, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

// writeKeys replaces a user's file as a whole, and makes its directory first
// when that is not there.
func (m machine) writeKeys(u account.User, lines []string) error {
	if err := m.makeSSH(u); err != nil {
		return err
	}
	p, err := place.Open(filepath.Join(m.ssh(u), "authorized_keys"))
	if err != nil {
		return err
	}
	defer p.Close()
	info, err := p.Dir.Stat(".")
	if err != nil {
		return err
	}
	if uid, ok := owner(info); !ok || uid != u.UID && uid != 0 {
		return call.Errorf(call.Failed, "%s belongs to user number %d", m.ssh(u), uid)
	}
	d, err := p.Create()
	if err != nil {
		return err
	}
	defer d.Discard()
	for _, l := range lines {
		if _, err := d.File.WriteString(l + "\n"); err != nil {
			return err
		}
	}
	return d.Commit(place.As{Mode: new(fs.FileMode(0o600)), UID: new(int(u.UID)), GID: new(int(u.GID))})
}

// makeSSH makes ~/.ssh. Its owner is changed by the directory itself, not by
// its name: the user can put something else there meanwhile.
func (m machine) makeSSH(u account.User) error {
	p, err := place.Open(m.ssh(u))
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Dir.Mkdir(p.Base, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	d, err := p.Dir.OpenFile(p.Base, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	if names, err := d.Readdirnames(1); len(names) > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is not what was made there", m.ssh(u))
	}
	return d.Chown(int(u.UID), int(u.GID))
}

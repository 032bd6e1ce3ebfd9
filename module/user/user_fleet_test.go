//go:build fleet

package user

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dominion/module"
	"dominion/module/account/accounttest"
)

const hash = "$6$abcdefgh$01234567890123456789012345678901234567890123456789012345678901234567890123456789abcdef"

// does calls a method of a table like Module's on the machine.
func does(t *testing.T, m machine) func(name string, in any) (string, error) {
	t.Helper()
	table := map[string]module.Method{}
	for _, x := range []module.Method{
		module.Func("list", "x", module.Read, m.list, module.MethodOptions{}),
		module.Func("add", "x", module.Change, m.add, module.MethodOptions{}),
		module.Func("remove", "x", module.Destroy, m.remove, module.MethodOptions{}),
		module.Func("lock", "x", module.Change, m.lock, module.MethodOptions{}),
		module.Func("unlock", "x", module.Change, m.unlock, module.MethodOptions{}),
		module.Func("password", "x", module.Change, m.password, module.MethodOptions{}),
		module.Func("keys", "x", module.Read, m.keys, module.MethodOptions{}),
		module.Func("key_add", "x", module.Change, m.keyAdd, module.MethodOptions{}),
		module.Func("key_remove", "x", module.Change, m.keyRemove, module.MethodOptions{}),
	} {
		table[x.Name()] = x
	}
	return func(name string, in any) (string, error) {
		t.Helper()
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		out, err := table[name].Run(t.Context(), nil, b)
		return string(out), err
	}
}

type args map[string]any

func TestFleetUser(t *testing.T) {
	root := accounttest.Root(t)
	do := does(t, machine{Machine: root})
	const alice = "alice:x:1000:1000:"
	for _, test := range []struct {
		name, method string
		args         args
		want         string // the answer, or a part of it
		err          string // its beginning; empty: none
		file, line   string // afterwards this file has a line that begins so; with "!" it has none
	}{
		{"none", "list", args{"people": true}, `{"users":[]}`, "", "", ""},
		{"dry add", "add", args{"name": "alice", "dry_run": true}, `{"name":"alice","changed":true}`, "", "etc/passwd", "!alice:"},
		{"dry add with number", "add", args{"name": "alice", "uid": 0, "dry_run": true}, "", "failed: number 0 is that of user root", "", ""},
		{"dry add to no group", "add", args{"name": "alice", "groups": []string{"nosuch"}, "dry_run": true}, "", `failed: there is no group "nosuch"`, "", ""},
		{"add", "add", args{"name": "alice", "comment": "Alice A", "shell": "/bin/sh", "groups": []string{"staff"}, "hash": hash}, `{"name":"alice","changed":true,"uid":1000}`, "", "etc/passwd", alice + "Alice A:/home/alice:/bin/sh"},
		{"home", "add", args{"name": "alice"}, `"changed":false`, "", "etc/shadow", "alice:" + hash + ":"},
		{"again", "add", args{"name": "alice", "comment": "Alice A", "shell": "/bin/sh", "groups": []string{"staff"}}, `{"name":"alice","changed":false,"uid":1000}`, "", "etc/group", "staff:x:50:alice"},
		{"another shell", "add", args{"name": "alice", "shell": "/bin/zsh"}, "", "failed: user alice is there with another shell: /bin/sh", "", ""},
		{"another number", "add", args{"name": "alice", "uid": 1234}, "", "failed: user alice is there with another number: 1000", "", ""},
		{"another group", "add", args{"name": "alice", "groups": []string{"tape"}}, "", "failed: user alice is there and not a member of tape", "", ""},
		{"bad name", "add", args{"name": "-x"}, "", "invalid: ", "", ""},
		{"bad comment", "add", args{"name": "x", "comment": "a:b"}, "", "invalid: ", "", ""},
		{"bad hash", "add", args{"name": "x", "hash": "plain"}, "", `invalid: add: field "hash": got a secret value`, "", ""},
		{"system", "add", args{"name": "daemon7", "system": true, "home": "/var/lib/d7", "shell": "/usr/sbin/nologin"}, `"changed":true`, "", "etc/passwd", "daemon7:"},
		{"list", "list", args{"people": true}, `"name":"alice","uid":1000,"gid":1000,"group":"alice","groups":["staff"],"comment":"Alice A","home":"/home/alice","shell":"/bin/sh","password":"set","locked":false`, "", "", ""},
		{"dry lock", "lock", args{"name": "alice", "dry_run": true}, `"changed":true`, "", "etc/shadow", "alice:" + hash + ":"},
		{"lock", "lock", args{"name": "alice"}, `"changed":true`, "", "etc/shadow", "alice:!" + hash + ":"},
		{"lock again", "lock", args{"name": "alice"}, `"changed":false`, "", "etc/shadow", "alice:!" + hash + ":"},
		{"lock the account too", "lock", args{"name": "alice", "account": true}, `"changed":true`, "", "", ""},
		{"and again", "lock", args{"name": "alice", "account": true}, `"changed":false`, "", "", ""},
		{"is locked", "list", args{"pattern": "ali*"}, `"locked":true,"expires":"1970-01-02T00:00:00Z"`, "", "", ""},
		{"unlock", "unlock", args{"name": "alice", "account": true}, `"changed":true`, "", "etc/shadow", "alice:" + hash + ":"},
		{"unlock again", "unlock", args{"name": "alice", "account": true}, `"changed":false`, "", "", ""},
		{"unlock without a password", "unlock", args{"name": "daemon7"}, "", "failed: user daemon7 has no password", "", ""},
		{"same password", "password", args{"name": "alice", "hash": hash}, `"changed":false`, "", "", ""},
		{"dry password", "password", args{"name": "alice", "hash": hash + "x", "dry_run": true}, `"changed":true`, "", "etc/shadow", "alice:" + hash + ":"},
		{"password", "password", args{"name": "alice", "hash": hash + "x"}, `"changed":true`, "", "etc/shadow", "alice:" + hash + "x:"},
		{"password of nobody", "password", args{"name": "bob", "hash": hash}, "", `failed: there is no user "bob"`, "", ""},
		{"dry remove", "remove", args{"name": "alice", "home": true, "dry_run": true}, `"changed":true`, "", "etc/passwd", alice},
		{"root stays", "remove", args{"name": "root"}, "", "failed: user root has number 0", "etc/passwd", "root:"},
		{"remove", "remove", args{"name": "daemon7"}, `"changed":true`, "", "etc/passwd", "!daemon7:"},
		{"remove again", "remove", args{"name": "daemon7"}, `{"name":"daemon7","changed":false}`, "", "", ""},
	} {
		got, err := do(test.method, test.args)
		if !strings.Contains(got, test.want) {
			t.Errorf("%s: %s; want %s", test.name, got, test.want)
		}
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
			t.Errorf("%s: error %v; want %q", test.name, err, test.err)
		}
		if test.file == "" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root.Root, test.file))
		line, none := strings.CutPrefix(test.line, "!")
		if err != nil || strings.Contains("\n"+string(text), "\n"+line) == none {
			t.Errorf("%s: %s is, %v\n%s\nwant %s", test.name, test.file, err, text, test.line)
		}
	}
	home := filepath.Join(root.Root, "home/alice")
	if info, err := os.Stat(home); err != nil || info.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("the home: %v, %v", info, err)
	}
	keysOf(t, do, home)
	if _, err := do("remove", args{"name": "alice", "home": true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(home); err == nil {
		t.Error("the home is still there")
	}
}

// newKey has ssh-keygen make one, and tells what it says about it.
func newKey(t *testing.T, comment string) (line, fingerprint string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", file).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED %s: ssh-keygen (Debian: openssh-client): %v %s", t.Name(), err, out)
	}
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh-keygen", "-l", "-f", file+".pub").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b)), strings.Fields(string(out))[1]
}

func keysOf(t *testing.T, do func(string, any) (string, error), home string) {
	t.Helper()
	one, print1 := newKey(t, "one at home")
	two, print2 := newKey(t, "two")
	file := filepath.Join(home, ".ssh/authorized_keys")
	for _, test := range []struct {
		name, method string
		args         args
		want, text   string
	}{
		{"none", "keys", args{"name": "alice"}, `"keys":[]`, "-"},
		{"dry", "key_add", args{"name": "alice", "key": one, "dry_run": true}, fmt.Sprintf(`{"name":"alice","changed":true,"fingerprint":"%s","keys":1}`, print1), "-"},
		{"first", "key_add", args{"name": "alice", "key": one}, `"changed":true`, one + "\n"},
		{"again", "key_add", args{"name": "alice", "key": one}, `"changed":false`, one + "\n"},
		{"second", "key_add", args{"name": "alice", "key": two}, `"keys":2`, one + "\n" + two + "\n"},
		{"options", "key_add", args{"name": "alice", "key": `command="echo \"a b\"",no-pty ` + one}, `"changed":true`, `command="echo \"a b\"",no-pty ` + one + "\n" + two + "\n"},
		{"list", "keys", args{"name": "alice"}, fmt.Sprintf(`{"type":"ssh-ed25519","fingerprint":"%s","comment":"one at home","options":"command=\"echo \\\"a b\\\"\",no-pty"},{"type":"ssh-ed25519","fingerprint":"%s","comment":"two"}`, print1, print2), ""},
		{"dry remove", "key_remove", args{"name": "alice", "key": print1, "dry_run": true}, `"keys":1`, ""},
		{"remove by print", "key_remove", args{"name": "alice", "key": print1}, `"changed":true`, two + "\n"},
		{"remove again", "key_remove", args{"name": "alice", "key": print1}, `"changed":false`, two + "\n"},
		{"remove by key", "key_remove", args{"name": "alice", "key": two}, `"changed":true`, ""},
	} {
		got, err := do(test.method, test.args)
		if err != nil || !strings.Contains(got, test.want) {
			t.Errorf("%s: %s, %v; want %s", test.name, got, err, test.want)
		}
		text, err := os.ReadFile(file)
		if test.text == "-" && err == nil || test.text != "-" && test.text != "" && string(text) != test.text {
			t.Errorf("%s: the file has %q, %v; want %q", test.name, text, err, test.text)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("the file: %v, %v; want it to be alice's alone", info, err)
	}
	evil(t, do, home, one)
}

// evil: nothing that the user puts in place of his files leads elsewhere.
func evil(t *testing.T, do func(string, any) (string, error), home, key string) {
	t.Helper()
	outside := t.TempDir()
	secret := filepath.Join(outside, "authorized_keys")
	if err := os.WriteFile(secret, []byte("secret "+key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ssh := filepath.Join(home, ".ssh")
	for _, test := range []struct {
		name string
		make func() error
	}{
		{"the directory is a link", func() error { return os.Symlink(outside, ssh) }},
		{"the file is a link", func() error {
			return firstErr(os.Mkdir(ssh, 0o700), os.Chown(ssh, 1000, 1000), os.Symlink(secret, ssh+"/authorized_keys"))
		}},
		{"the file is root's by another name", func() error {
			return firstErr(os.Mkdir(ssh, 0o700), os.WriteFile(ssh+"/authorized_keys", nil, 0o600), os.Chown(ssh+"/authorized_keys", 77, 77))
		}},
		{"the file is a FIFO", func() error {
			return firstErr(os.Mkdir(ssh, 0o700), syscall.Mkfifo(ssh+"/authorized_keys", 0o600))
		}},
		{"the file is a directory", func() error { return os.MkdirAll(ssh+"/authorized_keys", 0o700) }},
		{"the directory is a file", func() error { return os.WriteFile(ssh, nil, 0o600) }},
		{"the file is too large", func() error {
			return firstErr(os.Mkdir(ssh, 0o700), os.WriteFile(ssh+"/authorized_keys", nil, 0o600), os.Truncate(ssh+"/authorized_keys", maxKeysFile+1))
		}},
	} {
		if err := firstErr(os.RemoveAll(ssh), test.make()); err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"key_add", "key_remove", "keys"} {
			if got, err := do(method, args{"name": "alice", "key": key}); method != "keys" && err == nil {
				t.Errorf("%s: %s gives %s; want a refusal", test.name, method, got)
			}
		}
		if b, err := os.ReadFile(secret); err != nil || !strings.HasPrefix(string(b), "secret ") {
			t.Errorf("%s: outside is %q, %v", test.name, b, err)
		}
		if names, _ := filepath.Glob(outside + "/*"); len(names) != 1 {
			t.Errorf("%s: outside has %q", test.name, names)
		}
	}
	_ = os.RemoveAll(ssh)
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

//go:build fleet

package group

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dominion/module"
	"dominion/module/account/accounttest"
)

type args map[string]any

func TestFleetGroup(t *testing.T) {
	root := accounttest.Root(t)
	m := machine{Machine: root}
	table := map[string]module.Method{}
	for _, x := range []module.Method{
		module.Func("list", "x", module.Read, m.list, module.MethodOptions{}),
		module.Func("add", "x", module.Change, m.add, module.MethodOptions{}),
		module.Func("remove", "x", module.Destroy, m.remove, module.MethodOptions{}),
		module.Func("join", "x", module.Change, m.join, module.MethodOptions{}),
		module.Func("leave", "x", module.Change, m.leave, module.MethodOptions{}),
	} {
		table[x.Name()] = x
	}
	for _, test := range []struct {
		name, method string
		args         args
		want         string // the answer, or a part of it
		err          string // its beginning; empty: none
		line         string // afterwards etc/group has a line that begins so; with "!" it has none
	}{
		{"dry add", "add", args{"name": "web", "dry_run": true}, `{"name":"web","changed":true}`, "", "!web:"},
		{"dry add with number", "add", args{"name": "web", "gid": 2000, "dry_run": true}, `{"name":"web","changed":true,"gid":2000}`, "", "!web:"},
		{"number taken", "add", args{"name": "web", "gid": 26}, "", "failed: number 26 is that of group tape", "!web:"},
		{"bad name", "add", args{"name": "a:b"}, "", "invalid: ", ""},
		{"add", "add", args{"name": "web"}, `{"name":"web","changed":true,"gid":1000}`, "", "web:x:1000:"},
		{"again", "add", args{"name": "web"}, `{"name":"web","changed":false,"gid":1000}`, "", ""},
		{"another number", "add", args{"name": "web", "gid": 7}, "", "failed: group web is there and has number 1000", ""},
		{"with number", "add", args{"name": "db", "gid": 4000}, `"gid":4000`, "", "db:x:4000:"},
		{"system", "add", args{"name": "sys", "system": true}, `"changed":true`, "", "sys:x:9"},
		{"join nobody", "join", args{"name": "web", "users": []string{"nosuch"}}, "", `failed: there is no user "nosuch"`, "web:x:1000:\n"},
		{"join nothing", "join", args{"name": "nosuch", "users": []string{"root"}}, "", `failed: there is no group "nosuch"`, ""},
		{"dry join", "join", args{"name": "web", "users": []string{"root"}, "dry_run": true}, `"changed":true,"gid":1000,"users":["root"]`, "", "web:x:1000:\n"},
		{"join", "join", args{"name": "web", "users": []string{"root", "daemon", "root"}}, `"changed":true,"gid":1000,"users":["root","daemon"]`, "", "web:x:1000:root,daemon\n"},
		{"join again", "join", args{"name": "web", "users": []string{"daemon"}}, `{"name":"web","changed":false,"gid":1000}`, "", "web:x:1000:root,daemon\n"},
		{"list", "list", args{"pattern": "[wd]*"}, `{"groups":[{"name":"daemon","gid":1,"primary":["daemon"]},{"name":"web","gid":1000,"members":["root","daemon"]},{"name":"db","gid":4000}]}`, "", ""},
		{"bad pattern", "list", args{"pattern": "["}, "", "invalid: pattern", ""},
		{"leave", "leave", args{"name": "web", "users": []string{"root", "nosuch"}}, `"changed":true,"gid":1000,"users":["root"]`, "", "web:x:1000:daemon\n"},
		{"leave again", "leave", args{"name": "web", "users": []string{"root"}}, `"changed":false`, "", ""},
		{"primary", "remove", args{"name": "daemon"}, "", "failed: group daemon is the primary group of user daemon", "daemon:"},
		{"dry remove", "remove", args{"name": "web", "dry_run": true}, `"changed":true`, "", "web:"},
		{"remove", "remove", args{"name": "web"}, `"changed":true`, "", "!web:"},
		{"remove again", "remove", args{"name": "web"}, `{"name":"web","changed":false}`, "", ""},
	} {
		b, _ := json.Marshal(test.args)
		got, err := table[test.method].Run(t.Context(), nil, b)
		if !strings.Contains(string(got), test.want) {
			t.Errorf("%s: %s; want %s", test.name, got, test.want)
		}
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)) {
			t.Errorf("%s: error %v; want %q", test.name, err, test.err)
		}
		text, err := os.ReadFile(filepath.Join(root.Root, "etc/group"))
		line, none := strings.CutPrefix(test.line, "!")
		if test.line != "" && (err != nil || strings.Contains("\n"+string(text), "\n"+line) == none) {
			t.Errorf("%s: etc/group is, %v\n%s\nwant %s", test.name, err, text, test.line)
		}
	}
}

package account

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	users := parseUsers("root:x:0:0:root:/root:/bin/sh\n# a:x:1:1:::\n+nis::0:0:::\nshort:x:1:1::\nbad:x:-1:1:::\nhuge:x:4294967296:1:::\n:x:1:1:::\nlast:x:7:8:L A,,,:/home/last:")
	want := []User{{Name: "root", Comment: "root", Home: "/root", Shell: "/bin/sh"}, {Name: "last", UID: 7, GID: 8, Comment: "L A,,,", Home: "/home/last"}}
	if d := cmp.Diff(want, users); d != "" {
		t.Errorf("users (-want +got):\n%s", d)
	}
	groups := parseGroups("a:x:1:\nb:x:2:u,v,\nc:x:x:\n-d:x:3:\n")
	if d := cmp.Diff([]Group{{Name: "a", GID: 1}, {Name: "b", GID: 2, Members: []string{"u", "v"}}}, groups); d != "" {
		t.Errorf("groups (-want +got):\n%s", d)
	}
	secrets := parseSecrets("a:$6$x$y:1:0:99999:7:::\nb:!$6$x$y:1:0:99999:7::1:\nc:!:1::::::\nd:!!:1::::::\ne:*:1::::::\nf::1::::::\ng:!*:1::::::\nh:x\n")
	wantSecrets := map[string]Secret{
		"a": {Password: "set", Hash: "$6$x$y"},
		"b": {Password: "set", Locked: true, Hash: "!$6$x$y", Expires: time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)},
		"c": {Password: "none", Locked: true, Hash: "!"},
		"d": {Password: "none", Locked: true, Hash: "!!"},
		"e": {Password: "none", Hash: "*"},
		"f": {Password: "empty"},
		"g": {Password: "none", Locked: true, Hash: "!*"},
	}
	if d := cmp.Diff(wantSecrets, secrets); d != "" {
		t.Errorf("secrets (-want +got):\n%s", d)
	}
}

// FuzzParse: nothing in the files breaks the reader.
func FuzzParse(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\nroot:x:0:a,b\nroot:!:1:0:99999:7:::\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, u := range parseUsers(text) {
			if u.Name == "" {
				t.Errorf("a user without a name in %q", text)
			}
		}
		for _, g := range parseGroups(text) {
			for _, m := range g.Members {
				if g.Name == "" || m == "" {
					t.Errorf("%+v in %q", g, text)
				}
			}
		}
		for name, s := range parseSecrets(text) {
			if name == "" || s.Password == "" {
				t.Errorf("%+v in %q", s, text)
			}
		}
	})
}

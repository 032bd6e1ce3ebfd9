package target_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"dominion/target"
)

func TestReadList(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"\n\n# nothing\n", ""},
		{"web1", "web1"},
		{"web1\nWEB2\r\nweb1\n", "web1 web2"},
		{"web1, web2 web3\tdb1,,\n", "db1 web1 web2 web3"},
		{"web[1-3] # three\nweb[08-11]", "web08 web09 web1 web10 web11 web2 web3"},
		{"web[1,3]", "web1 web3"},
		{"rack[1-2]-n[1-2]", "rack1-n1 rack1-n2 rack2-n1 rack2-n2"},
	} {
		got, err := target.ReadList(tt.text)
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("ReadList(%q) = %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{"web1\nweb*\n", "line 2"},
		{"a\nb\n@web", "line 3"},
		{"web[12]", "class of characters"},
		{"web_1", "cannot stand in a name"},
		{"web[a-c]", ""},
		{"web[1-9999999]", "more than"},
		{"web[1-1000000],db[1-1000000]", "more than"},
		{"a!b", ""},
		{"web[1", "not closed"},
	} {
		if got, err := target.ReadList(tt.text); !errors.Is(err, target.ErrSyntax) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ReadList(%q) = %d names, %v; want an error with %q", tt.text, len(got), err, tt.want)
		}
	}
}

func FuzzReadList(f *testing.F) {
	f.Add("web1, web[1-3] # x\ndb[01-20]")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := target.ReadList(s)
		if err != nil {
			if !errors.Is(err, target.ErrSyntax) {
				t.Fatalf("ReadList(%q): %v does not wrap ErrSyntax", s, err)
			}
			return
		}
		again, err := target.ReadList(target.Fold(got))
		if err != nil || !slices.Equal(got, again) {
			t.Fatalf("ReadList(%q) = %q, which folds to %q, read as %q, %v", s, got, target.Fold(got), again, err)
		}
	})
}

func TestAmong(t *testing.T) {
	for _, tt := range []struct {
		expr, among, names, unknown string
	}{
		{"*", "web1 web3 nosuch", "web1 web3", "nosuch"},
		{"web*", "web1 db1 webx", "web1", "webx"},
		{"web1", "web1 web2 nosuch", "web1", ""},
		{"@webs", "web1 web3", "web1", ""},
		{"@ghost", "notthere web1", "", "notthere"},
		{"*!web1", "web1 web2", "web2", ""},
		{"web*&*1", "web1 web2 web11", "web1", "web11"},
		{"*", "", "", ""},
		{"web1,nosuch", "web1", "web1", ""},
	} {
		e, err := target.Parse(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		res, err := e.Among(strings.Fields(tt.among)).Resolve(fleet())
		if err != nil || strings.Join(res.Names, " ") != tt.names || strings.Join(res.Unknown, " ") != tt.unknown {
			t.Errorf("%s among %s = %q, unknown %q, %v; want %q and %q", tt.expr, tt.among, res.Names, res.Unknown, err, tt.names, tt.unknown)
		}
	}
	e, err := target.Parse("web*")
	if err != nil {
		t.Fatal(err)
	}
	if a := e.Among([]string{"web2"}); !a.Matches("web2") || a.Matches("web1") || !e.Matches("web1") {
		t.Error("Among does not narrow Matches, or changes the expression")
	}
}

func TestGroupRef(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"web", "web"}, {"WEB", "web"}, {"Slurm/GPU", "slurm/GPU"}, {"a/b.c_d-e", "a/b.c_d-e"},
	} {
		if got, err := target.GroupRef(tt.in); got != tt.want || err != nil {
			t.Errorf("GroupRef(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"", "/", "a/", "/b", "a/b/c", "a/-b", "a/b c", "a/b*", "a:b", "a/b:c", "../x"} {
		if got, err := target.GroupRef(in); !errors.Is(err, target.ErrSyntax) {
			t.Errorf("GroupRef(%q) = %q, %v; want an error", in, got, err)
		}
	}
	if _, err := target.GroupName("a/b"); !errors.Is(err, target.ErrSyntax) {
		t.Error("GroupName takes the group of a source")
	}
	e, err := target.Parse("@slurm/GPU:web1* , @web!@Slurm/idle&@WEB")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(e.Groups(), " "); got != "slurm/GPU slurm/idle web" {
		t.Errorf("Groups = %q", got)
	}
}

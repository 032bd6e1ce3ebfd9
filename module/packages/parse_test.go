package packages

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/module"
)

func TestParseSimulation(t *testing.T) {
	got := parseSimulation(`NOTE: This is only a simulation!
Inst base [1.0] (1.1 Debian:12.1/stable, Debian-Security:12/stable-security [amd64])
Inst app:i386 (2.0 localhost [i386]) [x:i386 ]
Remv old [3.0-1]
Purg older:amd64 [0:3]
Conf base (1.1 Debian:12.1/stable [amd64])
Inst broken
Inst broken (
`)
	want := []step{
		{"Inst", "base", "amd64", "1.0", "1.1", "Debian:12.1/stable, Debian-Security:12/stable-security"},
		{"Inst", "app", "i386", "", "2.0", "localhost"},
		{"Remv", "old", "", "3.0-1", "", ""},
		{"Purg", "older", "", "0:3", "", ""},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(step{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestParseTable(t *testing.T) {
	got := parseTable(`Last metadata expiration check: 0:00:01 ago on Sat Nov 21 21:41:38 2026.
Dependencies resolved.
================================================================================
 Package                 Arch     Version           Repo       Size
================================================================================
Installing:
 kernel                  x86_64   1:6.1-2.el9       updates    1.2 M
 a-name-that-is-so-long-that-it-has-a-line-of-its-own
                         noarch   0:1.0-1           test       5.6 k
     replacing  old.noarch 0.9-1
Installing dependencies:
 dep                     noarch   2.0-1
                                                    test       5.4 k
Upgrading:
 up                      x86_64   3.0-1             test       5.4 k
Downgrading:
 down                    x86_64   0.3-1             test       5.4 k
Removing unused dependencies:
 gone                    noarch   1.0-1             @System      0  

Transaction Summary
================================================================================
Install  3 Packages
 trailing                noarch   1.0-1             x          1 k
`)
	want := []row{
		{Change: Change{"kernel", "x86_64", "", "1:6.1-2.el9"}},
		{Change: Change{"old", "noarch", "0.9-1", ""}},
		{Change: Change{"a-name-that-is-so-long-that-it-has-a-line-of-its-own", "noarch", "", "1.0-1"}},
		{Change: Change{"dep", "noarch", "", "2.0-1"}},
		{Change: Change{"up", "x86_64", "", "3.0-1"}, replaces: true},
		{Change: Change{"down", "x86_64", "", "0.3-1"}, replaces: true, older: true},
		{Change: Change{"gone", "noarch", "1.0-1", ""}},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(row{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestParseLists(t *testing.T) {
	dpkg := parseDpkg("ii \ta\t1.0-1\tamd64\nrc \tb\t2\tall\niHR\tc\t3\tall\niU \td\t4\tall\nun \te\t\t\nhi \tf\t5\tall\nbroken\n")
	if d := cmp.Diff([]Package{{"a", "1.0-1", "amd64"}, {"d", "4", "all"}, {"f", "5", "all"}}, dpkg); d != "" {
		t.Errorf("dpkg (-want +got):\n%s", d)
	}
	rpm := parseRPM("a\t1-1\tnoarch\ngpg-pubkey\tx-y\t(none)\nb\t2:1-1\tx86_64\nbroken\n")
	if d := cmp.Diff([]Package{{"a", "1-1", "noarch"}, {"b", "2:1-1", "x86_64"}}, rpm); d != "" {
		t.Errorf("rpm (-want +got):\n%s", d)
	}
	up := parseUpgrades("a\t0:2-1\tnoarch\tmain\n\nb\t2:2-1\tx86_64\tmain\nbroken\n", rpm)
	if d := cmp.Diff([]Update{{"a", "noarch", "1-1", "2-1", "main"}, {"b", "x86_64", "2:1-1", "2:2-1", "main"}}, up); d != "" {
		t.Errorf("upgrades (-want +got):\n%s", d)
	}
}

func TestDifference(t *testing.T) {
	got := Changed{}.with(difference(
		[]Package{{"same", "1", "all"}, {"up", "1", "all"}, {"gone", "1", "all"}, {"kernel", "1", "x"}, {"kernel", "2", "x"}, {"both", "1", "x"}, {"both", "1", "y"}},
		[]Package{{"same", "1", "all"}, {"up", "2", "all"}, {"new", "1", "all"}, {"kernel", "2", "x"}, {"kernel", "3", "x"}, {"both", "1", "x"}},
	), nil)
	want := []Change{{"both", "y", "1", ""}, {"gone", "all", "1", ""}, {"kernel", "x", "1", "3"}, {"new", "all", "", "1"}, {"up", "all", "1", "2"}}
	if d := cmp.Diff(want, got.Changes); d != "" || !got.Changed {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestParsePolicy(t *testing.T) {
	got := parsePolicy("app:\n  Installed: 2.0\n  Version table:\n *** 2.0 500\nappxy:\nlib:i386:\n")
	if d := cmp.Diff(map[string]bool{"app": true, "appxy": true, "lib": true}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// FuzzParse: whatever a manager writes, nothing breaks, and no package has an
// empty name.
func FuzzParse(f *testing.F) {
	f.Add("Inst base [1.0] (1.1 x [amd64])\nRemv a [1]\n")
	f.Add("Installing:\n a b c d e\n    f\n     replacing x.y 1\n")
	f.Add("ii \ta\tb\tc\n")
	f.Fuzz(func(t *testing.T, out string) {
		for _, s := range parseSimulation(out) {
			if s.verb == "" {
				t.Errorf("%+v", s)
			}
		}
		for _, r := range parseTable(out) {
			if r.Name == "" {
				t.Errorf("%+v", r)
			}
		}
		for _, p := range append(parseDpkg(out), parseRPM(out)...) {
			if p.Name == "" {
				t.Errorf("%+v", p)
			}
		}
		parseUpgrades(out, nil)
		parsePolicy(out)
	})
}

// apt-get takes a hyphen at the end of a word for "remove it".
func TestInstallOnlyInstalls(t *testing.T) {
	table, err := module.NewTable([]module.Module{Module})
	if err != nil {
		t.Fatal(err)
	}
	install, _ := table.Lookup("package.install")
	for name, ok := range map[string]bool{
		"tzdata": true, "g++": true, "tzdata=2025b-0+deb12u2": true, "kernel=6.1~rc1^git": true, "x=1": true, "x=1:2": true,
		"tzdata-": false, "tzdata=2025b-0+deb12u2-": false, "tzdata=-": false, "x=1--": false, "x=1:": false,
	} {
		if err := install.Validate([]byte(`{"names":["` + name + `"]}`)); (err == nil) != ok {
			t.Errorf("install %s: %v; want it taken: %v", name, err, ok)
		}
	}
}

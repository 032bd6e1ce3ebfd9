package main

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/api/apipb"
)

func TestPerceusMatch(t *testing.T) {
	names := []string{"db1", "n0000", "n0001", "n0002", "n10", "rack1.n1", "rack1xn1"}
	for _, tt := range []struct {
		name    string
		words   []string
		found   []string
		missing []string
	}{
		{"a name", []string{"n0001"}, []string{"n0001"}, nil},
		{"in capitals", []string{"N0001"}, []string{"n0001"}, nil},
		{"each once", []string{"n0001", "n*1", "n[0001]"}, []string{"n0001"}, nil},
		{"nobody", []string{"x", "y*"}, nil, []string{"x"}},
		{"a pattern's dot is a dot", []string{"rack1.*"}, []string{"rack1.n1"}, nil},
		{"one character", []string{"?b1", "n1?"}, []string{"db1", "n10"}, nil},
		{"a range is padded to the longer bound", []string{"n[0-0001]"}, []string{"n0000", "n0001"}, nil},
		{"a number is as long as it is", []string{"n[10,0002]"}, []string{"n0002", "n10"}, nil},
		{"no class of characters", []string{"n000[0-2]"}, []string{"n0000", "n0001", "n0002"}, nil},
		{"a range and a star is a name with a star", []string{"n[10]*"}, nil, []string{"n10*"}},
		{"what is no number counts for nothing", []string{"n[a,10,-3,5-]"}, []string{"n10"}, nil},
		{"backwards is nobody", []string{"n[5-3]"}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found, missing, err := perceusMatch(names, tt.words)
			if err != nil || !cmp.Equal(found, tt.found) || !cmp.Equal(missing, tt.missing) {
				t.Errorf("perceusMatch(%q) = %q, %q, %v; want %q, %q", tt.words, found, missing, err, tt.found, tt.missing)
			}
		})
	}
	for _, bomb := range []string{"n[0-4294967295]", "n[0-99999,0-99999]"} {
		if e, ok := errors.AsType[*exitError](second(perceusMatch(names, []string{bomb}))); !ok || e.code != exitUsage {
			t.Errorf("perceusMatch(%q) gives no wrong usage", bomb)
		}
	}
}

func second(_, _ []string, err error) error { return err }

func TestPerceusFields(t *testing.T) {
	n := &apipb.Node{Name: "n1", Enabled: true, Debug: 2, Address: "10.1.2.3", ContactMs: 1_700_000_000_999, State: "ready", Vnfs: "v", Group: "g", Description: "d"}
	want := [][2]string{
		{"debug", "2"},
		{"desc", "d"},
		{"enabled", "1"},
		{"group", "g"},
		{"hostname", "n1"},
		{"hwaddr", ""},
		{"ipaddr", "167838211"},
		{"lastcontact", "1700000000"},
		{"status", "ready"},
		{"vnfs", "v"},
	}
	if diff := cmp.Diff(want, perceusFields(n)); diff != "" {
		t.Error(diff)
	}
	for d, want := range map[time.Duration]string{
		0: "00:00:00", 61 * time.Second: "00:01:01", 3661900 * time.Millisecond: "01:01:01", 123 * time.Hour: "123:00:00", -time.Second: "00:00:00",
	} {
		if got := clockText(d); got != want {
			t.Errorf("clockText(%v) = %s; want %s", d, got, want)
		}
	}
}

func TestLinkText(t *testing.T) {
	for _, tt := range []struct{ dir, program, want string }{
		{"/usr/local/bin", "/usr/local/bin/dominion", "dominion"},
		{"/usr/sbin", "/usr/local/bin/dominion", "../local/bin/dominion"},
		{"/usr/local/sbin", "/opt/dominion/dominion", "/opt/dominion/dominion"},
		{"/usr2/bin", "/usr/bin/dominion", "/usr/bin/dominion"},
	} {
		if got := linkText(tt.dir, tt.program); got != tt.want {
			t.Errorf("linkText(%q, %q) = %q; want %q", tt.dir, tt.program, got, tt.want)
		}
	}
}

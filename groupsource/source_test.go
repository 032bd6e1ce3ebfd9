package groupsource_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dominion/groupsource"
)

// dir makes a directory with programs in sh.
func dir(t *testing.T, programs map[string]string) string {
	t.Helper()
	d := t.TempDir()
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(d, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestMembers(t *testing.T) {
	d := dir(t, map[string]string{
		"hosts": `case "$1 $2" in
"members web") echo "# life: 1h"; echo "web[1-3], db1 # and"; echo DB1;;
"members none") ;;
"members said") echo "who is that" >&2; exit 4;;
"members bad") echo "web*";;
"members env") env | sort | tr '=\n' '. ' >&2; pwd >&2; exit 1;;
"members long") exec cat /dev/zero;;
"members late") echo waiting >&2; sleep 60;;
"members child") sleep 60 & echo web1;;
"list ") echo "web none"; echo Said;;
*) exit 4;; esac`,
	})
	s, hasty := groupsource.New(groupsource.Options{Dir: d, Timeout: time.Minute}), groupsource.New(groupsource.Options{Dir: d, Timeout: time.Second})
	for _, tt := range []struct{ group, want, err string }{
		{"web", "db1 web1 web2 web3", ""},
		{"none", "", ""},
		{"other", "", "no such group"},
		{"said", "", "no such group: who is that"},
		{"bad", "", "line 1"},
		{"env", "", "exit status 1: LC_ALL.C PATH.^^ /"},
		{"long", "", "more than 16 MiB"},
		{"late", "", "did not answer within 1s: waiting"},
		{"child", "web1", ""},
		{"-x", "", "no such group"},
		{"a b", "", "no such group"},
		{"../x", "", "no such group"},
	} {
		t.Run(tt.group, func(t *testing.T) {
			begun := time.Now()
			asked := s
			if tt.group == "late" {
				asked = hasty
			}
			got, err := asked.Members(t.Context(), "hosts", tt.group)
			if strings.Join(got, " ") != tt.want || (err == nil) != (tt.err == "") {
				t.Fatalf("Members = %q, %v; want %q, %q", got, err, tt.want, tt.err)
			}
			if err != nil {
				for _, part := range strings.Split(tt.err, "^^") {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %q without %q", err, part)
					}
				}
				if strings.Contains(tt.err, "no such group") != errors.Is(err, groupsource.ErrNoGroup) {
					t.Errorf("%v wraps ErrNoGroup or should", err)
				}
			}
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	for _, source := range []string{"nosuch", "", "..", "HOSTS", "a/b"} {
		if _, err := s.Members(t.Context(), source, "web"); !errors.Is(err, groupsource.ErrNoGroup) {
			t.Errorf("source %q: %v; want ErrNoGroup", source, err)
		}
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "hosts" || fmt.Sprint(list[0].Groups) != "[Said none web]" || list[0].Err != nil {
		t.Errorf("List = %+v, %v", list, err)
	}
	if list, err := groupsource.New(groupsource.Options{Dir: d + "/nosuch"}).List(t.Context()); list != nil || err != nil {
		t.Errorf("without a directory: %v, %v", list, err)
	}
}

// What others may write is not run.
func TestRefused(t *testing.T) {
	d := dir(t, map[string]string{"wide": "echo web1", "plain": "echo web1", "foreign": "echo web1", "good": "echo web1"})
	for name, do := range map[string]func(string) error{
		"wide":    func(f string) error { return os.Chmod(f, 0o775) },
		"plain":   func(f string) error { return os.Chmod(f, 0o644) },
		"foreign": func(f string) error { return os.Chown(f, 12345, 12345) },
		"linked":  func(f string) error { return os.Symlink(filepath.Join(d, "good"), f) },
		"folder":  func(f string) error { return os.Mkdir(f, 0o755) },
	} {
		if err := do(filepath.Join(d, name)); err != nil {
			if name == "foreign" && os.Geteuid() != 0 {
				continue
			}
			t.Fatal(err)
		}
	}
	s := groupsource.New(groupsource.Options{Dir: d})
	for name, want := range map[string]string{
		"wide": "may be written by others (mode 775)", "plain": "not executable", "foreign": "belongs to somebody else", "linked": "no regular file", "folder": "no regular file",
	} {
		if name == "foreign" && os.Geteuid() != 0 {
			continue
		}
		if got, err := s.Members(t.Context(), name, "x"); got != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want an error with %q", name, got, err, want)
		}
	}
	if got, err := s.Members(t.Context(), "good", "x"); err != nil || len(got) != 1 {
		t.Errorf("good: %q, %v", got, err)
	}
	if err := os.Chmod(d, 0o777); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Members(t.Context(), "good", "x"); err == nil || !strings.Contains(err.Error(), "may be written by others") {
		t.Errorf("in a directory that others may write: %q, %v", got, err)
	}
}

// An answer is kept for its life; who asks meanwhile does not start a program.
func TestLife(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	d := dir(t, map[string]string{"s": `echo x >>` + count + `
case "$2" in
short) echo "# life: 0s";;
long) echo "# life: 1h";;
fail) exit 1;;
esac
echo web1`})
	runs := func() int {
		b, err := os.ReadFile(count)
		if err != nil {
			return 0
		}
		return strings.Count(string(b), "x")
	}
	s := groupsource.New(groupsource.Options{Dir: d, Life: time.Hour})
	for _, tt := range []struct {
		group string
		want  int
	}{{"short", 3}, {"long", 1}, {"default", 1}, {"fail", 1}} {
		before := runs()
		for range 3 {
			_, err := s.Members(t.Context(), "s", tt.group)
			if (err != nil) != (tt.group == "fail") {
				t.Fatal(err)
			}
		}
		if got := runs() - before; got != tt.want {
			t.Errorf("%s: %d runs for 3 questions; want %d", tt.group, got, tt.want)
		}
	}
	before := runs()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := s.Members(t.Context(), "s", "many"); err != nil || len(got) != 1 {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if got := runs() - before; got != 1 {
		t.Errorf("%d runs for 20 questions at once; want 1", got)
	}
	// A program that was changed is asked again.
	if err := os.WriteFile(filepath.Join(d, "s"), []byte("#!/bin/sh\necho web2 web3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Members(t.Context(), "s", "long"); err != nil || len(got) != 2 {
		t.Errorf("after a change: %q, %v", got, err)
	}
}

// Who leaves does not take the answer from others.
func TestAskerLeaves(t *testing.T) {
	d := dir(t, map[string]string{"s": "sleep 0.2; echo web1"})
	s := groupsource.New(groupsource.Options{Dir: d})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.Members(ctx, "s", "g"); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("who left: %v; want the context's error", err)
		}
	})
	for range 3 {
		wg.Go(func() {
			if got, err := s.Members(t.Context(), "s", "g"); err != nil || len(got) != 1 {
				t.Errorf("who stayed: %q, %v", got, err)
			}
		})
	}
	cancel()
	wg.Wait()
}

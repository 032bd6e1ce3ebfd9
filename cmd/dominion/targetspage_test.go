package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"dominion/api/apipb"
	"dominion/fleettest"
	"dominion/minion"
	"dominion/overlord"
	"dominion/target"
)

// rowsOf gives the cells of the table on a page whose head begins with a word.
func rowsOf(t *testing.T, page, head string) [][]string {
	t.Helper()
	var rows [][]string
	inside := false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		line = strings.ReplaceAll(line, `\|`, "\x00")
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i, c := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(strings.ReplaceAll(c, "\x00", "|")), "`")
		}
		switch {
		case cells[0] == head:
			inside = true
		case inside && !strings.HasPrefix(cells[0], "---"):
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("the page has no table that begins with %q", head)
	}
	return rows
}

// words splits what is typed as a shell does that knows single quotes alone.
func words(line string) []string {
	out := regexp.MustCompile(`'[^']*'|[^ ]+`).FindAllString(line, -1)
	for i, w := range out {
		out[i] = strings.Trim(w, "'")
	}
	return out
}

// pageFleet starts an overlord that knows the machines of the page.
func pageFleet(t *testing.T, page string) *fleettest.Fleet {
	t.Helper()
	rows := rowsOf(t, page, "machine")
	sources := t.TempDir()
	if err := os.WriteFile(filepath.Join(sources, "batch"), []byte("#!/bin/sh\ncase \"$1 $2\" in 'members idle') echo 'db[1-2] web3';; *) exit 4;; esac\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := fleettest.Start(t, overlord.Config{Autosign: []overlord.AutosignRule{{Names: "*"}}, Groups: overlord.GroupsConfig{Dir: sources}})
	var minions []*fleettest.Minion
	for _, r := range rows {
		minions = append(minions, f.Enrol(r[0], minion.Config{}))
	}
	f.Until("all machines have sent their facts", func() bool {
		resp, err := f.Conn.Fleet.Minions(t.Context(), connect.NewRequest(&apipb.MinionsRequest{Facts: true}))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, m := range resp.Msg.Minions {
			if len(m.Facts) > 0 {
				n++
			}
		}
		return n == len(rows)
	})
	for _, m := range minions {
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range rows {
		for _, g := range strings.Fields(r[3]) {
			_, err := f.Conn.Fleet.SetGroup(t.Context(), connect.NewRequest(&apipb.SetGroupRequest{Name: g, Members: r[0], Mode: apipb.SetGroupRequest_ADD}))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	f.Down()
	db, err := sql.Open("sqlite", filepath.Join(f.State, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		var facts []byte
		if r[1] != "" {
			facts = fmt.Appendf(nil, `{"os":%q,"memory_gb":%s}`, r[1], r[2])
		}
		if _, err := db.ExecContext(t.Context(), "UPDATE minions SET facts = $1 WHERE name = $2", facts, r[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f.Up()
	return f
}

// The examples of docs/targets.md.
func TestTargetsPage(t *testing.T) {
	b, err := os.ReadFile("../../docs/targets.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	f := pageFleet(t, page)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "list.txt"), []byte(regexp.MustCompile("`list.txt` holds `([^`]*)`").FindStringSubmatch(page)[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "dominion") // what the program does is decided by its name
	if err := os.Symlink(me, bin); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"group", "list", "--sources"}, "batch"},
		{[]string{"group", "show", "batch/idle"}, "batch/idle  3         db[1,2],web3"},
	} {
		out, err := exec.CommandContext(t.Context(), bin, append(c.args, "--state", f.State)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("dominion %s: %v: %s; want %q", strings.Join(c.args, " "), err, out, c.want)
		}
	}
	for _, r := range rowsOf(t, page, "TARGET and options") {
		t.Run(r[0], func(t *testing.T) {
			line := words(r[0])
			args := slices.Concat([]string{"call", line[0], "test.ping", "--dry-run", "-o", "json", "--state", f.State}, line[1:])
			var errs strings.Builder
			cmd := exec.CommandContext(t.Context(), bin, args...)
			cmd.Dir, cmd.Stderr = dir, &errs
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("dominion %s: %v: %s", strings.Join(args, " "), err, errs.String())
			}
			var d previewDoc
			if err := json.Unmarshal(out, &d); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				what string
				got  []string
				want string
			}{{"machines", d.Names, r[1]}, {"unknown", d.Unknown, r[2]}} {
				want, err := target.ReadList(c.want)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(c.got, want) {
					t.Errorf("%s: %s are %s; the page says %s", r[0], c.what, target.Fold(c.got), c.want)
				}
			}
		})
	}
}

package cron

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestList works on a tree as Debian's cron and Fedora's have it.
func TestList(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/crontab":                    "SHELL=/bin/sh\n# m h dom mon dow user command\n17 *\t* * *\troot    cd / && run-parts --report /etc/cron.hourly\n@reboot web /bin/start\nnonsense\n",
		"etc/cron.d/backup":              "MAILTO = \"x\"\n*/5 0-3 * * 1,2 backup /usr/bin/backup --all % x\n",
		"etc/cron.d/backup.dpkg-old":     "* * * * * root /bin/old\n",
		"etc/cron.d/.placeholder":        "",
		"etc/cron.daily/logrotate":       "#!/bin/sh\n",
		"etc/cron.weekly/0x":             "#!/bin/sh\n",
		"var/spool/cron/crontabs/alice":  "0 4 * * * tar czf home.tgz .\n",
		"var/spool/cron/bob":             "@daily   /home/bob/x\n",
		"etc/cron.d/large":               strings.Repeat("#", maxFile+1),
		"etc/cron.monthly/sub/not-a-job": "",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "var/spool/cron/crontabs/eve"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := machine{root}.list(t.Context(), nil, ListIn{})
	want := []Job{
		{"/etc/cron.d/backup", 2, "backup", "*/5 0-3 * * 1,2", "/usr/bin/backup --all % x"},
		{"/etc/cron.daily/logrotate", 0, "root", "daily", "/etc/cron.daily/logrotate"},
		{"/etc/cron.weekly/0x", 0, "root", "weekly", "/etc/cron.weekly/0x"},
		{"/etc/crontab", 3, "root", "17 * * * *", "cd / && run-parts --report /etc/cron.hourly"},
		{"/etc/crontab", 4, "web", "@reboot", "/bin/start"},
		{"/var/spool/cron/bob", 1, "bob", "@daily", "/home/bob/x"},
		{"/var/spool/cron/crontabs/alice", 1, "alice", "0 4 * * *", "tar czf home.tgz ."},
	}
	if d := cmp.Diff(want, got.Jobs); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	for _, want := range []string{"/etc/crontab:5: neither a job nor a variable", "/etc/cron.d/large: it has more than", "crontabs/eve: "} {
		found := false
		for _, p := range got.Problems {
			found = found || strings.Contains(p, want)
		}
		if !found {
			t.Errorf("no problem %q in %q", want, got.Problems)
		}
	}
	if got, err = (machine{root}).list(t.Context(), nil, ListIn{User: "alice"}); err != nil || len(got.Jobs) != 1 {
		t.Errorf("alice's: %+v, %v", got, err)
	}
	if got, err = (machine{t.TempDir()}).list(t.Context(), nil, ListIn{}); err != nil || len(got.Jobs)+len(got.Problems) > 0 {
		t.Errorf("a machine without cron: %+v, %v", got, err)
	}
}

// FuzzLine: a job has a schedule, a user and a command.
func FuzzLine(f *testing.F) {
	f.Add("17 * * * * root cd /", true)
	f.Add("@daily x", false)
	f.Add("A = b", false)
	f.Fuzz(func(t *testing.T, line string, system bool) {
		user := "alice"
		if system {
			user = ""
		}
		j, ok, err := parseLine(line, user)
		if ok && (err != nil || j.Schedule == "" || j.User == "" || len(j.Command) > maxCommand) {
			t.Errorf("parseLine(%q) = %+v, %v", line, j, err)
		}
	})
}

//go:build fleet

package packages

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dominion/module"
)

// pkg is a package of the test's repository.
type pkg struct{ name, version, needs string }

var offered = []pkg{
	{"base", "1.0", ""},
	{"app", "2.0", "base"},
	{"appxy", "1.0", ""},
	{"g++x", "1.0", ""},
	{"a-package-with-quite-a-long-name-that-does-not-fit-in-any-column", "1.0", "base"},
}

var newer = pkg{"base", "1.1", ""}

// repo is a repository, and an empty machine that installs from it.
type repo struct {
	machine
	add  func(t *testing.T, p pkg) // to the repository
	lock func(t *testing.T) (unlock func())
	rel  string // what the manager adds to a version
}

func needs(t *testing.T, tools ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skipf("SKIPPED %s: it needs root, to install packages into a directory", t.Name())
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED %s: %v", t.Name(), err)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// aptRepo is one of files, without signatures.
func aptRepo(t *testing.T) repo {
	needs(t, "apt-get", "dpkg-deb")
	dir := t.TempDir()
	root, pool := dir+"/root", dir+"/repo"
	for _, d := range []string{"var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/triggers", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d", "etc/apt/sources.list.d", "var/log/apt"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root+"/var/lib/dpkg/status", "")
	write(t, root+"/etc/apt/sources.list", "deb [trusted=yes] file:"+pool+" ./\n")
	write(t, dir+"/apt.conf", fmt.Sprintf(`Dir "%[1]s"; Dir::State::status "%[1]s/var/lib/dpkg/status"; Dir::Bin::dpkg "/usr/bin/dpkg"; Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Etc::parts "%[1]s/etc/apt/apt.conf.d"; Dir::Etc::main "apt.conf"; Dir::Log "%[1]s/var/log/apt"; APT::Sandbox::User "root";`, root))
	return repo{
		machine: machine{only: "apt", env: []string{"APT_CONFIG=" + dir + "/apt.conf", "DPKG_ROOT=" + root}},
		add: func(t *testing.T, p pkg) {
			d := t.TempDir()
			control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: a test\n", p.name, p.version)
			if p.needs != "" {
				control += "Depends: " + p.needs + "\n"
			}
			write(t, d+"/DEBIAN/control", control)
			write(t, d+"/usr/share/"+p.name+"/version", p.version)
			file := fmt.Sprintf("%s/%s_%s_all.deb", pool, p.name, p.version)
			if err := os.MkdirAll(pool, 0o755); err != nil {
				t.Fatal(err)
			}
			do(t, "dpkg-deb", "--root-owner-group", "--build", d, file)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			index, _ := os.ReadFile(pool + "/Packages")
			write(t, pool+"/Packages", string(index)+fmt.Sprintf("%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", control, filepath.Base(file), len(b), sha256.Sum256(b)))
		},
		lock: func(t *testing.T) func() {
			f, err := os.OpenFile(root+"/var/lib/dpkg/lock-frontend", os.O_RDWR|os.O_CREATE, 0o640)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
				t.Fatal(err)
			}
			return func() { f.Close() }
		},
	}
}

// dnfRepo is made with createrepo_c.
func dnfRepo(t *testing.T) repo {
	needs(t, "dnf", "rpm", "rpmbuild", "createrepo_c")
	dir := t.TempDir()
	pool := dir + "/repo"
	write(t, dir+"/dnf.conf", fmt.Sprintf("[main]\nreposdir=%[1]s/none\ncachedir=%[1]s/cache\nlogdir=%[1]s/log\npersistdir=%[1]s/persist\nplugins=0\ngpgcheck=0\nmodule_platform_id=platform:el9\n[test]\nname=test\nbaseurl=file://%[1]s/repo\nmetadata_expire=1\n", dir))
	return repo{
		rel:     "-1",
		machine: machine{only: "dnf", dnf: []string{"--config", dir + "/dnf.conf", "--installroot", dir + "/root", "--releasever", "9"}, rpm: []string{"--root", dir + "/root"}},
		add: func(t *testing.T, p pkg) {
			spec := t.TempDir() + "/x.spec"
			text := fmt.Sprintf("Name: %s\nVersion: %s\nRelease: 1\nSummary: a test\nLicense: x\nBuildArch: noarch\n", p.name, p.version)
			if p.needs != "" {
				text += "Requires: " + p.needs + "\n"
			}
			write(t, spec, text+"%description\na test\n%files\n")
			do(t, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir+"/build", "--define", "_rpmdir "+pool, spec)
			do(t, "createrepo_c", "-q", pool)
		},
		lock: func(t *testing.T) func() {
			other := exec.Command("sleep", "100")
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			file := dir + "/root" + dir + "/persist/rpmdb_lock.pid"
			write(t, file, fmt.Sprint(other.Process.Pid))
			return func() {
				_ = other.Process.Signal(syscall.SIGKILL)
				_ = other.Wait()
				_ = os.Remove(file)
			}
		},
	}
}

func methods(t *testing.T, m machine) func(name string, in any) (string, error) {
	t.Helper()
	table := map[string]module.Method{}
	for _, x := range []module.Method{
		module.Func("list", "x", module.Read, m.list, module.MethodOptions{}),
		module.Func("installed", "x", module.Read, m.installed, module.MethodOptions{}),
		module.Func("pending", "x", module.Read, m.pending, module.MethodOptions{}),
		module.Func("install", "x", module.Change, m.install, module.MethodOptions{}),
		module.Func("upgrade", "x", module.Change, m.upgrade, module.MethodOptions{}),
		module.Func("remove", "x", module.Destroy, m.remove, module.MethodOptions{}),
	} {
		table[x.Name()] = x
	}
	return func(name string, in any) (string, error) {
		t.Helper()
		b, _ := json.Marshal(in)
		out, err := table[name].Run(t.Context(), nil, b)
		return string(out), err
	}
}

type args map[string]any

func TestFleetPackages(t *testing.T) {
	for _, kind := range []struct {
		name string
		make func(t *testing.T) repo
	}{{"apt", aptRepo}, {"dnf", dnfRepo}} {
		t.Run(kind.name, func(t *testing.T) {
			r := kind.make(t)
			for _, p := range offered {
				r.add(t, p)
			}
			everything(t, kind.name, r)
		})
	}
}

func everything(t *testing.T, name string, r repo) {
	arch := map[string]string{"apt": "all", "dnf": "noarch"}[name]
	long := offered[4].name
	call := methods(t, r.machine)
	change := func(name, from, to string) string {
		s := fmt.Sprintf(`{"name":"%s","arch":"%s"`, name, arch)
		if from != "" {
			s += fmt.Sprintf(`,"from":"%s%s"`, from, r.rel)
		}
		if to != "" {
			s += fmt.Sprintf(`,"to":"%s%s"`, to, r.rel)
		}
		return s + "}"
	}
	changed := func(changes ...string) string {
		return fmt.Sprintf(`{"manager":"%s","changed":true,"changes":[%s]}`, name, strings.Join(changes, ","))
	}
	same := fmt.Sprintf(`{"manager":"%s","changed":false}`, name)
	check := func(what, method string, a args, want, wantErr string) {
		t.Helper()
		got, err := call(method, a)
		if name == "apt" && a["dry_run"] == true && method == "remove" { // apt does not tell the architecture of what it removes
			want = strings.ReplaceAll(want, `"arch":"all",`, "")
		}
		if got != want || wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
			t.Errorf("%s: %s, %v\nwant %s, %q", what, got, err, want, wantErr)
		}
	}
	check("nothing there", "list", args{}, fmt.Sprintf(`{"manager":"%s","packages":[]}`, name), "")
	check("dry", "install", args{"names": []string{"app", long}, "refresh": true, "dry_run": true}, changed(change(long, "", "1.0"), change("app", "", "2.0"), change("base", "", "1.0")), "")
	check("still nothing", "installed", args{"names": []string{"app"}}, `{"packages":[{"name":"app","installed":false}],"all":false}`, "")
	check("install", "install", args{"names": []string{"app", long, "g++x"}}, changed(change(long, "", "1.0"), change("app", "", "2.0"), change("base", "", "1.0"), change("g++x", "", "1.0")), "")
	check("again", "install", args{"names": []string{"app", "app=2.0" + r.rel}}, same, "")
	check("unknown", "install", args{"names": []string{"nosuch"}}, same, "nosuch")
	check("no expression", "install", args{"names": []string{"app.y"}}, same, "app.y")
	check("no option", "install", args{"names": []string{"--help"}}, "", "invalid: ")
	check("no removal", "install", args{"names": []string{"app-"}}, "", "invalid: ")
	check("installed", "installed", args{"names": []string{"base", "appxy"}}, fmt.Sprintf(`{"packages":[{"name":"base","installed":true,"version":"1.0%s"},{"name":"appxy","installed":false}],"all":false}`, r.rel), "")
	check("list", "list", args{"pattern": "b*"}, fmt.Sprintf(`{"manager":"%s","packages":[{"name":"base","version":"1.0%s","arch":"%s"}]}`, name, r.rel, arch), "")
	check("nothing is newer", "pending", args{}, fmt.Sprintf(`{"manager":"%s","updates":[]}`, name), "")
	check("nothing to upgrade", "upgrade", args{}, same, "")
	r.add(t, newer)
	<-time.After(1100 * time.Millisecond) // dnf's lists expire after a second
	got, err := call("pending", args{"refresh": true})
	if want := fmt.Sprintf(`{"name":"base","arch":"%s","from":"1.0%s","to":"1.1%s","origin":"`, arch, r.rel, r.rel); err != nil || !strings.Contains(got, want) {
		t.Errorf("pending: %s, %v; want %s", got, err, want)
	}
	check("dry upgrade of another", "upgrade", args{"names": []string{"app", "appxy"}, "dry_run": true}, same, "")
	check("dry upgrade", "upgrade", args{"names": []string{"base"}, "dry_run": true}, changed(change("base", "1.0", "1.1")), "")
	check("dry upgrade of all", "upgrade", args{"dry_run": true}, changed(change("base", "1.0", "1.1")), "")
	check("upgrade", "upgrade", args{}, changed(change("base", "1.0", "1.1")), "")
	check("older", "install", args{"names": []string{"base=1.0" + r.rel}}, same, "downgrade")
	check("dry older", "install", args{"names": []string{"base=1.0" + r.rel}, "dry_run": true, "downgrade": true}, changed(change("base", "1.1", "1.0")), "")
	check("older if allowed", "install", args{"names": []string{"base=1.0" + r.rel}, "downgrade": true}, changed(change("base", "1.1", "1.0")), "")
	check("dry remove", "remove", args{"names": []string{"base", "nosuch"}, "dry_run": true}, changed(change(long, "1.0", ""), change("app", "2.0", ""), change("base", "1.0", "")), "")
	locks(t, call, r, changed(change(long, "1.0", ""), change("app", "2.0", ""), change("base", "1.0", "")), same)
	check("remove again", "remove", args{"names": []string{"base"}, "purge": true}, same, "")
}

// locks: a lock of somebody else's is waited for, and not for ever.
func locks(t *testing.T, call func(string, any) (string, error), r repo, changed, same string) {
	t.Helper()
	unlock := r.lock(t)
	got, err := call("remove", args{"names": []string{"base"}, "lock_wait": "600ms"})
	if got != same || err == nil || !strings.Contains(err.Error(), "another program has held the packages' lock for 600ms") {
		t.Errorf("locked: %s, %v", got, err)
	}
	timer := time.AfterFunc(time.Second, unlock)
	defer timer.Stop()
	if got, err = call("remove", args{"names": []string{"base"}, "lock_wait": "30s", "purge": true}); err != nil || got != changed {
		t.Errorf("unlocked meanwhile: %s, %v; want %s", got, err, changed)
	}
}

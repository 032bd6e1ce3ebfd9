package nodescript_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dominion/nodescript"
)

// oracle does in Perl, with Perl's own glob and open, what is known of how
// Perceus 1.9.3 chose and ran scripts. STATEDIR, state, name, group and VNFS are
// its arguments.
const oracle = `
use File::Basename;
my ($dir, $state, @field) = @ARGV;
s/\s+//g for @field;
my ($node, $group, $vnfs) = @field;
my %chosen;
for my $folder ("vnfs/$vnfs", "all", "group/$group", "node/$node") {
	for my $path (sort glob("$dir/nodescripts/$state/$folder/*")) {
		$chosen{basename($path)} = $path unless -d $path or $path =~ /~$/;
	}
}
$| = 1;
print "# NODESCRIPT START\n";
for my $name (sort keys %chosen) {
	my $path = $chosen{$name};
	if (-x $path) {
		open(PIPE, "$path |");
		print while <PIPE>;
		close PIPE;
	} elsif (-f $path) {
		my ($on, $text);
		open(FILE, $path);
		while (my $line = <FILE>) {
			$on = 1 if $line =~ /^#!\/bin\/sh/;
			$text .= $line if $on;
		}
		$on = 0 unless close FILE;
		print "$text\n" if $on;
	}
}
print "# NODESCRIPT END\n";
`

// What random trees are made of.
var (
	oracleNames = []string{
		"10-a", "10-A", "10-a b", "10-a  c d", "20-b", "9-z", "90-z", "5", "50", "#x", "20-b~", ".30-h", "30-\u00fc", "30-\xff", "40-(a)", "40-'", "41-\"", "42-$x", "43-`x`", "44-<x", "45-x*", "46-[x]",
		"47-{x,y}", "48-~x", "49-x?", "60-t ", " 60-t", "60-t", "61-x|", "62-\\x", "63-a=b", "64-x\t", "65-!", "66-%^+,:@", "70-x~\n", "X", "_", "-1",
	}
	oracleTexts = []string{
		"#!/bin/sh\necho one $0 $# \"$1\"\n", "#!/bin/sh\nprintf two\n", "#!/bin/sh\necho three; exit 4\n", "#!/bin/sh\necho four >&2; echo five; kill -9 $$\n", "#!/nosuch\necho six\n",
		"echo seven $0\n", "\x7fELF\x00", "", "\n", "#!/bin/sh -e\nfalse\necho eight\n", "x\n#!/bin/sh\necho nine", "x #!/bin/sh\n", "#!/bin/shell\nten\n", "#!/bin/cat\neleven\xff\x00\r\n",
		"#! /bin/sh\necho $STATE.$NODENAME.$VNFS.$GROUPNAME.$NODEID.$IPADDR.$ENABLED.$DEBUG.$STATEDIR.$VNFSMETHOD.$VNFSMASTER.$VNFSPREFIX.$PATH.$HOME\n", "#!/bin/sh\n(sleep 0.05; echo twelve) &\n", "#!/bin/sh\ncat\nls -l /proc/self/fd/0 | grep -c null\n",
	}
	oracleModes = []fs.FileMode{0o755, 0o755, 0o755, 0o644, 0o644, 0o711, 0o001}
	oracleLinks = []string{"../all/10-a", "nosuch", "../../../elsewhere", "..", "10-a", "../../../modules/m"}
)

// TestOracle: random trees give what Perl's own open and glob make of them.
func TestOracle(t *testing.T) {
	perl, err := exec.LookPath("perl")
	if err != nil {
		t.Skip("SKIPPED: perl is not there, with which the rules perceus-1.9.3 are compared")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root may run what Perl takes for executable, as Perceus did")
	}
	rounds := 25
	if n, err := strconv.Atoi(os.Getenv("DOMINION_ORACLE_ROUNDS")); err == nil {
		rounds = n
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(round), 1))
			dir := t.TempDir()
			one := func(list []string) string { return list[random.IntN(len(list))] }
			n := nodescript.Node{Name: "n1", ID: "AA:BB:CC:DD:EE:FF", Group: one([]string{"", "0", "g", "g g", "\u00fc"}), VNFS: one([]string{"", "0", "v", "v.1-2"}), Enabled: random.IntN(2) == 0, Debug: random.IntN(3), Addr: "192.0.2.1"}
			if err := os.MkdirAll(filepath.Join(dir, "modules"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "modules", "m"), []byte("#!/bin/sh\necho module $0\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			seen := make(map[string]bool)
			for range random.IntN(40) {
				f := file{path: "init/" + one([]string{"all", "vnfs", "vnfs/v", "vnfs/v.1-2", "group", "group/g", "group/gg", "group/\u00fc", "node/n1", "node/n2"}) + "/" + one(oracleNames), text: one(oracleTexts), mode: oracleModes[random.IntN(len(oracleModes))]}
				if random.IntN(8) == 0 {
					f.link = one(oracleLinks)
				}
				if !seen[f.path] {
					seen[f.path] = true
					putIn(t, dir, f)
				}
			}
			transfer := nodescript.Transfer{Method: "nfs", Master: "192.0.2.9"}
			a, err := nodescript.New(nodescript.Config{Statedir: dir, Rules: nodescript.Perceus193, Transfer: transfer})
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.Assemble(t.Context(), n, "init")
			if err != nil {
				t.Fatal(err)
			}
			want := perceus(t, perl, dir, n, transfer)
			if !bytes.Equal(got.Text, want) {
				t.Errorf("%+v: %s", n, cmp.Diff(string(want), string(got.Text)))
			}
		})
	}
}

// perceus gives what the oracle prints.
func perceus(t *testing.T, perl, dir string, n nodescript.Node, transfer nodescript.Transfer) []byte {
	t.Helper()
	zero := func(s string) string {
		if s == "0" {
			return ""
		}
		return s
	}
	enabled := ""
	if n.Enabled {
		enabled = "1"
	}
	cmd := exec.CommandContext(t.Context(), perl, "-e", oracle, "--", dir+"/", "init", n.Name, zero(n.Group), zero(n.VNFS))
	cmd.Env = []string{
		"PATH=/bin:/usr/bin:/sbin:/usr/sbin", "STATE=init", "NODENAME=" + n.Name, "VNFS=" + zero(n.VNFS), "ENABLED=" + enabled, "DEBUG=" + zero(fmt.Sprint(n.Debug)), "GROUPNAME=" + zero(n.Group),
		"NODEID=" + n.ID, "IPADDR=", "STATEDIR=" + dir + "/", "VNFSMETHOD=" + transfer.Method, "VNFSMASTER=" + transfer.Master, "VNFSPREFIX=",
	}
	cmd.Dir = "/"
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

package where_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dominion/module/facts"
	"dominion/where"
)

const big = `{"hostname": "web1", "os": "debian", "version": "13", "kernel": "6.12.1", "architecture": "x86_64",
	"cpu": {"model": "Fast", "count": 64}, "memory_bytes": 128000000000, "memory_gb": 128, "swap_bytes": 0,
	"disks": [{"mount": "/", "device": "/dev/sda1", "filesystem": "ext4", "size_bytes": 100}, {"mount": "/srv", "device": "/dev/sdb1", "filesystem": "xfs", "size_bytes": 4000000000000}],
	"addresses": ["10.0.0.1"], "virtualisation": "none", "booted_at": "2026-11-01T10:00:00Z", "agent_version": "1.2", "colour": "red"}`

const small = `{"os": "alpine", "memory_gb": "much", "cpu": {"count": 1}, "disks": [], "swap_bytes": 5}`

func compile(t testing.TB, text string) *where.Expr {
	t.Helper()
	e, err := where.New(facts.Schema()).Compile(text)
	if err != nil {
		t.Fatalf("Compile(%q): %v", text, err)
	}
	return e
}

func TestJudge(t *testing.T) {
	machines := map[string]where.Machine{
		"big":   {Name: "web1", Groups: []string{"web", "prod"}, Facts: []byte(big)},
		"small": {Name: "db1", Groups: []string{"db"}, Facts: []byte(small)},
		"mute":  {Name: "web2"},
	}
	for _, c := range []struct{ expr, big, small, mute string }{
		{`facts.os == "debian"`, "yes", "no", "lacks"},
		{`facts.os != "debian"`, "no", "yes", "lacks"},
		{`!(facts.os == "debian")`, "no", "yes", "lacks"},
		{`facts.os == "debian" && facts.memory_gb >= 64`, "yes", "no", "lacks"},
		{`facts.memory_gb >= 64`, "yes", "lacks", "lacks"}, // small's is a text
		{`facts.memory_gb >= 63.5`, "yes", "lacks", "lacks"},
		{`facts.memory_gb < 64`, "no", "lacks", "lacks"},
		{`has(facts.memory_gb)`, "yes", "no", "no"},
		{`!has(facts.memory_gb) || facts.memory_gb < 64`, "no", "yes", "yes"},
		{`facts.cpu.count > 2`, "yes", "no", "lacks"},
		{`facts.cpu.model.startsWith("F")`, "yes", "lacks", "lacks"},
		{`has(facts.cpu.model)`, "yes", "no", "lacks"},
		{`facts.disks.exists(d, d.mount == "/srv" && d.size_bytes > 1000000000000)`, "yes", "no", "lacks"},
		{`size(facts.disks) == 0`, "no", "yes", "lacks"},
		{`"10.0.0.1" in facts.addresses`, "yes", "lacks", "lacks"},
		{`facts.booted_at < timestamp("2026-11-02T00:00:00Z")`, "yes", "lacks", "lacks"},
		{`"web" in groups`, "yes", "no", "no"},
		{`!("web" in groups)`, "no", "yes", "yes"},
		{`groups.exists(g, g.startsWith("d"))`, "no", "yes", "no"},
		{`name.matches("^web[0-9]+$")`, "yes", "no", "yes"},
		{`name in ["web2", "db1"]`, "no", "yes", "yes"},
		{`facts.os == "debian" || true`, "yes", "yes", "yes"},
		{`facts.os == "debian" && false`, "no", "no", "no"},
		{`1 / facts.swap_bytes == 0`, "lacks", "yes", "lacks"}, // a division by zero
		{`true`, "yes", "yes", "yes"},
	} {
		t.Run(c.expr, func(t *testing.T) {
			e := compile(t, c.expr)
			for name, want := range map[string]string{"big": c.big, "small": c.small, "mute": c.mute} {
				got := "no"
				ok, lacks, err := e.Judge(t.Context(), machines[name])
				switch {
				case err != nil:
					t.Fatal(err)
				case lacks != nil:
					got = "lacks"
				case ok:
					got = "yes"
				}
				if got != want {
					t.Errorf("%s of %s = %s (%v); want %s", c.expr, name, got, lacks, want)
				}
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct{ expr, want string }{
		{``, "it is empty"},
		{`facts.memry_gb > 5`, "there is no fact facts.memry_gb; near: facts.memory_gb"},
		{`facts.memory > 5`, "near: facts.memory_gb, facts.memory_bytes"},
		{`facts.ram > 5`, "there is no fact facts.ram; there are hostname, os,"},
		{`facts.OS == "x"`, "near: facts.os"},
		{`facts.cpu.cores > 5`, "there is no fact facts.cpu.cores; there are model, count"},
		{`facts.cpu.cuont > 5`, "near: facts.cpu.count"},
		{`facts.disks.exists(d, d.mout == "/")`, "there is no fact facts.disks.mout; near: facts.disks.mount"},
		{`has(facts.colour)`, "there is no fact facts.colour"},
		{`fact.os == "x"`, `there is no "fact"; there are facts, groups and name`},
		{`facts.os == debian`, `there is no "debian"; there are facts, groups and name, and a text stands in quotes`},
		{`facts.os == 5`, "no matching overload"},
		{`facts.memory_gb > "64"`, "no matching overload"},
		{`facts.os`, "its value is a text, not true or false"},
		{`facts.memory_gb`, "its value is a number"},
		{`facts`, "its value is an object"},
		{`facts.os ==`, "(character"},
		{`facts["os"] == "x"`, "no matching overload"},
		{`frobnicate(name)`, "undeclared reference to 'frobnicate'"},
		{`facts{os: "x"}.os == "x" || name == ` + "\n(", "(line 2,"},
		{`name.matches("(")`, "regex"},
		{strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500), ""},
		{`"` + strings.Repeat("x", where.MaxText) + `" == name`, "more than 4096"},
		{`true` + strings.Repeat(` && true`, 500), ""},
		{"name == \"\xff\"", ""},
	} {
		t.Run(c.expr[:min(len(c.expr), 40)], func(t *testing.T) {
			_, err := where.New(facts.Schema()).Compile(c.expr)
			if !errors.Is(err, where.ErrCondition) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Compile(%.60q) = %v; want one line with %q", c.expr, err, c.want)
			}
		})
	}
}

// Who builds a fact by force gets no value.
func TestObjectsCannotBeMade(t *testing.T) {
	e, err := where.New(facts.Schema()).Compile(`facts{os: "x"}.os == "x"`)
	if err != nil {
		return // refused at once: just as good
	}
	if ok, lacks, err := e.Judge(t.Context(), where.Machine{Name: "a"}); ok || lacks == nil || err != nil {
		t.Errorf("an object made by an expression = %v, %v, %v; want it to lack", ok, lacks, err)
	}
}

func TestCost(t *testing.T) {
	many := "[" + strings.TrimSuffix(strings.Repeat("1,", 100), ",") + "]"
	e := compile(t, many+".all(a, "+many+".all(b, "+many+".all(c, "+many+".all(d, a+b+c+d > 0))))")
	began := time.Now()
	ok, lacks, err := e.Judge(t.Context(), where.Machine{Name: "a"})
	if ok || err != nil || lacks == nil || !strings.Contains(lacks.Error(), "cost") {
		t.Errorf("100^4 rounds = %v, %v, %v; want the cost to be exceeded", ok, lacks, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	grow := compile(t, `[0,1,2,3,4,5,6,7,8,9].map(a, [0,1,2,3,4,5,6,7,8,9].map(b, [0,1,2,3,4,5,6,7,8,9].map(c, string(a)+"`+strings.Repeat("x", 3000)+`"+string(b)))).size() == 0`)
	if ok, lacks, err := grow.Judge(t.Context(), where.Machine{Name: "a"}); ok || err != nil || lacks == nil {
		t.Errorf("3 MB of texts = %v, %v, %v; want a limit to be exceeded", ok, lacks, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := e.Judge(ctx, where.Machine{Name: "a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("without time Judge = %v; want the context's error", err)
	}
}

func TestGroups(t *testing.T) {
	for _, c := range []struct {
		expr, named string
		all         bool
	}{
		{`"web" in groups && !("db" in groups) || name == "x"`, "[db web]", false},
		{`"web" in groups && "web" in groups && "slurm/GPU" in groups`, "[slurm/GPU web]", false},
		{`groups.exists(g, g.startsWith("w"))`, "[]", true},
		{`name in groups || "web" in groups`, "[web]", true},
		{`name == "web"`, "[]", false},
	} {
		named, all := compile(t, c.expr).Groups()
		if fmt.Sprint(named) != c.named || all != c.all {
			t.Errorf("Groups of %s = %v, %v; want %s, %v", c.expr, named, all, c.named, c.all)
		}
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{`facts.os == "debian"`, `"web" in groups`, `facts.disks.exists(d, d.mount == "/")`, `facts.memry`, `name.matches("a")`, `1/0 == 1`, `facts{}`, `[facts, 1].size() > 0`, `type(facts) == facts`} {
		f.Add(s)
	}
	l := where.New(facts.Schema())
	f.Fuzz(func(t *testing.T, s string) {
		e, err := l.Compile(s)
		if err != nil {
			if !errors.Is(err, where.ErrCondition) {
				t.Fatalf("Compile(%q): %v does not wrap ErrCondition", s, err)
			}
			return
		}
		for _, doc := range []string{big, small, "", `[]`} {
			if _, _, err := e.Judge(t.Context(), where.Machine{Name: "web1", Groups: []string{"web"}, Facts: []byte(doc)}); err != nil {
				t.Fatalf("Judge(%q) of %s: %v", s, doc, err)
			}
		}
	})
}

func FuzzFacts(f *testing.F) {
	f.Add([]byte(big))
	f.Add([]byte(small))
	f.Add([]byte(`{"disks": [{"mount": 5}], "cpu": [], "booted_at": "x", "memory_gb": 1e400}`))
	e := compile(f, `facts.os == "debian" && facts.cpu.count > 1 && facts.disks.exists(d, d.size_bytes > 5) && facts.booted_at > timestamp("2020-01-01T00:00:00Z")`)
	f.Fuzz(func(t *testing.T, doc []byte) {
		if _, _, err := e.Judge(t.Context(), where.Machine{Name: "a", Facts: doc}); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	e := compile(b, `facts.os == "debian" && facts.memory_gb >= 64`)
	for b.Loop() {
		if ok, lacks, err := e.Judge(b.Context(), where.Machine{Name: "web1", Facts: []byte(big)}); !ok || lacks != nil || err != nil {
			b.Fatal(ok, lacks, err)
		}
	}
}

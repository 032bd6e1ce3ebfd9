package confd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// changed gives the lab's configuration after f.
func changed(t testing.TB, f func(c map[string]any)) []byte {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(labConfig(t), &c); err != nil {
		t.Fatal(err)
	}
	f(c)
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// in goes down into a configuration.
func in(c map[string]any, path ...string) map[string]any {
	for _, p := range path {
		c = c[p].(map[string]any)
	}
	return c
}

const (
	beta    = "c1c1c1c1-0000-4000-8000-000000000002"
	gamma   = "c1c1c1c1-0000-4000-8000-000000000003"
	db      = "e1e1e1e1-0000-4000-8000-000000000002"
	noEntry = `"Failure: prerequisites not met for this operation:\nerror type: ECodeNoEnt, error details:\nNode name %s"`
)

// What is answered to what, from the lab's configuration.
func TestAnswers(t *testing.T) {
	w := testServer(t)
	for _, tt := range []struct {
		ask    string
		answer string // begins with !: status 1
		serial int64
	}{
		{`0,"query":"ignored"`, `3000000`, 0},
		{`1,"query":"alpha.lab.example"`, `0`, 42},
		{`1,"query":"alpha"`, `1`, 42},
		{`1,"query":"alpha.lab"`, `1`, 42},
		{`1,"query":"` + alpha + `"`, `1`, 42},
		{`1,"query":"beta"`, `1`, 42},
		{`1,"query":"gamma"`, `2`, 42},
		{`1,"query":"delta"`, `3`, 42},
		{`1,"query":"epsilon"`, `4`, 42},
		{`1,"query":"alp"`, `!` + fmt.Sprintf(noEntry, "alp not found"), 0},
		{`1,"query":"alpha."`, `!` + fmt.Sprintf(noEntry, "alpha. not found"), 0},
		{`1,"query":"Alpha"`, `!` + fmt.Sprintf(noEntry, "Alpha not found"), 0},
		{`1,"query":"twin"`, `!` + fmt.Sprintf(noEntry, "twin has multiple matches"), 0},
		{`1,"query":""`, `!` + fmt.Sprintf(noEntry, " not found"), 0},
		{`1`, `!"Invalid query type EmptyQuery"`, 0},
		{`1,"query":{}`, `!"Invalid query type DictQuery (ConfdReqQ {confdReqQIp = Nothing, confdReqQIpList = [], confdReqQLink = Nothing, confdReqQFields = []})"`, 0},
		{`7,"query":{"1":"a\"\n","2":["b","c"],"0":"l","3":[0,1,2]}`, `!"Invalid query type DictQuery (ConfdReqQ {confdReqQIp = Just \"a\\\"\\n\", confdReqQIpList = [\"b\",\"c\"], confdReqQLink = Just \"l\", confdReqQFields = [ReqFieldName,ReqFieldIp,ReqFieldMNodePip]})"`, 0},
		{`2,"query":{"1":"203.0.113.10"}`, `"192.0.2.3"`, 42}, // of two instances the later one
		{`2,"query":{"1":"203.0.113.10","0":null}`, `"192.0.2.3"`, 42},
		{`2,"query":{"1":"203.0.113.10","0":"br1"}`, `!0`, 0},
		{`2,"query":{"1":"203.0.113.11","0":"br1"}`, `"192.0.2.2"`, 42},
		{`2,"query":{"1":"203.0.113.30"}`, `!0`, 0}, // its node is not there
		{`2,"query":{"2":["203.0.113.20","x"],"1":"203.0.113.10"}`, `"192.0.2.3"`, 42},
		{`2,"query":{"2":["203.0.113.20","x"]}`, `[[0,"192.0.2.3",42],[1,0,0]]`, 42},
		{`2,"query":{"2":["x"],"0":"nolink"}`, `[[1,0,0]]`, 42},
		{`2,"query":{}`, `[]`, 42},
		{`2,"query":"203.0.113.10"`, `!2`, 0},
		{`2`, `!2`, 0},
		{`3`, `"alpha.lab.example"`, 42},
		{`3,"query":null`, `"alpha.lab.example"`, 42},
		{`3,"query":{"3":[2,1,0,0]}`, `["192.0.2.1","192.0.2.200","alpha.lab.example","alpha.lab.example"]`, 42},
		{`3,"query":{"3":[]}`, `[]`, 42},
		{`3,"query":{}`, `[]`, 42},
		{`3,"query":"x"`, `!2`, 0},
		{`4`, `["192.0.2.7","192.0.2.6","192.0.2.5","192.0.2.4","192.0.2.3","192.0.2.2","192.0.2.1"]`, 42},
		{`5`, `["192.0.2.3","192.0.2.2","192.0.2.1"]`, 42},
		{`6`, `["203.0.113.10","203.0.113.20","203.0.113.30"]`, 42},
		{`6,"query":"br1"`, `["203.0.113.11"]`, 42},
		{`6,"query":""`, `[]`, 42},
		{`6,"query":{}`, `!"Invalid query type"`, 0},
		{`7,"query":"beta"`, `[["beta.lab.example",0,"web.lab.example","disk/0","primary","alpha.lab.example"],["beta.lab.example",1,"web.lab.example","disk/1","primary","gamma.lab.example"],["beta.lab.example",3,"db.lab.example","disk/0","secondary","gamma.lab.example"]]`, 12},
		{`7,"query":"epsilon"`, `[]`, 15},
		{`7,"query":"x"`, `!"OpPrereqError \"Node name x not found\" ECodeNoEnt"`, 0},
		{`8,"query":"x"`, `!"Node not found in the configuration: OpPrereqError \"Node name x not found\" ECodeNoEnt"`, 0},
		{`8,"query":"epsilon"`, `[[],[]]`, 15},
		{`9,"query":"x"`, `!"Instance not found in the configuration: OpPrereqError \"Instance name x not found\" ECodeNoEnt"`, 0},
		{`9,"query":"lost"`, `!"Could not retrieve disks: OpPrereqError \"Disk uuid d1d1d1d1-0000-4000-8000-000000000077 not found\" ECodeNoEnt"`, 0},
		{`10,"query":"/serial_no"`, `77`, 42},
		{`10,"query":"/version~9"`, `3000000`, 42},
		{`10,"query":"/cluster/tags//x"`, `["alpha","zeta"]`, 42},
		{`10,"query":"/cluster/tags/0x"`, `"alpha"`, 42},
		{`10,"query":"/cluster/ctime"`, `1.70000000025e9`, 42},
		{`10,"query":"/cluster/ipolicy/spindle-ratio"`, `32`, 42},
		{`10,"query":"/disks/d1d1d1d1-0000-4000-8000-000000000001/logical_id/5"`, `"5ec2e7"`, 42},
		{`10,"query":"/"`, `!2`, 0},
		{`10,"query":""`, `!2`, 0},
		{`10,"query":"//x"`, `!2`, 0},
		{`10,"query":"/version/0"`, `!2`, 0},
		{`10,"query":"/cluster/tags/2"`, `!2`, 0},
		{`11`, `{"cpu-avg-load":{"active":true,"interval":5000000},"diskstats":{"active":true,"interval":5000000},"drbd":{"active":false,"interval":7000000},"inst-status-xen":{"active":false,"interval":5000000},"lv":{"active":true,"interval":5000000},"xen-cpu-avg-load":{"active":true,"interval":5000000}}`, 42},
	} {
		r := w.inner(t, `{"protocol":9,"type":`+tt.ask+`,"rsalt":""}`)
		if r == nil {
			t.Errorf("%s: silence", tt.ask)
			continue
		}
		got := string(r.Answer)
		if r.Status == StatusError {
			got = "!" + got
		}
		if got != tt.answer || r.Serial != tt.serial || r.Protocol != 1 {
			t.Errorf("%s: %s, serial %d; want %s, %d", tt.ask, got, r.Serial, tt.answer, tt.serial)
		}
	}
}

// Configurations that are accepted and not whole.
func TestAnswersOfOddData(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(c map[string]any)
		ask    string
		want   string // !: status 1; empty: silence
	}{
		"no default link, one address": {func(c map[string]any) { delete(in(c, "cluster", "nicparams"), "default") }, `2,"query":{"1":"203.0.113.10","0":"br1"}`, ""},
		"no default link, no address":  {func(c map[string]any) { delete(in(c, "cluster", "nicparams"), "default") }, `2,"query":{}`, "[]"},
		"no default link, list":        {func(c map[string]any) { delete(in(c, "cluster", "nicparams"), "default") }, `6,"query":"br1"`, ""},
		"no default link, object":      {func(c map[string]any) { delete(in(c, "cluster", "nicparams"), "default") }, `6,"query":{}`, `!"Invalid query type"`},
		"no master, role":              {func(c map[string]any) { in(c, "cluster")["master_node"] = "gone" }, `1,"query":"alpha"`, `!` + fmt.Sprintf(noEntry, "gone not found")},
		"no master, name":              {func(c map[string]any) { in(c, "cluster")["master_node"] = "gone" }, `3`, `!` + fmt.Sprintf(noEntry, "gone not found")},
		"no master, no fields":         {func(c map[string]any) { in(c, "cluster")["master_node"] = "gone" }, `3,"query":{"3":[]}`, `!"OpPrereqError \"Node name gone not found\" ECodeNoEnt"`},
		"no master, text":              {func(c map[string]any) { in(c, "cluster")["master_node"] = "gone" }, `3,"query":"x"`, `!2`},
		"master by its name":           {func(c map[string]any) { in(c, "cluster")["master_node"] = "beta" }, `3`, `"beta.lab.example"`},
		"the master drained":           {func(c map[string]any) { in(c, "nodes", alpha)["drained"] = true }, `1,"query":"alpha.lab.example"`, `0`},
		"the master drained, short":    {func(c map[string]any) { in(c, "nodes", alpha)["drained"] = true }, `1,"query":"alpha"`, `3`},
		"a peer is gone":               {func(c map[string]any) { delete(in(c, "nodes"), gamma) }, `7,"query":"beta"`, `!"OpPrereqError \"Node name ` + gamma + ` not found\" ECodeNoEnt"`},
		"a disk is gone":               {func(c map[string]any) { delete(in(c, "disks"), "d1d1d1d1-0000-4000-8000-000000000002") }, `7,"query":"alpha"`, `[]`},
		"two of one name":              {func(c map[string]any) { in(c, "nodes", beta)["name"] = "gamma.lab.example" }, `1,"query":"gamma"`, `2`},
		"xen":                          {func(c map[string]any) { in(c, "cluster")["enabled_hypervisors"] = []string{"xen-pvm"} }, `11`, `{"cpu-avg-load":{"active":true,"interval":5000000},"diskstats":{"active":true,"interval":5000000},"drbd":{"active":false,"interval":7000000},"inst-status-xen":{"active":true,"interval":5000000},"lv":{"active":true,"interval":5000000},"xen-cpu-avg-load":{"active":true,"interval":5000000}}`},
		"the instance's node by name":  {func(c map[string]any) { in(c, "instances", db)["primary_node"] = "alpha" }, `2,"query":{"1":"203.0.113.20"}`, `"192.0.2.1"`},
		"non-ASCII":                    {func(c map[string]any) { in(c, "nodes", alpha)["name"] = "µ.\U0001f600" }, `3`, `"\u00b5.\ud83d\ude00"`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseConfig(changed(t, tt.change))
			if err != nil {
				t.Fatal(err)
			}
			w := testServer(t)
			w.s.SetData(c)
			r := w.inner(t, `{"protocol":1,"type":`+tt.ask+`,"rsalt":"x"}`)
			got := ""
			if r != nil {
				got = strings.Repeat("!", int(r.Status)) + string(r.Answer)
			}
			if got != tt.want {
				t.Errorf("%s; want %s", got, tt.want)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":          {nil, "begin with an object"},
		"array":          {[]byte("[]"), "begin with an object"},
		"blank":          {append([]byte(" "), labConfig(t)...), "begin with an object"},
		"cut":            {labConfig(t)[:1000], "malformed JSON"},
		"more":           {append(labConfig(t), "{}"...), "malformed JSON"},
		"deep":           {[]byte(`{"a":` + strings.Repeat("[", 10000)), "malformed JSON"},
		"not UTF-8":      {[]byte("{\"a\":\"\xff\"}"), "malformed JSON"},
		"missing":        {changed(t, func(c map[string]any) { delete(c, "filters") }), "filters is missing"},
		"unknown":        {changed(t, func(c map[string]any) { in(c, "nodes", alpha)["surprise"] = 1 }), `nodes: ` + alpha + `: unknown member "surprise"`},
		"a wrong type":   {changed(t, func(c map[string]any) { in(c, "cluster")["master_ip"] = 1 }), "cluster: master_ip: 1 is no string"},
		"null":           {changed(t, func(c map[string]any) { in(c, "cluster")["master_ip"] = nil }), "master_ip: null is no string"},
		"a wrong word":   {changed(t, func(c map[string]any) { in(c, "cluster")["enabled_hypervisors"] = []string{"vmware"} }), `"vmware" is no word of kvm`},
		"too big":        {make([]byte, MaxConfig+1), "more than"},
		"absurd numbers": {[]byte(`{"version":1e999999999}`), "1e999999999 is no"},
	} {
		_, err := ParseConfig(tt.b)
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %s", name, err, tt.want)
		}
	}
}

// Before any data everything is answered, ping too, with an error.
func TestNoData(t *testing.T) {
	w := testServer(t)
	w.s.SetError("why\nnot")
	for typ := range types {
		r := w.inner(t, fmt.Sprintf(`{"protocol":1,"type":%d,"rsalt":"x"}`, typ))
		if d := cmp.Diff(&Reply{Protocol: 1, Status: StatusError, Answer: []byte(`"why\nnot"`)}, r); d != "" {
			t.Errorf("type %d differs (-want +got):\n%s", typ, d)
		}
	}
	fresh := NewServer(ServerConfig{Key: []byte(testKey), Now: w.s.cfg.Now}).newWorker()
	if r := fresh.inner(t, `{"protocol":1,"type":0,"rsalt":"x"}`); r == nil || string(r.Answer) != `"Configuration not yet loaded"` {
		t.Errorf("a fresh server: %+v", r)
	}
}

func TestNumbers(t *testing.T) {
	for _, tt := range []struct{ in, exact, double string }{
		{"0", "0", "0"},
		{"-0", "0", "0"},
		{"32.0", "32", "32"},
		{"1e2", "100", "100"},
		{"1.50", "1.5", "1.5"},
		{"1700000000.25", "1.70000000025e9", "1.70000000025e9"},
		{"0.1", "0.1", "0.1"},
		{"0.05", "5.0e-2", "5.0e-2"},
		{"9999999.5", "9999999.5", "9999999.5"},
		{"12345678.5", "1.23456785e7", "1.23456785e7"},
		{"-2.5e-7", "-2.5e-7", "-2.5e-7"},
		{"123456789012345678901234567890", "123456789012345678901234567890", "123456789012345677877719597056"},
		{"1e22", "10000000000000000000000", "10000000000000000000000"},
	} {
		if got, ok := exact(tt.in); got != tt.exact || !ok {
			t.Errorf("exact(%s) = %s, %v; want %s", tt.in, got, ok, tt.exact)
		}
		if v, err := real(value{kind: numeral, text: tt.in}); v.text != tt.double || err != nil {
			t.Errorf("real(%s) = %s, %v; want %s", tt.in, v.text, err, tt.double)
		}
	}
	for in, want := range map[string]int64{"0.5": 0, "1.5": 2, "2.5": 2, "-0.5": 0, "-1.5": -2, "1.9": 2, "1e3": 1000, "0.49999": 0, "-2.6": -3, "7": 7} {
		if got, ok := rounded(in); got != want || !ok {
			t.Errorf("rounded(%s) = %d, %v; want %d", in, got, ok, want)
		}
	}
	for _, in := range []string{"1e401", "1e-401", "9223372036854775808", "1e30", "1e99999999999999999999"} {
		if got, ok := rounded(in); ok {
			t.Errorf("rounded(%s) = %d; want none", in, got)
		}
	}
}

func TestShowString(t *testing.T) {
	for in, want := range map[string]string{
		"": `""`, "a\"b\\c": `"a\"b\\c"`, "\n\t\x00\x01": `"\n\t\NUL\SOH"`, "\x0eH\x0eA": `"\SO\&H\SOA"`, "\x7f": `"\DEL"`, "é1": `"\233\&1"`, "éa": `"\233a"`, "\U0001f600": `"\128512"`,
	} {
		if got := showString(in); got != want {
			t.Errorf("showString(%q) = %s; want %s", in, got, want)
		}
	}
}

// A worker answers without making garbage, whatever the size of the cluster.
func TestAnswerAllocations(t *testing.T) {
	w := testServer(t)
	from := netip.MustParseAddr("192.0.2.1")
	var out []byte
	for name, msg := range map[string]string{
		"role": `{"protocol":1,"type":1,"query":"alpha.lab.example","rsalt":"x"}`, "ping": `{"protocol":1,"type":0,"rsalt":"x"}`, "list": `{"protocol":1,"type":4,"rsalt":"x"}`,
		"by address": `{"protocol":1,"type":2,"query":{"1":"203.0.113.10"},"rsalt":"x"}`, "garbage": `{`,
	} {
		b := newSigner([]byte(testKey)).sealRequest(nil, []byte(msg), workedTime)
		if n := testing.AllocsPerRun(100, func() { out = w.answer(out[:0], b, from) }); n > 0 {
			t.Errorf("%s: %v allocations; want none", name, n)
		}
	}
}

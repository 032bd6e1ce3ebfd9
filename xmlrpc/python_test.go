package xmlrpc

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"os/exec"
	"testing"
)

// peer is Python's xmlrpc.client: it writes calls with random values, and
// compares what comes back in an answer with what it had written.
const peer = `
import base64, random, sys, xmlrpc.client as x
r = random.Random(int(sys.argv[1]))
def text():
    return "".join(r.choice("ab <>&\"'\t\n é€\U0001F600]]>") for _ in range(r.randrange(12)))
def value(d):
    k = r.randrange(11 if d < 4 else 9)
    if k == 0: return None
    if k == 1: return r.random() < .5
    if k == 2: return r.choice([0, 1, -1, 2**31-1, -2**31, r.randrange(-10**6, 10**6)])
    if k == 3: return r.choice([0.0, -0.0, 1.5, 1e21, 5e-324, 1.7976931348623157e308, float("inf"), -float("inf"), r.random()])
    if k in (4, 5): return text()
    if k == 6: return x.Binary(bytes(r.randrange(256) for _ in range(r.randrange(90))))
    if k == 7: return x.DateTime((r.randrange(1000, 9999), r.randrange(1, 13), r.randrange(1, 29), r.randrange(24), r.randrange(60), r.randrange(60), 0, 0, 0))
    if k == 8: return text() + "x"
    if k == 9: return [value(d+1) for _ in range(r.randrange(5))]
    return {text(): value(d+1) for _ in range(r.randrange(5))}
def same(a, b):
    if type(a) != type(b): return False
    if isinstance(a, list): return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return repr(a) == repr(b) if isinstance(a, float) else a == b
for _ in range(int(sys.argv[2])):
    v = value(0)
    print(base64.b64encode(x.dumps((v,), "test.echo", allow_none=True).encode()).decode(), flush=True)
    (back,), name = x.loads(base64.b64decode(sys.stdin.readline()))
    if not same(back, v):
        sys.exit("sent %r, got %r" % (v, back))
try:
    x.loads(base64.b64decode(sys.stdin.readline()))
except x.Fault as f:
    print(f.faultCode, f.faultString, flush=True)
(v,), _ = x.loads(base64.b64decode(sys.stdin.readline()))
print(v, flush=True)
`

// Python writes what we read, and reads what we write.
func TestPythonAgrees(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is not installed")
	}
	const rounds = 2000
	for seed := range 2 {
		cmd := exec.CommandContext(t.Context(), python, "-c", peer, fmt.Sprint(seed), fmt.Sprint(rounds))
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		stderr, _ := cmd.StderrPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		say := func(b []byte) { fmt.Fprintln(in, base64.StdEncoding.EncodeToString(b)) }
		for range rounds {
			if !lines.Scan() {
				break // it says why
			}
			doc, err := base64.StdEncoding.DecodeString(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			c, err := ParseCall(doc)
			if err != nil || c.Method != "test.echo" || len(c.Params) != 1 {
				t.Fatalf("ParseCall = %v, %v\n%s", c, err, doc)
			}
			b, err := AppendAnswer(nil, c.Params[0])
			if err != nil {
				t.Fatal(err)
			}
			say(b)
		}
		say(AppendFault(nil, Fault{1, "<class 'x'>:\r"}))
		if lines.Scan(); lines.Text() != "1 <class 'x'>:\r" && lines.Text() != "1 <class 'x'>:" {
			t.Errorf("the fault became %q", lines.Text())
		}
		b, _ := AppendAnswer(nil, Long(1<<40))
		if say(b); !lines.Scan() || lines.Text() != "1099511627776" {
			t.Errorf("2^40 became %q", lines.Text())
		}
		why, _ := io.ReadAll(stderr)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("python: %v\n%s", err, why)
		}
	}
}

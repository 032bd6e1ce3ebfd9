package funcd

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dominion/call"
	"dominion/pki"
)

// prelude makes Python's own xmlrpc.client speak to the machine: peer(NAME) gives a
// proxy with a certificate.
const prelude = `
import http.client, socket, ssl, sys, threading, time, xmlrpc.client as x
addr, dir = sys.argv[1:3]
def context(cert, version=None):
    c = ssl.create_default_context(cafile=dir + "/ca.pem")
    if version: c.minimum_version = c.maximum_version = version
    if cert: c.load_cert_chain(dir + "/" + cert + ".pem")
    return c
def peer(cert, path="", **kw):
    return x.ServerProxy("https://" + addr + path, allow_none=True, context=context(cert, kw.pop("version", None)), **kw)
def fault(fn, *args):
    try: got = fn(*args)
    except x.Fault as f: return f.faultCode, f.faultString
    raise AssertionError("no fault: %r" % (got,))
def is_(got, want):
    assert got == want and type(got) == type(want), "got %r, want %r" % (got, want)
def error(got, kind, text, trace=""):
    assert isinstance(got, list) and len(got) == 4 and all(isinstance(s, str) for s in got), got
    assert got[:3] == ["REMOTE_ERROR", kind, text] and trace in got[3] and "web1" in got[3], got
def finished(s, id, limit=20):
    end = time.time() + limit
    while True:
        code, result = s.jobs.job_status(id)
        if code == 1: return result
        assert (code, result) == (0, -1), (code, result)
        assert time.time() < end, "not finished"
        time.sleep(.02)
DENIED = (1, "<class 'func.minion.codes.AccessToMethodDenied'>:")
`

// python runs a program against the machine.
func (w *world) python(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := w.run(t.Context(), t, program, args...); err != nil {
		t.Fatalf("python: %v\n%s", err, out)
	}
}

func (w *world) run(ctx context.Context, t *testing.T, program string, args ...string) ([]byte, error) {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is not installed")
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"-c", prelude + program, w.addr, w.dir}, args...)...)
	return cmd.CombinedOutput()
}

// newPythonWorld has a machine and three clients: operator alice, who may do almost
// everything, and the minions web2, by CN-HASH, and web3, whom no line names.
func newPythonWorld(t *testing.T, change func(*Options)) *world {
	w := newWorld(t, "", change)
	_, hash := w.peer(pki.Minion, "web2")
	w.peer(pki.Minion, "web3")
	w.peer(pki.Operator, "alice")
	w.acl("site.acl", "operator/alice = test.*, echo.*, native.*, jobs.*, system.*, func_module.*, nosuch.*, trait_names\n"+
		hash+" = test.add, jobs.*\n")
	return w
}

func TestPythonEchoesEveryType(t *testing.T) {
	w := newPythonWorld(t, nil)
	w.python(t, `
values = [None, True, False, 0, -2**31, 2**31-1, 1.5, -0.25, 1e300, float("inf"), "", "text <&> \n\t é€\U0001F600", " blanks ",
    x.Binary(b""), x.Binary(bytes(range(256)) * 40), x.DateTime("20261121T21:24:06"), [], [1, [2, ["x", None]], {}], {},
    {"a": 1, "": "empty", "b c": {"d": [True]}, "é": None}, "x" * 1000000]
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    for path in ("", "/RPC2", "/"):
        s = peer("operator-alice", path, version=version)
        for v in values:
            is_(s.test.echo(v), v)
s = peer("operator-alice")
is_(peer("operator-alice", use_builtin_types=True).test.echo(b"\0\1"), b"\0\1")
is_(s.test.ping(), 1)
is_(s.test.add(1, 2), 3)
is_(s.test.add("foo", "bar"), "foobar")
is_(s.test.add([1], ["a"]), [1, "a"])
is_(s.test.add(1, .5), 1.5)
is_(s.echo.run_int("7"), 7)
is_(s.echo.run_float(7), 7.0)
is_(s.echo.run_string(True), "True")
is_(s.echo.run_options("first_option"), "first_option")
is_(s.echo.run_list_star(1, "a", None), [1, "a", None])
is_(s.echo.run_hash({"a": [1]}), {"a": [1]})
assert abs(s.test.sleep("0") - time.time()) < 60
`)
	begun, ended, refused := w.log.all()
	if len(begun) == 0 || len(begun) != len(ended) || len(refused) > 0 {
		t.Fatalf("%d calls begun, %d ended, %d refused", len(begun), len(ended), len(refused))
	}
	for i, r := range ended {
		if r.ID != begun[i].ID || r.Caller != "operator/alice" || r.Address == "" || r.Code != call.OK || len(r.Output) != 32 || r.Whole {
			t.Fatalf("record %+v", r)
		}
	}
	if r := begun[0]; r.Method != "test.echo" || len(r.Args) != 32 || r.Output != nil {
		t.Errorf("record %+v", r)
	}
}

func TestPythonSeesErrors(t *testing.T) {
	w := newPythonWorld(t, nil)
	w.python(t, `
s = peer("operator-alice")
error(s.test.explode(), "exceptions.Exception", "khhhhhhaaaaaan!!!!!!")
error(s.test.explode_no_string(), "exceptions.Exception", "")
error(s.nosuch.method(), "func.minion.codes.ModuleNotFoundException", "")
error(s.test.nosuch(), "func.minion.codes.InvalidMethodException", "")
error(s.test.add(1), "exceptions.TypeError", "add() takes 2 arguments (1 given)")
error(s.test.add(1, 2, 3), "exceptions.TypeError", "add() takes 2 arguments (3 given)")
error(s.test.add(1, "a"), "exceptions.TypeError", "unsupported operand type(s) for +")
error(s.native.fields(), "exceptions.TypeError", 'native.fields: field "text" is missing; wants a text, at most 100 bytes')
error(s.native.fields("t", 10), "exceptions.TypeError", 'native.fields: field "count": got "10"; wants a whole number, 1 to 9')
error(s.native.fields(*range(12)), "exceptions.TypeError", "fields() takes at most 9 arguments (12 given)")
got = s.native.__getattr__("break")()
assert got[:2] == ["REMOTE_ERROR", "func.minion.codes.FuncException"] and "broke" in got[2], got
got = s.native.hang()
assert got[2] == "time-out: it did not end within 50ms", got
is_(fault(s.test.bigint), (1, "<type 'exceptions.OverflowError'>:int exceeds XML-RPC limits"))
is_(fault(s.test.add, 2**31-1, 1), (1, "<type 'exceptions.OverflowError'>:int exceeds XML-RPC limits"))
for v in ("a\x01b", {1: 2}):
    try: s.test.echo(v)
    except x.Fault as f: assert f.faultCode == 1 and "ExpatError" in f.faultString, f
    except TypeError: assert v == {1: 2}
    else: raise AssertionError(v)
# What is no call.
for method, path, body, status in (("GET", "/RPC2", b"", 501), ("POST", "/other", b"", 404), ("POST", "/RPC2", b"x" * (8 << 20) + b"x", 413)):
    h = http.client.HTTPSConnection(addr, context=context("operator-alice"))
    try:
        h.request(method, path, body)
        is_(h.getresponse().status, status)
    except (BrokenPipeError, ConnectionResetError, ssl.SSLError): assert status == 413
    h.close()
assert fault(x.ServerProxy("https://" + addr + "/", context=context("operator-alice")).__getattr__("a b"))[0] == 1
is_(s.test.ping(), 1)
`)
}

func TestPythonIsDenied(t *testing.T) {
	w := newPythonWorld(t, nil)
	stranger := newPythonWorld(t, nil)
	w.write("stranger.pem", must(readFile(filepath.Join(stranger.dir, "operator-alice.pem")))(t))
	w.python(t, `
s = peer("minion-web2")
is_(s.test.add(1, 2), 3)
is_(fault(s.test.ping), DENIED)
is_(fault(s.__getattr__("async.test.ping")), DENIED)
is_(fault(s.system.listMethods), DENIED)
is_(fault(s.trait_names), DENIED)
is_(fault(peer("operator-alice")._getAttributeNames), DENIED)
is_(fault(s.test.add.nosuch), DENIED)
s = peer("minion-web3")
is_(fault(s.test.add, 1, 2), DENIED)
for cert in (None, "stranger"):
    try: got = peer(cert).test.ping()
    except (ssl.SSLError, ConnectionError, http.client.HTTPException, socket.error): pass
    else: raise AssertionError(got)
`)
	_, _, refused := w.log.all()
	if len(refused) != 7 {
		t.Fatalf("%d refusals are recorded", len(refused))
	}
	for i, r := range refused {
		if r.Code != call.Denied || r.Caller == "" || r.Detail == "" || i == 0 && (r.Method != "test.ping" || r.Caller != "minion/web2") {
			t.Errorf("record %+v", r)
		}
	}
	// What the lists say counts at once, also on connections that are open.
	w.python(t, `
s = peer("minion-web2")
is_(s.test.add(1, 2), 3)
f = open(dir + "/acl/site.acl"); text = f.read(); f.close()
open(dir + "/acl/site.acl", "w").write("# nobody\n")
is_(fault(s.test.add, 1, 2), DENIED)
open(dir + "/acl/other.acl", "w").write("minion/web2 = test.*\n")
is_(s.test.ping(), 1)
`)
}

func TestPythonInTheBackground(t *testing.T) {
	w := newPythonWorld(t, func(opt *Options) {
		opt.Modules = append(opt.Modules, Module{Name: "slow", Methods: []Method{{Name: "work", Run: func(_ context.Context, env *Env, _ []any) (any, error) {
			env.Log.Info("begun\nby %s", env.Caller)
			for i := range 60 {
				env.Log.Progress(i, 60)
			}
			return env.Caller.String(), nil
		}}}})
	})
	w.acl("more.acl", "* = slow.*")
	w.python(t, `
s = peer("operator-alice")
bg = s.__getattr__("async")
id = bg.test.sleep(1)
assert isinstance(id, str) and id.endswith("-minion") and abs(float(id[:-7]) - time.time()) < 60, id
is_(s.jobs.job_status(id), [0, -1])
other = peer("minion-web2")
is_(other.jobs.job_status(id), [2, 0])          # another's
is_(s.jobs.job_status("1.5-minion"), [2, 0])
is_(s.jobs.get_progress(id), [0, 0])
assert abs(finished(s, id) - time.time()) < 60
is_(s.jobs.job_status(id)[0], 1)                # again
error(finished(s, bg.test.explode()), "exceptions.Exception", "khhhhhhaaaaaan!!!!!!")
error(finished(s, bg.nosuch.method()), "func.minion.codes.ModuleNotFoundException", "")
assert finished(s, bg.test.bigint())[1] == "xmlrpclib.Fault"
ids = [bg.test.add(i, 1) for i in range(50)]
is_(len(set(ids)), 50)
is_([finished(s, i) for i in ids], list(range(1, 51)))
is_(finished(s, bg.system.list_modules()), s.system.list_modules())
id = bg.slow.work()
is_(finished(s, id), "operator/alice")
is_(s.jobs.get_progress(id), [59, 60])
out, err = s.jobs.tail_output(id)
lines = out.splitlines()
is_((len(lines), err), (50, ""))
assert lines[-1].endswith(" - %s - INFO - Progress report 59/60 completed" % id), lines[-1]
id = bg.native.say()
got = finished(s, id)
is_(got[:3], ["REMOTE_ERROR", "func.minion.codes.FuncException", "failed as it should"])
out = s.jobs.tail_output(id)[0]
is_([l.split(" - INFO - ")[1] for l in out.splitlines()], ["one", "two", "\ufffdfour", "three"])
`)
	begun, ended, _ := w.log.all()
	if len(ended) != 55 || len(begun) != len(ended)+2 { // system.list_modules has no end
		t.Errorf("%d calls begun, %d ended", len(begun), len(ended))
	}
	for _, r := range begun {
		if strings.HasPrefix(r.Method, "jobs.") || strings.HasPrefix(r.Method, "async.") {
			t.Errorf("record %+v", r)
		}
	}
}

func TestPythonLooksAround(t *testing.T) {
	w := newPythonWorld(t, nil)
	w.python(t, `
s = peer("operator-alice")
names = s.system.listMethods()
is_(names, sorted(set(names)))
is_(names, s.system.list_methods())
is_(names, s.trait_names())
for n in ("test.add", "test.fail", "native.fields", "jobs.job_status", "system.multicall", "echo.run_list_star", "func_module.module_version", "native.get_method_args"):
    assert n in names, n
is_(s.system.list_modules(), ["echo", "func_module", "jobs", "native", "test"])
is_(s.system.listModules(), s.system.list_modules())
inv = s.system.inventory()
is_(sorted(inv), s.system.list_modules())
assert "add" in inv["test"] and "list_methods" in inv["func_module"]
is_(s.system.grep(" ECHO "), {"system.list_modules": ["echo"], "system.list_methods": [n for n in names if "echo" in n]})
is_((s.test.module_version(), s.test.module_api_version(), s.test.module_description()), ("11.11.11", "0.0.1", "Just a very simple example module"))
is_((s.native.module_version(), s.native.module_description()), ("1.2.3", "Methods of the minion's own kind."))
is_((s.func_module.module_version(), s.func_module.module_description()), ("0.0.0", "No Description provided"))
is_(s.test.list_methods(), sorted(set(inv["test"])))
is_((s.test.grep("x"), s.test.config_items(), s.test.save_config()), ({}, [], True))
is_(s.system.methodHelp("native.fields"), "Gives back its fields.")
is_(s.system.methodSignature("native.fields"), [["undef", "string", "int", "double", "boolean", "string", "string", "string", "array", "struct"]])
is_(s.system.methodSignature("test.echo"), "undef")
error(s.system.methodHelp("test.nosuch"), "func.minion.codes.InvalidMethodException", "")
args = s.native.get_method_args()
is_(args["fields"]["description"], "Gives back its fields.")
a = args["fields"]["args"]
is_(a["text"], {"type": "string", "optional": False, "order": 0, "description": "a text", "max_length": 100})
is_(a["count"], {"type": "int", "optional": True, "order": 1, "description": "a number", "default": 3, "min": 1, "max": 9})
is_(a["yes"], {"type": "boolean", "optional": True, "order": 3, "description": "whether"})
is_(a["kind"], {"type": "string", "optional": True, "order": 5, "description": "of two", "default": "a", "options": ["a", "b"]})
is_(a["list"], {"type": "list", "optional": True, "order": 7, "description": "texts", "validator": "[a-z]+"})
is_(a["map"]["type"], "hash")
is_(s.echo.get_method_args()["run_list_star"]["args"]["x"]["type"], "list*")
is_("add" in s.test.get_method_args(), False)
is_(s.func_module.get_method_args(), {})

# The minion's own methods: by position, as texts, by name.
full = {"text": "t", "count": 3, "ratio": 0, "yes": False, "wait": "1m0s", "data": "", "list": None, "map": None, "big": 2**40}
is_(s.native.fields("t"), full)
want = {"text": "name=x", "count": 9, "ratio": 2.5, "yes": True, "wait": "1m30s", "data": x.Binary(b"\xff\0"), "list": ["a", "b"], "map": {"k": "v"}, "big": 2**40}
is_(s.native.fields("name=x", 9, 2.5, True, 90, "b", x.Binary(b"\xff\0"), ["a", "b"], {"k": "v"}), want)
is_(s.native.fields("name=x", "9", "2.5", "True", "90s", "b", x.Binary(b"\xff\0"), ["a", "b"], {"k": "v"}), want)
is_(s.native.fields({"text": "t", "count": 9})["count"], 9)
is_(s.native.fields("t", None, None, 1), dict(full, yes=True))
got = s.native.fields({"text": "t", "other": 9})
is_(got[:2], ["REMOTE_ERROR", "exceptions.TypeError"])

# Several at once.
m = x.MultiCall(s)
m.test.add(1, 2); m.test.ping(); m.test.explode()
got = list(m())
is_(got[:2], [3, 1]); error(got[2], "exceptions.Exception", "khhhhhhaaaaaan!!!!!!")
got = s.system.multicall([{"methodName": "command.run", "params": []}, {"methodName": "system.multicall", "params": [[]]}, {"methodName": "test.bigint", "params": []}, {"methodName": "test.echo", "params": [None]}, 7])
is_([g if isinstance(g, list) else g["faultString"] for g in got], [DENIED[1], "a call is {methodName, params}, and no other multicall",
    "<type 'exceptions.OverflowError'>:int exceeds XML-RPC limits", [None], "a call is {methodName, params}, and no other multicall"])
is_(s.system.multicall([{"methodName": "test.ping", "params": []}] * 1000), [[1]] * 1000)
is_(s.system.multicall([{"methodName": "test.ping", "params": []}] * 1001)[1], "exceptions.TypeError")
is_(s.system.multicall([]), [])
`)
	begun, ended, _ := w.log.all()
	whole := 0
	for _, r := range begun {
		if r.Whole {
			whole++
		}
	}
	if len(begun) != len(ended)+whole || whole == 0 {
		t.Errorf("%d calls begun, %d of them whole, %d ended", len(begun), whole, len(ended))
	}
}

func TestPythonAsksForFacts(t *testing.T) {
	w := newPythonWorld(t, func(opt *Options) {
		opt.Facts = func() []Fact {
			return FactsOf(map[string]any{"os": "debian", "version": "13", "kernel": "6.12.1", "memory_gb": 64.0, "cpu": map[string]any{"model": "Zen"}})
		}
	})
	w.python(t, `
s = peer("operator-alice")
def ask(q, *rest): return s.test.add({"__fact__": q}, *rest)
is_(ask(["AND", [["os", "debian 13"]]], 1, 2), [{"__fact__": [True, {"os": "debian 13"}]}, 3])
is_(ask(["AND", [["kernel__startswith", "5"], ["facts.memory_gb__gte", "64"]]], 1, 2), [{"__fact__": [False, {"kernel": "6.12.1", "facts.memory_gb": 64}]}])
got = ask(["OR", [["NOT", ["AND", [["cpumodel", "Zen"]]]], ["hardware.kernel_version__", "6.12.1"]]], 1)
is_(got[0]["__fact__"][0], True); error(got[1], "exceptions.TypeError", "add() takes 2 arguments (1 given)")
error(ask(["AND", [["runlevel", 3]]], 1, 2), "func.minion.codes.FuncException", "None existing Fact method or tag required runlevel")
error(ask(["AND", [["os__like", 3]]], 1, 2), "func.minion.codes.FuncException", "The keyword like used in query is not a valid one")
error(ask(["XOR", []], 1, 2), "func.minion.codes.FuncException", 'a fact query is ["AND" or "OR", items], at most 32 within each other')
for _ in range(3):  # no query is remembered
    is_(ask(["AND", [["os", "x"]]], 1, 2)[0]["__fact__"][0], False)
    is_(ask(["AND", [["os", "debian 13"]]], 1, 2)[1], 3)
is_(finished(s, s.__getattr__("async").test.add({"__fact__": ["AND", [["os", "debian 13"]]]}, 1, 2))[1], 3)
`)
	_, ended, _ := w.log.all()
	if r := ended[1]; r.Detail != "not run: the facts do not match" {
		t.Errorf("record %+v", r)
	}
}

// Two clients call at the same time, and nobody is ever taken for the other.
func TestPythonClientsAreNeverMixedUp(t *testing.T) {
	w := newPythonWorld(t, func(opt *Options) {
		opt.Modules = append(opt.Modules, Module{Name: "who", Methods: []Method{{Name: "am_i", Run: func(_ context.Context, env *Env, _ []any) (any, error) {
			return env.Caller.String(), nil
		}}}})
	})
	w.acl("more.acl", "* = who.am_i\noperator/alice = a.*\nminion/web2 = b.*")
	const program = `
me, mine, others = sys.argv[3:6]
cert = me.replace("/", "-")
done = []
def work(n):
    s = peer(cert)
    for i in range(n):
        if i % 50 == 49: s("close")(); s = peer(cert)
        if i % 3 == 0: is_(s.who.am_i(), me)
        if i % 3 == 1: is_(s.__getattr__(mine).x()[1], "func.minion.codes.ModuleNotFoundException")
        if i % 3 == 2: is_(fault(s.__getattr__(others).x), DENIED)
        done.append(i)
threads = [threading.Thread(target=work, args=(250,)) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
is_(len(done), 1000)
`
	results := make(chan string, 2)
	for _, args := range [][]string{{"operator/alice", "a", "b"}, {"minion/web2", "b", "a"}} {
		go func() {
			out, err := w.run(t.Context(), t, program, args...)
			if err == nil {
				out = nil
			} else {
				out = fmt.Appendf(out, "%v", err)
			}
			results <- string(out)
		}()
	}
	for range 2 {
		if out := <-results; out != "" {
			t.Errorf("python: %s", out)
		}
	}
	begun, ended, refused := w.log.all()
	count := map[string]int{}
	for _, r := range begun {
		count[r.Caller+" "+r.Method]++
	}
	for _, r := range refused {
		count[r.Caller+" "+r.Method+" "+r.Code.String()]++
	}
	for key, want := range map[string]int{
		"operator/alice who.am_i": 336, "minion/web2 who.am_i": 336, "operator/alice a.x not found": 332, "minion/web2 b.x not found": 332,
		"operator/alice b.x denied": 332, "minion/web2 a.x denied": 332,
	} {
		if count[key] != want {
			t.Errorf("%s is recorded %d times; want %d", key, count[key], want)
		}
	}
	if len(ended) != len(begun) || len(count) != 6 {
		t.Errorf("%d begun, %d ended, kinds %v", len(begun), len(ended), count)
	}
	for _, r := range ended {
		if len(r.Output) != 32 || bytes.Equal(r.Output, make([]byte, 32)) {
			t.Errorf("record %+v", r)
		}
	}
}

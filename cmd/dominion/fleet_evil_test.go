//go:build fleet

package main_test

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dominion/api/apipb"
	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/session"
)

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey {
	pub, _ := key.Public().(ed25519.PublicKey)
	return pub
}

// evilFleet is a top with a machine of its own, a sub-overlord with one, and another
// with two whose process has been replaced. The top's map knows all.
func evilFleet(t *testing.T, binary string) (top *site, hop *evilHop) {
	t.Helper()
	top = newSite(t, binary)
	top.up("--autosign", "top-*", "--name", "top")
	good, evil := top.sub(top, "good"), top.sub(top, "evil")
	top.minion("top-1")
	good.minion("good-1")
	evil.minion("evil-1")
	evil.minion("evil-2")
	good.await(1)
	evil.await(2)
	top.await(3)
	top.root.run("map", "build").exits(0)
	hop = evil.possessHop(top, "evil")
	hop.peer("evil-1")
	hop.peer("evil-2")
	return top, hop
}

// TestFleetEvil puts a sub-overlord, and an overlord above one, into the wrong
// hands: all of its keys, its store and the sessions of its machines.
func TestFleetEvil(t *testing.T) {
	binary := program(t)
	for _, x := range []struct {
		name string
		test func(t *testing.T, binary string)
	}{
		{"Orders", testEvilOrders},
		{"Lies", testEvilLies},
		{"Answers", testEvilAnswers},
		{"Weight", testEvilWeight},
		{"Requests", testEvilRequests},
		{"Output", testEvilOutput},
		{"Certificates", testEvilCertificates},
		{"Parent", testEvilParent},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			x.test(t, binary)
		})
	}
}

// marks is a file that a program of the test makes where it runs.
func (s *site) marks(name string) (path string, lines func() int) {
	path = filepath.Join(s.dir, name)
	return path, func() int {
		b, err := os.ReadFile(path)
		if err != nil {
			return 0
		}
		return strings.Count(string(b), "\n")
	}
}

// A hop carries orders, and cannot change what they say, whom they are for, or how
// often they run.
func testEvilOrders(t *testing.T, binary string) {
	top, hop := evilFleet(t, binary)
	for _, x := range []struct {
		name, target string
		why          string
		change       func(name string, c *fleetpb.Call)
	}{
		{"argument", "evil-*", "the arguments are not those that operator/root signed", func(_ string, c *fleetpb.Call) {
			c.Args = slices.Clone(c.Args)
			c.Args[len(c.Args)-3] ^= 1
		}},
		{"salt", "evil-*", "the arguments are not those that operator/root signed", func(_ string, c *fleetpb.Call) {
			c.Salt = slices.Clone(c.Salt)
			c.Salt[0] ^= 1
		}},
		{"method", "evil-*", "the call names another method than the order", func(_ string, c *fleetpb.Call) { c.Method = "command.run" }},
		{"order", "evil-*", "bad order", func(_ string, c *fleetpb.Call) {
			c.Order = slices.Clone(c.Order)
			c.Order[len(c.Order)-1] ^= 1
		}},
		{"signature", "evil-*", "bad order", func(_ string, c *fleetpb.Call) { c.Signature = c.Signature[:len(c.Signature)-1] }},
		{"certificate", "evil-*", "the operator's certificate does not hold", func(_ string, c *fleetpb.Call) { c.OperatorCert = hop.cert.Certificate[0] }},
		{"proof", "evil-*", "bad order", func(_ string, c *fleetpb.Call) { c.Proof = nil }},
		{"place", "evil-*", "bad order", func(_ string, c *fleetpb.Call) { c.LeafIndex ^= 1 }},
	} {
		path, lines := top.marks(x.name)
		hop.does(func(o evilOrder) { o.relay("command.shell", x.change) })
		top.root.run("call", "--delegate", x.target, "command.shell", "script=echo ran >> "+path).exits(3).tells(x.why)
		if n := lines(); n != 0 {
			t.Errorf("%s: it ran %d times", x.name, n)
		}
	}

	// A machine that is not among the names, with another's proof.
	path, lines := top.marks("stranger")
	seen := make(chan verdict, 1)
	hop.does(func(o evilOrder) {
		seen <- hop.send("evil-2", callOf(t, o.d, "command.shell", "evil-1")).wait(t)
		o.relay("command.shell", func(string, *fleetpb.Call) {})
	})
	top.root.run("call", "--delegate", "evil-1", "command.shell", "script=echo ran >> "+path).exits(0)
	if v := <-seen; v.code != call.BadOrder || lines() != 1 {
		t.Errorf("evil-2 answers %v, and it ran %d times; want a bad order, and once", v, lines())
	}

	for _, m := range []string{session.MethodDelegate, session.MethodMap, session.MethodGroups, session.MethodGrant, session.MethodRevoke} {
		if v := hop.send("evil-1", &fleetpb.Call{Method: m, Args: []byte("{}")}).wait(t); v.code != call.NotFound {
			t.Errorf("a machine answers %s with %v; want that it has no such method", m, v)
		}
	}

	// The same again, at once and later.
	hop.hopMu.Lock()
	old := hop.last.d
	hop.hopMu.Unlock()
	for range 2 {
		if v := hop.send("evil-1", callOf(t, old, "command.shell", "evil-1")).wait(t); v.code != call.Repeated {
			t.Errorf("a replayed order: %v; want that it is known", v)
		}
	}
	now := time.Now()
	for name, d := range map[string]struct {
		d    *fleetpb.Delegate
		code call.Code
	}{
		"expired": {top.ordered("command.shell", `{"script":"echo ran >> `+path+`"}`, "evil-[1,2]", now.Add(-2*time.Hour), now.Add(-time.Hour)), call.Expired},
		"early":   {top.ordered("command.shell", `{"script":"echo ran >> `+path+`"}`, "evil-[1,2]", now.Add(time.Hour), now.Add(2*time.Hour)), call.ClockSkew},
		"young":   {top.ordered("command.shell", `{"script":"echo ran >> `+path+`"}`, "evil-[1,2]", now.Add(-time.Hour), now.Add(time.Hour)), call.TooYoung},
	} {
		if v := hop.send("evil-1", callOf(t, d.d, "command.shell", "evil-1")).wait(t); v.code != d.code {
			t.Errorf("%s: %v; want %v", name, v, d.code)
		}
	}
	if n := lines(); n != 1 {
		t.Errorf("it ran %d times; want once", n)
	}

	// What it can do: carry an order out that was taken for lost, until it expires.
	path, lines = top.marks("late")
	hop.does(nil)
	top.root.run("call", "--delegate", "evil-1", "command.shell", "script=echo ran >> "+path, "--timeout", "1s").exits(3).tells("unreachable behind evil: no answer within 1s")
	hop.hopMu.Lock()
	kept := hop.last.d
	hop.hopMu.Unlock()
	if v := hop.send("evil-1", callOf(t, kept, "command.shell", "evil-1")).wait(t); v.code != call.OK || lines() != 1 {
		t.Errorf("an order that is late: %v, and it ran %d times; it may start for an hour", v, lines())
	}
}

// evilNames are the machines of evilFleet.
var evilNames = []string{"evil-1", "evil-2", "good-1", "top-1"}

// othersAnswer wants that the machines which are not behind the evil hop answered.
func othersAnswer(c *command) account {
	c.t.Helper()
	a := c.account(evilNames...)
	for _, r := range a.Results[2:] {
		if r.Status != "answered" {
			c.t.Errorf("%s: %+v; want the machines of others to answer", c.line, r)
		}
	}
	return a
}

// What a hop says of its own machines is its word; what it says of others is dropped,
// and the hop is named.
func testEvilLies(t *testing.T, binary string) {
	top, hop := evilFleet(t, binary)
	foreign := "overlord/evil answered for machines that it was not sent"
	lie := []*apipb.CallEvent{
		fine("good-1,top-1,nobody-7,evil,top"), results(&apipb.ResultGroup{Names: "top-1", Code: uint32(call.Failed), Detail: "a lie"}), fine("evil-[1,2]"),
	}
	hop.does(func(o evilOrder) { o.answer(lie...) })
	c := top.root.run("call", "--delegate", "*-*", "test.ping", "-o", "json").exits(0)
	top.root.run("job", "show", othersAnswer(c).Job).exits(0).prints(foreign)
	c.prints(foreign, `"reason": "overlord/evil`, "good-1", "nobody-7", "top")
	hop.does(func(o evilOrder) { o.answer(lie...) })
	if c := top.root.run("call", "--delegate", "*-*", "test.ping").exits(0).tells(foreign); strings.Contains(c.err.String(), "early") {
		t.Errorf("a job that every machine answered: %s", c.err)
	}
	if c := top.root.run("job", "list", "-o", "jsonl").exits(0).prints(`"state":"done"`); strings.Contains(c.out.String(), `"incomplete"`) {
		t.Errorf("a job that every machine answered: %s", c.out)
	}
	hop.does(func(o evilOrder) { o.answer(lie...) })
	top.root.run("call", "--delegate", "*-*", "test.ping", "-o", "jsonl").exits(0).tells(foreign)
	top.overlord.awaitSaid("a sub-overlord answers for machines that it was not sent", `"hop":"evil"`)

	// What is no JSON is shown as it is, and breaks no document.
	hop.does(func(o evilOrder) {
		o.answer(results(&apipb.ResultGroup{Names: "evil-1", Output: []byte("{\"a\": \x1b[2J")}), results(&apipb.ResultGroup{Names: "evil-2", Code: uint32(call.Failed), Detail: "\x1b[31mred\r\n"}))
	})
	for _, form := range []string{"json", "jsonl", "text"} {
		if c := top.root.run("call", "--delegate", "*-*", "test.ping", "-o", form).exits(3); strings.Contains(c.out.String()+c.err.String(), "\x1b") {
			t.Errorf("an escape on the terminal: %q", c.out)
		} else if form == "json" {
			othersAnswer(c)
		}
	}

	// Withdrawn: what does not say so is not waited for.
	hop.does(nil)
	id := strings.TrimSpace(top.root.run("call", "--delegate", "*-*", "test.ping", "--timeout", "0", "--async").exits(0).out.String())
	top.root.run("job", "cancel", id).within(12 * time.Second)
	top.root.run("job", "watch", id).exits(3).within(12 * time.Second).tells("unreachable behind evil: cancelled, and it did not confirm")
}

// No answer of a hop is taken for one that is none, takes much memory, or keeps
// anybody else waiting.
func testEvilAnswers(t *testing.T, binary string) {
	top, hop := evilFleet(t, binary)
	raw := func(b ...byte) func(o evilOrder) {
		return func(o evilOrder) {
			st := o.open("events")
			_, _ = st.Write(b) // an error: the top wants no more
			_ = st.Close()
			o.reply(call.OK, "")
		}
	}
	endless := func(events ...*apipb.CallEvent) func(o evilOrder) {
		return func(o evilOrder) {
			for st := o.open("events"); st != nil && tell(st, events...) == nil; {
			}
		}
	}
	numbers := &apipb.ResultGroup{Names: "evil-[1,2]", TookUs: make([]uint64, 15<<20)}
	before := memory(t, top.overlord.pid(), "VmHWM")
	for _, x := range []struct {
		name string
		act  func(o evilOrder)
		why  string
		most time.Duration
	}{
		{"a result at once", func(o evilOrder) { o.reply(call.OK, "") }, "unreachable behind evil: it gave no result", 8 * time.Second},
		{"half of the results", func(o evilOrder) { o.answer(fine("evil-1")) }, "unreachable behind evil: it gave no result", 8 * time.Second},
		{"half of the results with the answer", func(o evilOrder) { o.answerWith(eventBytes(t, fine("evil-1"))) }, "unreachable behind evil: it gave no result", 8 * time.Second},
		{"garbage with the answer", func(o evilOrder) { o.answerWith([]byte("\x10what is this, an event?")) }, "unreachable behind evil: its answer cannot be read", 8 * time.Second},
		{"less than it says with the answer", func(o evilOrder) { o.answerWith(framed(19<<20, make([]byte, 1<<10))) }, "unreachable behind evil: its answer cannot be read", 8 * time.Second},
		{"a million names with the answer", func(o evilOrder) { o.answerWith(eventBytes(t, fine("x[000000-999999]"))) }, "unreachable behind evil: its answer cannot be read", 8 * time.Second},
		{"an empty group", func(o evilOrder) { o.answer(results(&apipb.ResultGroup{})) }, "unreachable behind evil", 8 * time.Second},
		{"garbage", raw([]byte("\x10what is this, an event?")...), "unreachable behind evil", 8 * time.Second},
		{"a false length", raw(framed(1<<40, []byte("x"))...), "unreachable behind evil", 8 * time.Second},
		{"less than it says", raw(framed(19<<20, make([]byte, 1<<20))...), "unreachable behind evil", 8 * time.Second},
		{"a million names", func(o evilOrder) { o.answer(fine("x[000000-999999]")) }, "unreachable behind evil", 8 * time.Second},
		{"a million names for ever", endless(fine("x[000000-999999]")), "unreachable behind evil", 8 * time.Second},
		{"a large group", func(o evilOrder) { o.answer(results(numbers)) }, "unreachable behind evil", 8 * time.Second},
		{"a group for ever", endless(results(&apipb.ResultGroup{Names: "good-1", Detail: strings.Repeat("x", 4000)})), "unreachable behind evil", 8 * time.Second},
		{"a number that the store does not hold", func(o evilOrder) {
			o.answer(results(&apipb.ResultGroup{Names: "evil-[1,2]", Cut: 1<<64 - 1}))
		}, "unreachable behind evil", 8 * time.Second},
		{"no answer", func(evilOrder) {}, "unreachable behind evil: no answer within 10s", 13 * time.Second},
		{"an open stream", func(o evilOrder) { o.open("events") }, "unreachable behind evil: no answer within 10s", 13 * time.Second},
		{"that the session is lost", func(o evilOrder) { o.reply(call.SessionLost, "") }, "evil", 8 * time.Second},
		{"that there is none", func(o evilOrder) { o.reply(call.NoSession, "") }, "evil", 8 * time.Second},
		{"that it is withdrawn", func(o evilOrder) { o.reply(call.Cancelled, "") }, "evil", 8 * time.Second},
		{"a code of its own", func(o evilOrder) { o.reply(77777, "\x1b[31mred") }, "evil: ", 8 * time.Second},
		{"a stream that breaks", func(o evilOrder) {
			st := o.open("events")
			st.CloseWithReason("so there")
			o.reply(call.OK, "")
		}, "evil", 13 * time.Second},
	} {
		t.Run(x.name, func(t *testing.T) {
			hop.does(x.act)
			c := top.root.run("call", "--delegate", "*-*", "test.ping", "--timeout", "10s", "-o", "json")
			c.t = t
			c.exits(3).within(x.most)
			a := c.account(evilNames...)
			for _, r := range a.Results {
				evil := strings.HasPrefix(r.Machine, "evil-")
				if r.Status == "answered" && evil && !strings.HasPrefix(x.name, "half of the results") || !evil && r.Status != "answered" || evil && r.Status != "answered" && !strings.Contains(r.Reason, x.why) {
					t.Errorf("%+v; want %q", r, x.why)
				}
				if r.Status == "skipped" {
					t.Errorf("%+v, and nobody withdrew it", r)
				}
			}
			if n := hop.orders(); n > 12 {
				t.Errorf("the hop was sent the order %d times", n)
			}
			if strings.Contains(c.out.String()+c.err.String(), "\x1b") {
				t.Errorf("an escape on the terminal: %q", c.out)
			}
			top.root.run("job", "results", a.Job).exits(3)
			t.Logf("took %s; %d orders; the top's peak %d MiB", c.took.Round(time.Millisecond), hop.orders(), memory(t, top.overlord.pid(), "VmHWM")>>20)
		})
	}
	after := memory(t, top.overlord.pid(), "VmHWM")
	t.Logf("the top's memory: at most %d MiB before, %d MiB after", before>>20, after>>20)
	if after-before > 400<<20 {
		t.Errorf("the top grew from %d to %d MiB", before>>20, after>>20)
	}
}

// What machines may answer at most, a hop may, too.
func testEvilWeight(t *testing.T, binary string) {
	top, hop := evilFleet(t, binary)
	// The heaviest that machines may be: a MiB from each of 300.
	file := top.write("heavy.map", "evil:\n"+func() (s string) {
		for n := range 300 {
			s += fmt.Sprintf("    h%04d: {}\n", n)
		}
		return s
	}()+"good:\n    good-1: {}\ntop-1: {}\n")
	hop.does(func(o evilOrder) {
		st := o.open("events")
		big := make([]byte, 1<<20)
		for n := range 300 {
			copy(big, fmt.Sprintf(`{"n":%d,`, n))
			if tell(st, results(&apipb.ResultGroup{Names: fmt.Sprintf("h%04d", n), Output: big})) != nil {
				break
			}
		}
		_ = st.Close()
		o.reply(call.OK, "")
	})
	before := memory(t, top.overlord.pid(), "VmHWM")
	heavy := top.root.start("call", "--map", file, "h*", "test.ping", "--timeout", "50s", "--async")
	heavy.exits(0)
	meanwhile := top.root.run("call", "top-1,good", "test.ping").exits(0)
	id := strings.TrimSpace(heavy.out.String())
	top.until("the heavy job is closed", func() bool {
		return strings.Contains(top.root.run("job", "list", "-o", "jsonl").out.String(), `{"job":"`+id) && !strings.Contains(top.root.run("job", "list", "--open", "-o", "jsonl").out.String(), id)
	})
	t.Logf("a MiB from each of 300: the top's peak went from %d to %d MiB; another order took %s meanwhile", before>>20, memory(t, top.overlord.pid(), "VmHWM")>>20, meanwhile.took.Round(time.Millisecond))
	if d := memory(t, top.overlord.pid(), "VmHWM") - before; d > 800<<20 {
		t.Errorf("the top grew by %d MiB", d>>20)
	}
}

// A hop is a machine to the overlord above it: it may ask for little, and what it
// opens or answers unasked is refused.
func testEvilRequests(t *testing.T, binary string) {
	top, hop := evilFleet(t, binary)
	hop.does(func(o evilOrder) { // twice, and more streams than there should be
		for range 3 {
			if st := o.open("events"); st != nil {
				_ = tell(st, fine("evil-[1,2]")) // an error: it is the second
				_ = st.Close()
			}
		}
		o.reply(call.OK, "")
		o.reply(call.OK, "")
		_ = hop.up.Reply(o.id, &fleetpb.Result{Code: 3})
	})
	othersAnswer(top.root.run("call", "--delegate", "*-*", "test.ping", "-o", "json").exits(0))

	// What only parents, and what nobody may ask.
	for _, m := range []string{session.MethodMap, session.MethodDelegate, session.MethodGroups, session.MethodJob, session.MethodCheckpoint, session.MethodRevocations, "test.ping"} {
		if _, err := hop.up.Call(t.Context(), m, []byte("{}")); call.CodeOf(err) != call.NotFound && call.CodeOf(err) != call.Busy {
			t.Errorf("%s asked of the top: %v; want that it is refused", m, err)
		}
	}
	for i, name := range []string{"events", "output", "order", "result", "stdout"} {
		st, err := hop.up.Open(t.Context(), uint64(i), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write([]byte("x")); err == nil {
			t.Errorf("a stream %s that nobody asked for is taken", name)
		}
	}
	othersAnswer(top.root.run("call", "--delegate", "*-*", "test.ping", "-o", "json", "--timeout", "5s").within(8 * time.Second))
}

package minion

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"dominion/api/fleetpb"
	"dominion/call"
	"dominion/module"
	"dominion/module/site"
	"dominion/pki"
	"dominion/session"
)

// siteProgram is a module in shell whose one method says a text.
func siteProgram(name, says string) string {
	return fmt.Sprintf(`#!/bin/sh
[ "$1" = call ] && { echo '{"says": "%s"}'; exit; }
echo '{"name": "%s", "doc": "A test.", "methods": [{"name": "say", "doc": "Says it.", "effect": "read",
  "output": [{"name": "says", "type": "string", "doc": "what it says"}]}]}'
`, says, name)
}

func writeModule(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+"~", []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

func modulesDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "modules.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// offers is what an overlord is told of.
type offers struct {
	mu     sync.Mutex
	hello  []byte
	told   [][]byte
	refuse error // what the next one gets
}

func (f *offers) listen(o *overlord) {
	o.hello = func(theirs, _ *fleetpb.Hello) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.hello = theirs.Offer
	}
	o.serve = func(method string, args []byte) ([]byte, error) {
		if method != session.MethodOffer {
			return []byte("{}"), nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if err := f.refuse; err != nil {
			f.refuse = nil
			return nil, err
		}
		var in session.OfferArgs
		if err := json.Unmarshal(args, &in); err != nil {
			return nil, err
		}
		f.told = append(f.told, in.Digest)
		return []byte("{}"), nil
	}
}

func (f *offers) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.told)
}

// offer asks a machine for what it offers, and holds it against the digest.
func (p *peer) offer(digest []byte) module.Offer {
	p.o.t.Helper()
	var r session.OfferResult
	if err := json.Unmarshal(must[[]byte](p.o.t)(p.own(session.MethodOffer, nil)), &r); err != nil {
		p.o.t.Fatal(err)
	}
	if sum := sha256.Sum256(r.Offer); string(sum[:]) != string(digest) {
		p.o.t.Errorf("the offer does not have the digest that was told")
	}
	return must[module.Offer](p.o.t)(module.ParseOffer(r.Offer))
}

func TestSiteModules(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f)
	var told offers
	told.listen(o)
	o.open(newOffice(f))
	dir := modulesDir(t)
	writeModule(t, dir, "first", siteProgram("first", "one"))
	writeModule(t, dir, "broken", "#!/bin/sh\necho no python >&2\nexit 1\n")
	reload := make(chan os.Signal, 1)
	start(t, Config{
		Name: "web1", State: filepath.Join(t.TempDir(), "state"), Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert),
		ModulesDir: dir, ModulesPush: true, Reload: reload,
	})
	p := o.peer()
	offer := p.offer(told.hello)
	if len(offer.Methods) != 1 || offer.Methods[0].Name != "first.say" || len(offer.Disabled) != 1 || offer.Disabled[0].Name != "broken" {
		t.Errorf("offer %+v", offer)
	}
	says := func(method, want string) {
		t.Helper()
		r := p.do(f.call(t, draft{method: method}))
		wantCode(t, r, call.OK)
		if string(r.Output) != want {
			t.Errorf("%s: %s; want %s", method, r.Output, want)
		}
	}
	says("first.say", `{"says":"one"}`)
	// One that comes later is there without a restart; an overlord that is busy hears of it again.
	told.mu.Lock()
	told.refuse = call.Errorf(call.Busy, "too much")
	told.mu.Unlock()
	writeModule(t, dir, "second", siteProgram("second", "two"))
	until(t, "the overlord is told", func() bool { return told.count() == 1 })
	if offer := p.offer(told.told[0]); len(offer.Methods) != 2 {
		t.Errorf("offer %+v", offer)
	}
	says("second.say", `{"says":"two"}`)
	// SIGHUP has those that are disabled tried again: what they need may be there now.
	writeModule(t, dir, "broken", "#!/bin/sh\n. "+filepath.Dir(dir)+"/lib\n")
	until(t, "its reason is another", func() bool { return told.count() == 2 })
	if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "lib"), []byte(siteProgram("broken", "three")), 0o600); err != nil {
		t.Fatal(err)
	}
	reload <- os.Interrupt
	until(t, "the overlord is told", func() bool { return told.count() == 3 })
	says("broken.say", `{"says":"three"}`)
	// An order installs one; when it is answered it can be called.
	text := siteProgram("pushed", "four")
	args := must[[]byte](t)(json.Marshal(map[string]string{"name": "pushed", "content": text, "digest": site.DigestOf([]byte(text))}))
	wantCode(t, p.do(f.call(t, draft{method: "module.install", args: string(args)})), call.OK)
	if told.count() != 4 {
		t.Errorf("the overlord was told %d times; want 4", told.count())
	}
	says("pushed.say", `{"says":"four"}`)
	wantCode(t, p.do(f.call(t, draft{method: "module.remove", args: `{"name":"pushed"}`})), call.OK)
	wantCode(t, p.do(f.call(t, draft{method: "pushed.say"})), call.NotFound)
}

// TestSiteModulesHang: a module that hangs does not keep the agent from its overlord.
func TestSiteModulesHang(t *testing.T) {
	f := newFleet(t)
	o := newOverlord(t, f)
	var told offers
	told.listen(o)
	o.open(newOffice(f))
	dir := modulesDir(t)
	writeModule(t, dir, "hangs", "#!/bin/sh\nsleep 1000\n")
	writeModule(t, dir, "works", siteProgram("works", "yes"))
	start(t, Config{Name: "web1", State: filepath.Join(t.TempDir(), "state"), Overlords: []string{o.addr}, Pin: pki.Pin(f.root.Cert), ModulesDir: dir})
	p := o.peer()
	wantCode(t, p.do(f.call(t, draft{method: "test.ping"})), call.OK)
	until(t, "the overlord is told", func() bool { return told.count() == 1 })
	if offer := p.offer(told.told[0]); len(offer.Methods) != 1 || len(offer.Disabled) != 1 || !strings.Contains(offer.Disabled[0].Reason, "did not end within 5s") {
		t.Errorf("offer %+v", offer)
	}
	wantCode(t, p.do(f.call(t, draft{method: "works.say"})), call.OK)
	wantCode(t, p.do(f.call(t, draft{method: "module.remove", args: `{"name":"works"}`})), call.Denied)
}

func TestModulesConfig(t *testing.T) {
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{ModulesDir: "modules.d"}, `modules_dir: "modules.d" is not absolute`},
		{Config{ModulesMemory: -1}, "modules_memory_mb: -1 is not between"},
	} {
		test.cfg.Name, test.cfg.Overlords = "web1", []string{"dc1"}
		if err := test.cfg.Check(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v; want %q", err, test.want)
		}
	}
}

package module

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
)

const described = `{"name": "disk", "doc": "Disks.", "version": "1.2", "methods": [
  {"name": "check", "doc": "Looks at disks.", "effect": "read",
   "fields": [{"name": "device", "type": "string", "doc": "the device", "required": true, "pattern": "[a-z]+"},
              {"name": "wait", "type": "duration", "doc": "how long", "default": "10s"},
              {"name": "raw", "type": "bytes", "doc": "anything"}],
   "output": [{"name": "healthy", "type": "bool", "doc": "no errors"},
              {"name": "errors", "type": "[]object", "doc": "found", "fields": [
                 {"name": "at", "type": "time", "doc": "when"}, {"name": "count", "type": "int", "doc": "how many"}]},
              {"name": "size", "type": "map[string]float", "doc": "by device"},
              {"name": "blob", "type": "bytes", "doc": "bytes"}, {"name": "more", "type": "any", "doc": "whatever"}]},
  {"name": "wipe", "doc": "Wipes.", "effect": "destroy", "timeout": "0s"}]}`

func describedModule(t testing.TB, run func(string) RawFunc) *Table {
	t.Helper()
	d, err := ParseDescription([]byte(described))
	if err != nil {
		t.Fatal(err)
	}
	table, err := NewTable([]Module{d.Module(run)})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestDescription(t *testing.T) {
	table := describedModule(t, nil)
	check, _ := table.Lookup("disk.check")
	wipe, _ := table.Lookup("disk.wipe")
	if check.Timeout() != DefaultTimeout || wipe.Timeout() != 0 || check.Effect() != Read || wipe.Effect() != Destroy {
		t.Errorf("time-outs %s and %s, effects %s and %s", check.Timeout(), wipe.Timeout(), check.Effect(), wipe.Effect())
	}
	s := check.Schema()
	if s.Name != "disk.check" || s.ModuleDoc != "Disks." || s.Timeout != "1m0s" || len(s.Fields) != 3 {
		t.Errorf("schema %+v", s)
	}
	args, err := ParseArgs(s, []string{"sda", "wait=3s"})
	if err != nil || string(args) != `{"device":"sda","wait":"3s"}` {
		t.Errorf("%s, %v", args, err)
	}
	if _, err := wipe.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Internal {
		t.Errorf("one that has nothing to run: %v", err)
	}
}

func TestBadDescriptions(t *testing.T) {
	change := func(old, now string) string {
		if !strings.Contains(described, old) {
			t.Fatalf("%q is not there", old)
		}
		return strings.Replace(described, old, now, 1)
	}
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "not JSON"},
		{"list", "[]", "cannot unmarshal"},
		{"behind", described + "x", "not JSON"},
		{"two", described + described, "not JSON"},
		{"not UTF-8", change("Disks.", "\xff"), "not UTF-8"},
		{"long", described + strings.Repeat(" ", MaxDescription), "more than 65536"},
		{"unknown key", change(`"effect"`, `"efect"`), `unknown field "efect"`},
		{"case", change(`"effect"`, `"Effect"`), `unknown key "Effect"`},
		{"key twice", change(`"effect"`, `"effect": "read", "effect"`), `"effect" is there twice`},
		{"null", change(`"1.2"`, `null`), `"version" is null`},
		{"name", change(`"disk"`, `"Disk"`), `name "Disk"`},
		{"no doc", change(`"Disks."`, `""`), "doc: wants one line"},
		{"doc of two lines", change(`Looks at`, `Looks\nat`), `method "check": doc`},
		{"no methods", `{"name":"a","doc":"b","methods":[]}`, "0 methods"},
		{"method twice", change(`"wipe"`, `"check"`), "is there twice"},
		{"whole method name", change(`"wipe"`, `"disk.wipe"`), `method name "disk.wipe"`},
		{"effect", change(`"read"`, `"none"`), `effect is "none"`},
		{"time-out", change(`"0s"`, `"soon"`), `timeout is "soon"`},
		{"negative time-out", change(`"0s"`, `"-1s"`), `timeout is "-1s"`},
		{"module_doc", change(`"doc": "Wipes."`, `"doc": "Wipes.", "module_doc": "x"`), "module_doc"},
		{"input type", change(`"duration"`, `"time"`), `type "time"`},
		{"default", change(`"10s"`, `"ten"`), `default "ten"`},
		{"pattern", change(`[a-z]+`, `[a-z`), "pattern"},
		{"output type", change(`"[]object"`, `"[]objects"`), `type "[]objects"`},
		{"output with a default", change(`"type": "bool"`, `"type": "bool", "default": "true"`), "only name, type, doc and fields"},
		{"fields of a number", change(`"type": "bool"`, `"type": "bool", "fields": [{"name":"a","type":"int","doc":"b"}]`), "only objects have fields"},
		{"deep type", change(`"map[string]float"`, `"`+strings.Repeat("[]", 9)+`int"`), "type"},
		{"deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), "nests deeper"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := ParseDescription([]byte(test.text)); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v; want %q", err, test.want)
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	check, _ := describedModule(t, nil).Lookup("disk.check")
	for _, test := range []struct{ name, answer, want, err string }{
		{
			"all", ` { "size":{"b":1e3,"a":2}, "healthy" : true, "errors":[{"count":3,"at":"2026-11-21T12:00:00Z"},{}], "blob":{"base64":"/w=="}, "more":{"z":1, "a":[ ]} } `,
			`{"healthy":true,"errors":[{"at":"2026-11-21T12:00:00Z","count":3},{}],"size":{"a":2,"b":1e3},"blob":{"base64":"/w=="},"more":{"z":1,"a":[]}}`, "",
		},
		{"empty object", "{}", "{}", ""},
		{"nothing", " \n", "", "there is no answer"},
		{"garbage", "ok", "", "not JSON"},
		{"list", "[]", "", "want a JSON object"},
		{"null", "null", "", "want a JSON object"},
		{"unknown", `{"healty":true}`, "", `field "healty" is not in`},
		{"null field", `{"healthy":null}`, "", `field healthy: got "null"; wants bool`},
		{"nested unknown", `{"errors":[{},{"on":1}]}`, "", `field errors: element 1: field "on" is not in`},
		{"nested type", `{"errors":[{"count":1.5}]}`, "", "wants int"},
		{"time", `{"errors":[{"at":"noon"}]}`, "", "wants time"},
		{"map", `{"size":{"a":"1"}}`, "", `field size: "a": got`},
		{"list for a map", `{"size":[1]}`, "", "wants map[string]float"},
		{"surrogate", `{"more":"\ud800"}`, "", "surrogate"},
		{"long", `{"more":"` + strings.Repeat("x", MaxOutput) + `"}`, "", "more than 1048576"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := check.Schema().Answer([]byte(test.answer))
			if string(got) != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s, %v; want %s, %q", got, err, test.want, test.err)
			}
		})
	}
	wipe, _ := describedModule(t, nil).Lookup("disk.wipe")
	if got, err := wipe.Schema().Answer(nil); string(got) != "{}" || err != nil {
		t.Errorf("an output without fields: %s, %v", got, err)
	}
}

func TestDeclaredRun(t *testing.T) {
	for _, test := range []struct {
		name   string
		run    RawFunc
		out    string
		code   call.Code
		detail string
	}{
		{"answer", func(_ context.Context, env *Env, args []byte) ([]byte, error) {
			return fmt.Appendf(nil, `{"more": [%q, %s]}`, env.Machine, args), nil
		}, `{"more":["web1",{"device":"sda","wait":"10s","raw":"x"}]}`, call.OK, ""},
		{"error", func(context.Context, *Env, []byte) ([]byte, error) { return nil, errors.New("no disk") }, "", call.Failed, "no disk"},
		{"code", func(context.Context, *Env, []byte) ([]byte, error) {
			return nil, call.Errorf(call.NotFound, "no disk")
		}, "", call.NotFound, "no disk"},
		{"false answer", func(context.Context, *Env, []byte) ([]byte, error) { return []byte(`{"x":1}`), nil }, "", call.Failed, `disk.check: the answer: field "x"`},
		{"panic", func(context.Context, *Env, []byte) ([]byte, error) { panic("oh") }, "", call.Internal, "disk.check broke"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, _ := describedModule(t, func(string) RawFunc { return test.run }).Lookup("disk.check")
			out, err := m.Run(t.Context(), &Env{Machine: "web1"}, []byte(`{"raw":"x","device":"sda"}`))
			if string(out) != test.out || call.CodeOf(err) != test.code || err != nil && !strings.Contains(err.Error(), test.detail) {
				t.Errorf("%s, %v; want %s, %s %q", out, err, test.out, test.code, test.detail)
			}
			if _, err := m.Run(t.Context(), nil, []byte(`{"device":"SDA"}`)); call.CodeOf(err) != call.Invalid {
				t.Errorf("arguments that the schema refuses: %v", err)
			}
		})
	}
}

func TestOffer(t *testing.T) {
	table := describedModule(t, nil)
	o := Offer{Methods: table.Schemas(), Disabled: []Disabled{{"bad", "it is"}}, Below: []Below{{table.Schemas()[0], 3}}}
	b, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseOffer(b)
	if err != nil || !cmp.Equal(got, o) {
		t.Errorf("%v, %s", err, cmp.Diff(o, got))
	}
	if b, err := (Offer{}).Encode(); b != nil || err != nil {
		t.Errorf("of nothing: %q, %v", b, err)
	}
	if o, err := ParseOffer(nil); err != nil || !reflect.DeepEqual(o, Offer{}) {
		t.Errorf("of no bytes: %+v, %v", o, err)
	}
	for _, bad := range []string{
		"x", "[]", `{"methods":[{"name":"a","effect":"read"}]}`, `{"methods":[{"name":"a.b","effect":"none"}]}`, `{"disabled":[{"name":"","reason":"x"}]}`,
		`{"below":[{"schema":{"name":"a.b","effect":"read"},"machines":0}]}`, `{"methods":[{"name":"a.b","effect":"read","fields":[{"name":"a","type":"int","max":"x"}]}]}`,
		strings.Repeat(" ", MaxOffer+1), `{"disabled":[` + strings.Repeat(`{"name":"a","reason":"b"},`, MaxDisabled) + `{"name":"a","reason":"b"}]}`,
	} {
		if _, err := ParseOffer([]byte(bad)); !errors.Is(err, ErrSchema) {
			t.Errorf("ParseOffer(%.60q) = %v", bad, err)
		}
	}
}

// FuzzDescription: no panic, one sentinel; what is accepted makes a table, and
// encodes to what is accepted as the same.
func FuzzDescription(f *testing.F) {
	for _, fields := range []string{ // short ones: long seeds cost their time in minimising
		`"fields":[{"name":"e","type":"int","doc":"f","max":"3"}]`,
		`"timeout":"0s","output":[{"name":"e","type":"[]object","doc":"f"}]`,
	} {
		f.Add([]byte(`{"name":"a","doc":"b","methods":[{"name":"c","doc":"d","effect":"read",` + fields + `}]}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDescription(b)
		if err != nil {
			if !errors.Is(err, ErrSchema) {
				t.Fatalf("error %v does not wrap ErrSchema", err)
			}
			return
		}
		table, err := NewTable([]Module{d.Module(nil)})
		if err != nil {
			t.Fatalf("no table: %v", err)
		}
		offer, err := Offer{Methods: table.Schemas()}.Encode()
		if err != nil && len(offer) <= MaxOffer {
			t.Skip() // escapes have made it larger than an offer may be
		}
		if _, err := ParseOffer(offer); err != nil {
			t.Fatalf("it cannot be offered: %v", err)
		}
		again, err := encode(d)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > MaxDescription {
			return
		}
		e, err := ParseDescription(again)
		if err != nil {
			t.Fatalf("accepted %q but not %q: %v", b, again, err)
		}
		if more, err := encode(e); err != nil || !bytes.Equal(more, again) {
			t.Fatalf("%q became %q, %v", again, more, err)
		}
	})
}

// FuzzAnswer: no panic; what is accepted is accepted again as the same bytes.
func FuzzAnswer(f *testing.F) {
	d, err := ParseDescription([]byte(described))
	if err != nil {
		f.Fatal(err)
	}
	s := d.Methods[0]
	f.Add([]byte(`{"size":{"b":1e3,"a":2},"healthy":true,"errors":[{"count":3,"at":"2026-11-21T12:00:00Z"},{}],"blob":{"base64":"/w=="},"more":{"z":1, "a":[ ]}}`))
	f.Add([]byte(`{"blob":"text","more":"<\u2028>"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := s.Answer(b)
		if err != nil {
			if out != nil || len(err.Error()) > MaxDetail {
				t.Fatalf("%q beside an error of %d bytes", out, len(err.Error()))
			}
			return
		}
		again, err := s.Answer(out)
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("%q became %q, and that %q, %v", b, out, again, err)
		}
	})
}

// FuzzOffer: no panic, one sentinel; what is accepted encodes to what is accepted.
func FuzzOffer(f *testing.F) {
	for _, seed := range []string{
		`{"methods":[{"name":"a.b","effect":"read"}]}`, `{"disabled":[{"name":"a","reason":"b"}]}`,
		`{"below":[{"schema":{"name":"a.b","effect":"read","fields":[{"name":"c","type":"int"}]},"machines":2}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOffer(b)
		if err != nil {
			if !errors.Is(err, ErrSchema) {
				t.Fatalf("error %v does not wrap ErrSchema", err)
			}
			return
		}
		again, err := o.Encode()
		if err != nil {
			return // escapes have made it too long
		}
		p, err := ParseOffer(again)
		if err != nil {
			t.Fatalf("accepted %q but not %q: %v", b, again, err)
		}
		if more, err := p.Encode(); err != nil || !bytes.Equal(more, again) {
			t.Fatalf("%q became %q, %v", again, more, err)
		}
	})
}

// TestDeclaredEnds: an answer is not waited for when the time is over.
func TestDeclaredEnds(t *testing.T) {
	m, _ := describedModule(t, func(string) RawFunc {
		return func(ctx context.Context, _ *Env, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("stopped: %w", context.Cause(ctx))
		}
	}).Lookup("disk.wipe")
	ctx, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	if _, err := m.Run(ctx, nil, nil); call.CodeOf(err) != call.Timeout {
		t.Errorf("%v", err)
	}
}

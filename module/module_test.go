package module

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dominion/call"
)

type shared struct {
	Dir string `json:"dir" doc:"where" pattern:"/.*"`
}

type allIn struct {
	Name   string            `json:"name" doc:"a name" required:"true" max:"8"`
	Count  int               `json:"count" doc:"how many" default:"3" min:"1" max:"10"`
	Small  uint8             `json:"small" doc:"a byte"`
	Ratio  float64           `json:"ratio" doc:"a ratio" max:"1.5"`
	Force  bool              `json:"force" doc:"do it"`
	Wait   time.Duration     `json:"wait" doc:"how long" default:"1m30s" max:"1h"`
	Mode   string            `json:"mode" doc:"which" enum:"fast,slow"`
	Data   Bytes             `json:"data" doc:"bytes" max:"4"`
	Env    map[string]string `json:"env" doc:"variables" max:"2"`
	Secret string            `json:"secret" doc:"hidden" secret:"true" max:"3"`
	shared
	Words []string `json:"words" doc:"the rest" enum:"a,b,c"`
}

type allOut struct {
	Seen  allIn2            `json:"seen" doc:"the input"`
	List  []inner           `json:"list,omitempty" doc:"things"`
	Map   map[string]string `json:"map,omitempty" doc:"map"`
	When  *time.Time        `json:"when,omitempty" doc:"time"`
	Bytes Bytes             `json:"bytes,omitempty" doc:"bytes"`
}
type inner struct {
	N int `json:"n" doc:"a number"`
}
type allIn2 struct {
	Text string `json:"text" doc:"as Go writes it"`
}

func all(_ context.Context, _ *Env, in allIn) (allOut, error) {
	return allOut{Seen: allIn2{fmt.Sprintf("%+v", in)}}, nil
}

func table(t testing.TB, methods ...Method) *Table {
	t.Helper()
	tab, err := NewTable([]Module{{Name: "m", Doc: "A module.", Methods: methods}})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func method(t testing.TB, m Method) Method {
	t.Helper()
	got, ok := table(t, m).Lookup("m." + m.Name())
	if !ok {
		t.Fatalf("method %s is not in its table", m.Name())
	}
	return got
}

func allMethod(t testing.TB) Method {
	return method(t, Func("all", "All types.", Change, all, MethodOptions{Timeout: -1}))
}

func TestSchema(t *testing.T) {
	m := allMethod(t)
	got, err := EncodeSchemas([]Schema{m.Schema()})
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"name":"m.all","doc":"All types.","module_doc":"A module.","effect":"change","timeout":"0s",` +
		`"fields":[{"name":"name","type":"string","doc":"a name","required":true,"max":"8"},` +
		`{"name":"count","type":"int","doc":"how many","default":"3","min":"1","max":"10"},` +
		`{"name":"small","type":"int","doc":"a byte","min":"0","max":"255"},` +
		`{"name":"ratio","type":"float","doc":"a ratio","max":"1.5"},` +
		`{"name":"force","type":"bool","doc":"do it"},` +
		`{"name":"wait","type":"duration","doc":"how long","default":"1m30s","max":"1h"},` +
		`{"name":"mode","type":"string","doc":"which","enum":["fast","slow"]},` +
		`{"name":"data","type":"bytes","doc":"bytes","max":"4"},` +
		`{"name":"env","type":"map[string]string","doc":"variables","max":"2"},` +
		`{"name":"secret","type":"string","doc":"hidden","max":"3","secret":true},` +
		`{"name":"dir","type":"string","doc":"where","pattern":"/.*"},` +
		`{"name":"words","type":"[]string","doc":"the rest","enum":["a","b","c"]}],` +
		`"output":[{"name":"seen","type":"object","doc":"the input","fields":[{"name":"text","type":"string","doc":"as Go writes it"}]},` +
		`{"name":"list","type":"[]object","doc":"things","fields":[{"name":"n","type":"int","doc":"a number"}]},` +
		`{"name":"map","type":"map[string]string","doc":"map"},` +
		`{"name":"when","type":"time","doc":"time"},{"name":"bytes","type":"bytes","doc":"bytes"}]}]`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Fatalf("schema (-want +got):\n%s", d)
	}
	back, err := ParseSchemas(got)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Schema{m.Schema()}, back); d != "" {
		t.Errorf("read back (-want +got):\n%s", d)
	}
	m.Schema().Fields[0].Name = "changed"
	if m.Schema().Fields[0].Name != "name" {
		t.Error("a caller changed the table's schema")
	}
	if f, ok := m.Schema().Field("mode"); !ok || f.Doc != "which" {
		t.Errorf("Field(mode) = %+v, %v", f, ok)
	}
	if _, ok := m.Schema().Field("nothing"); ok {
		t.Error("Field(nothing) is there")
	}
}

func TestRun(t *testing.T) {
	m := allMethod(t)
	for _, test := range []struct{ name, args, want string }{
		{
			"defaults", `{"name":"x"}`,
			`{Name:x Count:3 Small:0 Ratio:0 Force:false Wait:1m30s Mode: Data:[] Env:map[] Secret: shared:{Dir:} Words:[]}`,
		},
		{
			"all", ` {"name":"é","count":10,"small":255,"ratio":-1.5e0,"force":true,"wait":"2s","mode":"slow","data":{"base64":"/w=="},` +
				`"env":{"A":"1"},"secret":"s","dir":"/x","words":["a","c"]}` + "\n",
			`{Name:é Count:10 Small:255 Ratio:-1.5 Force:true Wait:2s Mode:slow Data:[255] Env:map[A:1] Secret:s shared:{Dir:/x} Words:[a c]}`,
		},
		{
			"surrogate pair", `{"name":"\ud83d\ude00\\u","data":"\n"}`,
			`{Name:😀\u Count:3 Small:0 Ratio:0 Force:false Wait:1m30s Mode: Data:[10] Env:map[] Secret: shared:{Dir:} Words:[]}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := m.Run(t.Context(), nil, []byte(test.args))
			if err != nil {
				t.Fatal(err)
			}
			var got allOut
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			if got.Seen.Text != test.want {
				t.Errorf("got  %s\nwant %s", got.Seen.Text, test.want)
			}
		})
	}
}

func TestValidateRefuses(t *testing.T) {
	m := allMethod(t)
	for _, test := range []struct{ name, args, want string }{
		{"missing", ``, `m.all: field "name" is missing; wants a text, at most 8 bytes`},
		{"missing in object", `{}`, `field "name" is missing`},
		{"unknown", `{"nome":"x"}`, `no field "nome"; known: name, count, small, `},
		{"other case", `{"Name":"x"}`, `no field "Name"`},
		{"twice", `{"name":"x","name":"y"}`, `"name" is there twice`},
		{"twice by escape", `{"name":"x","n\u0061me":"y"}`, `"name" is there twice`},
		{"twice in a map", `{"name":"x","env":{"A":"1","A":"2"}}`, `field "env": got`},
		{"behind", `{"name":"x"} {}`, `arguments: not JSON: invalid character`},
		{"no object", `["x"]`, `want a JSON object`},
		{"cut", `{"name":"x"`, `not JSON: unexpected end`},
		{"null", `{"name":null}`, `field "name": got "null"; wants a text, at most 8 bytes`},
		{"null document", `null`, `want a JSON object`},
		{"number for text", `{"name":1}`, `field "name": got "1"; wants a text`},
		{"text for number", `{"name":"x","count":"3"}`, `field "count": got "\"3\""; wants a whole number, 1 to 10`},
		{"too small", `{"name":"x","count":0}`, `wants a whole number, 1 to 10`},
		{"too big", `{"name":"x","count":11}`, `field "count": got "11"`},
		{"fraction", `{"name":"x","count":3.0}`, `field "count"`},
		{"exponent", `{"name":"x","count":1e0}`, `field "count"`},
		{"not 64 bits", `{"name":"x","count":99999999999999999999}`, `field "count"`},
		{"small int", `{"name":"x","small":256}`, `wants a whole number, 0 to 255`},
		{"negative", `{"name":"x","small":-1}`, `field "small"`},
		{"float over", `{"name":"x","ratio":1.6}`, `wants a number, at most 1.5`},
		{"float infinite", `{"name":"x","ratio":-1e999}`, `field "ratio"`},
		{"float text", `{"name":"x","ratio":"1"}`, `field "ratio"`},
		{"bool", `{"name":"x","force":1}`, `wants true or false`},
		{"duration number", `{"name":"x","wait":1}`, `wants a duration such as 1m30s, at most 1h`},
		{"duration over", `{"name":"x","wait":"61m"}`, `field "wait"`},
		{"duration text", `{"name":"x","wait":"soon"}`, `field "wait"`},
		{"enum", `{"name":"x","mode":"medium"}`, `wants a text, one of fast, slow`},
		{"too long", `{"name":"123456789"}`, `got "\"123456789\""`},
		{"bytes too long", `{"name":"x","data":"12345"}`, `at most 4 bytes`},
		{"bytes bad base64", `{"name":"x","data":{"base64":"/w="}}`, `field "data"`},
		{"bytes line feed", `{"name":"x","data":{"base64":"/w==\n"}}`, `field "data"`},
		{"bytes other key", `{"name":"x","data":{"base32":""}}`, `field "data"`},
		{"bytes number", `{"name":"x","data":3}`, `field "data"`},
		{"bytes base64 number", `{"name":"x","data":{"base64":3}}`, `field "data"`},
		{"map too big", `{"name":"x","env":{"A":"","B":"","C":""}}`, `at most 2 entries`},
		{"map of numbers", `{"name":"x","env":{"A":1}}`, `field "env"`},
		{"map is list", `{"name":"x","env":[]}`, `field "env"`},
		{"list is text", `{"name":"x","words":"a"}`, `field "words": got "\"a\""; wants a list of texts, one of a, b, c`},
		{"list of numbers", `{"name":"x","words":[1]}`, `field "words"`},
		{"list of null", `{"name":"x","words":[null]}`, `field "words"`},
		{"list enum", `{"name":"x","words":["a","d"]}`, `field "words"`},
		{"pattern", `{"name":"x","dir":"etc/"}`, `wants a text, of the form /.*`},
		{"secret", `{"name":"x","secret":"hunter2"}`, `field "secret": got a secret value; wants a text, at most 3 bytes`},
		{"not UTF-8", "{\"name\":\"\xff\"}", `arguments: not UTF-8`},
		{"lone high", `{"name":"\ud83d"}`, `half of a surrogate pair`},
		{"lone low", `{"name":"\ude00"}`, `half of a surrogate pair`},
		{"high and other", `{"name":"\ud83d\u0041"}`, `half of a surrogate pair`},
		{"deep", strings.Repeat("[", 20000), `not JSON`},
		{"long", `{"name":"` + strings.Repeat("x", call.MaxArgs) + `"}`, `are more than 524288`},
		{"long unknown", `{"` + strings.Repeat("x", 5000) + `":1}`, `no field "xxx`},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := m.Validate([]byte(test.args))
			if call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Validate(%.80s) = %v; want invalid: … %s", test.args, err, test.want)
			}
			if fromSchema := m.Schema().Validate([]byte(test.args)); fmt.Sprint(fromSchema) != fmt.Sprint(err) {
				t.Errorf("the schema says %v, the method %v", fromSchema, err)
			}
			if _, runErr := m.Run(t.Context(), nil, []byte(test.args)); fmt.Sprint(runErr) != fmt.Sprint(err) {
				t.Errorf("Run says %v, Validate %v", runErr, err)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || len(err.Error()) > MaxDetail+16) {
				t.Errorf("error tells a secret or is too long: %d bytes", len(err.Error()))
			}
		})
	}
}

type (
	empty  struct{}
	answer struct {
		Text string `json:"text" doc:"text"`
	}
)

func TestRunErrors(t *testing.T) {
	cause := errors.New("60s are over")
	for _, test := range []struct {
		name   string
		fn     func(context.Context, *Env, empty) (answer, error)
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		code   call.Code
		detail string
		output string
	}{
		{"none", func(context.Context, *Env, empty) (answer, error) { return answer{"<&>"}, nil }, nil, call.OK, "", `{"text":"<&>"}`},
		{"plain", func(context.Context, *Env, empty) (answer, error) { return answer{}, errors.New("no disk") }, nil, call.Failed, "no disk", ""},
		{"plain with answer", func(context.Context, *Env, empty) (answer, error) {
			return answer{"part"}, errors.New("exit 3")
		}, nil, call.Failed, "exit 3", `{"text":"part"}`},
		{"own", func(context.Context, *Env, empty) (answer, error) {
			return answer{}, call.Errorf(call.NotFound, "no service x")
		}, nil, call.NotFound, "no service x", ""},
		{"own wrapped", func(context.Context, *Env, empty) (answer, error) {
			return answer{}, fmt.Errorf("start: %w", call.Errorf(call.Busy, "locked"))
		}, nil, call.Busy, "start: busy: locked", ""},
		{"own without code", func(context.Context, *Env, empty) (answer, error) { return answer{}, &call.Error{Detail: "x"} }, nil, call.Internal, "x", ""},
		{"time-out", func(ctx context.Context, _ *Env, _ empty) (answer, error) {
			<-ctx.Done()
			return answer{}, fmt.Errorf("wait: %w", context.Cause(ctx))
		}, func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Millisecond, cause)
		}, call.Timeout, "wait: 60s are over", ""},
		{
			"cancelled", func(ctx context.Context, _ *Env, _ empty) (answer, error) { return answer{}, ctx.Err() },
			func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				cancel()
				return ctx, cancel
			}, call.Cancelled, "context canceled", "",
		},
		{"someone else's time-out", func(context.Context, *Env, empty) (answer, error) {
			return answer{}, context.DeadlineExceeded
		}, nil, call.Failed, "context deadline exceeded", ""},
		{
			"panic", func(context.Context, *Env, empty) (answer, error) { panic("secret stack") }, nil, call.Internal,
			"m.x broke; the machine's log has the reason under call id 01000000-0000-0000-0000-000000000000", "",
		},
		{
			"nil pointer", func(_ context.Context, env *Env, _ empty) (answer, error) {
				_, err := env.Stdout.Write(nil)
				return answer{}, err
			},
			nil, call.Internal, "m.x broke; the machine's log has the reason under call id 01000000-0000-0000-0000-000000000000", "",
		},
		{"long and foreign text", func(context.Context, *Env, empty) (answer, error) {
			return answer{}, errors.New("\xff" + strings.Repeat("é", 5000))
		}, nil, call.Failed, "\ufffd" + strings.Repeat("é", 2045) + "…", ""},
		{"answer too long", func(context.Context, *Env, empty) (answer, error) {
			return answer{strings.Repeat("x", MaxOutput)}, nil
		}, nil, call.Failed, "the answer has 1048587 bytes, more than 1048576", ""},
		{"answer too long beside an error", func(context.Context, *Env, empty) (answer, error) {
			return answer{strings.Repeat("x", MaxOutput)}, errors.New("no")
		}, nil, call.Failed, "no", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := t.Context()
			if test.ctx != nil {
				var cancel context.CancelFunc
				ctx, cancel = test.ctx(ctx)
				defer cancel()
			}
			var log bytes.Buffer
			env := &Env{Job: call.JobID{1}, Log: slog.New(slog.NewTextHandler(&log, nil))}
			out, err := method(t, Func("x", "X.", Read, test.fn, MethodOptions{})).Run(ctx, env, nil)
			if string(out) != test.output {
				t.Errorf("output %.80s; want %s", out, test.output)
			}
			e, _ := errors.AsType[*call.Error](err)
			if call.CodeOf(err) != test.code || err != nil && e.Detail != test.detail {
				t.Errorf("error %.200v; want %v: %s", err, test.code, test.detail)
			}
			if test.code == call.Internal && e.Detail != "x" && !strings.Contains(log.String(), "run.go") {
				t.Errorf("the log does not hold the stack: %s", log.String())
			}
		})
	}
}

func TestRunEncodeError(t *testing.T) {
	type out struct {
		F float64 `json:"f" doc:"a number"`
	}
	zero := 0.0
	m := method(t, Func("x", "X.", Read, func(context.Context, *Env, empty) (out, error) { return out{1 / zero}, nil }, MethodOptions{}))
	if _, err := m.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Internal {
		t.Errorf("Run = %v; want internal", err)
	}
	m = method(t, Func("x", "X.", Read, func(context.Context, *Env, empty) (out, error) { return out{1 / zero}, errors.New("no") }, MethodOptions{}))
	if _, err := m.Run(t.Context(), nil, nil); call.CodeOf(err) != call.Failed {
		t.Errorf("Run = %v; want failed", err)
	}
}

func TestTimeout(t *testing.T) {
	for _, test := range []struct{ given, want time.Duration }{{0, DefaultTimeout}, {-1, 0}, {time.Hour, time.Hour}} {
		m := Func("all", "All.", Read, all, MethodOptions{Timeout: test.given})
		if got := m.Timeout(); got != test.want {
			t.Errorf("Timeout(%v) = %v; want %v", test.given, got, test.want)
		}
	}
}

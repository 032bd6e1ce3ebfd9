package xmlrpc

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func document(value string) []byte {
	return []byte("<?xml version='1.0'?><methodCall><methodName>m</methodName><params><param>" + value + "</param></params></methodCall>")
}

func TestParseValues(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     any
	}{
		{"nil", "<value><nil/></value>", nil},
		{"true", "<value><boolean>1</boolean></value>", true},
		{"int", "<value><int>-2147483648</int></value>", math.MinInt32},
		{"i4 with spaces and a sign", "<value> <i4> +7 </i4>\n</value>", 7},
		{"i8", "<value><i8>9223372036854775807</i8></value>", Long(math.MaxInt64)},
		{"double", "<value><double>-1.5</double></value>", -1.5},
		{"double with an exponent", "<value><double>1e+21</double></value>", 1e21},
		{"infinite", "<value><double>-inf</double></value>", math.Inf(-1)},
		{"beyond the range", "<value><double>1e999</double></value>", math.Inf(1)},
		{"string", "<value><string> a &lt;b&gt; &amp; &#233;&#13; </string></value>", " a <b> & é\r "},
		{"bare string", "<value> x<!-- no -->y\n</value>", " xy\n"},
		{"empty string", "<value/>", ""},
		{"cdata", "<value><string><![CDATA[<x>]]></string></value>", "<x>"},
		{"base64", "<value><base64>\nAAH/\n/v8=\n</base64></value>", []byte{0, 1, 255, 254, 255}},
		{"date", "<value><dateTime.iso8601>20261121T21:24:06</dateTime.iso8601></value>", DateTime("20261121T21:24:06")},
		{"array", "<value><array><data><value>a</value> <value><int>1</int></value></data></array></value>", []any{"a", 1}},
		{"no array", "<value><array><data/></array></value>", []any{}},
		{
			"struct", "<value><struct><member><name>a b</name><value><nil/></value></member> </struct></value>",
			map[string]any{"a b": nil},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := ParseCall(document(test.in))
			if err != nil || c.Method != "m" || len(c.Params) != 1 {
				t.Fatalf("ParseCall = %v, %v", c, err)
			}
			if d := cmp.Diff(test.want, c.Params[0]); d != "" {
				t.Errorf("ParseCall(%s) (-want +got):\n%s", test.in, d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	deep := strings.Repeat("<value><array><data>", MaxDepth+1) + strings.Repeat("</data></array></value>", MaxDepth+1)
	many := "<value><array><data>" + strings.Repeat("<value/>", MaxValues) + "</data></array></value>"
	twice := "<member><name>a</name><value/></member>"
	for _, test := range []struct{ name, in string }{
		{"nothing", ""},
		{"no XML", "GET / HTTP/1.1"},
		{"a half document", "<methodCall><methodName>m"},
		{"an answer", "<methodResponse/>"},
		{"no name", "<methodCall><params/></methodCall>"},
		{"an empty name", "<methodCall><methodName> </methodName></methodCall>"},
		{"a long name", "<methodCall><methodName>" + strings.Repeat("a", MaxMethod+1) + "</methodName></methodCall>"},
		{"an odd name", "<methodCall><methodName>a b</methodName></methodCall>"},
		{"something after it", string(document("<value/>")) + "<x/>"},
		{"text after it", string(document("<value/>")) + "x"},
		{"text between", string(document("x<value/>"))},
		{"two values", string(document("<value/><value/>"))},
		{"no value", string(document(""))},
		{"a document type", "<!DOCTYPE x [<!ENTITY a \"b\">]>" + string(document("<value>&a;</value>"))},
		{"an entity", string(document("<value>&a;</value>"))},
		{"another encoding", "<?xml version='1.0' encoding='latin1'?><methodCall><methodName>m</methodName></methodCall>"},
		{"not UTF-8", string(document("<value>\xff</value>"))},
		{"a control character", string(document("<value>\x01</value>"))},
		{"a processing instruction", string(document("<?php x?><value/>"))},
		{"an attribute", string(document("<value a='b'/>"))},
		{"a name space", string(document("<x:value/>"))},
		{"an unknown type", string(document("<value><i16>1</i16></value>"))},
		{"33 bits", string(document("<value><int>2147483648</int></value>"))},
		{"65 bits", string(document("<value><i8>9223372036854775808</i8></value>"))},
		{"an underscore", string(document("<value><int>1_0</int></value>"))},
		{"hexadecimal", string(document("<value><double>0x1p4</double></value>"))},
		{"boolean 2", string(document("<value><boolean>2</boolean></value>"))},
		{"half base64", string(document("<value><base64>AAA</base64></value>"))},
		{"a date alone", string(document("<value><dateTime.iso8601>20261121</dateTime.iso8601></value>"))},
		{"full nil", string(document("<value><nil>x</nil></value>"))},
		{"a text beside a type", string(document("<value>x<int>1</int></value>"))},
		{"a type beside a type", string(document("<value><int>1</int><int>1</int></value>"))},
		{"an element in a text", string(document("<value><string><b/></string></value>"))},
		{"an array without data", string(document("<value><array/></value>"))},
		{"a member without a name", string(document("<value><struct><member><value/></member></struct></value>"))},
		{"a member without a value", string(document("<value><struct><member><name>a</name></member></struct></value>"))},
		{"a member twice", string(document("<value><struct>" + twice + twice + "</struct></value>"))},
		{"no member", string(document("<value><struct><value/></struct></value>"))},
		{"too deep", string(document(deep))},
		{"too many", string(document(many))},
		{"too long", string(document("<value>" + strings.Repeat("a", MaxDocument) + "</value>"))},
	} {
		t.Run(test.name, func(t *testing.T) {
			if c, err := ParseCall([]byte(test.in)); !errors.Is(err, ErrMalformed) {
				t.Errorf("ParseCall = %v, %v; want ErrMalformed", c, err)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	b, err := AppendAnswer([]byte("head"), []any{"a\r\n<&>", Long(1 << 40), 2.0, []byte("x"), nil, true, map[string]any{"b": 1, "a": DateTime("20261121T21:24:06")}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "head<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value><array><data>\n" +
		"<value><string>a&#13;\n&lt;&amp;&gt;</string></value>\n<value><i8>1099511627776</i8></value>\n<value><double>2</double></value>\n" +
		"<value><base64>eA==</base64></value>\n<value><nil/></value>\n<value><boolean>1</boolean></value>\n" +
		"<value><struct>\n<member>\n<name>a</name>\n<value><dateTime.iso8601>20261121T21:24:06</dateTime.iso8601></value>\n</member>\n" +
		"<member>\n<name>b</name>\n<value><int>1</int></value>\n</member>\n</struct></value>\n" +
		"</data></array></value>\n</param>\n</params>\n</methodResponse>\n"
	if d := cmp.Diff(want, string(b)); d != "" {
		t.Errorf("AppendAnswer (-want +got):\n%s", d)
	}
	_, err = ParseAnswer(AppendFault(nil, Fault{Code: 1 << 40, Text: "a\x00<"}))
	if f, ok := errors.AsType[*Fault](err); !ok || *f != (Fault{maxInt, `"a\x00<"`}) {
		t.Errorf("ParseAnswer = %v; want the fault", err)
	}
	for _, doc := range []string{
		"", "<methodResponse/>", "<methodResponse><params/></methodResponse>", "<methodCall/>",
		"<methodResponse><fault><value/></fault></methodResponse>",
		"<methodResponse><params><param><value/></param><param><value/></param></params></methodResponse>",
	} {
		if v, err := ParseAnswer([]byte(doc)); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseAnswer(%s) = %v, %v; want ErrMalformed", doc, v, err)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	deep := any(1)
	for range MaxDepth {
		deep = []any{deep}
	}
	for _, test := range []struct {
		name string
		v    any
		also error
	}{
		{"33 bits", 1 << 31, ErrRange},
		{"a control character", "a\x00", nil},
		{"not UTF-8", "\xff", nil},
		{"an int64", int64(1), nil},
		{"a date", DateTime("today"), nil},
		{"too deep", deep, nil},
		{"too many", make([]any, MaxValues), nil},
		{"too long", strings.Repeat("a", MaxDocument), nil},
		{"a name", map[string]any{"\x00": 1}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := AppendAnswer(nil, test.v)
			if !errors.Is(err, ErrValue) || test.also != nil && !errors.Is(err, test.also) {
				t.Errorf("AppendAnswer = %v; want ErrValue and %v", err, test.also)
			}
			if _, err := (Call{"m", []any{test.v}}).Append(nil); !errors.Is(err, ErrValue) {
				t.Errorf("Append = %v; want ErrValue", err)
			}
		})
	}
	if _, err := (Call{Method: "a<b"}).Append(nil); !errors.Is(err, ErrValue) {
		t.Errorf("Append = %v; want ErrValue", err)
	}
}

func TestText(t *testing.T) {
	for _, s := range []string{"", "a\t\r\né\U0001F600\ufffd"} {
		if v := Text(s); v != s {
			t.Errorf("Text(%q) = %v; want the text", s, v)
		}
	}
	for _, s := range []string{"\x1b[1m", "\x00", "\xff", "\uffff"} {
		if b, ok := Text(s).([]byte); !ok || string(b) != s {
			t.Errorf("Text(%q) = %v; want its bytes", s, b)
		}
	}
}

func TestDate(t *testing.T) {
	at := time.Date(2026, 11, 21, 21, 24, 6, 999, time.UTC)
	d := Date(at)
	if got, err := d.Time(); d != "20261121T21:24:06" || err != nil || !got.Equal(at.Truncate(time.Second)) {
		t.Errorf("Date = %s; Time = %v, %v", d, got, err)
	}
	if _, err := DateTime("20261321T21:24:06").Time(); !errors.Is(err, ErrMalformed) {
		t.Errorf("Time = %v; want ErrMalformed", err)
	}
}

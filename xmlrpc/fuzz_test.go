package xmlrpc

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzParseCall(f *testing.F) {
	for _, s := range []string{
		"<value>x</value>", "<value><int>1</int></value>", "<value><array><data><value><nil/></value></data></array></value>",
		"<value><struct><member><name>a</name><value><double>1.5</double></value></member></struct></value>",
		"<value><base64>AAA=</base64></value>", "<value><dateTime.iso8601>20261121T21:24:06</dateTime.iso8601></value>",
		"<value><i8>-9</i8></value>", "<value><boolean>1</boolean></value>", "<value>&#13;&lt;<![CDATA[x]]></value>",
	} {
		f.Add(document(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCall(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v does not wrap ErrMalformed", err)
			}
			return
		}
		first, err := c.Append(nil)
		if err != nil {
			if len(b) < MaxDocument/64 { // numbers and escapes may grow, but not so far
				t.Fatalf("accepted, and cannot be written: %v", err)
			}
			return
		}
		again, err := ParseCall(first)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, first)
		}
		second, err := again.Append(nil)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("written twice: %s\n%s, %v", first, second, err)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(AppendFault(nil, Fault{1, "no"}))
	b, err := AppendAnswer(nil, []any{1, "a", map[string]any{"b": nil}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseAnswer(b)
		fault, faulty := errors.AsType[*Fault](err)
		var first []byte
		switch {
		case faulty:
			first = AppendFault(nil, *fault)
		case err != nil:
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v does not wrap ErrMalformed", err)
			}
			return
		default:
			if first, err = AppendAnswer(nil, v); err != nil {
				if len(b) < MaxDocument/64 {
					t.Fatalf("accepted, and cannot be written: %v", err)
				}
				return
			}
		}
		again, err := ParseAnswer(first)
		if faulty {
			if f, ok := errors.AsType[*Fault](err); !ok || *f != *fault {
				t.Fatalf("fault %v became %v", fault, err)
			}
			return
		}
		second, err2 := AppendAnswer(nil, again)
		if err != nil || err2 != nil || !bytes.Equal(first, second) {
			t.Fatalf("written twice: %s\n%s, %v, %v", first, second, err, err2)
		}
	})
}

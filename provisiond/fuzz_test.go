package provisiond

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
)

func FuzzParseDigest(f *testing.F) {
	f.Add("sha-256=" + strings.Repeat("A", 43) + "=")
	f.Add("md5=x, SHA-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDigest(s)
		if err != nil {
			if !errors.Is(err, errDigest) {
				t.Fatalf("error %v does not wrap errDigest", err)
			}
			return
		}
		again, err := parseDigest(d.String())
		if err != nil || again != d || !strings.Contains(s, d.String()[len("sha-256="):]) {
			t.Fatalf("parseDigest(%q) = %s, again %s, %v", s, d, again, err)
		}
	})
}

func FuzzParseCmdline(f *testing.F) {
	f.Add("quiet dominion.mac=52:54:00:12:34:56 dominion.nonce=ab dominion.server=a,b dominion.pin=sha256:1")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := parseCmdline(s)
		if err != nil {
			if !errors.Is(err, errCmdline) {
				t.Fatalf("error %v does not wrap errCmdline", err)
			}
			return
		}
		if k.nonce != "" && !plainWord(k.nonce) || len(k.servers) > maxServers {
			t.Fatalf("parseCmdline(%q) = %+v", s, k)
		}
	})
}

func FuzzParseJoin(f *testing.F) {
	f.Add([]byte(`{"token":"ab","pin":"sha256:0000000000000000000000000000000000000000000000000000000000000000","overlords":["[::1]:51235"],"name":"n1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := parseJoin(b)
		if err != nil {
			if !errors.Is(err, errJoin) {
				t.Fatalf("error %v does not wrap errJoin", err)
			}
			return
		}
		if file := string(j.file()); strings.Count(file, "\n") != 4 || strings.ContainsAny(file, " ;'\"`$\\&|<>()\t\r\x00") {
			t.Fatalf("the file is %q", file)
		}
		b, _ = json.Marshal(j)
		if again, err := parseJoin(b); err != nil || string(again.file()) != string(j.file()) {
			t.Fatalf("accepted %+v but not again: %v", j, err)
		}
	})
}

func FuzzParseRefusal(f *testing.F) {
	f.Add([]byte(`{"code":"denied","detail":"no"}`))
	f.Add([]byte(`{"code":4,"detail":"\u001b[31m"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		code, detail := parseRefusal(b)
		for _, s := range []string{code, detail} {
			if len(s) > maxDetail+len("…") || strings.ContainsFunc(s, unicode.IsControl) {
				t.Fatalf("parseRefusal(%q) gives %q", b, s)
			}
		}
	})
}

package user

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// blob is a key of a kind with some data, as base64.
func blob(kind, data string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00" + string(rune(len(kind))) + kind + data))
}

func TestParseKey(t *testing.T) {
	ed := blob("ssh-ed25519", "some key")
	for _, test := range []struct {
		line string
		want key // zero: refused
	}{
		{"ssh-ed25519 " + ed, key{"", "ssh-ed25519", ed, ""}},
		{"  ssh-ed25519\t" + ed + "   a b  \r", key{"", "ssh-ed25519", ed, "a b"}},
		{`no-pty,from="10.0.0.0/8,a b" ssh-ed25519 ` + ed + " c", key{`no-pty,from="10.0.0.0/8,a b"`, "ssh-ed25519", ed, "c"}},
		{`command="say \"x y\" # z" ssh-ed25519 ` + ed, key{`command="say \"x y\" # z"`, "ssh-ed25519", ed, ""}},
		{"sk-ssh-ed25519@openssh.com " + blob("sk-ssh-ed25519@openssh.com", "x"), key{"", "sk-ssh-ed25519@openssh.com", blob("sk-ssh-ed25519@openssh.com", "x"), ""}},
		{"", key{}},
		{"# ssh-ed25519 " + ed, key{}},
		{"ssh-ed25519", key{}},
		{"ssh-ed25519 ", key{}},
		{"ssh-rsa " + ed, key{}},
		{"ssh-ed25519 " + ed[:8], key{}},
		{"ssh-ed25519 " + blob("ssh-ed25519", ""), key{}},
		{"ssh-ed25519 !" + ed, key{}},
		{"ssh-ed25519 " + ed + "\nssh-ed25519 " + ed, key{}},
		{`command="x ssh-ed25519 ` + ed, key{}},
		{"ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte("\xff\xff\xff\xffssh-ed25519")), key{}},
	} {
		got, err := parseKey(test.line)
		if err != nil {
			got = key{}
		}
		if got != test.want || (err == nil) != (test.want != key{}) {
			t.Errorf("parseKey(%q) = %+v, %v; want %+v", test.line, got, err, test.want)
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add("ssh-ed25519 " + blob("ssh-ed25519", "x") + " comment")
	f.Add(`command="a \" b",no-pty ssh-rsa ` + blob("ssh-rsa", "xy"))
	f.Add("# nothing")
	f.Fuzz(func(t *testing.T, line string) {
		k, err := parseKey(line)
		if err != nil {
			if !errors.Is(err, errKey) {
				t.Fatalf("error %v does not wrap errKey", err)
			}
			return
		}
		if strings.Contains(k.String(), "\n") || k.fingerprint() == "" {
			t.Fatalf("accepted %q as %q", line, k)
		}
		if again, err := parseKey(k.String()); err != nil || again != k {
			t.Fatalf("accepted %q, and its line %q is %+v, %v; want %+v", line, k.String(), again, err, k)
		}
	})
}

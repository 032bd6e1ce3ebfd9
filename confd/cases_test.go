package confd

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// labNodes and so on are ids in testdata/config.data.
const (
	alpha = "c1c1c1c1-0000-4000-8000-000000000001"
	web   = "e1e1e1e1-0000-4000-8000-000000000001"
)

// innerCases are inner messages, with %s for the rsalt in quotes, to which the
// genuine daemon and ours must do the same.
func innerCases() []string {
	var cases []string
	add := func(format string, args ...any) { cases = append(cases, fmt.Sprintf(format, args...)) }
	queries := []string{
		`null`, `""`, `"alpha.lab.example"`, `"alpha"`, `"alpha.lab"`, `"alp"`, `"alpha."`, `"ALPHA"`, `"beta"`, `"gamma"`, `"delta"`,
		`"epsilon"`, `"twin"`, `"twin.a"`, `"` + alpha + `"`, `"` + web + `"`, `"web"`, `"web.lab.example"`, `"db"`, `"lost"`, `"files"`, `"nope"`,
		`"quote\"back\\slash\n\u0001\u007f\u000e\u000eHH"`, `{}`, `{"1":"203.0.113.10"}`, `{"1":"203.0.113.10","0":"br1"}`,
		`{"1":"203.0.113.11","0":"br1"}`, `{"1":"203.0.113.30"}`, `{"1":"203.0.113.99"}`, `{"1":"203.0.113.10","0":""}`, `{"1":null,"0":null}`,
		`{"2":["203.0.113.10","203.0.113.11","203.0.113.30","203.0.113.20"]}`, `{"2":["203.0.113.11"],"0":"br1"}`, `{"2":[]}`,
		`{"2":["x"],"1":"203.0.113.10"}`, `{"3":[0,1,2]}`, `{"3":[2,2,0]}`, `{"3":[]}`, `{"3":[1],"1":"a\"b","0":"\\"}`, `"br1"`, `"xen-br0"`, `"br9"`,
	}
	for typ := range types {
		add(`{"protocol":1,"type":%d,"rsalt":%%s}`, typ)
		for _, q := range queries {
			add(`{"protocol":1,"type":%d,"query":%s,"rsalt":%%s}`, typ, q)
		}
	}
	for _, p := range pathCases() {
		b, _ := json.Marshal(p)
		add(`{"protocol":1,"type":10,"query":%s,"rsalt":%%s}`, b)
	}
	const m = `"protocol":1,"type":0,"rsalt":%s`
	return append(cases,
		`{`+m+`} `+"\n", `{ "protocol" : 1 , "type" : 0 , "rsalt" : %s }`, ` {`+m+`}`, `[{`+m+`}]`, `{`+m+`}x`, `{`+m+`,}`, `{`+m+`,"x":1}`,
		`{`+m+`,"type":99}`, `{"type":99,`+m+`}`, `{`+m+`,"query":7}`, `{`+m+`,"query":[]}`, `{`+m+`,"query":true}`, `{`+m+`,"query":{"9":1}}`,
		`{`+m+`,"query":{"3":["0"]}}`, `{`+m+`,"query":{"3":["name"]}}`, `{`+m+`,"query":{"3":[7]}}`, `{`+m+`,"query":{"3":1}}`, `{`+m+`,"query":{"3":[-1]}}`,
		`{`+m+`,"query":{"1":7}}`, `{`+m+`,"query":{"1":["a","b"]}}`, `{`+m+`,"query":{"1":["ab"]}}`, `{`+m+`,"query":{"2":"a"}}`, `{`+m+`,"query":{"2":[1]}}`,
		`{`+m+`,"query":{"2":[null]}}`, `{`+m+`,"query":{"1":"a","1":7}}`, `{`+m+`,"query":{"1":7,"1":"a"}}`, `{`+m+`,"query":{"2":["a",]}}`, `{`+m+`,"query":nul}`,
		`{"protocol":0,"type":0,"rsalt":%s}`, `{"protocol":-1,"type":0,"rsalt":%s}`, `{"protocol":1.5,"type":0,"rsalt":%s}`, `{"protocol":1e2,"type":0,"rsalt":%s}`,
		`{"protocol":1.,"type":0,"rsalt":%s}`, `{"protocol":.5,"type":0,"rsalt":%s}`, `{"protocol":+1,"type":0,"rsalt":%s}`, `{"protocol":01,"type":0,"rsalt":%s}`,
		`{"protocol":-0,"type":-0,"rsalt":%s}`, `{"protocol":99999999999999999999999,"type":0,"rsalt":%s}`, `{"protocol":"1","type":0,"rsalt":%s}`, `{"protocol":null,"type":0,"rsalt":%s}`,
		`{"protocol":true,"type":0,"rsalt":%s}`, `{"type":0,"rsalt":%s}`, `{"protocol":1,"rsalt":%s}`, `{"protocol":1,"type":"0","rsalt":%s}`, `{"protocol":1,"type":true,"rsalt":%s}`,
		`{"protocol":1,"type":null,"rsalt":%s}`, `{"protocol":1,"type":-1,"rsalt":%s}`, `{"protocol":1,"type":12,"rsalt":%s}`, `{"protocol":1,"type":100,"rsalt":%s}`, `{"protocol":1,"type":00,"rsalt":%s}`,
		`{"protocol":1,"type":3,"query":{"3":[0.6,1e0,-0,0.5,1.5]},"rsalt":%s}`, `{"protocol":1,"type":3,"query":{"3":[2.5,2.6]},"rsalt":%s}`, `{"protocol":1,"type":3,"query":{"3":[true]},"rsalt":%s}`,
		`{"protocol":1 "type":0,"rsalt":%s}`, `{protocol:1,"type":0,"rsalt":%s}`, `{'protocol':1,"type":0,"rsalt":%s}`, `{"\u0070rotocol":1,"type":0,"rsalt":%s}`, `{"protocol":1,"type":0,"rsalt":%s,"query":"\x"}`,
		`{"protocol":1,"type":0,"rsalt":%s,"query":"a`+"\t"+`"}`, `{"protocol":1,"type":0,"rsalt":%s,"query":"\u12"}`, `{"protocol":1,"type":0,"rsalt":%s,"query":"\u+041"}`, `{"protocol":1,"type":0,"rsalt":%s`+"\x00"+`}`,
		`{"protocol":`+strings.Repeat("[", 4000)+`,"type":0,"rsalt":%s}`, "{\v\f"+m+"}", "{\u00a0"+m+"}", "{\u0085"+m+"}", "{\u2003"+m+"}")
}

func pathCases() []string {
	paths := []string{
		"", "/", "//x", "version", "/version", "/version~9", "/version/", "/version//", "/cluster/", "/cluster/tags", "/cluster/tags//x", "/cluster/tags/", "/cluster/tags/0x", "/cluster/tags/-1",
		"/cluster/tags/1", "/cluster/tags/2", "/cluster/tags/00", "/cluster/tags/1~0", "/cluster/tags/1 /x", "/cluster/tags/99999999999999999999999", "/cluster~1x", "/cluster/tags~/0", "/~0", "/nodes/~",
		"/cluster/nicparams/default/link", "/cluster/nicparams/default/link/x", "/cluster/uid_pool/0/1", "/instances//x", "/serial_no", "/ctime", "/mtime", "/nope", "/cluster/hv_state_static", "/nodes/" + alpha + "/hv_state_static",
	}
	for _, k := range strings.Fields("cluster nodes nodegroups instances networks disks filters") {
		paths = append(paths, "/"+k)
	}
	return append(paths, "/nodes/"+alpha, "/instances/"+web+"/nics/1/nicparams", "/disks/d1d1d1d1-0000-4000-8000-000000000001/logical_id/5", "/disks/d1d1d1d1-0000-4000-8000-000000000001/children/1/size")
}

// datagramCases are whole datagrams around an inner ping with the rsalt given.
func datagramCases(rsalt string, now time.Time) [][]byte {
	s := newSigner([]byte(testKey))
	ping := fmt.Sprintf(`{"protocol":1,"type":0,"rsalt":%q}`, rsalt)
	at := func(d time.Duration) string { return fmt.Sprint(now.Add(d).Unix()) }
	mac := func(salt string) string { return fmt.Sprintf("%x", *s.sign([]byte(salt), []byte(ping))) }
	q := func(x string) string { return string(appendText(nil, x)) }
	salt := at(0)
	whole := func(salt string) string {
		return fmt.Sprintf(`{"msg": %s, "salt": %s, "hmac": %q}`, q(ping), q(salt), mac(salt))
	}
	good := whole(salt)
	var out [][]byte
	add := func(s string) { out = append(out, []byte(s)) }
	for _, b := range []string{
		good, good + "\n", good + " \t\r\n\v\f\xa0", " " + good, strings.Replace(good, "{", "{\v\f\xa0", 1), strings.Replace(good, "{", "{\x85", 1), good[:len(good)-1] + `,"hmac":1}`,
		`{"hmac":"00",` + good[1:], good[:len(good)-1] + `,"x":null}`, good[:len(good)-1] + ",}", "[" + good + "]", strings.Replace(good, `"salt"`, `"s\u0061lt"`, 1), good + "x", good[:len(good)-1], good[:len(good)/2],
		strings.Replace(good, mac(salt), strings.ToUpper(mac(salt)), 1), strings.Replace(good, mac(salt), mac(salt)[:39], 1), strings.Replace(good, mac(salt), mac(salt)+" ", 1), strings.Replace(good, mac(salt), "", 1),
		strings.Replace(good, mac(salt), strings.Repeat("0", 40), 1), strings.Replace(good, `"type\":0`, `"type\":4`, 1), strings.Replace(good, q(salt), salt, 1), strings.Replace(good, q(mac(salt)), "null", 1),
		strings.Replace(good, q(salt), `"`+at(1)+`"`, 1), strings.Replace(good, `"hmac"`, `"mac"`, 1), `"x"`, `{}`, `null`, ``, `{`, `{"msg":{}}`, strings.Repeat("[", 4000), strings.Repeat("\x00", 64), strings.Repeat("{", 60000),
		whole(at(-400 * time.Second)), whole(at(400 * time.Second)), whole(at(-290 * time.Second)), whole(at(290 * time.Second)), whole("0"), whole(""), whole("soon"), whole("+" + salt), whole("-" + salt),
		whole(salt + "\n"), whole(salt + ".0"), whole(salt + "e0"), whole("0" + salt), whole("99999999999999999999999"), whole("1_0"), whole(salt + "\u0660"), whole("\u00e9"),
	} {
		add(Magic + b)
	}
	add("")
	add("plj")
	add("plj1" + good)
	add(good)
	return out
}

package confd

import (
	"strconv"
	"strings"
)

// The original's texts about errors are what Haskell shows of its values. They
// are kept, so that whoever reads them finds what he is used to.

// reason says why a lookup failed.
func reason(why int) string {
	if why == ambiguous {
		return "has multiple matches"
	}
	return "not found"
}

// prereqError is how an OpPrereqError is shown.
func prereqError(what, by, name string, why int) string {
	return "OpPrereqError " + showString(what+" "+by+" "+name+" "+reason(why)) + " ECodeNoEnt"
}

// prerequisites is how an OpPrereqError is told to people.
func prerequisites(what, name string, why int) string {
	return "Failure: prerequisites not met for this operation:\nerror type: ECodeNoEnt, error details:\n" + what + " name " + name + " " + reason(why)
}

// nodeFailure is the answer where a node of the configuration itself is not
// there.
func (c *Cluster) nodeFailure(name string, why int) []byte {
	return appendText(nil, prerequisites("Node", name, why))
}

// noText answers a request that wants a text as its query and has none.
func (a *answerer) noText() *prepared {
	if a.kind == null {
		return new(failureText("Invalid query type EmptyQuery"))
	}
	fieldNames := [...]string{"ReqFieldName", "ReqFieldIp", "ReqFieldMNodePip"}
	var ips, names []string
	for _, ip := range a.ips {
		ips = append(ips, showString(string(ip)))
	}
	for _, f := range a.fields {
		names = append(names, fieldNames[f])
	}
	return new(failureText("Invalid query type DictQuery (ConfdReqQ {confdReqQIp = " + showMaybe(a.ip, a.hasIP) +
		", confdReqQIpList = [" + strings.Join(ips, ",") + "], confdReqQLink = " + showMaybe(a.link, a.hasLink) +
		", confdReqQFields = [" + strings.Join(names, ",") + "]})"))
}

func showMaybe(s []byte, ok bool) string {
	if !ok {
		return "Nothing"
	}
	return "Just " + showString(string(s))
}

// controls are Haskell's names of the first 32 characters.
const controls = "NUL SOH STX ETX EOT ENQ ACK a b t n v f r SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"

// showString shows a string as Haskell does.
func showString(s string) string {
	names := strings.Fields(controls)
	var b strings.Builder
	b.WriteByte('"')
	numeric, so := false, false
	for i, r := range s {
		if numeric && r >= '0' && r <= '9' || so && r == 'H' {
			b.WriteString(`\&`)
		}
		numeric, so = false, r == 0x0e
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ':
			b.WriteString(`\` + names[r])
		case r == 0x7f:
			b.WriteString(`\DEL`)
		case r > 0x7f:
			if sur, ok := surrogate([]byte(s[i:])); ok {
				r = sur
			}
			b.WriteString(`\` + strconv.Itoa(int(r)))
			numeric = true
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

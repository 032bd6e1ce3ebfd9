package main

// painter colours text for a terminal; the zero one leaves it as it is. Text is
// escaped before it is painted.
type painter bool

// Select Graphic Rendition of ECMA-48.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (p painter) paint(how, s string) string {
	if !p || how == "" || s == "" {
		return s
	}
	return "\x1b[" + how + "m" + s + "\x1b[0m"
}

// painter gives the one for standard output: colours for text on a terminal, unless
// NO_COLOR is set to something (no-color.org) or the terminal is dumb.
func (a *app) painter() painter {
	return painter(a.outTerm && a.output == outText && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb")
}

// Package clock tells what a machine's clock says, whether something keeps it
// right, and how far it is off. The clock is never set.
package clock

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dominion/module"
)

// Module is the table of the methods.
var Module = module.Module{
	Name: "time",
	Doc:  "The machine's clock and time zone. Nothing is changed.",
	Methods: []module.Method{
		module.Func("status", "Tells the time, the zone, and whether the clock is kept right.", module.Read, here.status, module.MethodOptions{}),
		module.Func("offset", "Asks a time server how far the clock is off.", module.Read, offset, module.MethodOptions{}),
	},
}

// Status is the answer of status.
type Status struct {
	Time           time.Time `json:"time" doc:"what the clock says, UTC"`
	Zone           string    `json:"zone" doc:"the time zone, such as Europe/Berlin; empty when only its rules are known"`
	Abbreviation   string    `json:"abbreviation" doc:"what the zone is called now, such as CEST"`
	OffsetSeconds  int       `json:"offset_seconds" doc:"what the zone adds to UTC now"`
	Synchronised   bool      `json:"synchronised" doc:"whether a program such as chrony keeps the clock right, as the kernel knows"`
	MaxErrorMillis float64   `json:"max_error_millis,omitempty" doc:"how far it is off at most, in the opinion of that program"`
}

// machine is where the zone is; tests have one of their own.
type machine struct{ root string }

var here = machine{"/"}

type none struct{}

func (m machine) status(context.Context, *module.Env, none) (Status, error) {
	var t unix.Timex // with no modes it only asks
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return Status{}, fmt.Errorf("ask the kernel about its clock: %w", err)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	s := Status{Time: now, Synchronised: state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0}
	if s.Synchronised {
		s.MaxErrorMillis = float64(t.Maxerror) / 1000
	}
	zone, name, err := m.zone()
	if err != nil {
		return Status{}, err
	}
	s.Zone = name
	s.Abbreviation, s.OffsetSeconds = now.In(zone).Zone()
	return s, nil
}

const maxZone = 1 << 20 // bytes of a zone's rules; real ones have a few thousand

// zone reads /etc/localtime (localtime(5)): the zone of the agent's own process
// is that of its start.
func (m machine) zone() (*time.Location, string, error) {
	file := filepath.Join(m.root, "etc/localtime")
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return time.UTC, "UTC", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the time zone: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxZone))
	if err != nil {
		return nil, "", fmt.Errorf("read the time zone: %w", err)
	}
	name := ""
	if to, err := os.Readlink(file); err == nil {
		_, name, _ = strings.Cut(to, "zoneinfo/")
	}
	if name == "" {
		text, err := os.ReadFile(filepath.Join(m.root, "etc/timezone")) // Debian's
		if err == nil && len(text) < 256 {
			name = strings.TrimSpace(string(text))
		}
	}
	zone, err := time.LoadLocationFromTZData(name, b)
	if err != nil {
		return nil, "", fmt.Errorf("read the time zone %s: %w", file, err)
	}
	return zone, name, nil
}

package module

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Limits of an Offer.
const (
	MaxOffer    = 256 << 10 // bytes of JSON
	MaxDisabled = 64        // modules that are named as disabled
	MaxReason   = 300       // bytes of why
	maxOffered  = 2048      // methods, those below included
)

// Offer is what a machine offers beside the methods that come with its agent: the
// methods of its site, and why some are not there. The agent of a sub-overlord
// offers also what the machines below it do. Equal offers are equal bytes.
type Offer struct {
	Methods  []Schema   `json:"methods,omitempty"` // sorted by name
	Disabled []Disabled `json:"disabled,omitempty"`
	Below    []Below    `json:"below,omitempty"`
}

// Disabled is a module that cannot be called on a machine.
type Disabled struct {
	Name   string `json:"name"`   // of its file
	Reason string `json:"reason"` // at most MaxReason bytes
}

// Below is a method as a number of machines offer it.
type Below struct {
	Schema   Schema `json:"schema"`
	Machines int    `json:"machines"`
}

// Encode gives the offer in JSON; nil when it offers nothing at all.
func (o Offer) Encode() ([]byte, error) {
	if len(o.Methods)+len(o.Disabled)+len(o.Below) == 0 {
		return nil, nil
	}
	b, err := encode(o)
	if err != nil {
		return nil, fmt.Errorf("encode offer of methods: %w", err)
	}
	if len(b) > MaxOffer {
		return nil, fmt.Errorf("encode offer of methods: %d bytes are more than %d", len(b), MaxOffer)
	}
	return b, nil
}

// ParseOffer reads what a machine says that it offers, at most MaxOffer bytes; no
// bytes are an empty offer. Keys that are not known are ignored. Every error wraps
// ErrSchema.
func ParseOffer(b []byte) (Offer, error) {
	var o Offer
	if len(b) == 0 {
		return o, nil
	}
	if len(b) > MaxOffer {
		return o, fmt.Errorf("%w: an offer of %d bytes is larger than %d", ErrSchema, len(b), MaxOffer)
	}
	if err := checkText(b); err != nil {
		return o, fmt.Errorf("%w: %v", ErrSchema, err)
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&o); err != nil {
		return Offer{}, fmt.Errorf("%w: %v", ErrSchema, err)
	}
	if err := o.check(); err != nil {
		return Offer{}, fmt.Errorf("%w: %v", ErrSchema, err)
	}
	return o, nil
}

func (o Offer) check() error {
	if n := len(o.Methods) + len(o.Below); n > maxOffered || len(o.Disabled) > MaxDisabled {
		return fmt.Errorf("%d methods and %d disabled modules; at most %d and %d", n, len(o.Disabled), maxOffered, MaxDisabled)
	}
	for i := range o.Methods {
		if err := checkOffered(&o.Methods[i]); err != nil {
			return err
		}
	}
	for i := range o.Below {
		if err := checkOffered(&o.Below[i].Schema); err != nil {
			return err
		}
		if o.Below[i].Machines < 1 {
			return fmt.Errorf("%s is offered by %d machines", quote(o.Below[i].Schema.Name), o.Below[i].Machines)
		}
	}
	for _, d := range o.Disabled {
		if d.Name == "" || len(d.Name) > 255 || len(d.Reason) > MaxReason {
			return fmt.Errorf("the disabled module %s: name of %d, reason of %d bytes", quote(d.Name), len(d.Name), len(d.Reason))
		}
	}
	return nil
}

// checkOffered holds a schema to its name, and to what can be used of it.
func checkOffered(s *Schema) error {
	mod, method, ok := strings.Cut(s.Name, ".")
	if !ok || !nameShape.MatchString(mod) || !nameShape.MatchString(method) {
		return fmt.Errorf("method name %s", quote(s.Name))
	}
	switch s.Effect {
	case Read, Change, Destroy:
	default:
		return fmt.Errorf("%s has the unknown effect %s", s.Name, quote(string(s.Effect)))
	}
	_, err := newSpec(s)
	return err
}

// Graver gives the one of two effects that does more.
func Graver(a, b Effect) Effect {
	for _, e := range []Effect{Destroy, Change} {
		if a == e || b == e {
			return e
		}
	}
	return Read
}

// Reserved says whether a word begins the names of administrative actions or of
// the protocol's own calls, so that no site's module may have it as its name: a
// line of a policy would mean both.
func Reserved(name string) bool {
	switch name {
	case "audit", "call", "cert", "cluster", "groups", "job", "map", "minion", "module", "node", "operator", "overlord", "session", "token":
		return true
	}
	return false
}

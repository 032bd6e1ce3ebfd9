package module

import (
	"slices"
	"strings"

	"dominion/call"
)

// The machines of a fleet may have different versions of a module. The functions
// of this file take all versions of one method, the one that most machines have
// first.

// ParseArgsOf is ParseArgs where machines have several versions of a method. A word
// name=VALUE counts as a field when any version declares it; of the versions that
// declare all fields given so, the first counts that takes the words. A machine with
// a version that does not take the outcome refuses it by itself.
func ParseArgsOf(versions []Schema, words []string) ([]byte, error) {
	var given []string
	for _, w := range words {
		name, _, found := strings.Cut(w, "=")
		if found && slices.ContainsFunc(versions, func(s Schema) bool { _, ok := s.Field(name); return ok }) {
			given = append(given, name)
		}
	}
	var first error
	for _, s := range versions {
		if slices.ContainsFunc(given, func(name string) bool { _, ok := s.Field(name); return !ok }) {
			continue
		}
		b, err := ParseArgs(s, words)
		if err == nil {
			return b, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = call.Errorf(call.Invalid, "no machine has a version of the method with all of these fields: %s", strings.Join(given, ", "))
	}
	return nil, first
}

// ValidateAny checks arguments as Schema.Validate does: they must fit one of the
// versions. The error is about the first.
func ValidateAny(versions []Schema, args []byte) error {
	var first error
	for _, s := range versions {
		err := s.Validate(args)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

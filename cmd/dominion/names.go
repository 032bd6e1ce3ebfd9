package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"dominion/provisiond"
)

// otherName is a name of a program that this one is, or will be, as well, when it is
// called by that name.
type otherName struct {
	name string
	// program runs it with its own options and exit codes. nil: root says how.
	program func(ctx context.Context, name string, words []string) int
	// root makes its command line. nil, and no program: it is not there yet.
	root func(*app) *cobra.Command
	// inner says that no administrator calls it, so dominion links leaves it out.
	inner bool
}

// there says whether this program answers to the name.
func (n otherName) there() bool { return n.program != nil || n.root != nil }

// otherNames is all of them. What is called by any other name is dominion.
func otherNames() []otherName {
	return []otherName{
		{name: "func"},
		{name: "funcd"},
		{name: funcBuildMap, root: (*app).funcRoot},
		{name: "func-transmit"},
		{name: "func-inventory"},
		{name: "func-create-module"},
		{name: "func-grep"},
		{name: "func-group"},
		{name: "func-down-hosts"},
		{name: "func-find-user"},
		{name: "func-ps-compare"},
		{name: "func-list-vms-per-host"},
		{name: "func-whatsmyname"},
		{name: "func-command"},
		{name: "certmaster-ca"},
		{name: "certmaster-request"},
		{name: provisiond.Name, program: runProvisiond},
		{name: provisiond.Getfile, program: runProvisiond, inner: true},
		{name: perceusName, root: (*app).perceusRoot},
	}
}

// nameOf finds the entry of a name; one without a name when there is none.
func nameOf(name string) otherName {
	for _, n := range otherNames() {
		if n.name == name {
			return n
		}
	}
	return otherName{}
}

// runName runs the program under one of its names and gives the exit code.
func runName(ctx context.Context, name string, words []string) int {
	if n := nameOf(name); n.program != nil { // it has options and exit codes of its own
		return n.program(ctx, name, words)
	}
	a := newApp(os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	a.name = name
	return a.main(ctx, words)
}

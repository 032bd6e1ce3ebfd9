#!/bin/sh
# testrun.sh NAME ARGS: go test ARGS, quiet about what passes; appends the
# counts, figures (lines of a test that begin with "figure:"), and every skipped
# test by name, to .test/summary.
set -eu
name=$1
shift
log=.test/$name.log
mkdir -p .test
{
	status=0
	go tool -modfile=tools/go.mod gotestsum --format pkgname-and-test-fails --hide-summary=output --jsonfile ".test/$name.json" -- "$@" 2>&1 || status=$?
	echo "$status" >".test/$name.status"
} | tee "$log"
{
	sed -n 's/.*"Output":"[^"]*: figure: \([^"\\]*\)\\n".*/'"$name"': \1/p' ".test/$name.json"
	grep '^=== SKIP' "$log" | sed "s/^/$name: /" || true
	grep '^DONE ' "$log" | sed "s/^DONE/$name: DONE/" || true
} >>.test/summary
exit "$(cat ".test/$name.status")"

#!/bin/sh
# fuzz.sh SECONDS TOTAL: runs each fuzz test of the module for SECONDS, less
# when all of them would take more than TOTAL (0: no limit).
set -eu
each=$1
total=$2
mkdir -p .test
list=.test/fuzz.list
git ls-files '*_test.go' | xargs grep -H '^func Fuzz' | sed 's|^\(.*\)/[^/]*\.go:func \(Fuzz[A-Za-z0-9_]*\).*|./\1 \2|' | sort -u >"$list"
n=$(wc -l <"$list")
[ "$n" -gt 0 ] || { echo "fuzz: no fuzz test found" >&2; exit 1; }
if [ "$total" -gt 0 ] && [ $((n * each)) -gt "$total" ]; then
	each=$((total / n))
fi
[ "$each" -gt 0 ] || each=1
while read -r pkg name; do
	echo "fuzz: $pkg $name, $each s"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "${each}s" -fuzzminimizetime 10x "$pkg" >.test/fuzz.log 2>&1 || { cat .test/fuzz.log; exit 1; }
done <"$list"
echo "fuzz: $n fuzz tests, $each s each" | tee -a .test/summary

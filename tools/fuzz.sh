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
# once PKG NAME runs one fuzz test. Go's fuzzer now and then reports its own
# deadline as a failure, without a failing input (golang/go: "context deadline
# exceeded" at the end of -fuzztime); that alone is tried again, twice.
once() {
	for try in 1 2 3; do
		if go test -run '^$' -fuzz "^$2\$" -fuzztime "${each}s" -fuzzminimizetime 10x "$1" >.test/fuzz.log 2>&1; then
			return 0
		fi
		if ! grep -q '^    context deadline exceeded$' .test/fuzz.log || grep -q 'Failing input written' .test/fuzz.log; then
			return 1
		fi
		echo "fuzz: $1 $2: the fuzzer ran into its own deadline, attempt $try"
	done
	return 1
}
while read -r pkg name; do
	echo "fuzz: $pkg $name, $each s"
	once "$pkg" "$name" || { cat .test/fuzz.log; exit 1; }
done <"$list"
echo "fuzz: $n fuzz tests, $each s each" | tee -a .test/summary

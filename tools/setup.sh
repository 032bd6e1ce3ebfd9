#!/bin/sh
# Installs what the tests use beyond Go: ClusterShell's nodeset (the oracle of
# folded names), curl (the API's plainest client) and openssl (a second opinion
# on certificates). Without root it says
# what is missing; the tests that need it are then skipped by name.
set -eu
need=""
command -v nodeset >/dev/null 2>&1 || need="$need clustershell"
command -v curl >/dev/null 2>&1 || need="$need curl"
command -v openssl >/dev/null 2>&1 || need="$need openssl"
[ -n "$need" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "setup: installing$need"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
else
	echo "setup: not root, or no apt-get; missing:$need" >&2
fi

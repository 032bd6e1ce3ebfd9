#!/bin/sh
# Installs what the tests use beyond Go: ClusterShell's nodeset (the oracle of
# folded names), curl (the API's plainest client), openssl (a second opinion
# on certificates), ganeti (its confd daemon and client, with which package
# confd is compared), python3-yaml (reads our maps as Func's tools do), busybox (whose
# shell runs node scripts in an initramfs), and zsh, fish and bash-completion (in whose shells completion is tried). Without root it says what is missing; the tests that need it are then skipped by name.
set -eu
need=""
command -v nodeset >/dev/null 2>&1 || need="$need clustershell"
command -v curl >/dev/null 2>&1 || need="$need curl"
command -v openssl >/dev/null 2>&1 || need="$need openssl"
[ -x /usr/sbin/ganeti-confd ] || need="$need ganeti"
python3 -c "import yaml" >/dev/null 2>&1 || need="$need python3-yaml"
command -v busybox >/dev/null 2>&1 || need="$need busybox-static"
[ -e /usr/share/bash-completion/bash_completion ] || need="$need bash-completion"
command -v zsh >/dev/null 2>&1 || need="$need zsh"
command -v fish >/dev/null 2>&1 || need="$need fish"
[ -n "$need" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "setup: not root, or no apt-get; missing:$need" >&2
	exit 0
fi
# Of ganeti only two programs are wanted, and it brings daemons of its own and of
# others (it depends on openssh-server): none of them is to be started here.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
echo "setup: installing$need"
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null

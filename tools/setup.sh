#!/bin/sh
# Installs what the tests use beyond Go: ClusterShell's nodeset (the oracle of
# folded names), curl (the API's plainest client), openssl (a second opinion
# on certificates), ganeti (its confd daemon and client, with which package
# confd is compared), python3-yaml (reads our maps as Func's tools do), busybox (whose
# shell runs node scripts in an initramfs) and wget (with which nodes of old fetch files). Without root it says what is missing; the tests that need it are then skipped by name.
# confd is compared), python3-yaml (reads our maps as Func's tools do), busybox and dash (whose
# shells run node scripts), perl (the language of the program whose rules for node scripts we
# keep), bzip2, xz and zstd (images that we import), and dnsmasq (reads the configuration that we print). Without root it says what is missing; the tests that need it are then skipped by name.
# confd is compared), python3-yaml (reads our maps as Func's tools do), busybox (whose
# shell runs node scripts in an initramfs), systemd with dbus (a machine in namespaces, for what it
# does), and dnf with rpm and createrepo-c (a repository for module package). Without root it says what is missing; the tests that need it are then skipped by name.
set -eu
need=""
command -v nodeset >/dev/null 2>&1 || need="$need clustershell"
command -v curl >/dev/null 2>&1 || need="$need curl"
command -v openssl >/dev/null 2>&1 || need="$need openssl"
[ -x /usr/sbin/ganeti-confd ] || need="$need ganeti"
python3 -c "import yaml" >/dev/null 2>&1 || need="$need python3-yaml"
command -v busybox >/dev/null 2>&1 || need="$need busybox-static"
command -v wget >/dev/null 2>&1 || need="$need wget"
command -v dash >/dev/null 2>&1 || need="$need dash"
command -v perl >/dev/null 2>&1 || need="$need perl"
command -v bzip2 >/dev/null 2>&1 || need="$need bzip2"
command -v xz >/dev/null 2>&1 || need="$need xz-utils"
command -v zstd >/dev/null 2>&1 || need="$need zstd"
command -v pgrep >/dev/null 2>&1 || need="$need procps"
command -v dnsmasq >/dev/null 2>&1 || need="$need dnsmasq-base"
[ -x /usr/lib/systemd/systemd ] || need="$need systemd"
command -v dbus-daemon >/dev/null 2>&1 || need="$need dbus"
command -v ip >/dev/null 2>&1 || need="$need iproute2"
[ -e /usr/share/zoneinfo/Asia/Kolkata ] || need="$need tzdata"
command -v useradd >/dev/null 2>&1 || need="$need passwd"
command -v ssh-keygen >/dev/null 2>&1 || need="$need openssh-client"
command -v dnf >/dev/null 2>&1 || need="$need dnf"
command -v rpmbuild >/dev/null 2>&1 || need="$need rpm"
command -v createrepo_c >/dev/null 2>&1 || need="$need createrepo-c"
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

#!/bin/sh
# Installs what the boot test uses: qemu-system-x86 with iPXE's network ROMs and ip (iproute2), beside what setup.sh installs, and
# brings Debian's cloud kernel, which is unpacked into the folder named (default: .test/boot), not installed:
#   DIR/kernel/boot/vmlinuz-VERSION, DIR/kernel/lib/modules/VERSION
# and likewise, from ovmf and ipxe, firmware for UEFI and what machines without iPXE load by TFTP:
#   DIR/firmware/{OVMF_CODE_4M.fd,OVMF_VARS_4M.fd,ipxe.efi,undionly.kpxe}
# Without root it says what is missing; the boot test is then skipped by name.
set -eu
dir=${1:-.test/boot}
need=""
command -v qemu-system-x86_64 >/dev/null 2>&1 || need="$need qemu-system-x86"
[ -e /usr/lib/ipxe/qemu/pxe-virtio.rom ] || need="$need ipxe-qemu"
command -v ip >/dev/null 2>&1 || need="$need iproute2"
kernel=$(ls "$dir"/kernel/boot/vmlinuz-* 2>/dev/null | tail -n 1)
firmware=$(ls "$dir/firmware/ipxe.efi" 2>/dev/null || true)
if [ -z "$need" ] && [ -n "$kernel" ] && [ -n "$firmware" ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	[ -n "$kernel" ] || need="$need a cloud kernel"
	[ -n "$firmware" ] || need="$need ovmf ipxe"
	echo "setup-boot: not root, or no apt-get; missing:$need" >&2
	exit 0
fi
apt-get update -qq
if [ -n "$need" ]; then
	echo "setup-boot: installing$need"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
new=$dir/new.$$
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM
# unpack NAME PACKAGE...: the packages' files are in $new/NAME.
unpack() {
	(umask 077 && mkdir -p "$new") # nobody else may put a package there
	name=$1
	shift
	echo "setup-boot: downloading $*"
	(cd "$new" && apt-get download -qq -o APT::Sandbox::User=root "$@" && for deb in ./*.deb; do dpkg-deb -x "$deb" "$name" && rm "$deb"; done)
}
if [ -z "$kernel" ]; then
	image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | tail -n 1)
	if [ -z "$image" ]; then
		echo "setup-boot: this Debian has no cloud kernel for this architecture" >&2
		exit 0
	fi
	unpack kernel "$image"
	rm -rf "$dir/kernel"
	mv "$new/kernel" "$dir/kernel"
fi
if [ -z "$firmware" ]; then
	unpack firmware ovmf ipxe
	mkdir -p "$dir/firmware"
	for file in usr/share/OVMF/OVMF_CODE_4M.fd usr/share/OVMF/OVMF_VARS_4M.fd usr/lib/ipxe/undionly.kpxe boot/ipxe.efi; do
		mv "$new/firmware/$file" "$dir/firmware/"
	done
fi

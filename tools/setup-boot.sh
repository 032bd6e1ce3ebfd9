#!/bin/sh
# Installs what the boot test uses: qemu-system-x86 with iPXE's network ROMs and ip (iproute2), beside what setup.sh installs, and
# brings Debian's cloud kernel, which is unpacked into the folder named (default: .test/boot), not installed:
#   DIR/kernel/boot/vmlinuz-VERSION, DIR/kernel/lib/modules/VERSION
# Without root it says what is missing; the boot test is then skipped by name.
set -eu
dir=${1:-.test/boot}
need=""
command -v qemu-system-x86_64 >/dev/null 2>&1 || need="$need qemu-system-x86"
[ -e /usr/lib/ipxe/qemu/pxe-virtio.rom ] || need="$need ipxe-qemu"
command -v ip >/dev/null 2>&1 || need="$need iproute2"
kernel=$(ls "$dir"/kernel/boot/vmlinuz-* 2>/dev/null | tail -n 1)
if [ -z "$need" ] && [ -n "$kernel" ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "setup-boot: not root, or no apt-get; missing:$need${kernel:- a cloud kernel}" >&2
	exit 0
fi
apt-get update -qq
if [ -n "$need" ]; then
	echo "setup-boot: installing$need"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
fi
if [ -z "$kernel" ]; then
	image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | tail -n 1)
	if [ -z "$image" ]; then
		echo "setup-boot: this Debian has no cloud kernel for this architecture" >&2
		exit 0
	fi
	echo "setup-boot: downloading $image"
	mkdir -p "$dir"
	dir=$(cd "$dir" && pwd)
	new=$dir/new.$$
	trap 'rm -rf "$new"' EXIT
	trap 'exit 1' HUP INT TERM
	mkdir "$new"
	chmod 777 "$new" # apt-get downloads as a user of its own
	(cd "$new" && apt-get download -qq "$image" && dpkg-deb -x ./*.deb "$new/kernel")
	rm -rf "$dir/kernel"
	mv "$new/kernel" "$dir/kernel"
fi

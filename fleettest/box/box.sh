# Makes the root of a box below $1, in namespaces of its own, and becomes its
# systemd. Of the host it has /usr (but for unit files and generators), what
# names users and libraries in /etc, and a few devices; /run and /srv are
# directories below $1.
set -eu
top=$1 root=$1/root
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr etc/systemd/system run srv var/log/journal var/lib/systemd tmp proc sys dev root units
chmod 1777 tmp
for d in bin sbin lib lib32 lib64 libx32; do
	if [ -L "/$d" ]; then ln -s "usr/$d" "$d"; fi
done
mount --bind /usr usr
# The units of a small machine: no others of the host are to run here.
lib=/usr/lib/systemd/system
for u in basic.target sysinit.target sockets.target timers.target paths.target slices.target multi-user.target \
	shutdown.target reboot.target final.target umount.target systemd-reboot.service \
	systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket \
	dbus.service dbus.socket systemd-logind.service dbus-org.freedesktop.login1.service user.slice; do
	if [ -e "$lib/$u" ]; then cp -P "$lib/$u" units/; fi
done
if [ -d "$top/units" ]; then cp "$top"/units/* units/ 2>/dev/null || :; fi
cat >units/box.target <<'EOF'
[Unit]
Description=The box
Requires=dbus.socket box-is-up.service
Wants=systemd-journald.service
After=dbus.socket systemd-journald.service
AllowIsolate=yes
EOF
cat >units/box-is-up.service <<'EOF'
[Unit]
Description=The box is up
After=dbus.socket dbus.service systemd-journald.service
Wants=dbus.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/touch /run/box-is-up
EOF
mkdir units/box.target.wants
for u in units/boot-*; do
	if [ -e "$u" ]; then ln -s "../${u#units/}" units/box.target.wants/; fi
done
mount --bind units usr/lib/systemd/system
mkdir none
if [ -d usr/lib/systemd/system-generators ]; then mount --bind none usr/lib/systemd/system-generators; fi
for f in passwd group shadow nsswitch.conf ld.so.cache dbus-1 localtime os-release; do
	if [ -e "/etc/$f" ]; then cp -a "/etc/$f" etc/; fi
done
: >etc/fstab
echo box >etc/hostname
if [ ! -e "$top/srv/machine-id" ]; then tr -d - </proc/sys/kernel/random/uuid >"$top/srv/machine-id"; fi
cp "$top/srv/machine-id" etc/machine-id
mount --bind "$top/run" run
mount --bind "$top/srv" srv
mount -t proc proc proc
cat proc/sys/kernel/random/uuid >boot_id
mount --bind boot_id proc/sys/kernel/random/boot_id
mount --rbind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for n in null zero full random urandom tty; do
	: >"dev/$n"
	mount --bind "/dev/$n" "dev/$n"
done
mkdir dev/shm dev/pts
ln -s /proc/self/fd dev/fd
mkdir old
pivot_root . old
umount -l /old
exec env -i container=dominion-box PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	/usr/lib/systemd/systemd --system --unit=box.target --show-status=0 --log-target=console --log-level=info

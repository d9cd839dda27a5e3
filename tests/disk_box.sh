#!/usr/bin/env bash
# A box that boots itself: a disk image with a boot sector, made from the built box; served over HTTP on loopback, fetched by its
# digest, and booted through the firmware from a layer of its own. Two machines become a cluster.
# usage: disk_box.sh FLIGHTCAGE (FLIGHTCAGE_HOME is set, flightcage-os is built)
set -euo pipefail
flightcage=$1
work=$(mktemp -d /tmp/flightcage-disk-box.XXXXXX)
server=
clean_up() {
    code=$?
    "$flightcage" --name disk-box down || true
    [ -z "$server" ] || kill "$server"
    rm -rf "$work"
    exit "$code"
}
trap clean_up EXIT

missing=()
for program in syslinux mcopy mkfs.fat sfdisk cpio xz python3; do command -v "$program" > /dev/null || missing+=("$program"); done
if [ "${#missing[@]}" -gt 0 ]; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        syslinux syslinux-common mtools dosfstools fdisk cpio xz-utils python3 > /dev/null
fi

box=$(dirname "$("$flightcage" box build | awk '{ print $2; exit }')")

# The box's initramfs, with an /init for one disk: its root is the second partition, the machine's own the third.
mkdir "$work/init"
(cd "$work/init" && cpio --quiet -i --make-directories init < "$box/initramfs")
sed -i 's#/dev/vda#/dev/vda2#g; s#/dev/vdb#/dev/vda3#g' "$work/init/init"
grep -q /dev/vda3 "$work/init/init"
cat "$box/initramfs" > "$work/initrd"
(cd "$work/init" && echo init | cpio --quiet -o -H newc) >> "$work/initrd"

cat > "$work/syslinux.cfg" << END
SERIAL 0
DEFAULT box
LABEL box
  KERNEL kernel
  APPEND initrd=initrd console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off apparmor=0 audit=0 random.trust_cpu=on preempt=none no_timer_check nowatchdog cryptomgr.notests 8250.nr_uarts=1 net.ifnames=0 transparent_hugepage=never systemd.unit=multi-user.target systemd.show_status=no flightcage.disk=1
END
mkfs.fat -C "$work/boot.fat" 40960 > /dev/null
mcopy -i "$work/boot.fat" "$box/kernel" ::kernel
mcopy -i "$work/boot.fat" "$work/initrd" ::initrd
mcopy -i "$work/boot.fat" "$work/syslinux.cfg" ::syslinux.cfg
syslinux --install "$work/boot.fat"

# 1 MiB, 40 MiB to boot from, 256 MiB of root, the rest for the machine.
truncate -s 2G "$work/disk.raw"
printf 'label: dos\nstart=2048, size=81920, type=c, bootable\nsize=524288, type=83\ntype=83\n' | sfdisk --quiet "$work/disk.raw"
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$work/disk.raw" bs=440 count=1 conv=notrunc status=none
dd if="$work/boot.fat" of="$work/disk.raw" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$box/root" of="$work/disk.raw" bs=1M seek=41 conv=notrunc,sparse status=none
mkdir "$work/served"
xz -1 -T0 -c "$work/disk.raw" > "$work/served/disk.raw.xz"

python3 -u -m http.server --bind 127.0.0.1 --directory "$work/served" 0 > "$work/http.log" 2>&1 &
server=$!
port=
for _ in $(seq 100); do
    port=$(sed -n 's/.*port \([0-9]*\).*/\1/p' "$work/http.log")
    [ -n "$port" ] && break
    sleep 0.1
done
cat > "$work/disk-box.toml" << END
description = "our own box as a disk that boots itself"
architecture = "$(uname -m)"
[image]
url = "http://127.0.0.1:$port/disk.raw.xz"
sha256 = "$(sha256sum < "$work/served/disk.raw.xz" | cut -d' ' -f1)"
compression = "xz"
format = "raw"
[ignition]
fw_cfg = "opt/com.coreos/config"
version = "3.3.0"
network = "flightcage"
[[file]]
path = "/etc/of-the-definition"
content = "yes"
END
"$flightcage" box fetch "$work/disk-box.toml"
printf '[cluster]\nworkers = 1\nbox = "disk-box.toml"\n' > "$work/flightcage.toml"
"$flightcage" --name disk-box up --fresh -f "$work/flightcage.toml"
said=$("$flightcage" --name disk-box ssh w1 -- 'grep -ow flightcage.disk=1 /proc/cmdline; cat /etc/of-the-definition; echo; hostname; findmnt -no SOURCE /run/flightcage/disk; ls /sys/block')
echo "$said"
[ "$(echo "$said" | head -n 4 | paste -sd ' ')" = 'flightcage.disk=1 yes w1 /dev/vda3' ]
# What it wrote lies in its own layer, and is there after the power was gone; the box's image is as it was.
"$flightcage" --name disk-box ssh w1 -- 'echo kept > kept; sync'
"$flightcage" --name disk-box node power-off w1
"$flightcage" --name disk-box node power-on w1
for _ in $(seq 120); do
    kept=$("$flightcage" --name disk-box ssh w1 -- cat kept 2> /dev/null) && break
    sleep 1
done
[ "$kept" = kept ]
image=$("$flightcage" box build "$work/disk-box.toml" | awk '{ print $2; exit }')
[ "$(sha256sum < "$image" | cut -d' ' -f1)" = "$(basename "$image")" ]
"$flightcage" --name disk-box down
echo 'disk box: passed'

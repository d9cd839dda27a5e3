#!/bin/sh
# Runs as mmdebstrap's customize hook: turns the unpacked root in $1 into kernel, initramfs and root, in $1/.flightcage/out.
# What the definition asks for lies beside this script in $1/.flightcage, one item a line. Runs as root, or as root of a user namespace.
set -eu
export LC_ALL=C
root=$1
work=$root/.flightcage
out=$work/out
mkdir -p "$out"

in_root() { chroot "$root" "$@"; }

# The user that people and `install` log in as. `*` rather than `!`: sshd without PAM refuses a locked account.
in_root useradd --create-home --uid 1000 --user-group --shell /bin/bash core
sed -i 's/^core:[^:]*:/core:*:/' "$root/etc/shadow"
install -d -m 0700 -o 1000 -g 1000 "$root/home/core/.ssh"

kernel=$(basename "$(echo "$root"/lib/modules/*)")
cp "$root/boot/vmlinuz-$kernel" "$out/kernel"
modules=$root/lib/modules/$kernel

# What `modules` names, and what that needs; then the same for the initramfs, in an order that insmod can follow.
in_root depmod "$kernel"
awk -v list="$work/modules" '
    BEGIN { while ((getline line < list) > 0) keep["kernel/" line] = 1 }
    {
        name = $1; sub(/\.ko:$/, "", name)
        wanted = 0
        for (prefix in keep) if (name == prefix || index(name, prefix "/") == 1 || index(name, prefix) == 1 && name ~ /\.ko$/) wanted = 1
        if (wanted) { sub(/:$/, "", $1); for (i = 1; i <= NF; i++) print $i }
    }' "$modules/modules.dep" >"$work/kept"

initramfs=$work/initramfs
mkdir -p "$initramfs/bin" "$initramfs/modules"
cp "$root/bin/busybox" "$initramfs/bin/busybox"
ln -s busybox "$initramfs/bin/sh"
install -m 0755 "$work/init" "$initramfs/init"
while read -r module; do
    file=$(grep -E "/$(echo "$module" | sed 's/[-_]/[-_]/g')\.ko:" "$modules/modules.dep" | head -n 1)
    if [ -z "$file" ]; then
        grep -qE "/$(echo "$module" | sed 's/[-_]/[-_]/g')\.ko$" "$modules/modules.builtin" && continue
        echo "the kernel has no module $module" >&2
        exit 1
    fi
    # modules.dep lists what a module needs in reverse order of loading.
    for path in $(echo "$file" | awk '{ sub(/:$/, "", $1); for (i = NF; i >= 1; i--) print $i }'); do
        grep -qxF "$(basename "$path")" "$initramfs/modules/order" 2>/dev/null && continue
        cp "$modules/$path" "$initramfs/modules/"
        basename "$path" >>"$initramfs/modules/order"
        echo "$path" >>"$work/kept"
    done
done <"$work/initramfs-modules"

(cd "$modules" && find kernel -name '*.ko' | sort >"$work/all" && sort -u "$work/kept" >"$work/kept-sorted" &&
    comm -23 "$work/all" "$work/kept-sorted" | xargs rm -f && find kernel -type d -empty -delete)
in_root depmod "$kernel"

find "$initramfs" -exec touch -h -d @0 {} +
mkdir -p "$root/.flightcage/initramfs"
in_root sh -c 'cd /.flightcage/initramfs && find . | sort | busybox cpio -o -H newc' >"$out/initramfs" 2>/dev/null

while read -r unit; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done <"$work/mask"
while read -r unit; do
    in_root systemctl enable --quiet "$unit"
done <"$work/enable"

cd "$root"
while read -r pattern; do
    # shellcheck disable=SC2086 # patterns expand here
    rm -rf $pattern
done <"$work/remove"
rm -rf boot/*
mkdir -p sysroot var/lib/flightcage var/cache var/log
: >etc/machine-id
: >etc/resolv.conf
touch -d @0 etc/machine-id etc/resolv.conf

# Without extended attributes: it would ask for those of /proc, which is mounted here, before it excludes anything.
mkfs.erofs -zlz4hc -x-1 -T0 -U 00000000-0000-0000-0000-000000000001 --quiet \
    --exclude-path=.flightcage --exclude-regex='^(dev|proc|sys|run|tmp)/.*' "$out/root" "$root" >/dev/null

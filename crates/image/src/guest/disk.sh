# Finds the root file system named on the command line, mounts it and starts its init.
fail() {
    echo "strata: $*" >&2
    echo "strata: this is the initramfs; 'exit' powers off" >&2
    setsid cttyhack sh
    poweroff -f
}

root= init=/sbin/init mode=rw flags= fstype=ext4
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    init=*) init=${word#init=} ;;
    rootflags=*) flags=,${word#rootflags=} ;;
    rootfstype=*) fstype=${word#rootfstype=} ;;
    ro | rw) mode=$word ;;
    esac
done
[ -n "$root" ] || fail "the kernel command line names no root="

device= tries=0
while :; do
    case $root in
    UUID=* | LABEL=*) device=$(findfs "$root" 2>/dev/null) ;;
    *) device=$root ;;
    esac
    [ -b "$device" ] && break
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "no disk has the root file system $root"
    sleep 0.1
done
mount -t "$fstype" -o "$mode,noatime$flags" "$device" /root || fail "cannot mount $device"

# The root grows when its disk has become larger: the partition to the disk's end, then the file system.
grow() {
    name=${device#/dev/}
    [ -e "/sys/class/block/$name/partition" ] || return 0
    part=$(cat "/sys/class/block/$name/partition")
    start=$(cat "/sys/class/block/$name/start")
    size=$(cat "/sys/class/block/$name/size")
    disk=${name%"$part"}
    disk=${disk%p}
    [ -e "/sys/class/block/$disk/size" ] || disk=${name%"$part"}
    whole=$(cat "/sys/class/block/$disk/size")
    # 33 sectors at the end are the second partition table; less than 2 MiB is not worth it.
    [ $((whole - start - size)) -gt 4130 ] || return 0
    [ -x /root/usr/sbin/sfdisk ] && [ "$mode" = rw ] || return 0
    mount --bind /dev /root/dev
    mount --bind /proc /root/proc
    mount --bind /sys /root/sys
    chroot /root /usr/sbin/sfdisk -q --relocate gpt-bak-std "/dev/$disk" >/dev/null 2>&1
    echo ', +' | chroot /root /usr/sbin/sfdisk -q --no-reread --no-tell-kernel -N "$part" "/dev/$disk" >/dev/null 2>&1 &&
        chroot /root /usr/bin/partx -u --nr "$part" "/dev/$disk" >/dev/null 2>&1 &&
        chroot /root /usr/sbin/resize2fs "$device" >/dev/null 2>&1 &&
        echo "strata: root file system grown to the size of its disk" ||
        echo "strata: the disk is larger, but the root file system could not be grown" >&2
    umount /root/sys /root/proc /root/dev
}
grow

[ -x "/root$init" ] || [ -L "/root$init" ] || fail "the root file system has no $init"
for d in dev proc sys run; do
    mount --move "/$d" "/root/$d"
done
exec switch_root /root "$init"

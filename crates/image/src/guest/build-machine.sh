# Before build.sh, in a machine: one disk is the target (partitioned by the host), the other a tar of the unpacked packages.
die() {
    say "failed $*"
    sync
    poweroff -f
    sleep 60
}
begin() {
    say "stage format"
    # The target is the disk with a partition; the order of two disks is the machine's business.
    tries=0
    while :; do
        for pair in "vda vdb" "vdb vda"; do
            target=/dev/${pair% *}1 tar=/dev/${pair#* }
            [ -b $target ] && [ -b $tar ] && break 2
        done
        tries=$((tries + 1))
        [ $tries -lt 50 ] || { cat /proc/partitions; die "finding the disks"; }
        sleep 0.1
    done
    make_fs "" $target
    # Nothing on it is worth keeping if the machine stops half-way.
    mount -t ext4 -o noatime,nobarrier,data=writeback $target /root || die "mount"
}
R=/root
enter() {
    mount --bind /dev $R/dev
    mount -t devpts devpts $R/dev/pts
    mount -t proc proc $R/proc
    mount -t sysfs sysfs $R/sys
    mount -t tmpfs tmpfs $R/run
}
leave() {
    umount $R/run $R/sys $R/proc $R/dev/pts $R/dev || die "umount"
    umount $R || die "umount of the root"
    sync
}
end() {
    poweroff -f
    sleep 60
}

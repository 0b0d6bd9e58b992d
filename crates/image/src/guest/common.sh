# Shared beginning of every initramfs of ours: applets, kernel file systems, modules.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s
mkdir -p /dev/pts
mount -t tmpfs -o mode=755 tmpfs /run
while read -r m; do
    insmod "/lib/modules/$m" 2>/dev/null || echo "strata: cannot load $m" >&2
done < /lib/modules/order

# Makes a Debian disk from a tar of the unpacked packages. Every line that begins with "STRATA " is for the host. What comes
# before this says how to: begin (root at /root, tar at $tar), enter (root at $R, to run programs in), leave, end and die.
say() { echo "STRATA $*"; }
. /build/settings

# The target is a fresh sparse file: it reads as zeros, so inode tables need no writing. The two features left out are ones
# that U-Boot's reader does not know.
make_fs() {
    extended=$1
    shift
    /sbin/mke2fs -q -F -t ext4 -L strata-root -U "$root_uuid" -m 1 -O '^metadata_csum_seed,^orphan_file' \
        -E "lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1,nodiscard$extended" "$@" || die "mke2fs"
}

begin

say "stage extract"
tar -x -p -f $tar -C /root || die "tar"

say "stage configure"
enter
in_root() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true SYSTEMD_OFFLINE=1 \
    DPKG_ROOT= DPKG_MAINTSCRIPT_NAME="$script" DPKG_MAINTSCRIPT_PACKAGE="$package" DPKG_MAINTSCRIPT_ARCH=$arch \
    chroot $R "$@"; }
# No service may be started in here.
printf '#!/bin/sh\nexit 101\n' > $R/usr/sbin/policy-rc.d
chmod 755 $R/usr/sbin/policy-rc.d

# What dpkg does before unpacking, and we could not on the host. base-passwd and base-files make the
# files that the others need.
while read -r p; do
    script=preinst package=${p%%:*}
    in_root "/var/lib/dpkg/info/$p.preinst" install </dev/null || say "note preinst of $p failed"
done < /build/preinst
script= package=
# Full paths: busybox has a dpkg of its own, and would take the bare name for it.
configure() { in_root /usr/bin/dpkg --force-unsafe-io --force-confold "$@" </dev/null 2>&1; }
configure --force-depends --configure base-passwd base-files || die "dpkg --configure of the base"
configure --configure -a || die "dpkg --configure"

say "stage settings"
rm -f $R/usr/sbin/policy-rc.d
while read -r file; do
    [ -n "$file" ] && rm -rf $R/$file # a pattern
done < /build/remove
# Files of ours which would have been in the way of the packages' own scripts.
cp -a /build/overlay/. $R/ || die "copying settings"
in_root /usr/bin/systemctl --root=/ enable systemd-networkd.service systemd-resolved.service >/dev/null 2>&1 || die "systemctl enable"
[ -z "$kernel" ] || in_root /usr/sbin/depmod "$kernel" || die "depmod"
if [ -s /build/password ]; then
    in_root /usr/sbin/chpasswd < /build/password || die "chpasswd"
fi
in_root /usr/bin/dpkg --audit | head -5
[ -z "$(in_root /usr/bin/dpkg --audit)" ] || die "packages are left unconfigured"

say "stage finish"
leave
say "done"
end

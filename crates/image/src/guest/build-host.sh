# Before build.sh, on the host itself, apart from it: the target is a file with a partition table, and no file system can be
# mounted. So the root is a folder, which is put into the file at the end; /tree shows it with /proc and its like.
/bin/busybox --install -s
die() {
    say "failed $*"
    exit 1
}
begin() { tar=/build/vdb; }
R=/tree
enter() { :; }
leave() { make_fs ",offset=$root_start" -d /root /build/vda "${root_kib}k"; }
end() { exit 0; }

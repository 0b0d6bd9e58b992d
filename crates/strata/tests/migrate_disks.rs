//! A running machine that changes hosts with its disks: what its guest was told is durable is there afterwards.

mod common;

use common::{Console, Place, Receiver, shell, until};
use std::fs;
use std::path::Path;

/// What waits for a machine, where, and by which token.
struct Waiting(Console, String);

fn receive(at: &Place, options: &str) -> Waiting {
    let Receiver { console, address, token } = Receiver::at(at, options);
    Waiting(console, format!("{address} --token {token}"))
}

impl Waiting {
    fn send(&self, from: &Place, options: &str) -> common::Done {
        from.strata(&format!("migrate web {} {options}", self.1))
    }

    /// Has `from` send it here.
    fn take(self, from: &Place, options: &str) -> String {
        let figures = self.send(from, options).good();
        eprintln!("{figures}");
        let done = self.0.end();
        assert_eq!((done.code, done.out.lines().last()), (Some(0), Some("web")), "{done:?}");
        figures
    }
}

/// An image with a small disk, under the name `small`.
fn small_image(at: &Place) {
    let disk = at.file("small", "");
    let file = fs::File::options().write(true).open(&disk).unwrap();
    file.set_len(48 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 40 << 20).unwrap();
    let busybox = at.home().join("images/busybox");
    let options = format!(
        "image import small --name small --kernel {0}/kernel --initrd {0}/initrd --append console=ttyS0",
        busybox.display()
    );
    at.strata(&options).good();
    fs::remove_file(disk).unwrap();
}

fn sparse(at: &Place, name: &str, mib: u64) {
    let path = at.file(name, "");
    fs::File::options().write(true).open(path).unwrap().set_len(mib << 20).unwrap();
}

/// A guest that writes the number `n` to sector `n` of each disk, has that made durable, and says it then, for ever; and
/// that writes to the last MiB of the first one all the time.
fn writer(c: &mut Console, disks: &str) {
    let first = disks.split(' ').next().unwrap();
    c.sh(&format!(
        "n=0; while true; do n=$((n+1)); for d in {disks}; do \
         printf '%512d' $n | dd of=/dev/$d bs=512 seek=$n conv=notrunc,fsync 2>/dev/null || break 2; done; \
         echo $n > /tmp/said; done & echo begun"
    ));
    c.sh(&format!(
        "while true; do dd if=/dev/urandom of=/dev/{first} bs=64k count=16 seek=128 conv=notrunc 2>/dev/null; \
         done & echo begun"
    ));
}

/// The last number that it has said.
fn said(c: &mut Console) -> u64 {
    let mut n = 0;
    until("a number", || {
        n = c.sh("cat /tmp/said 2>/dev/null || true").parse().unwrap_or(0);
        n > 0
    });
    n
}

/// The numbers 1 to `last` are in a file, where they belong.
fn check(file: &Path, last: u64) {
    let bytes = fs::read(file).unwrap();
    for n in 1..=last {
        let sector = &bytes[n as usize * 512..][..512];
        assert_eq!(
            std::str::from_utf8(sector).map(str::trim),
            Ok(n.to_string().as_str()),
            "sector {n} of {last}"
        );
    }
}

/// The same, as the guest finds it on its disk.
fn check_inside(c: &mut Console, disk: &str, last: u64) {
    // The kernel has a word to say to that, too.
    let found = c.sh(&format!(
        "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/{disk} bs=512 skip=1 count={last} 2>/dev/null | tr -s ' ' '\\n' \
         | grep -v '^$' > /tmp/found; seq 1 {last} | cmp - /tmp/found && echo same"
    ));
    assert!(found.contains("same"), "{found}");
}

#[test]
fn disks_go_there_and_back_with_all_that_was_durable() {
    let hosts = [Place::with_busybox(), Place::new()];
    small_image(&hosts[0]);
    sparse(&hosts[0], "data", 32);
    hosts[0].strata("run small --name web --memory 128M --net none --disk data --detach").good();
    let mut c = shell(&hosts[0], "web");
    writer(&mut c, "vda vdb");
    let before = said(&mut c);
    drop(c);
    // Nothing that would be left behind goes unsaid.
    let there = receive(&hosts[1], "");
    there.send(&hosts[0], "").refused(82, &["disk of its own", "--with-disks"]);
    drop(there);
    let nowhere = receive(&hosts[1], "--disk /nowhere/data");
    nowhere
        .send(&hosts[0], "--with-disks")
        .refused(82, &["/nowhere/data", "folder that is not here", "--disk"]);
    drop(nowhere);
    let copy = hosts[1].work().join("copy");
    let there = receive(&hosts[1], &format!("--disk {}", copy.display()));
    let plan = there.send(&hosts[0], "--with-disks --dry-run").good();
    assert!(plan.contains("data is sent"), "{plan}");
    let figures = there.take(&hosts[0], "--with-disks");
    assert!(figures.contains("disks "), "{figures}");
    hosts[0].is_clean();
    let mut c = shell(&hosts[1], "web");
    let now = said(&mut c);
    assert!(now >= before, "it went back: {now} after {before}");
    until("it writes on", || said(&mut c) > now);
    let last = said(&mut c);
    check_inside(&mut c, "vda", last);
    drop(c);
    // What was the image's disk has come as a file; the first host has the image, and needs none.
    assert!(hosts[1].home().join("instances/web/base").exists());
    let back = hosts[0].work().join("back");
    receive(&hosts[0], &format!("--disk {}", back.display()))
        .take(&hosts[1], "--with-disks --strategy stop-and-copy");
    hosts[1].is_clean();
    assert!(!hosts[0].home().join("instances/web/base").exists());
    let mut c = shell(&hosts[0], "web");
    let last = said(&mut c);
    assert!(last >= now);
    drop(c);
    hosts[0].strata("stop web").good();
    // Read by whoever comes, without the machine.
    check(&back, last);
    hosts[0].strata("start web --detach").good();
    let mut c = shell(&hosts[0], "web");
    check_inside(&mut c, "vda", last);
    assert_eq!(c.sh("dd if=/dev/vda bs=1M skip=40 count=1 2>/dev/null | tr -d '\\000' | wc -c"), "4096");
    drop(c);
    hosts[0].strata("stop web").good();
    hosts[0].strata("delete web").good();
    assert!(check_names(&hosts[1], &["copy"]));
}

fn check_names(at: &Place, names: &[&str]) -> bool {
    at.contents().into_keys().eq(names.iter().map(|n| (*n).to_owned()))
}

#[test]
fn a_shared_disk_is_handed_over_and_never_open_for_writing_on_both_sides() {
    let hosts = [Place::with_busybox(), Place::new()];
    sparse(&hosts[0], "data", 32);
    let data = hosts[0].work().join("data");
    hosts[0].strata("run busybox --name web --memory 128M --net none --disk data --detach").good();
    let mut c = shell(&hosts[0], "web");
    writer(&mut c, "vda");
    let mut last = said(&mut c);
    drop(c);
    let record = || fs::read_to_string(data.with_file_name("data.strata-lock")).unwrap();
    let epoch =
        |text: &str| text.lines().find_map(|l| l.strip_prefix("epoch ")?.parse::<u64>().ok()).unwrap();
    let first = epoch(&record());
    // A file that is another one is not taken for it, and stays as it is.
    let other = hosts[1].file("other", "something else");
    let there = receive(&hosts[1], &format!("--disk {}", other.display()));
    there.send(&hosts[0], "--with-disks").refused(82, &["other", "is not the disk"]);
    drop(there);
    assert_eq!(fs::read(&other).unwrap(), b"something else");
    for (n, options) in ["", "--strategy stop-and-copy", ""].into_iter().enumerate() {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        receive(to, "").take(from, options);
        from.is_clean();
        let text = record();
        assert_eq!(epoch(&text), first + n as u64 + 1, "{text}");
        assert!(text.contains(&format!("pid {}\n", to.vmm_of("web"))), "{text}");
        let mut c = shell(to, "web");
        let now = said(&mut c);
        assert!(now >= last, "it went back: {now} after {last}");
        until("it writes on", || said(&mut c) > now);
        last = said(&mut c);
        check_inside(&mut c, "vda", last);
    }
    hosts[1].strata("stop web").good();
    check(&data, last);
    assert!(check_names(&hosts[0], &["data"]), "its record has gone with its owner");
    hosts[1].strata("delete web").good();
}

#[test]
fn disks_go_with_a_machine_that_its_memory_follows() {
    let hosts = [Place::with_busybox(), Place::new()];
    small_image(&hosts[0]);
    sparse(&hosts[0], "data", 32);
    let data = hosts[0].work().join("data");
    hosts[0].strata("run small --name web --memory 128M --net none --disk data --detach").good();
    let mut c = shell(&hosts[0], "web");
    // What it writes later comes from memory that is not there yet.
    c.sh("dd if=/dev/urandom of=/tmp/ballast bs=1M count=24 2>/dev/null; md5sum < /tmp/ballast > /tmp/sum");
    writer(&mut c, "vda vdb");
    let mut last = said(&mut c);
    drop(c);
    for (n, strategy) in ["postcopy", "hybrid"].into_iter().enumerate() {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        // Its own disk is sent, the other one is the same file on both.
        receive(to, "").take(from, &format!("--with-disks --strategy {strategy} --bandwidth 20M"));
        from.is_clean();
        let mut c = shell(to, "web");
        let now = said(&mut c);
        assert!(now >= last, "it went back: {now} after {last}");
        c.sh("dd if=/tmp/ballast of=/dev/vda bs=1M seek=20 conv=notrunc,fsync 2>/dev/null");
        assert_eq!(
            c.sh("dd if=/dev/vda bs=1M skip=20 count=24 2>/dev/null | md5sum | cmp - /tmp/sum && echo same"),
            "same"
        );
        until("it writes on", || said(&mut c) > now);
        until("all memory is there", || to.strata("migrate status web").out.contains("moved"));
        last = said(&mut c);
        ["vda", "vdb"].iter().for_each(|disk| check_inside(&mut c, disk, last));
    }
    hosts[0].strata("stop web").good();
    check(&data, last);
    hosts[0].strata("delete web").good();
}

#[test]
fn snapshots_are_left_behind_only_when_that_is_said() {
    let hosts = [Place::with_busybox(), Place::new()];
    small_image(&hosts[0]);
    hosts[0].strata("run small --name web --memory 128M --net none --detach").good();
    let mut c = shell(&hosts[0], "web");
    c.sh("echo before | dd of=/dev/vda bs=512 seek=3 conv=notrunc,fsync 2>/dev/null");
    drop(c);
    hosts[0].strata("snapshot create web one").good();
    let mut c = shell(&hosts[0], "web");
    c.sh("echo after | dd of=/dev/vda bs=512 seek=4 conv=notrunc,fsync 2>/dev/null");
    let read = "dd if=/dev/vda bs=512 skip=3 count=2 2>/dev/null | tr -d '\\000'";
    assert_eq!(c.sh(read), "before\nafter");
    drop(c);
    let there = receive(&hosts[1], "");
    there.send(&hosts[0], "--with-disks").refused(82, &["snapshots", "--without-snapshots"]);
    there.take(&hosts[0], "--with-disks --without-snapshots");
    hosts[0].is_clean();
    // Both layers have become one.
    let mut c = shell(&hosts[1], "web");
    assert_eq!(c.sh(read), "before\nafter");
    drop(c);
    hosts[1].strata("snapshot create web two").good();
    hosts[1].strata("stop web").good();
    hosts[1].strata("delete --snapshots web").good();
}

//! Clones of one snapshot: what each has of its own, and what happens to one whose memory is taken away.

mod common;

use common::{Place, lives, shell, until};
use std::fs;

#[test]
fn clones_differ_and_one_whose_memory_is_cut_ends_by_name() {
    let place = Place::with_busybox();
    place.strata("run busybox --name web --memory 128M --detach").good();
    let mut web = place.open("console web");
    web.wait_for("# ");
    // A file in RAM of which clones have touched nothing yet.
    web.sh("dd if=/dev/urandom of=/tmp/large bs=1M count=12 2>/dev/null");
    place.strata("snapshot create web one").good();
    let snapshot = place.home().join("instances/web/snapshots/one");
    let random = |name: &str| {
        place.strata(&format!("clone web@one {name}")).good();
        let mut c = shell(&place, name);
        let told = "until dmesg | grep -q 'due to virtual machine fork'; do sleep 0.01; done";
        (c.sh(&format!("{told}; head -c 32 /dev/urandom | sha256sum")), c)
    };
    let (first, mut a) = random("a");
    until("what was touched first is kept", || snapshot.join("first-touch").exists());
    // This one is read ahead by it.
    let (second, b) = random("b");
    assert_ne!(first, second, "two copies have made the same randomness");
    assert_eq!(a.sh("sha256sum < /tmp/large"), web.sh("sha256sum < /tmp/large"));

    // What it had written itself goes with the file's end, too: neither can go on.
    let vmms = ["a", "b"].map(|name| place.vmm_of(name));
    let memory = fs::File::options().write(true).open(snapshot.join("memory")).unwrap();
    memory.set_len(1 << 20).unwrap();
    until("both have ended", || vmms.iter().all(|vmm| !lives(*vmm)));
    for (name, c) in [("a", a), ("b", b)] {
        let done = c.end();
        assert!(!done.out.contains("panic"), "{done:?}");
        let log = fs::read_to_string(place.home().join(format!("instances/{name}/vmm.log"))).unwrap();
        assert!(log.contains("memory file") && log.contains("was cut"), "{log}");
    }
    assert_eq!(place.running(), ["web.lock", "web.sock"]);
    // A machine that does not need that file goes on, and those that ended have their disks and names.
    assert_eq!(web.sh("echo fine"), "fine");
    place.strata("clone web@one c").refused(65, &["memory", "cut short"]);
    place.strata("snapshot restore web one").refused(65, &["memory", "cut short"]);
    assert_eq!(web.sh("echo fine"), "fine");
    let mut b = place.open("start b");
    b.wait_for("# ");
    b.send("poweroff");
    assert_eq!(b.end().code, Some(0));
    place.strata("stop web").good();
    for name in ["a", "b"] {
        place.strata(&format!("delete {name}")).good();
    }
    place.strata("delete --snapshots web").good();
    place.is_clean();
}

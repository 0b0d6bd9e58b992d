//! The quick machine, as a person uses it: shell, network both ways, disk, reboot, and everything around its life.
//!
//! Few boots with much in each: a boot is most of the time these tests take.

mod common;

use common::{Place, kill, lives, until};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

/// Serves one HTTP request on the host's loopback; gives its port.
fn serve_once(body: &'static str) -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buf = [0; 1024];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = peer.read(&mut buf).unwrap();
            assert!(n > 0, "the guest hung up within its request");
            request.extend(&buf[..n]);
        }
        write!(peer, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8_lossy(&request).into_owned()
    });
    (port, server)
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn shell_network_disk_and_reboot() {
    let place = Place::with_busybox();
    let disk = place.file("disk", "");
    fs::File::options().write(true).open(&disk).unwrap().set_len(64 << 20).unwrap();
    let port = free_port();
    let mut c = place.open(&format!("run busybox --disk disk --forward {port}:80"));
    c.wait_for("# ");
    eprintln!("prompt after {:?}", c.age());
    assert_eq!(c.sh("uname -m"), "riscv64");

    // An address by DHCP, a name by DNS, the host's loopback at 10.0.2.2.
    c.wait_for_address();
    assert!(c.sh("nslookup localhost").contains("127.0.0.1"));
    let (http, server) = serve_once("page of the host\n");
    assert_eq!(c.sh(&format!("wget -q -O - http://10.0.2.2:{http}/some/page")), "page of the host");
    assert!(server.join().unwrap().starts_with("GET /some/page HTTP/1."));

    // And in: whoever comes to the host's port meets the guest's server.
    c.sh("mkdir /tmp/www && echo page of the guest > /tmp/www/index.html && httpd -p 80 -h /tmp/www");
    let mut peer = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    peer.set_read_timeout(Some(common::PATIENCE)).unwrap();
    peer.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("page of the guest\n"), "{answer}");

    // What the guest has synced is in the host's file.
    c.sh("yes strata | dd of=/dev/vda bs=64k count=64 seek=256 iflag=fullblock 2>/dev/null && sync");
    let start = 256 * 65536;
    let written = &fs::read(&disk).unwrap()[start..start + 64 * 65536];
    assert!(written.chunks(7).all(|w| b"strata\n".starts_with(w)), "not what the guest wrote");

    // A file system outlives a reboot.
    c.sh(
        "mke2fs -q /dev/vda && mount /dev/vda /mnt 2>/dev/null || { mkdir -p /mnt && mount /dev/vda /mnt; }",
    );
    let sum = "sha256sum < /mnt/data";
    c.sh("dd if=/dev/urandom of=/mnt/data bs=64k count=32 2>/dev/null && sync");
    let before = c.sh(sum);
    c.send("umount /mnt; reboot");
    c.wait_for("BusyBox v");
    c.wait_for("# ");
    eprintln!("second prompt after {:?}", c.age());
    c.sh("mkdir -p /mnt && mount /dev/vda /mnt");
    assert_eq!(c.sh(sum), before);
    c.send("umount /mnt; poweroff");
    let done = c.end();
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{}", done.out);
    place.is_clean();
    assert_eq!(place.contents().into_keys().collect::<Vec<_>>(), ["disk"], "beside the disk nothing is left");
}

#[test]
fn a_script_may_speak_before_the_guest_listens() {
    let place = Place::with_busybox();
    let mut c = place.open("run busybox --cpus 4 --net none");
    c.send("echo cpus=$(nproc) nics=$(ls /sys/class/net | grep -c eth)");
    c.send("poweroff");
    // The end of input ends nothing.
    c.close_input();
    let done = c.end();
    assert!(done.out.contains("cpus=4 nics=0"), "{done:?}");
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{}", done.out);
    place.is_clean();
}

#[test]
fn a_life_in_the_background() {
    let place = Place::with_busybox();
    let log = place.work().join("log");
    // Two at once: one that is kept, one that is not. `open` gives them pipes, which they must not keep.
    let started = place.open("run busybox --name keep --detach").end();
    assert_eq!((started.code, started.out.as_str(), started.err.as_str()), (Some(0), "keep\n", ""));
    let other = place.strata("run busybox --net none --detach --console file=log").good();
    let other = other.trim();

    let rows = place.strata("ps").good();
    for name in ["keep", other] {
        assert!(rows.lines().any(|l| l.starts_with(name) && l.contains("running")), "{rows}");
    }
    place.strata("run busybox --name keep").refused(73, &["keep", "exists already", "--name"]);
    place.strata("start keep").refused(69, &["keep", "runs", "strata stop keep"]);
    place.strata("delete keep").refused(69, &["keep", "strata stop keep"]);
    holds_nothing_of_ours(place.vmm_of("keep"));

    // The console comes and goes; the machine stays. What it showed last is shown again.
    let mut c = place.open("console keep");
    c.wait_for("# ");
    assert_eq!(c.sh("echo $((6 * 7))"), "42");
    kill(c.pid());
    drop(c);
    let mut c = place.open("console keep");
    c.wait_for("42");
    assert_eq!(c.sh("echo still here"), "still here");

    // Paused, it answers nothing; after that, it does.
    place.strata("pause keep").good();
    assert!(place.strata("ps").good().lines().any(|l| l.starts_with("keep") && l.contains("paused")));
    c.send("echo aw''ake");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!c.text().contains("awake"), "a paused machine spoke");
    place.strata("unpause keep").good();
    c.wait_for("awake");

    // `stop` ends it, and the console with it; it is kept, and starts again.
    place.strata("stop keep").good();
    assert_eq!(c.end().code, Some(0));
    assert!(!place.strata("ps").good().contains("keep"));
    assert!(place.strata("ps --all").good().lines().any(|l| l.starts_with("keep") && l.contains("stopped")));
    let mut c = place.open("start keep");
    c.wait_for("BusyBox");

    // A process that is killed is noticed, and leaves nothing; a client that is killed takes its machine along.
    until("the other machine's prompt is in its file", || {
        fs::read_to_string(&log).is_ok_and(|t| t.contains("# "))
    });
    let vmm = place.vmm_of(other);
    kill(vmm);
    until("the killed process is gone", || !lives(vmm));
    assert!(!place.strata("ps --all").good().contains(other));
    assert_eq!(place.kept(), ["keep"]);
    let vmm = place.vmm_of("keep");
    kill(c.pid());
    drop(c);
    until("the machine ends with its client", || !lives(vmm));
    assert_eq!(place.running(), Vec::<String>::new());
    place.strata("delete keep").good();
    place.is_clean();
}

/// A detached process has none of its caller's descriptors: no pipe, nothing of the caller's folders.
fn holds_nothing_of_ours(pid: u32) {
    let work = format!("/proc/{pid}/cwd");
    assert_eq!(fs::read_link(work).unwrap().to_str(), Some("/"));
    let fd = |n: u32| fs::read_link(format!("/proc/{pid}/fd/{n}")).unwrap().to_string_lossy().into_owned();
    assert_eq!((fd(0).as_str(), fd(1).as_str()), ("/dev/null", "/dev/null"));
    assert!(fd(2).ends_with("/keep/vmm.log"), "{}", fd(2));
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
        let target = target.to_string_lossy();
        assert!(!target.starts_with("pipe:") && !target.starts_with("/dev/pts"), "it holds {target}");
    }
}

#[test]
fn a_deterministic_boot_repeats_to_the_microsecond() {
    let place = Place::with_busybox();
    let boot = |seed: u64| {
        let words = "run busybox --cpus 2 --net none --append loglevel=7 --deterministic --seed";
        let mut c = place.open(&format!("{words} {seed}"));
        c.wait_for("root@strata:~# ");
        let text = c.text();
        // What is typed is no part of what repeats.
        c.send("poweroff");
        assert_eq!(c.end().code, Some(0));
        text
    };
    let first = boot(5);
    assert!(first.contains("] Linux version") && first.contains("smp: Brought up 1 node, 2 CPUs"), "{first}");
    assert_eq!(boot(5), first);
    place.is_clean();
}

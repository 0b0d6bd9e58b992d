//! What a machine is told, and what it is given, when it goes on from a file: its clock, its connections, its card.

mod common;

use common::{Console, OwnNetwork, Place, apart, shell, until};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

/// A command's answer as a number.
fn number(c: &mut Console, command: &str) -> f64 {
    let text = c.sh(command);
    text.parse().unwrap_or_else(|e| panic!("`{command}` gives {text:?}: {e}"))
}

#[test]
fn a_clock_stands_still_or_goes_on_as_it_is_told() {
    let place = Place::with_busybox();
    place.strata("run busybox --name web --memory 128M --net none --detach").good();
    let mut c = shell(&place, "web");
    let uptime = "cut -d' ' -f1 /proc/uptime";
    place.strata("snapshot create web one").good();
    let before = number(&mut c, uptime);
    std::thread::sleep(Duration::from_secs(15));
    place.strata("snapshot restore web one").good();
    let mut c = shell(&place, "web");
    let kept = number(&mut c, uptime);
    assert!(kept < before + 14.0, "it has not counted the time since: {before} then {kept}");
    place.strata("snapshot restore web one --clock advance").good();
    let mut c = shell(&place, "web");
    let advanced = number(&mut c, uptime);
    assert!(advanced > before + 14.0, "it has: {before} then {advanced}");
    place.strata("suspend web").good();
    assert_eq!(place.strata("resume web --clock sideways").code, Some(64));
    place.strata("resume web --clock advance").good();
    let mut c = shell(&place, "web");
    assert!(number(&mut c, uptime) > advanced);
    place.strata("stop web").good();
    place.strata("delete --snapshots web").good();

    // Where time comes from instructions there is none to add.
    place.strata("run busybox --name same --memory 128M --net none --deterministic --detach").good();
    place.strata("suspend same").good();
    place.strata("resume same --clock advance").refused(78, &["instructions"]);
    place.strata("resume same").good();
    place.strata("stop same").good();
    place.strata("delete same").good();
    place.is_clean();
}

#[test]
fn open_connections_are_reset_counted_and_told() {
    let place = Place::with_busybox();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    place.strata("run busybox --name web --memory 128M --detach").good();
    let mut c = shell(&place, "web");
    // A download that has not ended: its reader is told by the reset, and by nothing else.
    c.sh(&format!("(nc 10.0.2.2 {port} < /dev/zero > /tmp/got; echo gone > /tmp/end) 2> /dev/null & true"));
    let mut far = listener.accept().unwrap().0;
    far.write_all(b"half of it").unwrap();
    until("half of it arrives", || c.sh("cat /tmp/got") == "half of it");
    place.strata("suspend web").good();
    while far.read(&mut [0; 65536]).is_ok_and(|n| n > 0) {}
    let resumed = place.strata("resume web");
    assert!(resumed.err.contains("1 connection was open") && resumed.err.contains("reset"), "{resumed:?}");
    resumed.good();
    let mut c = shell(&place, "web");
    until("the guest hears of it", || c.sh("cat /tmp/end 2> /dev/null || true") == "gone");
    let ps = place.strata("ps --verbose").good();
    let (head, row) = ps.split_once('\n').unwrap();
    let at = head.find("RESETS").unwrap();
    assert_eq!(row.get(at..).and_then(|r| r.split_whitespace().next()), Some("1"), "{ps}");
    // The next time none was open.
    place.strata("suspend web").good();
    let resumed = place.strata("resume web");
    assert_eq!(resumed.err, "", "{resumed:?}");
    place.strata("stop web").good();
    place.strata("delete web").good();
    place.is_clean();
}

#[test]
fn two_machines_with_one_address_are_not_let_on_one_bridge() {
    let Some(mut unshare) = apart(&["--net", "--mount"]) else { return };
    let place = Place::with_busybox();
    // Everything in one shell, which is what the namespaces last for.
    let script = r#"
        set -e
        mount -t sysfs sysfs /sys
        ip link add name br0 type bridge
        for t in t0 t1; do ip tuntap add dev $t mode tap; ip link set $t master br0 up; done
        ip tuntap add dev t2 mode tap
        "$STRATA" run busybox --name web --memory 128M --net tap=t0 --detach
        "$STRATA" snapshot create web one
        if "$STRATA" clone web@one two --net tap=t1 2> refused; then exit 90; fi
        "$STRATA" ps --all > after
        # Off the bridge, with an address of its own, or knowingly.
        "$STRATA" clone web@one off --net tap=t2
        "$STRATA" stop off
        "$STRATA" clone web@one other --net tap=t1 --mac new
        "$STRATA" stop other
        "$STRATA" clone web@one same --net tap=t1 --mac keep
        "$STRATA" suspend same
        if "$STRATA" resume same 2> again; then exit 91; fi
        "$STRATA" stop web
        "$STRATA" resume same
        "$STRATA" stop same
    "#;
    unshare.args(["sh", "-c", script]).env("STRATA", env!("CARGO_BIN_EXE_strata")).stdin(Stdio::null());
    let done = place.finish(place.at_home(&mut unshare));
    assert_eq!(done.code, Some(0), "{done:?}");
    let file = |name: &str| std::fs::read_to_string(place.work().join(name)).unwrap();
    for (name, machine) in [("refused", "two"), ("again", "same")] {
        let text = file(name);
        for word in [machine, "br0", "web has it too", "--mac new", "--mac keep"] {
            assert!(text.contains(word), "should say `{word}`: {text}");
        }
    }
    assert!(!file("after").contains("two"), "what was refused is not there: {}", file("after"));
    for name in ["web", "off", "other", "same"] {
        place.strata(&format!("delete --snapshots {name}")).good();
    }
    place.is_clean();
}

/// The peer's connection outlives the process that had the machine's end of it: that end is in the guest.
#[test]
fn a_download_over_a_tap_goes_on_after_a_suspend() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 400;
    let Some(_net) = OwnNetwork::make() else { return };
    let place = Place::with_busybox();
    let listener = TcpListener::bind("10.9.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let net = format!("tap={}", OwnNetwork::TAP);
    place.strata(&format!("run busybox --name web --memory 128M --net {net} --detach")).good();
    let mut c = shell(&place, "web");
    c.sh("ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up");
    c.sh(&format!(
        "(nc 10.9.0.1 {port} < /dev/null | sha256sum > /tmp/sum; echo end >> /tmp/sum) 2> /dev/null & true"
    ));
    let mut far = listener.accept().unwrap().0;
    let bytes = |piece: usize| (0..PIECE).map(move |at| (at * 31 + piece * 7 + at / 256) as u8);
    let all: Vec<u8> = (0..PIECES).flat_map(bytes).collect();
    let sum = {
        let file = place.file("all", &all);
        let done = place.finish(std::process::Command::new("sha256sum").arg(file));
        done.good().split(' ').next().unwrap().to_owned()
    };
    let (begun, is_begun) = std::sync::mpsc::channel();
    let sender = std::thread::spawn(move || {
        for (n, piece) in all.chunks(PIECE).enumerate() {
            far.write_all(piece).unwrap();
            if n == 10 {
                begun.send(()).unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    is_begun.recv().unwrap();
    place.strata("suspend web").good();
    assert!(!sender.is_finished(), "it was to be suspended in the middle");
    std::thread::sleep(Duration::from_secs(2));
    let resumed = place.strata("resume web");
    assert_eq!(resumed.err, "", "no connection was lost: {resumed:?}");
    let mut c = shell(&place, "web");
    until("the rest arrives", || c.sh("cat /tmp/sum").ends_with("end"));
    assert_eq!(c.sh("cut -d' ' -f1 /tmp/sum | head -n 1"), sum);
    sender.join().unwrap();
    place.strata("stop web").good();
    place.strata("delete web").good();
    place.is_clean();
}

//! A machine that writes faster than the link carries: with `--throttle` it is slowed down until it can go, and never stays slow.

mod common;

use common::{Console, Place, until};
use std::net::TcpListener;

struct Receiver {
    console: Console,
    address: String,
    token: String,
}

fn receive(at: &Place) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut console = at.open(&format!("migrate receive --listen {address}"));
    let token = console.wait_for("\n").trim().to_owned();
    Receiver { console, address, token }
}

impl Receiver {
    /// What sends the machine here by a link that does not keep up with it.
    fn send(&self, options: &str) -> String {
        format!("migrate web {} --token {} --bandwidth 8M {options}", self.address, self.token)
    }
}

/// A row of what a migration prints; none if it is not there.
fn row<'a>(figures: &'a str, name: &str) -> Option<&'a str> {
    figures.lines().find_map(|l| l.strip_prefix(name)).map(str::trim)
}

fn console(at: &Place) -> Console {
    let mut c = at.open("console web");
    c.send("");
    c.wait_for("# ");
    c
}

/// A machine that writes to 8 MiB again and again, never the same content, and counts how often.
fn busy(at: &Place) {
    at.strata("run busybox --name web --memory 128M --detach").good();
    let mut c = at.open("console web");
    c.wait_for("# ");
    c.sh("x=$((6 * 7)); dd if=/dev/urandom of=/tmp/rand bs=1M count=10 2>/dev/null; echo done");
    c.sh(
        "n=0; while true; do n=$((n+1)); dd if=/tmp/rand of=/tmp/set bs=3000 skip=$((n % 500)) count=2796 conv=notrunc \
         2>/dev/null; echo $n > /tmp/count; done & echo started",
    );
}

fn counts_on(c: &mut Console) {
    let mut count = || {
        let mut n = 0_u64;
        until("a count", || {
            n = c.sh("cat /tmp/count").parse().unwrap_or(0);
            n > 0
        });
        n
    };
    let now = count();
    until("it counts on", || count() > now);
}

#[test]
fn a_machine_that_outruns_the_link_goes_if_it_may_be_slowed_and_never_stays_slow() {
    let hosts = [Place::with_busybox(), Place::new()];
    busy(&hosts[0]);
    // Without leave it stays, and it is said what would help.
    let there = receive(&hosts[1]);
    hosts[0]
        .strata(&there.send("--strategy precopy"))
        .refused(82, &["does not come to an end", "--throttle"]);
    assert_eq!(there.console.end().code, Some(82));
    assert_eq!(row(&hosts[0].strata("migrate status web").good(), "held to"), None);

    // Cancelled in the middle, it is as fast as before.
    let there = receive(&hosts[1]);
    let going = hosts[0].open(&there.send("--strategy precopy --throttle"));
    until("it is slowed down", || {
        let status = hosts[0].strata("migrate status web");
        status.code == Some(0) && row(&status.out, "held to").is_some_and(|r| r.contains("(--throttle)"))
    });
    // What is slowed down is not what a pause waits for: the machine answers.
    counts_on(&mut console(&hosts[0]));
    hosts[0].strata("migrate cancel web").good();
    going.end().refused(83, &["cancelled", "runs on"]);
    assert_eq!(there.console.end().code, Some(82));
    let status = hosts[0].strata("migrate status web").good();
    assert!(row(&status, "held to").is_some_and(|r| r.starts_with("nothing any more")), "{status}");
    counts_on(&mut console(&hosts[0]));

    // And it arrives, as a whole.
    for (n, strategy) in ["precopy", "auto"].into_iter().enumerate() {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        let there = receive(to);
        let figures = from.strata(&there.send(&format!("--strategy {strategy} --throttle --verify"))).good();
        eprintln!("{figures}");
        assert_eq!(row(&figures, "step"), Some("moved"));
        assert!(row(&figures, "held to").is_some_and(|r| r.starts_with("nothing any more")), "{figures}");
        let done = there.console.end();
        assert_eq!((done.code, done.out.lines().last()), (Some(0), Some("web")), "{done:?}");
        from.is_clean();
        let status = to.strata("migrate status web").out;
        assert!(row(&status, "held to").is_none() && row(&status, "waited").is_none(), "{status}");
        let mut c = console(to);
        assert_eq!(c.sh("echo $x"), "42");
        counts_on(&mut c);
    }
    hosts[0].strata("stop web").good();
}

#[test]
fn slowing_goes_only_with_rounds() {
    let hosts = [Place::with_busybox(), Place::new()];
    hosts[0].strata("run busybox --name web --memory 128M --detach").good();
    let there = receive(&hosts[1]);
    for strategy in ["postcopy", "hybrid", "stop-and-copy"] {
        hosts[0]
            .strata(&there.send(&format!("--strategy {strategy} --throttle")))
            .refused(64, &["--throttle"]);
    }
    hosts[0].strata("stop web").good();
}

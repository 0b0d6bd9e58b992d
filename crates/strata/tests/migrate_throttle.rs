//! A machine that writes faster than the link carries: with `--throttle` it is slowed down until it can go, and never stays slow.

mod common;

use common::{Console, Place, Receiver, row_if_there, shell, until};

/// What sends the machine there by a link that does not keep up with it.
fn slowly(there: &Receiver, options: &str) -> String {
    there.send("web", &format!("--bandwidth 8M {options}"))
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
    let there = Receiver::at(&hosts[1], "");
    hosts[0]
        .strata(&slowly(&there, "--strategy precopy"))
        .refused(82, &["does not come to an end", "--throttle"]);
    assert_eq!(there.console.end().code, Some(82));
    assert_eq!(row_if_there(&hosts[0].strata("migrate status web").good(), "held to"), None);

    // Cancelled in the middle, it is as fast as before.
    let there = Receiver::at(&hosts[1], "");
    let going = hosts[0].open(&slowly(&there, "--strategy precopy --throttle"));
    until("it is slowed down", || {
        let status = hosts[0].strata("migrate status web");
        status.code == Some(0)
            && row_if_there(&status.out, "held to").is_some_and(|r| r.contains("(--throttle)"))
    });
    // What is slowed down is not what a pause waits for: the machine answers.
    counts_on(&mut shell(&hosts[0], "web"));
    hosts[0].strata("migrate cancel web").good();
    going.end().refused(83, &["cancelled", "runs on"]);
    assert_eq!(there.console.end().code, Some(82));
    let status = hosts[0].strata("migrate status web").good();
    assert!(row_if_there(&status, "held to").is_some_and(|r| r.starts_with("nothing any more")), "{status}");
    counts_on(&mut shell(&hosts[0], "web"));

    // And it arrives, as a whole.
    for (n, strategy) in ["precopy", "auto"].into_iter().enumerate() {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        let there = Receiver::at(to, "");
        let figures =
            from.strata(&slowly(&there, &format!("--strategy {strategy} --throttle --verify"))).good();
        eprintln!("{figures}");
        assert_eq!(row_if_there(&figures, "step"), Some("moved"));
        assert!(
            row_if_there(&figures, "held to").is_some_and(|r| r.starts_with("nothing any more")),
            "{figures}"
        );
        let done = there.console.end();
        assert_eq!((done.code, done.out.lines().last()), (Some(0), Some("web")), "{done:?}");
        from.is_clean();
        let status = to.strata("migrate status web").out;
        assert!(
            row_if_there(&status, "held to").is_none() && row_if_there(&status, "waited").is_none(),
            "{status}"
        );
        let mut c = shell(to, "web");
        assert_eq!(c.sh("echo $x"), "42");
        counts_on(&mut c);
    }
    hosts[0].strata("stop web").good();
}

#[test]
fn slowing_goes_only_with_rounds() {
    let hosts = [Place::with_busybox(), Place::new()];
    hosts[0].strata("run busybox --name web --memory 128M --detach").good();
    let there = Receiver::at(&hosts[1], "");
    for strategy in ["postcopy", "hybrid", "stop-and-copy"] {
        hosts[0]
            .strata(&slowly(&there, &format!("--strategy {strategy} --throttle")))
            .refused(64, &["--throttle"]);
    }
    hosts[0].strata("stop web").good();
}

//! A running machine that changes hosts, as a person has it do that: two places are two hosts.

mod common;

use common::{Console, Place, Receiver, free_port, kill, row, shell, until};

/// A machine with something that only its memory knows, and that writes to memory all the time.
fn busy(at: &Place, name: &str) {
    at.strata(&format!("run busybox --name {name} --memory 128M --detach")).good();
    let mut c = at.open(&format!("console {name}"));
    c.wait_for("# ");
    c.sh("x=$((6 * 7)); n=0; while true; do n=$((n+1)); echo $n > /tmp/count; usleep 20000; done & echo started");
    c.sh("while true; do dd if=/dev/zero of=/tmp/set bs=64k count=32 conv=notrunc 2>/dev/null; done & echo started");
}

fn count(c: &mut Console) -> u64 {
    let mut n = 0;
    until("a count", || {
        n = c.sh("cat /tmp/count").parse().unwrap_or(0);
        n > 0
    });
    n
}

#[test]
fn a_machine_goes_there_and_back_again_under_load() {
    let hosts = [Place::with_busybox(), Place::new()];
    busy(&hosts[0], "web");
    let mut last = 0;
    for (n, options) in ["--strategy stop-and-copy", "--verify", "--strategy precopy --streams 3 --verify"]
        .into_iter()
        .enumerate()
    {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        last = last.max(count(&mut shell(from, "web")));
        let there = Receiver::at(to, "");
        let figures = from.strata(&there.send("web", options)).good();
        eprintln!("{figures}");
        assert_eq!(row(&figures, "step"), "moved");
        let done = there.console.end();
        assert_eq!((done.code, done.out.lines().last()), (Some(0), Some("web")), "{done:?}");
        from.is_clean();
        let mut c = shell(to, "web");
        assert_eq!(c.sh("echo $x"), "42");
        let now = count(&mut c);
        assert!(now >= last, "it went back: {now} after {last}");
        until("the process in the background counts on", || count(&mut c) > now);
        last = now;
        c.wait_for_address();
    }
    assert!(hosts[1].strata("ps").good().contains("web"));
    hosts[1].strata("migrate recover web").refused(69, &["by itself"]);
    hosts[1].strata("stop web").good();
    // It is an instance like any other there.
    hosts[1].strata("start web --detach").good();
    hosts[1].open("console web").wait_for("# ");
    // Its source may still ask: a process that knows nothing of that leaves it to the journal.
    let said = hosts[1].strata("migrate recover web --timeout 1").good();
    assert!(said.contains("started at the destination") && said.contains("the migration "), "{said}");
    hosts[1].strata("stop web").good();
    hosts[1].strata("delete web").good();
    hosts[1].is_clean();
}

#[test]
fn what_would_make_it_fail_is_found_first() {
    let hosts = [Place::with_busybox(), Place::new()];
    busy(&hosts[0], "web");
    let there = Receiver::at(&hosts[1], "");
    let forecast = hosts[0].strata(&there.send("web", "--dry-run")).good();
    assert!(forecast.contains("It can go to") && forecast.contains("MB/s"), "{forecast}");
    let wrong = there.send("web", "").replace(&there.token, &format!("strata1:{}", "0".repeat(128)));
    hosts[0].strata(&wrong).refused(75, &["connection"]);
    hosts[0].strata(&there.send("nobody", "")).refused(66, &["nobody"]);
    hosts[0]
        .strata(&format!("migrate web 127.0.0.1:{} --token {}", free_port(), there.token))
        .refused(75, &["refused"]);
    let taken = Receiver::at(&hosts[0], "");
    hosts[0]
        .strata(&taken.send("web", ""))
        .refused(73, &["The destination refuses", "web", "exists already"]);
    // It runs as before, and the first destination still waits.
    let mut c = shell(&hosts[0], "web");
    let now = count(&mut c);
    until("it counts on", || count(&mut c) > now);
    drop(c);
    hosts[0].strata(&there.send("web", "")).good();
    assert_eq!(there.console.end().code, Some(0));
    hosts[1].strata("stop web").good();
}

#[test]
fn a_migration_that_is_cancelled_leaves_everything_as_it_was() {
    let hosts = [Place::with_busybox(), Place::new()];
    busy(&hosts[0], "web");
    hosts[0].strata("migrate status web").refused(66, &["web", "no migration"]);
    let there = Receiver::at(&hosts[1], "");
    let going = hosts[0].open(&there.send("web", "--bandwidth 1M"));
    until("it is copied", || {
        let status = hosts[0].strata("migrate status web");
        status.code == Some(0) && row(&status.out, "step") == "iterative copy"
    });
    hosts[0].strata("migrate cancel web").good();
    going.end().refused(83, &["cancelled", "runs on"]);
    let done = there.console.end();
    assert_eq!(done.code, Some(82), "{done:?}");
    hosts[1].is_clean();
    let mut c = shell(&hosts[0], "web");
    let now = count(&mut c);
    until("it counts on", || count(&mut c) > now);
    drop(c);
    // And it can go the next time.
    let there = Receiver::at(&hosts[1], "--name db");
    hosts[0].strata(&there.send("web", "")).good();
    assert_eq!(there.console.end().out.lines().last(), Some("db"));
    hosts[0].is_clean();
    assert_eq!(shell(&hosts[1], "db").sh("echo $x"), "42");
    hosts[1].strata("stop db").good();
}

#[test]
fn whoever_dies_while_memory_is_copied_the_machine_is_started_by_one_at_most() {
    // The destination dies: the machine runs on.
    let hosts = [Place::with_busybox(), Place::new()];
    busy(&hosts[0], "web");
    let there = Receiver::at(&hosts[1], "");
    let going = hosts[0].open(&there.send("web", "--bandwidth 1M"));
    let copied = |host: &Place| {
        let status = host.strata("migrate status web");
        status.code == Some(0) && row(&status.out, "step") == "iterative copy"
    };
    until("it is copied", || copied(&hosts[0]));
    kill(hosts[1].vmm_of("web"));
    assert_ne!(going.end().code, Some(0));
    assert_eq!(there.console.end().code, Some(81));
    let mut c = shell(&hosts[0], "web");
    let now = count(&mut c);
    until("it counts on", || count(&mut c) > now);
    drop(c);
    // What it left there can be cleared up there.
    hosts[1].strata("start web").refused(82, &["migrate recover web"]);
    assert!(hosts[1].strata("migrate recover web --timeout 1").good().contains("never ran here"));
    // Whoever lists sweeps up what the killed process has left.
    hosts[1].strata("ps").good();
    hosts[1].is_clean();

    // The source dies: nothing runs there, and here it starts when that is certain.
    let there = Receiver::at(&hosts[1], "");
    let going = hosts[0].open(&there.send("web", "--bandwidth 1M"));
    until("it is copied", || copied(&hosts[0]));
    kill(hosts[0].vmm_of("web"));
    assert_eq!(going.end().code, Some(81));
    assert_ne!(there.console.end().code, Some(0));
    hosts[1].is_clean();
    hosts[0].strata("start web --detach").refused(82, &["web", "migrate recover web"]);
    hosts[0].strata("migrate recover web --timeout 1").refused(75, &["does not answer", "--force"]);
    let mut there = hosts[1].open("migrate recover web --timeout 60");
    assert!(hosts[0].strata("migrate recover web --timeout 60").good().contains("this host's"));
    there.wait_for("never ran here");
    assert_eq!(there.end().code, Some(0));
    hosts[0].strata("start web --detach").good();
    hosts[0].strata("stop web").good();
}

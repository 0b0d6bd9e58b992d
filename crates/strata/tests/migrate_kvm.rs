//! A running amd64 machine that changes hosts, on this host's KVM. Where it has none, the test says so and passes.

mod common;

use common::{Console, Place, Receiver, bare_counts, lives, start_bare, until};

/// Starts the guest; not where there is no KVM.
fn start(at: &Place, name: &str) -> bool {
    start_bare(at, name, 1024, "")
}

/// What it counts to now, and that it finds nothing wrong.
fn count(at: &Place, name: &str) -> u32 {
    let mut c = at.open(&format!("console {name}"));
    // The first line may have begun before.
    c.wait_for("\n");
    let line = c.wait_for("\n");
    let counts = bare_counts(&format!("{line}\n"));
    *counts.first().unwrap_or_else(|| panic!("no count: {}", c.text()))
}

/// What waits for a machine at `at`, and what sends one there.
fn receive(at: &Place, options: &str) -> (Console, String) {
    let Receiver { console, address, token } = Receiver::at(at, options);
    (console, format!("{address} --token {token} {options}"))
}

#[test]
fn a_machine_on_kvm_goes_there_and_back_again() {
    let hosts = [Place::new(), Place::new()];
    if !start(&hosts[0], "web") {
        return;
    }
    let mut last = count(&hosts[0], "web");
    for (n, (options, how)) in [
        ("", "--verify"),
        ("--plain", "--strategy precopy --streams 2 --verify"),
        ("", "--strategy stop-and-copy --verify"),
        ("", "--strategy auto"),
    ]
    .into_iter()
    .enumerate()
    {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        let (waiting, there) = receive(to, options);
        let forecast = from.strata(&format!("migrate web {there} --dry-run")).good();
        assert!(forecast.contains("It can go to"), "{forecast}");
        last = last.max(count(from, "web"));
        let figures = from.strata(&format!("migrate web {there} {how}")).good();
        eprintln!("{figures}");
        assert!(figures.lines().any(|l| l.starts_with("step") && l.ends_with("moved")), "{figures}");
        let done = waiting.end();
        assert_eq!((done.code, done.out.lines().last()), (Some(0), Some("web")), "{done:?}");
        from.is_clean();
        let now = count(to, "web");
        assert!(now >= last, "it went back: {now:#x} after {last:#x}");
        until("it counts on", || count(to, "web") > now);
        last = now;
    }
    assert!(hosts[0].strata("ps --verbose").good().contains("kvm"));
    hosts[0].strata("stop --force web").good();
}

#[test]
fn memory_follows_a_machine_on_kvm_where_the_host_lets_it() {
    let hosts = [Place::new(), Place::new()];
    if !start(&hosts[0], "web") {
        return;
    }
    let mut last = count(&hosts[0], "web");
    for (n, how) in ["postcopy", "hybrid", "postcopy --streams 2 --bandwidth 400K"].into_iter().enumerate() {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        let (waiting, there) = receive(to, "");
        let done = from.strata(&format!("migrate web {there} --verify --strategy {how}"));
        if done.code == Some(82) && done.err.contains("userfaultfd") {
            done.refused(82, &["web", "precopy"]);
            eprintln!("skipped here: {}", done.err);
            break;
        }
        let figures = done.good();
        eprintln!("{figures}");
        assert_eq!(waiting.end().code, Some(0));
        let now = count(to, "web");
        assert!(now >= last, "it went back: {now:#x} after {last:#x}");
        // One that could come as a whole is in no migration any more.
        until("all of it is there", || {
            let status = to.strata("migrate status web");
            how == "hybrid" && status.code == Some(66) || status.good().contains("moved")
        });
        until("it counts on", || count(to, "web") > now);
        until("its source has gone", || from.running().is_empty());
        from.is_clean();
        last = now;
    }
    for host in &hosts {
        if !host.running().is_empty() {
            host.strata("stop --force web").good();
        }
    }
}

#[test]
fn a_machine_on_kvm_whose_migration_is_cancelled_runs_on() {
    let hosts = [Place::new(), Place::new()];
    if !start(&hosts[0], "web") {
        return;
    }
    let (waiting, there) = receive(&hosts[1], "");
    // Cancelled in the middle, it runs on, and is saved and moved like any other.
    let going = hosts[0].open(&format!("migrate web {there} --bandwidth 100K"));
    until("it is copied", || {
        let status = hosts[0].strata("migrate status web");
        status.code == Some(0) && status.out.contains("iterative copy")
    });
    hosts[0].strata("migrate cancel web").good();
    going.end().refused(83, &["cancelled", "runs on"]);
    assert_eq!(waiting.end().code, Some(82));
    hosts[1].is_clean();
    let now = count(&hosts[0], "web");
    until("it counts on", || count(&hosts[0], "web") > now);
    hosts[0].strata("suspend web").good();
    hosts[0].strata("resume web").good();
    let (waiting, there) = receive(&hosts[1], "--name db");
    hosts[0].strata(&format!("migrate web {} --verify", there.replace(" --name db", ""))).good();
    assert_eq!(waiting.end().code, Some(0));
    assert!(count(&hosts[1], "db") > now);
    let vmm = hosts[1].vmm_of("db");
    hosts[1].strata("stop --force db").good();
    until("its process has gone", || !lives(vmm));
}

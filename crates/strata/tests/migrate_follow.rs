//! Post-copy: the machine runs there before its memory is there. Whoever dies, and whatever connection is cut meanwhile.

mod common;

use common::{Cable, Console, Place, Receiver, kill, lives, row, shell, until};
use std::time::Duration;

/// A host that waits for a machine behind a cable.
struct Wired {
    console: Console,
    cable: Cable,
    token: String,
}

fn receive(at: &Place) -> Wired {
    let Receiver { console, address, token } = Receiver::at(at, "");
    Wired { console, cable: Cable::to(address), token }
}

impl Wired {
    fn send(&self, options: &str) -> String {
        format!("migrate web {} --token {} {options}", self.cable.address, self.token)
    }
}

/// A machine that fills memory with random content, knows its digest, and goes on writing; all but `tmpfs` is small.
fn busy(at: &Place) -> String {
    at.strata("run busybox --name web --memory 192M --detach").good();
    let mut c = at.open("console web");
    c.wait_for("# ");
    c.sh("x=$((6 * 7)); dd if=/dev/urandom of=/tmp/ballast bs=1M count=48 2>/dev/null; echo done");
    let sum = c.sh("md5sum /tmp/ballast").split_whitespace().next().unwrap().to_owned();
    c.sh("n=0; while true; do n=$((n+1)); echo $n > /tmp/count; usleep 20000; done & echo started");
    c.sh("while true; do dd if=/dev/zero of=/tmp/set bs=64k count=64 conv=notrunc 2>/dev/null; done & echo started");
    sum
}

fn count(c: &mut Console) -> u64 {
    let mut n = 0;
    until("a count", || {
        n = c.sh("cat /tmp/count").parse().unwrap_or(0);
        n > 0
    });
    n
}

fn step(host: &Place) -> String {
    let status = host.strata("migrate status web");
    if status.code == Some(0) { row(&status.out, "step").to_owned() } else { String::new() }
}

/// The row of a connection that is lost.
const CUT: &str = "connection   lost";
const FOLLOWS: &str = "activation, memory follows";

#[test]
fn a_machine_runs_there_before_its_memory_does_and_comes_back() {
    let hosts = [Place::with_busybox(), Place::new()];
    let sum = busy(&hosts[0]);
    let mut last = count(&mut shell(&hosts[0], "web"));
    for (n, strategy) in ["postcopy", "hybrid", "auto"].into_iter().enumerate() {
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        let there = receive(to);
        let figures =
            from.strata(&there.send(&format!("--strategy {strategy} --bandwidth 40M --verify"))).good();
        eprintln!("{strategy}:\n{figures}");
        assert_eq!(row(&figures, "step"), "moved");
        if strategy != "auto" {
            assert!(figures.contains("the loss of either host"), "{figures}");
        }
        let done = there.console.end();
        assert_eq!((done.code, done.out.lines().last()), (Some(0), Some("web")), "{done:?}");
        from.is_clean();
        // `auto` may have found a moment in which all of it could go at once.
        until("all memory is there", || step(to) == "moved" || strategy == "auto" && step(to) != FOLLOWS);
        let mut c = shell(to, "web");
        assert_eq!(c.sh("echo $x"), "42");
        let now = count(&mut c);
        assert!(now >= last, "it went back: {now} after {last}");
        until("it counts on", || count(&mut c) > now);
        assert!(c.sh("md5sum /tmp/ballast").contains(&sum), "memory has changed on its way");
        last = now;
    }
    hosts[1].strata("stop web").good();
}

#[test]
fn a_cut_connection_makes_it_wait_and_recover_goes_on() {
    let hosts = [Place::with_busybox(), Place::new()];
    let sum = busy(&hosts[0]);
    let there = receive(&hosts[1]);
    let going = hosts[0].open(&there.send("--strategy postcopy --bandwidth 10M"));
    until("it runs there", || [0, 1].iter().all(|n| step(&hosts[*n]) == FOLLOWS));
    let mut c = shell(&hosts[1], "web");
    assert_eq!(c.sh("echo $x"), "42");
    there.cable.cut();
    // Neither side gives anything up, and the source does not let go of what is needed.
    until("the source has seen it", || hosts[0].strata("migrate status web").out.contains(CUT));
    hosts[0].strata("stop web").refused(82, &["memory", "migrate recover --force"]);
    hosts[0].strata("unpause web").refused(82, &["memory"]);
    hosts[0].strata("migrate cancel web").refused(82, &["handed over"]);
    hosts[0].strata("migrate recover web --timeout 1").refused(75, &["does not answer", "--force"]);
    hosts[1].strata("snapshot create web s").refused(82, &["on their way"]);
    assert!(hosts[1].strata("ps").good().contains("running"));
    // What it touches now waits, and a pause does not wait with it.
    c.send("md5sum /tmp/ballast");
    std::thread::sleep(Duration::from_secs(1));
    hosts[1].strata("pause web").good();
    hosts[1].strata("unpause web").good();
    there.cable.join();
    let figures = hosts[0].strata("migrate recover web --timeout 60").good();
    assert!(!figures.contains(CUT), "{figures}");
    c.wait_for(&sum);
    let done = going.end();
    assert_eq!((done.code, row(&done.out, "step")), (Some(0), "moved"), "{done:?}");
    until("all memory is there", || step(&hosts[1]) == "moved");
    assert_eq!(there.console.end().code, Some(0));
    hosts[0].is_clean();
    let now = count(&mut c);
    until("it counts on", || count(&mut c) > now);
    drop(c);
    hosts[1].strata("stop web").good();
}

#[test]
fn whoever_dies_while_memory_follows_the_machine_is_lost_by_name_and_never_doubled() {
    // The destination dies: the machine is lost with it, and started from its disks there.
    let hosts = [Place::with_busybox(), Place::new()];
    busy(&hosts[0]);
    let there = receive(&hosts[1]);
    let going = hosts[0].open(&there.send("--strategy postcopy --bandwidth 4M"));
    until("it runs there", || [0, 1].iter().all(|n| step(&hosts[*n]) == FOLLOWS));
    assert_eq!(there.console.end().code, Some(0));
    let destination = hosts[1].vmm_of("web");
    kill(destination);
    until("it is gone", || !lives(destination));
    until("the source has seen it", || hosts[0].strata("migrate status web").out.contains(CUT));
    hosts[0].strata("unpause web").refused(82, &["memory"]);
    // The word of the destination's journal frees the source.
    assert!(
        hosts[1].strata("migrate recover web --timeout 60").good().contains("started at the destination")
    );
    assert_eq!(going.end().code, Some(0));
    hosts[0].is_clean();
    hosts[1].strata("start web --detach").good();
    hosts[1].strata("stop web").good();
    hosts[1].strata("delete web").good();

    // The source dies: the machine runs on until it touches what is gone with it.
    busy(&hosts[0]);
    let there = receive(&hosts[1]);
    let going = hosts[0].open(&there.send("--strategy postcopy --bandwidth 4M"));
    until("it runs there", || [0, 1].iter().all(|n| step(&hosts[*n]) == FOLLOWS));
    let mut c = shell(&hosts[1], "web");
    assert_eq!(c.sh("echo $x"), "42");
    let source = hosts[0].vmm_of("web");
    kill(source);
    assert_eq!(going.end().code, Some(81));
    until("it is gone", || !lives(source));
    let mut refused = None;
    until("what it held is free", || {
        refused = Some(hosts[0].strata("start web --detach"));
        refused.as_ref().is_some_and(|r| r.code != Some(69))
    });
    refused.unwrap().refused(82, &["web", "migrate recover web"]);
    // It waits where it needs what is gone, and nothing else happens.
    assert!(hosts[1].strata("ps").good().contains("running"));
    // Its journal says that it is lost, and the destination hears that.
    assert!(
        hosts[0].strata("migrate recover web --timeout 60").good().contains("started at the destination")
    );
    // One that stands at such memory already ends by that alone.
    let _ = c.offer("md5sum /tmp/ballast");
    until("it has ended there", || !hosts[1].strata("ps").good().contains("running"));
    // Whoever lists sweeps up what the killed process has left.
    hosts[0].strata("ps").good();
    hosts[0].is_clean();
    hosts[1].strata("start web --detach").good();
    hosts[1].strata("stop web").good();
}

#[test]
fn a_machine_that_ends_there_needs_nothing_any_more() {
    let hosts = [Place::with_busybox(), Place::new()];
    busy(&hosts[0]);
    let there = receive(&hosts[1]);
    let going = hosts[0].open(&there.send("--strategy postcopy --bandwidth 4M"));
    until("it runs there", || [0, 1].iter().all(|n| step(&hosts[*n]) == FOLLOWS));
    assert!(hosts[0].strata("ps").good().contains("moving"));
    hosts[1].strata("stop web").good();
    let done = going.end();
    assert_eq!((done.code, row(&done.out, "step")), (Some(0), "moved"), "{done:?}");
    hosts[0].is_clean();
    hosts[1].strata("start web --detach").good();
    hosts[1].strata("stop web").good();
}

#[test]
fn what_a_stream_takes_with_it_is_sent_again() {
    let hosts = [Place::with_busybox(), Place::new()];
    let sum = busy(&hosts[0]);
    let there = receive(&hosts[1]);
    let going = hosts[0].open(&there.send("--strategy postcopy --streams 1 --bandwidth 20M"));
    until("it runs there", || [0, 1].iter().all(|n| step(&hosts[*n]) == FOLLOWS));
    let all_sent = || {
        let status = hosts[0].strata("migrate status web").out;
        !status.contains(CUT) && row(&status, "left").starts_with("0 pages")
    };
    // Connections are made in this order: control, pages, and what is waited for.
    there.cable.swallow(1);
    until("all has been sent", all_sent);
    assert_eq!(step(&hosts[1]), FOLLOWS, "what nobody has got is there");
    // Nothing is wrong with any connection, as far as the source can see, and a person knows better.
    let before = there.cable.connections();
    hosts[0].strata("migrate recover web --timeout 60").good();
    assert!(there.cable.connections() >= before + 3, "no connection was made anew");
    // Control, what is waited for, and pages.
    let stream = there.cable.connections() - 1;
    there.cable.swallow(stream);
    until("all has been sent again", all_sent);
    there.cable.end(stream);
    // Nobody need say anything.
    let done = going.end();
    assert_eq!((done.code, row(&done.out, "step")), (Some(0), "moved"), "{done:?}");
    until("all memory is there", || step(&hosts[1]) == "moved");
    assert!(
        shell(&hosts[1], "web").sh("md5sum /tmp/ballast").contains(&sum),
        "memory has changed on its way"
    );
    hosts[0].is_clean();
    hosts[1].strata("stop web").good();
}

#[test]
fn a_destination_gives_its_source_up_when_a_person_says_so() {
    let hosts = [Place::with_busybox(), Place::new()];
    busy(&hosts[0]);
    let there = receive(&hosts[1]);
    let going = hosts[0].open(&there.send("--strategy postcopy --bandwidth 4M"));
    until("it runs there", || [0, 1].iter().all(|n| step(&hosts[*n]) == FOLLOWS));
    // It runs on without what it touches only then.
    shell(&hosts[1], "web").sh("(sleep 8; md5sum /tmp/ballast) & echo begun");
    hosts[1].strata("migrate recover web").good();
    hosts[1].strata("migrate recover --force web").refused(82, &["connected", "lose"]);
    // All that it touches all the time has to be there, if it is to run on.
    let mut waited = String::new();
    until("it waits for nothing", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = row(&hosts[1].strata("migrate status web").good(), "waited").to_owned();
        now == std::mem::replace(&mut waited, now.clone())
    });
    kill(hosts[0].vmm_of("web"));
    assert_eq!(going.end().code, Some(81));
    until("the destination has seen it", || hosts[1].strata("migrate status web").out.contains(CUT));
    hosts[1].strata("migrate recover web --timeout 1").refused(75, &["does not answer", "--force"]);
    let figures = hosts[1].strata("migrate recover --force web").good();
    assert!(figures.contains("never come") && !figures.contains(CUT), "{figures}");
    until("it has ended there", || !hosts[1].strata("ps").good().contains("running"));
    hosts[1].strata("start web --detach").good();
    hosts[1].strata("stop web").good();
}

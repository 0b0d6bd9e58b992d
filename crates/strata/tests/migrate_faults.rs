//! Migrations in which something goes wrong at a random moment of a random step: of each eight, in five a process dies, in two
//! a bit is turned over on the way, in one the destination's disk is full for a while. What comes of each is compared with
//! its row of the recovery table. `STRATA_FAULTS` says how many (8 by default), `STRATA_SEED` which.
//!
//! The guest prints a number that grows, for ever. Whoever runs it prints its numbers: those of two runs must not overlap,
//! and a machine that goes on, goes on behind the last number that was printed before.

mod common;

use common::{Cable, Console, Damage, Place, kill, until};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Numbers by chance, from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % n
    }
}

/// When somebody dies.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the beginning.
    After(Duration),
    /// When the journal of a side (the source's, if so) has so many records after the first, and a little later.
    Records(bool, u64, Duration),
}

fn journals(host: &Place, side: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(host.seen(&host.home().join("migrations"))).into_iter().flatten();
    let mut all: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == side));
    all
}

/// The kinds of the records of a host's one journal, as `docs/formats/migration.md` numbers them.
fn records(host: &Place, side: &str) -> Vec<u8> {
    let Some(path) = journals(host, side).pop() else { return vec![] };
    let bytes = fs::read(path).unwrap();
    let (mut at, mut kinds) = (12, vec![]);
    // Behind the last one there are zeroes.
    while let Some(len) =
        bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).filter(|n| *n > 0)
    {
        kinds.extend(bytes.get(at + 4));
        at += 8 + len as usize;
    }
    kinds
}

/// Waits for the moment; false if it does not come.
fn wait_for(moment: Moment, hosts: &[Place; 2], over: &dyn Fn() -> bool) -> bool {
    let begun = Instant::now();
    match moment {
        Moment::After(time) => {
            while begun.elapsed() < time && !over() {
                std::thread::sleep(Duration::from_micros(200));
            }
            !over()
        }
        Moment::Records(source, n, later) => {
            let (host, side) = if source { (&hosts[0], "source") } else { (&hosts[1], "destination") };
            while begun.elapsed() < Duration::from_secs(60) {
                if records(host, side).len() as u64 > n {
                    std::thread::sleep(later);
                    return true;
                }
                if n > 0 && over() {
                    return false;
                }
            }
            false
        }
    }
}

/// The numbers that a console has shown.
fn numbers(text: &str) -> Vec<u64> {
    text.split('<').filter_map(|s| s.split_once('>')?.0.parse().ok()).collect()
}

fn begin(host: &Place) {
    host.strata("run busybox --name web --memory 128M --net none --detach").good();
    let mut c = host.open("console web");
    c.wait_for("# ");
    c.send("n=0; while true; do n=$((n+1)); echo \"<\"\"$n>\"; usleep 2000; done");
    c.wait_for("<20>");
}

/// What a host says of the machine.
fn phase(host: &Place) -> String {
    let list = host.strata("ps").good();
    let row = list.lines().find(|l| l.starts_with("web ")).map(str::to_owned);
    row.and_then(|r| r.split_whitespace().nth(1).map(str::to_owned)).unwrap_or_default()
}

fn listen(console: &mut Console) -> String {
    console.wait_for("\n").trim().to_owned()
}

#[test]
fn one_copy_at_most_whoever_dies_and_exactly_one_where_it_can_be_saved() {
    let var = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (count, seed) = (var("STRATA_FAULTS").unwrap_or(8), var("STRATA_SEED").unwrap_or(1));
    let (mut moved, mut stayed, mut lost, mut missed) = (0, 0, 0, 0);
    for n in 0..count {
        let mut chance = Chance(seed.wrapping_add(n));
        let end = match n % 8 {
            5 | 6 => damage(&mut chance),
            7 => full_disk(&mut chance),
            _ => death(&mut chance),
        };
        match end {
            Some(End::There) => moved += 1,
            Some(End::Here) => stayed += 1,
            Some(End::Lost) => lost += 1,
            None => missed += 1,
        }
    }
    println!(
        "{count} faults (seed {seed}): {moved} moved, {stayed} stayed, {lost} lost with their memory, {missed} came too late"
    );
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Here,
    There,
    Lost,
}

/// Two hosts, a machine on the first, somebody who reads its numbers there, and a destination on the second.
struct Scene {
    hosts: [Place; 2],
    here: Console,
    there: Console,
    address: String,
    token: String,
}

impl Scene {
    fn new(second: Place, options: &str) -> Scene {
        let hosts = [Place::with_busybox(), second];
        begin(&hosts[0]);
        let here = hosts[0].open("console web");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut there = hosts[1].open(&format!("migrate receive --listen {address} {options}"));
        let token = listen(&mut there);
        Scene { hosts, here, there, address, token }
    }

    fn send(&self, address: &str, options: &str) -> Console {
        let token = &self.token;
        self.hosts[0].open(&format!("migrate web {address} --token {token} --bandwidth 60M {options}"))
    }

    /// Whether the source has decided.
    fn over(&self) -> bool {
        records(&self.hosts[0], "source").last().is_some_and(|r| [3, 4, 5].contains(r))
    }

    /// Where it runs; it does not run twice.
    fn runs(&self, label: &str) -> Option<End> {
        let (here, there) = (phase(&self.hosts[0]), phase(&self.hosts[1]));
        assert!(here != "running" || there != "running", "{label}: both run");
        match (here.as_str(), there.as_str()) {
            ("running", _) => Some(End::Here),
            (_, "running") => Some(End::There),
            _ => None,
        }
    }

    /// Numbers that were printed there come after all that were printed here.
    fn goes_on(mut self, end: End, label: &str) -> End {
        let before = numbers(&self.here.text());
        let last = *before.last().unwrap_or(&0);
        assert!(before.windows(2).all(|w| w[1] == w[0] + 1), "{label}: numbers here are not in order");
        match end {
            End::Here => {
                self.here.wait_for(&format!("<{}>", last + 3));
            }
            End::There => {
                let mut c = self.hosts[1].open("console web");
                c.wait_for("<");
                until("numbers there", || numbers(&c.text()).len() > 3);
                let first = numbers(&c.text())[0];
                let last = *numbers(&self.here.text()).last().unwrap_or(&0);
                // What it printed last may not have been read here; what it printed first may have scrolled away there.
                assert!(last <= first + 1, "{label}: {last} was printed here, and {first} there");
            }
            End::Lost => {}
        }
        end
    }
}

fn moment(chance: &mut Chance) -> Moment {
    let later = Duration::from_micros(chance.below(1500));
    match chance.below(10) {
        0 | 1 => Moment::After(Duration::from_millis(chance.below(1200))),
        2 => Moment::Records(true, 0, Duration::from_millis(chance.below(600))),
        // Ready, handed, owner, started, done.
        3 => Moment::Records(false, 1, later),
        4 => Moment::Records(true, 1, later),
        5 => Moment::Records(false, 2, later),
        6 => Moment::Records(false, 3, later),
        7 => Moment::Records(true, 2, later),
        // While memory follows, if it does.
        8 => Moment::Records(false, 3, Duration::from_millis(chance.below(500))),
        _ => Moment::Records(true, 2, Duration::from_millis(chance.below(500))),
    }
}

/// Half of them run there before their memory does.
fn strategy(chance: &mut Chance) -> &'static str {
    ["auto", "auto", "postcopy", "hybrid"][chance.below(4) as usize]
}

/// One migration with one death; none if it was over before.
fn death(chance: &mut Chance) -> Option<End> {
    let scene = Scene::new(Place::new(), "");
    let (strategy, moment, source_dies) = (strategy(chance), moment(chance), chance.below(2) == 0);
    let pids = (scene.hosts[0].vmm_of("web"), child_of(scene.there.pid()));
    let _going = scene.send(&scene.address, &format!("--strategy {strategy}"));
    let hit = wait_for(moment, &scene.hosts, &|| scene.over());
    let victim = if source_dies { pids.0 } else { pids.1 };
    if !hit || !common::lives(victim) {
        return None;
    }
    kill(victim);
    until("it is gone", || !common::lives(victim));
    // What each side had decided, and so what has to come of it.
    let (ours, theirs) = (records(&scene.hosts[0], "source"), records(&scene.hosts[1], "destination"));
    let label = format!(
        "{strategy}, {moment:?}, the {} dies; source {ours:?}, destination {theirs:?}",
        if source_dies { "source" } else { "destination" }
    );
    eprintln!("{label}");
    let end = settle(&scene.hosts, source_dies, &label);
    Some(scene.goes_on(end, &label))
}

/// One migration with a bit that is turned over on its way; none if so much was never sent. Nobody dies, and so nothing is
/// lost.
fn damage(chance: &mut Chance) -> Option<End> {
    let plain = chance.below(3) == 0;
    let mut scene = Scene::new(Place::new(), if plain { "--plain" } else { "" });
    let bit = chance.below(8) as u32;
    // Without encryption only memory is compared, and that only shows what is not sent again.
    let (what, options) = match plain {
        true => {
            let at = 4096 + chance.below(4 << 20);
            (
                Damage { to_host: true, from: 1, at, bit },
                "--plain --verify --strategy stop-and-copy".to_owned(),
            )
        }
        false => {
            let scale = 10 + chance.below(16);
            let (to_host, at) = (chance.below(4) > 0, chance.below(1 << scale));
            (Damage { to_host, from: 0, at, bit }, format!("--strategy {}", strategy(chance)))
        }
    };
    let cable = Cable::to(scene.address.clone());
    cable.damage(what);
    let done = scene.send(&cable.address, &options).end();
    let label = format!("{options}, {what:?}, exit code {:?}, {}", done.code, done.err.trim());
    eprintln!("{label}");
    assert!(!plain || !cable.is_damaged() || done.code != Some(0), "{label}: it was not noticed");
    let mut end = None;
    until(&label, || {
        end = scene.runs(&label);
        end.is_some()
    });
    let end = end.unwrap();
    assert_eq!(end == End::There, done.code == Some(0), "{label}: it runs elsewhere than is said");
    if end == End::There || !records(&scene.hosts[1], "destination").is_empty() {
        // Its command waits for nothing any more.
        until("the destination has ended", || scene.there.has_ended());
    }
    let end = scene.goes_on(end, &label);
    cable.is_damaged().then_some(end)
}

/// One migration to a host whose disk is full for a while; none if it was over before. Nobody dies, and so nothing is lost.
fn full_disk(chance: &mut Chance) -> Option<End> {
    let scene = Scene::new(Place::small(96)?, "");
    let (strategy, moment) = (strategy(chance), moment(chance));
    let mut going = scene.send(&scene.address, &format!("--strategy {strategy}"));
    if !wait_for(moment, &scene.hosts, &|| scene.over()) {
        return None;
    }
    scene.hosts[1].fill();
    std::thread::sleep(Duration::from_millis(chance.below(2000)));
    scene.hosts[1].make_room();
    let label = format!("{strategy}, {moment:?}, the destination's disk is full");
    until(&label, || {
        scene.runs(&label);
        let over = going.has_ended();
        if !over {
            // Refused, or answered by a process that still acts for it.
            scene.hosts[1].strata("migrate recover web --timeout 2");
        }
        over
    });
    let (ours, theirs) = (records(&scene.hosts[0], "source"), records(&scene.hosts[1], "destination"));
    let label = format!("{label}; source {ours:?}, destination {theirs:?}");
    eprintln!("{label}");
    let end = scene.runs(&label).unwrap_or_else(|| panic!("{label}: it runs nowhere"));
    Some(scene.goes_on(end, &label))
}

/// The process that a command has started.
fn child_of(pid: u32) -> u32 {
    let mut found = None;
    until("its process", || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        found = fs::read_to_string(path).ok().and_then(|t| t.split_whitespace().next()?.parse().ok());
        found.is_some()
    });
    found.unwrap()
}

/// Has the journals decide, and waits until it is known whose the machine is. The rows of the recovery table: who died
/// after it ran there lost it; who died before leaves it to the other, if that has all of it.
fn settle(hosts: &[Place; 2], source_died: bool, label: &str) -> End {
    let mut asking = source_died.then(|| hosts[0].open("migrate recover web --timeout 60"));
    let mut end = None;
    until(label, || {
        let theirs = records(&hosts[1], "destination");
        let (here, there) = (phase(&hosts[0]), phase(&hosts[1]));
        assert!(here != "running" || there != "running", "{label}: both run");
        // It ran there, and needed pages from here: whether the last of them had come the source hears.
        if source_died && theirs.contains(&12) && theirs.contains(&8) {
            if let Some(asking) = asking.take() {
                assert_eq!(asking.end().code, Some(0), "{label}");
            }
            let whole = records(&hosts[1], "destination").contains(&13);
            end = Some(if whole { End::There } else { End::Lost });
            return true;
        }
        end = match source_died {
            true if there == "running" => Some(End::There),
            // It never was there as a whole.
            true if theirs.is_empty() || theirs.contains(&9) => Some(End::Lost),
            false if theirs.contains(&8) => Some(End::Lost),
            false if here == "running" => Some(End::Here),
            _ => None,
        };
        if end.is_none() && !source_died {
            // Refused, or answered by a process that still acts for it.
            hosts[1].strata("migrate recover web --timeout 2");
        }
        end.is_some()
    });
    if end == Some(End::Lost) && !source_died && records(&hosts[1], "destination").contains(&12) {
        // A source that kept memory for it is told that it is of no use any more.
        hosts[1].strata("migrate recover web --timeout 5");
        until("the source knows", || phase(&hosts[0]).is_empty());
    }
    if end == Some(End::Lost)
        && let Some(mut asking) = asking
    {
        // The source is told by the destination, and can be started from its disks then.
        if !journals(&hosts[0], "source").is_empty() {
            let told = hosts[1].open("migrate recover web --timeout 60");
            asking.wait_for("this host's");
            drop(told);
        }
    }
    let (ours, theirs) = (records(&hosts[0], "source"), records(&hosts[1], "destination"));
    let kept = ours.contains(&4) || ours.contains(&5);
    assert!(!kept || !theirs.contains(&8), "{label}: kept by one, started by the other: {ours:?} {theirs:?}");
    end.unwrap()
}

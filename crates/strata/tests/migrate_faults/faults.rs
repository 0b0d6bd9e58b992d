//! What goes wrong in a migration, and what has to come of it. Each gives where the machine is then; none if it came too late,
//! when all was over.

use super::common::{Cable, Damage, Place, kill, lives, until};
use super::journals::{journals, kind, records};
use super::moments::{Chance, Moment};
use super::scene::{End, Guest, Scene, noise};
use std::fs;
use std::time::Duration;

/// One migration with one death.
pub fn death(guest: Guest, chance: &mut Chance) -> Option<End> {
    let scene = Scene::new(guest, Place::new(), ["", ""]);
    let (strategy, moment, source_dies) = (chance.strategy(), chance.moment(), chance.below(2) == 0);
    let pids = (scene.hosts[0].vmm_of("web"), child_of(scene.there.pid()));
    let mut going = scene.send(&scene.address, &format!("--strategy {strategy}"));
    let hit = scene.wait_for(moment, &mut going);
    let victim = if source_dies { pids.0 } else { pids.1 };
    if !hit || !lives(victim) {
        scene.undisturbed(going, &format!("{guest:?}, {strategy}, {moment:?}"));
        return None;
    }
    kill(victim);
    until("it is gone", || !lives(victim));
    // What each side had decided, and so what has to come of it.
    let [ours, theirs] = scene.records();
    let label = format!(
        "{guest:?}, {strategy}, {moment:?}, the {} dies; source {ours:?}, destination {theirs:?}",
        if source_dies { "source" } else { "destination" }
    );
    eprintln!("{label}");
    let end = settle(&scene, source_dies, &label);
    Some(scene.goes_on(end, &label))
}

/// One migration whose link is cut for a while. Nobody dies, and so nothing is lost; nobody need say anything either.
pub fn cut(guest: Guest, chance: &mut Chance) -> Option<End> {
    let scene = Scene::new(guest, Place::new(), ["", ""]);
    let (strategy, moment, time) = (chance.strategy(), chance.moment(), chance.below_ms(4000));
    let cable = Cable::to(scene.address.clone());
    let mut going = scene.send(&cable.address, &format!("--strategy {strategy}"));
    if !scene.wait_for(moment, &mut going) {
        scene.undisturbed(going, &format!("{guest:?}, {strategy}, {moment:?}"));
        return None;
    }
    cable.cut();
    let [ours, theirs] = scene.records();
    let label = format!(
        "{guest:?}, {strategy}, {moment:?}, cut for {time:?}; source {ours:?}, destination {theirs:?}"
    );
    eprintln!("{label}");
    std::thread::sleep(time);
    scene.phases(&label);
    cable.join();
    until(&label, || {
        scene.phases(&label);
        going.has_ended()
    });
    Some(nothing_is_lost(scene, going.end().code, &label))
}

/// One migration with a bit that is turned over on its way; none if so much was never sent. Nobody dies, and so nothing is
/// lost.
pub fn damage(guest: Guest, chance: &mut Chance) -> Option<End> {
    let plain = chance.below(3) == 0;
    let scene = Scene::new(guest, Place::new(), ["", if plain { "--plain" } else { "" }]);
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
            (Damage { to_host, from: 0, at, bit }, format!("--strategy {}", chance.strategy()))
        }
    };
    let cable = Cable::to(scene.address.clone());
    cable.damage(what);
    let done = scene.send(&cable.address, &options).end();
    let label = format!("{guest:?}, {options}, {what:?}, exit code {:?}, {}", done.code, done.err.trim());
    eprintln!("{label}");
    assert!(!plain || !cable.is_damaged() || done.code != Some(0), "{label}: it was not noticed");
    let end = nothing_is_lost(scene, done.code, &label);
    cable.is_damaged().then_some(end)
}

/// Where the disk is full.
#[derive(Clone, Copy, Debug)]
enum Full {
    /// Before anything is sent.
    AtFirst,
    /// While files come, or disks if there are any.
    InFiles(Duration),
    /// At any moment.
    At(Moment),
}

/// One migration to a host whose disk is full for a while; none if it was over before. Nobody dies, and so nothing is lost.
/// Most of the machines have a disk that is sent.
pub fn full_disk(guest: Guest, chance: &mut Chance) -> Option<End> {
    let small = Place::small(112)?;
    let with_disk = chance.below(4) > 0;
    let strategy = chance.strategy();
    let full = match chance.below(8) {
        0 | 1 => Full::AtFirst,
        2..6 => Full::InFiles(chance.below_ms(1200)),
        _ => Full::At(chance.moment()),
    };
    let stays_full = chance.below_ms(2000);
    let (mut options, mut ends) = (format!("--strategy {strategy}"), [String::new(), String::new()]);
    let first = if guest == Guest::Riscv { Place::with_busybox() } else { Place::new() };
    let copy = small.home().join("copy");
    if with_disk {
        let disk = first.file("disk", noise(16 << 20));
        ends = [&disk, &copy].map(|path| format!("--disk {}", path.display()));
        options.push_str(" --with-disks");
    }
    let scene = Scene::on([first, small], guest, ends.each_ref().map(String::as_str));
    if let Full::AtFirst = full {
        scene.hosts[1].fill();
    }
    let mut going = scene.send(&scene.address, &options);
    let moment = match full {
        Full::AtFirst => None,
        // Their room is made when its journal has begun.
        Full::InFiles(later) => Some(Moment::Records(false, 0, later)),
        Full::At(moment) => Some(moment),
    };
    if let Some(moment) = moment {
        if !scene.wait_for(moment, &mut going) {
            scene.undisturbed(going, &format!("{guest:?}, {options}, {full:?}"));
            return None;
        }
        scene.hosts[1].fill();
    }
    let [ours, theirs] = scene.records();
    let label = format!(
        "{guest:?}, {options}, {full:?}, the destination's disk is full; source {ours:?}, destination {theirs:?}"
    );
    eprintln!("{label}");
    std::thread::sleep(stays_full);
    scene.hosts[1].make_room();
    until(&label, || {
        scene.phases(&label);
        let over = going.has_ended();
        if !over {
            // Refused, or answered by a process that still acts for it.
            scene.hosts[1].strata("migrate recover web --timeout 2");
        }
        over
    });
    let done = going.end();
    let [ours, theirs] = scene.records();
    let said = done.err.trim();
    let label = format!("{label}; then {:?}, {said}; source {ours:?}, destination {theirs:?}", done.code);
    eprintln!("  {:?} {said}", done.code);
    let here = scene.runs(&label) == Some(End::Here);
    let seen = scene.hosts[1].seen(&copy);
    assert!(!(here && with_disk && !theirs.is_empty()) || gone(&seen), "{label}: a half disk is left");
    Some(nothing_is_lost(scene, done.code, &label))
}

/// Whether a file goes in a moment: whoever has made it may just be removing it.
fn gone(file: &std::path::Path) -> bool {
    (0..250).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !file.exists()
    })
}

/// After a migration in which nobody died: the machine runs where its end says, and waits for nothing; a destination to which
/// it did not come is left as it was.
fn nothing_is_lost(mut scene: Scene, code: Option<i32>, label: &str) -> End {
    let mut end = None;
    until(label, || {
        end = scene.runs(label);
        end.is_some()
    });
    let end = end.unwrap();
    assert_eq!(end == End::There, code == Some(0), "{label}: it runs elsewhere than is said");
    if end == End::There || !scene.records()[1].is_empty() {
        // Its command waits for nothing any more.
        until(&format!("{label}: the destination has ended"), || scene.there.has_ended());
    }
    if end == End::Here && scene.there.has_ended() {
        // Whoever lists sweeps up; a folder may just be being removed.
        until(&format!("{label}: the destination is clean"), || {
            scene.hosts[1].strata("ps").good();
            scene.hosts[1].running().is_empty() && scene.hosts[1].kept().is_empty()
        });
    }
    scene.goes_on(end, label)
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
fn settle(scene: &Scene, source_died: bool, label: &str) -> End {
    let hosts = &scene.hosts;
    let theirs = || records(&hosts[1], "destination");
    let mut asking = source_died.then(|| hosts[0].open("migrate recover web --timeout 60"));
    let mut end = None;
    until(label, || {
        let known = theirs();
        let [here, there] = scene.phases(label);
        // It ran there, and needed pages from here: whether the last of them had come the source hears.
        if source_died && known.contains(&kind::READY_PART) && known.contains(&kind::STARTED) {
            if let Some(asking) = asking.take() {
                assert_eq!(asking.end().code, Some(0), "{label}");
            }
            let whole = theirs().contains(&kind::WHOLE);
            if !whole && scene.guest == Guest::Kvm {
                scene.runs_on_or_ends(label);
            }
            end = Some(if whole { End::There } else { End::Lost });
            return true;
        }
        end = match source_died {
            true if there == "running" => Some(End::There),
            // It never was there as a whole.
            true if known.is_empty() || known.contains(&kind::REFUSED) => Some(End::Lost),
            false if known.contains(&kind::STARTED) => Some(End::Lost),
            false if here == "running" => Some(End::Here),
            _ => None,
        };
        if end.is_none() && !source_died {
            // Refused, or answered by a process that still acts for it.
            hosts[1].strata("migrate recover web --timeout 2");
        }
        end.is_some()
    });
    if end == Some(End::Lost) && !source_died && theirs().contains(&kind::READY_PART) {
        // A source that kept memory for it is told that it is of no use any more.
        hosts[1].strata("migrate recover web --timeout 5");
        until("the source knows", || scene.phases(label)[0].is_empty());
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
    let [ours, theirs] = scene.records();
    let kept = ours.contains(&kind::ABORTED) || ours.contains(&kind::RECLAIMED);
    assert!(
        !kept || !theirs.contains(&kind::STARTED),
        "{label}: kept by one, started by the other: {ours:?} {theirs:?}"
    );
    end.unwrap()
}

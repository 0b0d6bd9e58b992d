//! Whole machines in processes of their own: from a spec to an exit code, with a guest of 25 instructions.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata_vmm::{
    Client, ConsoleSpec, DiskFormat, Kind, Launcher, NetSpec, NewInstance, Outcome, Runtime, Store, VmmSpec,
};

#[path = "real/bad.rs"]
mod bad;
#[path = "real/transfer.rs"]
mod transfer;

const A0: u32 = 10;
const A1: u32 = 11;
const A6: u32 = 16;
const A7: u32 = 17;
const T0: u32 = 5;
const T1: u32 = 6;
const T2: u32 = 7;
const ECALL: u32 = 0x73;

fn lui(rd: u32, imm: u32) -> u32 {
    imm << 12 | rd << 7 | 0x37
}
fn addi(rd: u32, rs: u32, imm: u32) -> u32 {
    imm << 20 | rs << 15 | rd << 7 | 0x13
}
fn andi(rd: u32, rs: u32, imm: u32) -> u32 {
    addi(rd, rs, imm) | 7 << 12
}
fn lbu(rd: u32, offset: u32, rs: u32) -> u32 {
    offset << 20 | rs << 15 | 4 << 12 | rd << 7 | 0x03
}
fn beq(a: u32, b: u32, offset: i32) -> u32 {
    let o = offset as u32;
    (o >> 12 & 1) << 31
        | (o >> 5 & 0x3f) << 25
        | b << 20
        | a << 15
        | (o >> 1 & 0xf) << 8
        | (o >> 11 & 1) << 7
        | 0x63
}
fn j(offset: i32) -> u32 {
    let o = offset as u32;
    (o >> 20 & 1) << 31 | (o >> 1 & 0x3ff) << 21 | (o >> 11 & 1) << 20 | (o >> 12 & 0xff) << 12 | 0x6f
}

/// A kernel that prints "ok", echoes what is typed, and powers off at a `q`.
fn kernel(dir: &Path) -> PathBuf {
    let code = [
        lui(A7, 0x44424),
        addi(A7, A7, 0x34e), // SBI extension DBCN
        addi(A6, 0, 2),      // write a byte
        addi(A0, 0, u32::from(b'o')),
        ECALL,
        addi(A0, 0, u32::from(b'k')),
        ECALL,
        addi(A0, 0, 10),
        ECALL,
        lui(T0, 0x10000), // the UART
        lbu(T1, 5, T0),   // 10: has it a byte?
        andi(T1, T1, 1),
        beq(T1, 0, -8),
        lbu(A0, 0, T0),
        addi(T2, 0, u32::from(b'q')),
        beq(A0, T2, 12),
        ECALL,
        j(-28), // to 10
        lui(A7, 0x53525),
        addi(A7, A7, 0x354), // SBI extension SRST
        addi(A6, 0, 0),
        addi(A0, 0, 0), // shut down
        addi(A1, 0, 0), // no reason
        ECALL,
        j(0),
    ];
    let mut image = vec![0u8; 64];
    image[..4].copy_from_slice(&j(64).to_le_bytes());
    image[8..16].copy_from_slice(&(2u64 << 20).to_le_bytes());
    image[16..24].copy_from_slice(&4096u64.to_le_bytes());
    image[48..56].copy_from_slice(b"RISCV\0\0\0");
    image[56..60].copy_from_slice(b"RSC\x05");
    image.extend(code.iter().flat_map(|w| w.to_le_bytes()));
    let path = dir.join("kernel");
    fs::write(&path, image).unwrap();
    path
}

/// In a child this is the VMM.
#[test]
fn child_entry() {
    // First: the machine of a worker has the worker's environment too.
    if std::env::var_os("STRATA_TEST_VMM").is_some() {
        // An `ExitCode` has no way out but `main`'s; the parent looks at the report.
        let _ = strata_vmm::child_main();
        std::process::exit(0);
    }
    if let Ok(work) = std::env::var("STRATA_TEST_WORK") {
        store_work(&work);
        std::process::exit(0);
    }
}

fn launcher(dir: &Path) -> Launcher {
    Launcher {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", "child_entry", "--nocapture"].map(Into::into).to_vec(),
        env: vec![("STRATA_TEST_VMM".into(), "1".into()), ("XDG_RUNTIME_DIR".into(), dir.into())],
    }
}

fn new(dir: &Path, name: Option<&str>) -> NewInstance {
    let disk = dir.join("image.raw");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    NewInstance {
        name: name.map(str::to_owned),
        ephemeral: name.is_none(),
        image: Some("tiny".into()),
        base: Some((disk, DiskFormat::Raw)),
        disk_size: Some(8 << 20),
        deterministic: None,
        tier: None,
        arch: Default::default(),
        engine: Default::default(),
        cpu: None,
        virtio: Default::default(),
        cpus: 2,
        memory: 32 << 20,
        cmdline: String::new(),
        firmware: None,
        kernel: Some(kernel(dir)),
        initrd: None,
        disks: Vec::new(),
        net: NetSpec::User { forwards: Vec::new() },
    }
}

#[test]
fn a_run_from_a_script_ends_with_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(&dir.path().join("home")).unwrap();
    let instance = store.create(new(dir.path(), None)).unwrap();
    let spec = VmmSpec { foreground: true, console: ConsoleSpec::Primary, ..instance.spec() };
    let begun = Instant::now();
    let mut run = launcher(dir.path()).launch(&spec, Some(instance.lock())).unwrap();
    instance.keep();
    let mut console = UnixStream::from(run.client.attach_primary().unwrap());
    console.write_all(b"xyzq").unwrap();
    let mut seen = String::new();
    console.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "ok\nxyz");
    let report = run.wait().unwrap();
    assert_eq!((report.code(), report.message()), (0, None), "{report:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(store.list().unwrap().is_empty(), "an unnamed run is gone when it has ended");
}

#[test]
fn a_kept_instance_is_driven_from_outside_and_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::at(dir.path().join("strata")).unwrap();
    let store = Store::at(&dir.path().join("home")).unwrap();
    store.create(new(dir.path(), Some("web"))).unwrap().keep();
    for _ in 0..2 {
        let instance = store.take("web").unwrap();
        let run = launcher(dir.path()).launch(&instance.spec(), Some(instance.lock())).unwrap();
        drop(instance);
        drop(run.client);
        let mut c = Client::connect_in(&runtime, "web").unwrap();
        let status = c.status().unwrap();
        assert_eq!(
            (status.phase.as_str(), status.cpus, status.image.as_deref()),
            ("running", 2, Some("tiny"))
        );
        assert_eq!(status.tier, strata_machine::Tier::best().name());
        let mut console = UnixStream::from(c.attach_console().unwrap());
        let mut seen = [0; 3];
        console.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"ok\n");

        c.pause().unwrap();
        assert_eq!(c.status().unwrap().phase, "paused");
        console.write_all(b"a").unwrap();
        console.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(console.read(&mut [0]).is_err(), "paused, it does not echo");
        console.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        c.unpause().unwrap();
        console.read_exact(&mut seen[..1]).unwrap();
        assert_eq!(seen[0], b'a');

        c.reset().unwrap();
        console.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"ok\n", "from the beginning");
        let report = c.stop(&mut |_| ()).unwrap();
        assert_eq!(report.outcome, Outcome::Stopped { by: "`strata stop`".into() });
        assert_eq!(report.problems, [""; 0]);
        assert!(!runtime.is_running("web"));
    }
    store.take("web").unwrap().delete().unwrap();
}

/// Opens the instance's own disk as its machine would.
fn own_disk(instance: &strata_vmm::Instance) -> strata_block::OpenDisk {
    let d = instance.spec().disks.remove(0);
    let base = d.base.map(|(path, format)| (path, format.into()));
    let layers = d.layers.into_iter().map(|l| (l, strata_block::Format::Qcow2));
    let chain = strata_block::Chain::Given(layers.chain(base).collect());
    strata_block::open::open(strata_block::OpenOptions {
        chain,
        ..strata_block::OpenOptions::new(d.path, "test")
    })
    .unwrap()
}

/// Writes a byte over the disk's first sector, or reads its first byte.
fn sector(instance: &strata_vmm::Instance, write: Option<u8>) -> u8 {
    let mut bytes = [write.unwrap_or(0); 512];
    let mut disk = own_disk(instance);
    let slice = vm_memory::VolatileSlice::from(&mut bytes[..]);
    match write {
        Some(_) => strata_block::Disk::write(&mut disk, 0, &[slice]).unwrap(),
        None => strata_block::Disk::read(&mut disk, 0, &[slice]).unwrap(),
    }
    strata_block::Disk::flush(&mut disk).unwrap();
    drop(disk);
    bytes[0]
}

/// Lets an instance run, from where it is, until `then` has been done to it; its console answers.
fn run(dir: &Path, store: &Store, name: &str, then: impl FnOnce(&mut Client, &mut UnixStream)) {
    run_from(dir, store.take(name).unwrap(), then);
}

/// Has an instance run, from where it is; gives its client and its console.
fn up_from(dir: &Path, instance: strata_vmm::Instance) -> (Client, UnixStream) {
    let run = launcher(dir).launch(&instance.spec(), Some(instance.lock())).unwrap();
    let name = instance.record().name.clone();
    instance.keep();
    drop(run.client);
    let mut c = Client::connect_in(&Runtime::at(dir.join("strata")).unwrap(), &name).unwrap();
    let console = UnixStream::from(c.attach_console().unwrap());
    (c, console)
}

/// As [`run`], with one that may be about to go back.
fn run_from(dir: &Path, instance: strata_vmm::Instance, then: impl FnOnce(&mut Client, &mut UnixStream)) {
    let (mut c, mut console) = up_from(dir, instance);
    console.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    console.write_all(b"z").unwrap();
    let mut seen = [0];
    while seen[0] != b'z' {
        console.read_exact(&mut seen).unwrap();
    }
    then(&mut c, &mut console);
    c.stop(&mut |_| ()).unwrap();
}

#[test]
fn snapshots_hold_the_disk_of_their_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(&dir.path().join("home")).unwrap();
    store.create(new(dir.path(), Some("web"))).unwrap().keep();
    // Power on, take a snapshot, and pull the plug; the console answers with the moment's own machine each time.
    let run = |name: &str, tag: Option<&str>| {
        run(dir.path(), &store, name, |c, console| {
            let Some(tag) = tag else { return };
            eprintln!("{tag}: {:?}", c.snapshot(tag, false).unwrap());
            assert_eq!(c.status().unwrap().phase, "running");
            let mut seen = [0];
            console.write_all(b"y").unwrap();
            console.read_exact(&mut seen).unwrap();
            assert_eq!(seen[0], b'y', "it goes on");
            assert_eq!(c.snapshot(tag, false).unwrap_err().kind, Kind::CannotCreate);
            assert_eq!(c.snapshot("../x", false).unwrap_err().kind, Kind::Config);
        });
    };
    let take = |name: &str| store.take(name).unwrap();
    sector(&take("web"), Some(1));
    run("web", Some("one"));
    assert_eq!(take("web").record().layers.len(), 1);
    assert_eq!(sector(&take("web"), None), 1);
    sector(&take("web"), Some(2));
    run("web", Some("two"));
    sector(&take("web"), Some(3));
    assert_eq!(take("web").record().layers.len(), 2);

    // Each way back has the disk of its moment, and a way forward.
    for (tag, byte) in [("one", 1), ("two", 2), ("one", 1)] {
        let mut web = take("web");
        web.go_back(tag).unwrap();
        assert_eq!(sector(&web, None), byte, "{tag}");
        run_from(dir.path(), web, |_, _| ());
    }
    // A clone's disk is its own, and needs nothing of its source's folder.
    store.clone_from("web", "two", "other", None).unwrap().keep();
    sector(&take("web"), Some(4));
    store.delete_snapshot("web", "two").unwrap();
    store.verify("web", "one", true).unwrap();
    take("web").delete().unwrap();
    assert_eq!(sector(&take("other"), None), 2);
    // Its first snapshot has only what it has written since, and stands on layers of its own.
    run_from(dir.path(), take("other"), |c, _| assert_eq!(c.snapshot("three", false).unwrap().below, 1));
    store.verify("other", "three", true).unwrap();
    let left = listing(&dir.path().join("home/instances/other"));
    assert!(!left.iter().any(|(path, _)| path.display().to_string().contains("saved-")), "{left:?}");
    let mut layers: Vec<_> = fs::read_dir(dir.path().join("home/instances/other"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".qcow2"))
        .collect();
    assert_eq!(layers.len(), 4, "two of its source, the snapshot's, its own: {layers:?}");
    store.delete_snapshot("other", "three").unwrap();
    drop(take("other"));
    layers.retain(|l| dir.path().join("home/instances/other").join(l).exists());
    assert_eq!(layers.len(), 4, "those under its own stay");
}

/// What is in a folder of instances, with the sizes of files.
fn listing(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let (path, meta) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
        if meta.is_dir() {
            all.extend(listing(&path));
        } else {
            all.push((path, meta.len()));
        }
    }
    all.sort();
    all
}

/// How many layers of memory a snapshot of `web` has.
fn layers(store: &Store, tag: &str) -> usize {
    let all = store.snapshots("web").unwrap();
    1 + all.iter().find(|(t, _)| t == tag).unwrap().1.as_ref().unwrap().below.len()
}

/// Makes the guest write: it echoes what is typed.
fn type_and_hear(console: &mut UnixStream, byte: u8) {
    console.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    console.write_all(&[byte]).unwrap();
    let mut seen = [0];
    while seen[0] != byte {
        console.read_exact(&mut seen).unwrap();
    }
}

#[test]
fn snapshots_stand_on_each_other_and_any_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(&dir.path().join("home")).unwrap();
    store.create(new(dir.path(), Some("web"))).unwrap().keep();
    let up = || up_from(dir.path(), store.take("web").unwrap());
    sector(&store.take("web").unwrap(), Some(7));
    let (mut c, mut console) = up();
    for n in 0..7 {
        type_and_hear(&mut console, b'a' + n);
        assert_eq!(c.snapshot(&format!("s{n}"), false).unwrap().below, usize::from(n));
    }
    // The eighth layer is one too many: it is folded while the machine runs on.
    c.snapshot("s7", false).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while layers(&store, "s7") > 3 {
        assert!(Instant::now() < until, "it was not folded");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(c.snapshot("s8", false).unwrap().below <= 4);
    // So are those of its disk.
    while store.read("web").unwrap().layers.len() > 5 {
        assert!(Instant::now() < until, "its disk was not folded");
        std::thread::sleep(Duration::from_millis(5));
    }
    // One of them goes, and what came from it comes from the one before; the machine runs on and is saved on top.
    store.delete_snapshot("web", "s4").unwrap();
    store.delete_snapshot("web", "s2").unwrap();
    let parent = |tag: &str| {
        let all = store.snapshots("web").unwrap();
        let find = |f: &dyn Fn(&str, &str) -> bool| {
            let ids = all.iter().map(|(t, m)| (t.clone(), m.as_ref().unwrap()));
            ids.into_iter().find(|(t, m)| f(t, &m.id)).map(|(t, m)| (t, m.parent.clone()))
        };
        let id = find(&|t, _| t == tag).unwrap().1;
        id.and_then(|id| find(&|_, i| i == id)).map(|(t, _)| t)
    };
    assert_eq!(
        (parent("s3").as_deref(), parent("s5").as_deref(), parent("s0")),
        (Some("s1"), Some("s3"), None)
    );
    assert_eq!(layers(&store, "s1"), 2);
    type_and_hear(&mut console, b'z');
    // The one that it comes from goes, and what it comes from then is the one before.
    c.snapshot("gone", false).unwrap();
    store.delete_snapshot("web", "gone").unwrap();
    c.snapshot("s9", false).unwrap();
    assert_eq!(parent("s9").as_deref(), Some("s8"));
    // The lowest: all others keep its layer.
    store.delete_snapshot("web", "s0").unwrap();
    for tag in ["s1", "s3", "s5", "s6", "s7", "s8", "s9"] {
        store.verify("web", tag, true).unwrap();
    }
    c.stop(&mut |_| ()).unwrap();
    assert_eq!(sector(&store.take("web").unwrap(), None), 7);
    // Every one of them goes on, and is stood on by what comes next.
    for tag in ["s1", "s5", "s9"] {
        let mut web = store.take("web").unwrap();
        web.go_back(tag).unwrap();
        assert_eq!(sector(&web, None), 7);
        let (mut c, mut console) = up_from(dir.path(), web);
        type_and_hear(&mut console, b'y');
        let below = c.snapshot(&format!("after-{tag}"), false).unwrap().below;
        assert_eq!(below, layers(&store, tag), "on {tag}");
        assert_eq!(parent(&format!("after-{tag}")).as_deref(), Some(tag));
        c.suspend(&mut |_| ()).unwrap();
        let (mut c, mut console) = up();
        type_and_hear(&mut console, b'x');
        c.stop(&mut |_| ()).unwrap();
    }
}

/// In a child of the killing test: works on the store until it is killed.
fn store_work(work: &str) {
    let parts: Vec<_> = work.split('|').collect();
    let store = Store::at(Path::new(parts[0])).unwrap();
    let done = match parts[1] {
        "delete" => store.delete_snapshot("web", parts[2]),
        _ => store.take("web").and_then(|mut web| {
            web.go_back(parts[2])?;
            let dir = Path::new(parts[0]).parent().unwrap();
            launcher(dir).launch(&web.spec(), Some(web.lock()))?;
            web.keep();
            Ok(())
        }),
    };
    println!("{done:?}");
}

/// Waits until nobody has the instance.
fn idle(store: &Store) {
    let until = Instant::now() + Duration::from_secs(20);
    while store.list().unwrap()[0].in_use && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills machines and commands at moments all over a save, a delete with its merges, and a way back. `STRATA_KILLS` asks for
/// more rounds than a few, `STRATA_SEED` for others.
#[test]
fn whoever_saves_deletes_or_restores_may_be_killed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (rounds, seed) = (number("STRATA_KILLS").unwrap_or(20), number("STRATA_SEED").unwrap_or(1));
    let mut state = seed | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let runtime = Runtime::at(dir.path().join("strata")).unwrap();
    let store = Store::at(&home).unwrap();
    store.create(new(dir.path(), Some("web"))).unwrap().keep();
    sector(&store.take("web").unwrap(), Some(7));
    let (mut acknowledged, mut resumed, mut done) = (Vec::<String>::new(), 0, [0; 4]);
    for round in 0..rounds {
        let tags = |store: &Store| -> Vec<String> {
            store.snapshots("web").unwrap().into_iter().map(|(tag, _)| tag).collect()
        };
        let all = tags(&store);
        let what = match random(5) {
            _ if all.len() > 7 => 2,
            2 if all.len() > 3 => 2,
            3 if !all.is_empty() => 3,
            n => n as usize % 2,
        };
        if what < 2 {
            let instance = store.take("web").unwrap();
            resumed += u32::from(instance.record().suspended.is_some());
            let run = launcher(dir.path()).launch(&instance.spec(), Some(instance.lock())).unwrap();
            drop((instance, run.client));
            let mut c = Client::connect_in(&runtime, "web").unwrap();
            let mut console = UnixStream::from(c.attach_console().unwrap());
            let asked = std::thread::spawn(move || {
                let mut taken = Vec::new();
                for n in 0..3 {
                    // Memory differs from one to the next.
                    if console.write_all(b"w").is_err() {
                        break;
                    }
                    let tag = format!("s{round}-{n}");
                    match what {
                        0 if c.snapshot(&tag, false).is_ok() => taken.push(tag),
                        0 => break,
                        _ => return (taken, c.suspend(&mut |_| {}).is_ok()),
                    }
                }
                (taken, false)
            });
            std::thread::sleep(Duration::from_micros(random(250_000)));
            // It may have ended by itself.
            let _ = runtime.kill("web");
            let (taken, _) = asked.join().unwrap();
            done[what] += taken.len().max(what);
            acknowledged.extend(taken);
            idle(&store);
        } else {
            let tag = &all[random(all.len() as u64) as usize];
            let work = format!("{}|{}|{tag}", home.display(), ["", "", "delete", "restore"][what]);
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "child_entry", "--nocapture"]).env("STRATA_TEST_WORK", work);
            let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(3000 + random(120_000)));
            // It may have ended by itself.
            let _ = child.kill();
            done[what] += usize::from(child.wait().unwrap().success());
            // So may the machine that it was starting, which may not have its name yet.
            while store.list().unwrap()[0].in_use {
                let _ = runtime.kill("web");
            }
            if what == 2 {
                acknowledged.retain(|t| t != tag);
            }
        }
        // Whole under its name, or not there; what was acknowledged is there, and the disk is what it was.
        let web = store.take("web").unwrap_or_else(|e| panic!("round {round}, {what}: {e}"));
        assert_eq!(sector(&web, None), 7);
        drop(web);
        let now = tags(&store);
        let verify =
            |tag: &String| store.verify("web", tag, true).unwrap_or_else(|e| panic!("round {round}: {e}"));
        now.iter().for_each(|tag| drop(verify(tag)));
        assert!(acknowledged.iter().all(|tag| now.contains(tag)), "round {round}: {acknowledged:?} {now:?}");
        for at in [home.join("instances/web"), home.join("instances/web/snapshots")] {
            let left = fs::read_dir(at).into_iter().flatten();
            let left: Vec<_> = left.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            let hidden = |n: &&String| n.starts_with('.') && *n != ".instance.json.new";
            assert!(!left.iter().any(|n| hidden(&n)), "round {round}: {left:?}");
        }
    }
    eprintln!(
        "seed {seed}: snapshots, suspends, deletes, ways back that were done: {done:?}; resumed {resumed} times"
    );
}

#[test]
fn bad_input_has_its_code_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::at(dir.path().join("strata")).unwrap();
    let good = VmmSpec { kernel: Some(kernel(dir.path())), net: NetSpec::None, ..VmmSpec::new("web") };
    let file = |name: &str, bytes: &[u8]| {
        fs::write(dir.path().join(name), bytes).unwrap();
        Some(dir.path().join(name))
    };
    let image = fs::read(dir.path().join("kernel")).unwrap();
    for (spec, kind) in [
        (VmmSpec { kernel: file("text", b"hello"), ..good.clone() }, Kind::BadInput),
        (VmmSpec { kernel: file("short", &image[..40]), ..good.clone() }, Kind::BadInput),
        (VmmSpec { kernel: None, firmware: file("empty", b""), ..good.clone() }, Kind::BadInput),
        (VmmSpec { kernel: Some("/no/such".into()), ..good.clone() }, Kind::NotFound),
        (VmmSpec { memory: 1 << 20, ..good.clone() }, Kind::Config),
        (VmmSpec { memory: 1 << 40, ..good.clone() }, Kind::Host),
        (VmmSpec { cpus: 65, ..good.clone() }, Kind::Config),
        (VmmSpec { net: NetSpec::Tap { name: "a/b".into() }, ..good.clone() }, Kind::Config),
    ] {
        let e = launcher(dir.path()).launch(&spec, None).map(|_| ()).unwrap_err();
        assert_eq!(e.kind, kind, "{e}");
        assert!(e.message.ends_with('.') && !e.message.contains('\n'), "one paragraph: {e}");
        assert!(runtime.list().unwrap().is_empty() && fs::read_dir(runtime.path()).unwrap().next().is_none());
    }
}

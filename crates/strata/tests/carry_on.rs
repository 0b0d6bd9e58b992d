//! A Debian machine that is suspended again and again in the middle of its work: minutes, so `cargo xtask soak suspend`
//! runs it, in release, with its timings.

mod common;

use common::debian::{LONG, has_an_address, log_in, pull, strata, timed};
use common::{Console, OwnNetwork, Place, Work, source};
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A Debian machine in the background, in the home that keeps Debian between runs; removed at the end.
struct Machine<'a> {
    place: &'a Place,
    name: &'static str,
    console: Console,
}

impl<'a> Machine<'a> {
    fn run(place: &'a Place, name: &'static str, net: &str) -> Machine<'a> {
        let image = pull(place);
        // Of a run that failed.
        let _ = strata(place, &["delete", name]).output().unwrap();
        let start = Instant::now();
        let words = ["run", &image, "--name", name, "--cpus", "2", "--net", net, "--detach"];
        place.finish(&mut strata(place, &words)).good();
        let mut console = Console::spawn(strata(place, &["console", name]));
        log_in(&mut console, name, start);
        Machine { place, name, console }
    }

    /// Suspends it, lets time pass, and resumes it; gives what the resume said.
    fn away(&mut self, seconds: u64) -> String {
        let Machine { place, name, .. } = *self;
        timed("suspend", || place.finish(&mut strata(place, &["suspend", name])).good());
        std::thread::sleep(Duration::from_secs(seconds));
        let resumed = timed("resume", || place.finish(&mut strata(place, &["resume", name])));
        let said = resumed.err.clone();
        resumed.good();
        self.console = Console::spawn(strata(place, &["console", name]));
        self.console.send("");
        self.console.wait_long("# ", LONG);
        said
    }

    /// Starts `work` in the guest, and suspends the machine every few seconds until it has ended; gives how often. It must
    /// have gone well.
    fn interrupted(&mut self, what: &'static str, work: &str, run: u64, away: u64) -> u32 {
        let job = Work::begin(&mut self.console, what, work);
        let mut times = 0;
        while !job.has_ended(&mut self.console) {
            // Often enough to hit every phase of it, and an end to it all the same.
            if times < 12 {
                std::thread::sleep(Duration::from_secs(run));
                let said = self.away(away);
                println!("{what}: away for {away} s; {}", said.trim_end());
                times += 1;
            } else {
                std::thread::sleep(Duration::from_secs(2));
            }
        }
        println!("{what}: done after {:.0?}, suspended {times} times", job.age());
        times
    }

    fn done(self) {
        self.place.finish(&mut strata(self.place, &["stop", self.name])).good();
        self.place.finish(&mut strata(self.place, &["delete", self.name])).good();
    }
}

#[test]
#[ignore = "takes many minutes: cargo xtask soak suspend"]
fn a_package_is_installed_and_compiles_as_if_nothing_had_happened() {
    let place = Place::new();
    let mut m = Machine::run(&place, "carry-on-apt", "user");
    has_an_address(&mut m.console);
    timed("apt-get update", || m.console.sh_long("apt-get -q update", LONG));
    // Downloads too: connections that are reset are tried again.
    let install = "DEBIAN_FRONTEND=noninteractive apt-get -qy -o Acquire::Retries=20 install --no-install-recommends gcc libc6-dev";
    assert!(m.interrupted("apt-get install", install, 5, 3) > 1);
    assert_eq!(m.console.sh("dpkg --audit"), "");

    m.console.sh_long(&source(1500), LONG);
    timed("compile", || m.console.sh_long("cd /root && gcc -O2 -c a.c -o a.o && sha256sum a.o > good", LONG));
    let again = "cd /root && rm a.o && gcc -O2 -c a.c -o a.o && sha256sum -c good";
    assert!(m.interrupted("compile", again, 4, 3) > 0);
    m.done();
}

#[test]
#[ignore = "takes many minutes: cargo xtask soak suspend"]
fn a_download_goes_on_while_its_peer_waits() {
    const LEN: usize = 96 << 20;
    let place = Place::new();
    // Its own network leads to no mirror.
    pull(&place);
    let Some(_net) = OwnNetwork::make() else { return };
    let mut m = Machine::run(&place, "carry-on-net", &format!("tap={}", OwnNetwork::TAP));
    m.console.sh("systemctl stop systemd-networkd.socket systemd-networkd.service 2> /dev/null; true");
    m.console.sh("ip addr flush dev eth0; ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up");
    let listener = TcpListener::bind("10.9.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut x = 1u32;
    let all: Vec<u8> = std::iter::repeat_with(|| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    })
    .take(LEN)
    .collect();
    let file = place.file("all", &all);
    let sum = place.finish(std::process::Command::new("sha256sum").arg(file)).good();
    let sum = sum.split(' ').next().unwrap().to_owned();
    let sender = std::thread::spawn(move || {
        let mut far = listener.accept().unwrap().0;
        for piece in all.chunks(64 << 10) {
            far.write_all(piece).unwrap();
            // Some 4 MB/s: long enough to be suspended several times.
            std::thread::sleep(Duration::from_millis(15));
        }
    });
    let work = format!("exec 3<>/dev/tcp/10.9.0.1/{port}; test \"$(sha256sum <&3 | cut -d' ' -f1)\" = {sum}");
    assert!(m.interrupted("download", &work, 4, 10) > 1);
    sender.join().unwrap();
    m.done();
}

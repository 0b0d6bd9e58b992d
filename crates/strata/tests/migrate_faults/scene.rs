//! Two hosts, a machine on the first, somebody who reads its numbers there, and a destination on the second.

use super::common::{Console, Place, Receiver, bare_counts, start_bare, until};
use super::journals::{kind, records};
use super::moments::{Moment, wait_for};

/// What runs in the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Guest {
    /// Linux for riscv64, whose shell prints numbers.
    Riscv,
    /// The bare-metal guest on this host's KVM.
    Kvm,
}

/// The bare guest prints each count that this divides: one in some milliseconds.
const EVERY: u32 = 1 << 10;
/// What is sent of that beside the pages to which it writes: once as a file, once as memory.
const BALLAST: usize = 12 << 20;

/// Where the machine is in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Here,
    There,
    Lost,
}

/// Whether machines on KVM can be moved by all strategies here; says so where not.
pub fn kvm_is_usable() -> bool {
    let hosts = [Place::new(), Place::new()];
    if !start_bare(&hosts[0], "web", EVERY, "") {
        eprintln!("SKIPPED: no sample is of a machine on KVM");
        return false;
    }
    let there = Receiver::at(&hosts[1], "");
    let can = hosts[0].strata(&there.send("web", "--dry-run --strategy postcopy"));
    if can.code != Some(0) {
        eprintln!("SKIPPED: no sample is of a machine on KVM: {}", can.err);
    }
    can.code == Some(0)
}

/// Bytes that cannot be compressed.
pub fn noise(len: usize) -> Vec<u8> {
    let mut chance = super::Chance::new(7);
    (0..len / 8).flat_map(|_| chance.below(u64::MAX).to_le_bytes()).collect()
}

/// What a host says of the machine.
fn phase(host: &Place) -> String {
    let list = host.strata("ps").good();
    let row = list.lines().find(|l| l.starts_with("web ")).map(str::to_owned);
    row.and_then(|r| r.split_whitespace().nth(1).map(str::to_owned)).unwrap_or_default()
}

impl Guest {
    /// Starts it, and waits until it counts.
    fn begin(self, host: &Place, options: &str) {
        match self {
            Guest::Riscv => {
                host.strata(&format!("run busybox --name web --memory 128M --net none --detach {options}"))
                    .good();
                let mut c = host.open("console web");
                c.wait_for("# ");
                c.send("n=0; while true; do n=$((n+1)); echo \"<\"\"$n>\"; usleep 2000; done");
                c.wait_for("<20>");
            }
            Guest::Kvm => {
                let ballast = host.file("ballast", noise(BALLAST));
                let options = format!("--initrd {} {options}", ballast.display());
                assert!(start_bare(host, "web", EVERY, &options), "it could be started before");
                let c = host.open("console web");
                until("it counts", || self.numbers(&c.text()).len() > 3);
            }
        }
    }

    /// The numbers that a console has shown.
    fn numbers(self, text: &str) -> Vec<u64> {
        match self {
            // What stands before the first may be the end of one that was begun elsewhere.
            Guest::Riscv => {
                text.split('<').skip(1).filter_map(|s| s.split_once('>')?.0.parse().ok()).collect()
            }
            Guest::Kvm => bare_counts(text).into_iter().map(|n| u64::from(n / EVERY)).collect(),
        }
    }

    /// Most bytes of it that go in a second, so that each step takes a while.
    fn bandwidth(self) -> &'static str {
        match self {
            Guest::Riscv => "60M",
            Guest::Kvm => "20M",
        }
    }
}

pub struct Scene {
    pub hosts: [Place; 2],
    pub guest: Guest,
    here: Console,
    /// The command that waits for the machine.
    pub there: Console,
    pub address: String,
    token: String,
}

impl Scene {
    /// A machine that was started with the first options, and a destination with the others.
    pub fn new(guest: Guest, second: Place, [start, receive]: [&str; 2]) -> Scene {
        let first = if guest == Guest::Riscv { Place::with_busybox() } else { Place::new() };
        Scene::on([first, second], guest, [start, receive])
    }

    /// The same on a first host that there is already.
    pub fn on(hosts: [Place; 2], guest: Guest, [start, receive]: [&str; 2]) -> Scene {
        guest.begin(&hosts[0], start);
        let here = hosts[0].open("console web");
        let Receiver { console: there, address, token } = Receiver::at(&hosts[1], receive);
        Scene { hosts, guest, here, there, address, token }
    }

    /// Has it go to an address.
    pub fn send(&self, address: &str, options: &str) -> Console {
        let (token, limit) = (&self.token, self.guest.bandwidth());
        self.hosts[0].open(&format!("migrate web {address} --token {token} --bandwidth {limit} {options}"))
    }

    /// What the journals of the source and the destination have.
    pub fn records(&self) -> [Vec<u8>; 2] {
        [records(&self.hosts[0], "source"), records(&self.hosts[1], "destination")]
    }

    /// Waits for the moment; false if the source has decided before that, or the command that sends the machine has ended.
    pub fn wait_for(&self, moment: Moment, going: &mut Console) -> bool {
        const OVER: [u8; 3] = [kind::DONE, kind::ABORTED, kind::RECLAIMED];
        let decided = || records(&self.hosts[0], "source").last().is_some_and(|r| OVER.contains(r));
        wait_for(moment, &self.hosts, &mut || decided() || going.has_ended())
    }

    /// Nothing has gone wrong before all was over: then it has moved.
    pub fn undisturbed(self, going: Console, label: &str) {
        let done = going.end();
        assert_eq!(done.code, Some(0), "{label}, and nothing went wrong: {}", done.err);
        self.goes_on(End::There, label);
    }

    /// What the hosts say of the machine. It does not run twice.
    #[track_caller]
    pub fn phases(&self, label: &str) -> [String; 2] {
        let both = [phase(&self.hosts[0]), phase(&self.hosts[1])];
        assert!(both.iter().any(|p| p != "running"), "{label}: both run");
        both
    }

    /// Where it runs.
    #[track_caller]
    pub fn runs(&self, label: &str) -> Option<End> {
        match self.phases(label).each_ref().map(|p| p == "running") {
            [true, _] => Some(End::Here),
            [_, true] => Some(End::There),
            _ => None,
        }
    }

    /// A machine whose source has died with a part of its memory runs on there until it touches that, and then ends: it does not
    /// stand still.
    pub fn runs_on_or_ends(&self, label: &str) {
        let c = self.hosts[1].open("console web");
        let numbers = || self.guest.numbers(&c.text());
        let first = numbers().last().copied().unwrap_or(0);
        until(&format!("{label}: it runs on, or ends"), || {
            phase(&self.hosts[1]) != "running" || numbers().last().is_some_and(|n| *n > first + 4)
        });
    }

    /// Numbers that were printed there come after all that were printed here, and more come where it is now.
    pub fn goes_on(self, end: End, label: &str) -> End {
        let numbers = |c: &Console| self.guest.numbers(&c.text());
        let before = numbers(&self.here);
        let last = *before.last().unwrap_or(&0);
        assert!(before.windows(2).all(|w| w[1] == w[0] + 1), "{label}: numbers here are not in order");
        match end {
            End::Here => until(label, || numbers(&self.here).last().is_some_and(|n| *n > last + 2)),
            End::There => {
                let c = self.hosts[1].open("console web");
                until(label, || numbers(&c).len() > 3);
                let there = numbers(&c);
                assert!(
                    there.windows(2).all(|w| w[1] == w[0] + 1),
                    "{label}: numbers there are not in order"
                );
                let last = *numbers(&self.here).last().unwrap_or(&0);
                // What it printed last may not have been read here; what it printed first may have scrolled away there. What
                // a driver had handed over when the machine stopped may be printed by both.
                let twice = u64::from(self.guest == Guest::Riscv) * 2;
                assert!(last < there[0] + twice, "{label}: {last} was printed here, and {there:?} there");
            }
            End::Lost => {}
        }
        end
    }
}

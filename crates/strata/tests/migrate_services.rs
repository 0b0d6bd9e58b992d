//! Debian machines that change hosts again and again in the middle of their work: a database that is written to from outside,
//! and a compiler. Minutes each, so `cargo xtask soak migrate services` runs them, in release, with their figures.

mod common;

use common::debian::{LONG, log_in, pull_with, timed};
use common::load::{Acknowledged, Connection, Load, Service};
use common::postgres::Postgres;
use common::redis::Redis;
use common::{Console, Host, OwnNetwork, Place, TwoHosts, Work, kill, lives, row, source, until};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the hosts are joined by.
const RATE: &str = "1gbit";

/// How it goes, in turn; the last one ends where it began.
const STRATEGIES: [&str; 12] = [
    "auto", "auto", "hybrid", "auto", "postcopy", "auto", "precopy", "auto", "auto", "hybrid", "postcopy",
    "precopy",
];

/// How long a machine stays where it has come to.
const STAY: Duration = Duration::from_secs(3);

/// How many writes each client asks for at once.
const DEPTHS: [u64; 4] = [1, 1, 4, 16];

fn hosts<'a>(wires: &'a TwoHosts, image: &Path) -> [Host<'a>; 2] {
    Host::both(wires, [Place::with(image), Place::with(image)])
}

/// Starts `web` on a host, with more options if there are any.
fn start(host: &Host<'_>, options: &str) -> Console {
    host.strata(&format!("run {options} --name web --cpus 2 --net tap={} --detach", OwnNetwork::TAP)).good();
    enter(host)
}

/// Logs in at a machine that boots.
fn enter(host: &Host<'_>) -> Console {
    let mut c = Console::spawn(host.command("console web"));
    log_in(&mut c, "web", Instant::now());
    c
}

/// Gives it the address 10.9.0.2, now and at each boot.
fn address(c: &mut Console) {
    c.sh("printf '[Match]\\nType=ether\\n[Network]\\nAddress=10.9.0.2/24\\n' > /etc/systemd/network/10-test.network");
    c.sh("systemctl restart systemd-networkd");
    until("an address", || c.sh("ip -4 addr show dev eth0 | cat").contains("inet 10.9.0.2/24"));
}

/// One crossing, all of it: the machine, its disks, and what follows it.
fn cross(from: &Host<'_>, to: &Host<'_>, strategy: &str, options: &str) -> String {
    let mut figures = to.take(from, &format!("--with-disks --strategy {strategy} {options}"));
    until("all memory is there", || {
        let status = to.strata("migrate status web");
        // Where nothing followed it, there is nothing to tell.
        status.code == Some(66) || common::row_if_there(&status.out, "step") == Some("moved")
    });
    from.place.is_clean();
    // What the destination knows better: who waited there for memory that was not there yet.
    let there = to.strata("migrate status web").out;
    for name in ["asked for", "waited"] {
        if let Some(value) = common::row_if_there(&there, name) {
            figures.push_str(&format!("{name:12} {value}, there\n"));
        }
    }
    figures
}

/// Prints what is worth a look of a migration, in one line.
fn tell(n: usize, strategy: &str, figures: &str) {
    let rows = ["rounds", "sent", "disks", "downtime", "asked for", "waited", "took"];
    let said =
        rows.map(|r| common::row_if_there(figures, r).map(|v| format!("; {r} {v}")).unwrap_or_default());
    println!("crossing {}, {strategy}: {}{}", n + 1, row(figures, "step"), said.concat());
}

/// A service that is written to while its machine crosses.
struct Case<S> {
    service: S,
    packages: &'static str,
    port: u16,
    /// Whether it gets a disk, `/dev/vdb`, that is the same file on both hosts; else all is on the machine's own.
    shared: bool,
    /// What the guest is told so that it serves, now and at each boot.
    serve: &'static [&'static str],
    /// What ends it as a crash does, and has it serve again.
    crash: &'static str,
}

fn every_acknowledged_write_is_kept(case: &Case<impl Service>) {
    let Case { service, packages, port, shared, serve, crash } = *case;
    let (image, name) = pull_with(&Place::new(), packages);
    let Some(wires) = TwoHosts::make().and_then(|w| w.shaped(RATE)) else { return };
    let hosts = hosts(&wires, &image);
    let mut options = name;
    if shared {
        let data = hosts[0].place.file("data", "");
        File::options().write(true).open(data).unwrap().set_len(4 << 30).unwrap();
        options.push_str(" --disk data");
    }
    let mut c = start(&hosts[0], &options);
    address(&mut c);
    serve.iter().for_each(|line| drop(c.sh_long(line, LONG)));
    drop(c);
    let at = SocketAddr::from(([10, 9, 0, 2], port));
    let serves = || until("it serves", || Connection::open(service, at).is_ok());
    serves();

    let began = Instant::now();
    let load = Load::begin(service, at, 0, &DEPTHS);
    load.goes_on();
    let mut longest: Vec<(&str, Duration)> = Vec::new();
    for (n, strategy) in STRATEGIES.into_iter().enumerate() {
        std::thread::sleep(STAY);
        let at_rest = load.longest();
        let (from, to) = (&hosts[n % 2], &hosts[(n + 1) % 2]);
        tell(n, strategy, &cross(from, to, strategy, ""));
        // By the same connections.
        load.goes_on();
        let wait = load.longest();
        println!("    longest wait {wait:.1?}, at rest before {at_rest:.1?}; {} writes so far", total(&load));
        longest.push((strategy, wait));
    }
    let took = began.elapsed();
    let mut kept = timed("read back by the same connections", || load.end());
    println!("{} writes in {took:.0?}, over {} crossings", sum(&kept), longest.len());
    for strategy in ["auto", "hybrid", "postcopy", "precopy"] {
        let of = longest.iter().filter(|(s, _)| *s == strategy).map(|(_, wait)| *wait).max();
        println!("longest wait with {strategy}: {:.1?}", of.unwrap_or_default());
    }

    // What was acknowledged is durable: without the service's memory, and without the machine's.
    let check = |kept: &[Acknowledged]| {
        kept.iter().for_each(|k| Connection::open(service, at).unwrap().check(service, *k));
    };
    let mut c = hosts[0].console();
    c.sh_long(crash, LONG);
    drop(c);
    timed("after a crash of the service, it serves", serves);
    timed("read back", || check(&kept));
    let load = Load::begin(service, at, DEPTHS.len() as u32, &DEPTHS);
    load.goes_on();
    std::thread::sleep(STAY);
    let vmm = hosts[0].place.vmm_of("web");
    kill(vmm);
    kept.extend(load.give_up());
    until("it is gone", || !lives(vmm));
    hosts[0].strata("start web --detach").good();
    drop(enter(&hosts[0]));
    timed("after a crash of the machine, it serves", serves);
    timed("read back", || check(&kept));
    println!("{} writes were acknowledged and are there", sum(&kept));
    hosts[0].strata("stop web").good();
}

fn sum(kept: &[Acknowledged]) -> u64 {
    kept.iter().map(|k| k.last).sum()
}

fn total<S: Service>(load: &Load<S>) -> u64 {
    sum(&load.acknowledged())
}

#[test]
#[ignore = "takes many minutes: cargo xtask soak migrate"]
fn redis_keeps_its_connections_and_every_acknowledged_write() {
    every_acknowledged_write_is_kept(&Case {
        service: Redis,
        packages: "redis-server",
        port: 6379,
        shared: true,
        serve: &[
            "systemctl stop redis-server; mke2fs -q -t ext4 /dev/vdb",
            "echo '/dev/vdb /var/lib/redis ext4 defaults 0 2' >> /etc/fstab && systemctl daemon-reload",
            "mount /var/lib/redis && chown redis:redis /var/lib/redis",
            "cd /etc/redis && printf '%s\\n' 'bind 0.0.0.0' 'protected-mode no' >> redis.conf",
            "cd /etc/redis && printf '%s\\n' 'appendonly yes' 'appendfsync always' >> redis.conf",
            "systemctl enable --now redis-server",
        ],
        crash: "pid() { systemctl show -P MainPID redis-server; }; old=$(pid); kill -9 $old; \
                while new=$(pid); [ $new = 0 ] || [ $new = $old ]; do systemctl start redis-server; sleep 1; done",
    });
}

#[test]
#[ignore = "takes many minutes: cargo xtask soak migrate"]
fn postgres_keeps_its_connections_and_every_acknowledged_write() {
    every_acknowledged_write_is_kept(&Case {
        service: Postgres,
        packages: "postgresql",
        port: 5432,
        shared: false,
        serve: &[
            "cd /etc/postgresql/*/main && echo \"listen_addresses = '*'\" >> postgresql.conf",
            "cd /etc/postgresql/*/main && echo 'host all all 10.9.0.0/24 trust' >> pg_hba.conf",
            "systemctl restart postgresql",
            "cd / && su postgres -c 'psql -qc \"create table writes (c int, n bigint, v text, primary key (c, n))\"'",
        ],
        // All of its processes: one that is left would keep the next one out.
        crash: "systemctl kill -s KILL 'postgresql@*'; sleep 2; systemctl restart postgresql",
    });
}

#[test]
#[ignore = "takes many minutes: cargo xtask soak migrate"]
fn a_compiler_compiles_as_if_nothing_had_happened() {
    let (image, name) = pull_with(&Place::new(), "gcc libc6-dev");
    let Some(wires) = TwoHosts::make().and_then(|w| w.shaped(RATE)) else { return };
    let hosts = hosts(&wires, &image);
    let mut c = start(&hosts[0], &name);
    address(&mut c);
    c.sh_long(&source(700), LONG);
    // In a shell that tells nobody about its jobs.
    let both = "cd /root && (for n in 1 2; do gcc -O$n -c a.c -o a$n.o & done; wait)";
    let good = format!("{both} && sha256sum a1.o a2.o > good && rm a1.o a2.o");
    timed("compile, at rest", || c.sh_long(&good, LONG));
    let job = Work::begin(&mut c, "compile", &format!("{both} && sha256sum -c good"));
    let mut times = 0;
    while !job.has_ended(&mut c) {
        drop(c);
        std::thread::sleep(STAY);
        let strategy = STRATEGIES[times % STRATEGIES.len()];
        // Where memory follows, there is no one moment to compare it at.
        let options = if matches!(strategy, "auto" | "precopy") { "--verify" } else { "" };
        let (from, to) = (&hosts[times % 2], &hosts[(times + 1) % 2]);
        tell(times, strategy, &cross(from, to, strategy, options));
        times += 1;
        c = to.console();
    }
    println!("compile: done after {:.0?}, over {times} crossings", job.age());
    assert!(times >= 7, "only {times} crossings: not each strategy was used");
    drop(c);
    hosts[times % 2].strata("stop web").good();
}

//! The machine on either program, and its way from host 0 to host 1.

use crate::guest::{Console, Guest};
use crate::probe::Probe;
use crate::wires::Wires;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a migration may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How long probes go on after it.
const AFTER: Duration = Duration::from_millis(1500);
/// How long the machine runs before it goes.
const BEFORE: Duration = Duration::from_secs(4);
/// The guest's address.
const GUEST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 9, 0, 2);

/// What came of one migration, in milliseconds and bytes.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The longest time without an answer, as a peer saw it.
    pub outage: f64,
    /// For how long the machine stood still, as the program says.
    pub downtime: f64,
    /// The same, as it was expected just before.
    pub predicted: f64,
    /// From the command until all of it was there.
    pub total: f64,
    /// Bytes that the source's host has put on the wire.
    pub bytes: u64,
}

/// Where it happens.
pub struct Stage<'a> {
    /// The hosts.
    pub wires: &'a Wires,
    /// What the machine is started from.
    pub guest: &'a Guest,
    /// A folder for what both programs keep.
    pub dir: &'a Path,
    /// How much memory it has, in MiB.
    pub memory: u64,
    /// What the guest writes: MB a second (0 is as fast as it goes), and over how many MiB (0: nothing).
    pub load: (u64, u64),
}

impl Stage<'_> {
    /// Has `go` move the machine; measures from outside.
    fn measured(&self, go: impl FnOnce() -> Result<Option<Figures>>) -> Result<Option<Figures>> {
        std::thread::sleep(BEFORE);
        let before = self.wires.sent(0)?;
        let probe = Probe::begin(GUEST)?;
        std::thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        let gone = go();
        let total = begun.elapsed();
        std::thread::sleep(AFTER);
        let (outage, bytes) = (probe.end(begun), self.wires.sent(0)? - before);
        let Some(figures) = gone? else { return Ok(None) };
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Ok(Some(Figures { outage: ms(outage?), total: ms(total), bytes, ..figures }))
    }

    fn strata(&self, program: &Path, n: usize) -> Command {
        let mut c = self.wires.on(n, &program.display().to_string());
        let home = self.dir.join(format!("host{n}"));
        // What cannot be made is found missing by whoever needs it.
        let _ = std::fs::create_dir_all(home.join("run"));
        c.env("STRATA_HOME", &home).env("XDG_RUNTIME_DIR", home.join("run"));
        c
    }

    /// The machine on Strata; none if it did not come to an end.
    pub fn ours(&self, program: &Path, strategy: &str) -> Result<Option<Figures>> {
        let strata = |n: usize, words: &str| {
            let mut c = self.strata(program, n);
            c.args(words.split(' ')).stdin(Stdio::null());
            c
        };
        let good = |mut c: Command| {
            let out = c.output()?;
            ensure!(out.status.success(), "{c:?}: {}", String::from_utf8_lossy(&out.stderr));
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        };
        let mut run = strata(
            0,
            &format!("run --name m --memory {}M --net tap=t0 --detach --append console=ttyS0", self.memory),
        );
        run.arg("--kernel").arg(&self.guest.kernel).arg("--initrd").arg(&self.guest.initrd);
        good(run)?;
        let end = |n| {
            let _ = strata(n, "stop --force m").output();
            let _ = strata(n, "delete m").output();
        };
        let done = (|| {
            let mut console = Console::spawn(strata(0, "console m"))?;
            console.wait("# ")?;
            console.begin(self.load.0, self.load.1)?;
            drop(console);
            let receive = strata(1, "migrate receive --listen 10.9.0.11:7777");
            let there = Console::spawn(receive)?;
            there.wait("\n")?;
            let token = there.text().lines().next().unwrap_or_default().to_owned();
            let going = strata(0, &format!("migrate m 10.9.0.11:7777 --token {token} --strategy {strategy}"));
            self.measured(|| {
                let mut going = going;
                let out = going.output()?;
                if !out.status.success() {
                    eprintln!("  {}", String::from_utf8_lossy(&out.stderr).trim());
                    return Ok(None);
                }
                let text = String::from_utf8_lossy(&out.stdout).into_owned();
                let row = text.lines().find_map(|l| l.strip_prefix("downtime")).context("no downtime")?;
                let numbers: Vec<f64> = row.split(' ').filter_map(|w| w.parse().ok()).collect();
                let [predicted, downtime] = numbers[..] else { bail!("`{row}` has not two numbers") };
                Ok(Some(Figures { predicted, downtime, ..Figures::default() }))
            })
        })();
        end(0);
        end(1);
        done
    }

    /// The machine on QEMU, pre-copy at its defaults or with post-copy after a second; none if it did not come to an end.
    pub fn qemu(&self, program: &Path, postcopy: bool) -> Result<Option<Figures>> {
        let start = |n: usize| {
            let qmp = self.dir.join(format!("qmp{n}"));
            let _ = std::fs::remove_file(&qmp);
            let mut c = self.wires.on(n, &program.display().to_string());
            c.args([
                "-M",
                "virt",
                "-smp",
                "1",
                "-m",
                &self.memory.to_string(),
                "-display",
                "none",
                "-serial",
                "stdio",
            ]);
            c.arg("-kernel").arg(&self.guest.kernel).arg("-initrd").arg(&self.guest.initrd);
            c.args(["-append", "console=ttyS0", "-netdev", "tap,id=n,ifname=t0,script=no,downscript=no"]);
            c.args(["-device", "virtio-net-device,netdev=n,mac=02:00:00:00:00:77"]);
            c.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp.display()));
            if n == 1 {
                c.args(["-incoming", "tcp:10.9.0.11:7778"]);
            }
            Ok::<_, anyhow::Error>((Console::spawn(c)?, qmp))
        };
        let (mut console, qmp) = start(0)?;
        console.wait("# ")?;
        console.begin(self.load.0, self.load.1)?;
        let (_there, qmp_there) = start(1)?;
        let mut monitor = Monitor::connect(&qmp)?;
        let mut there = Monitor::connect(&qmp_there)?;
        if postcopy {
            let on = json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]});
            monitor.ask("migrate-set-capabilities", on.clone())?;
            there.ask("migrate-set-capabilities", on)?;
        }
        self.measured(|| {
            monitor.ask("migrate", json!({"uri": "tcp:10.9.0.11:7778"}))?;
            let (begun, mut predicted, mut switched) = (Instant::now(), 0.0, !postcopy);
            loop {
                let said = monitor.ask("query-migrate", json!({}))?;
                let number = |key: &str| said[key].as_f64();
                predicted = number("expected-downtime").unwrap_or(predicted);
                match said["status"].as_str() {
                    Some("completed") => {
                        let downtime = number("downtime").unwrap_or(0.0);
                        return Ok(Some(Figures { predicted, downtime, ..Figures::default() }));
                    }
                    Some("failed" | "cancelled") => bail!("QEMU's migration failed: {said}"),
                    _ if begun.elapsed() > LIMIT => return Ok(None),
                    _ => {}
                }
                if !switched && begun.elapsed() > Duration::from_secs(1) {
                    switched = monitor.ask("migrate-start-postcopy", json!({})).is_ok();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    }
}

/// A connection to QEMU's monitor.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(path: &PathBuf) -> Result<Monitor> {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(s) => break s,
                Err(e) if begun.elapsed() > Duration::from_secs(20) => return Err(e.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut m = Monitor(BufReader::new(stream));
        m.ask("qmp_capabilities", json!({}))?;
        Ok(m)
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        writeln!(self.0.get_mut(), "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "QEMU ended");
            let value: Value = serde_json::from_str(&line)?;
            if let Some(error) = value.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(answer) = value.get("return") {
                return Ok(answer.clone());
            }
        }
    }
}

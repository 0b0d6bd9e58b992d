//! QEMU's ways to do the same: `savevm` and `-loadvm`; migration into a file and from it, plain and as mapped RAM.

use crate::guest::{self, Console, Image};
use crate::report::Figures;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use strata_bench::qemus::Qemu;
use tempfile::TempDir;

/// The longest that any one step may take.
const LIMIT: Duration = Duration::from_secs(300);

/// A way to keep a machine and to bring it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `savevm` into a qcow2 file.
    Savevm,
    /// Migration into a file, a stream of pages.
    File,
    /// Migration into a file with each page at a place of its own.
    Mapped,
}

impl Way {
    /// What this version has.
    pub fn of(qemu: &Qemu) -> Vec<Way> {
        let mapped = (qemu.release() >= (9, 0)).then_some(Way::Mapped);
        [Way::Savevm, Way::File].into_iter().chain(mapped).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Way::Savevm => "savevm",
            Way::File => "migrate file:",
            Way::Mapped => "mapped-ram",
        }
    }
}

/// A QEMU and the files of its machine.
pub struct Peer<'a> {
    qemu: &'a Qemu,
    image: &'a Image,
    dir: TempDir,
    cpus: u32,
}

/// A process that runs, and its sockets.
struct Running {
    child: Child,
    monitor: BufReader<UnixStream>,
    port: u16,
    console: PathBuf,
}

impl Running {
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let text = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{text}")?;
        loop {
            let mut line = String::new();
            ensure!(self.monitor.read_line(&mut line)? > 0, "QEMU ended");
            let value: Value = serde_json::from_str(&line)?;
            if let Some(error) = value.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(answer) = value.get("return") {
                return Ok(answer.clone());
            }
        }
    }

    fn wait(&mut self, command: &str, key: &str, for_what: &str) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self.ask(command, json!({}))?;
            match answer[key].as_str() {
                Some(now) if now == for_what => return Ok(()),
                Some("failed") => bail!("{command}: {answer}"),
                _ => ensure!(Instant::now() < end, "{command} does not come to {for_what}: {answer}"),
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn console(&self) -> Result<Console> {
        Ok(Console::over(UnixStream::connect(&self.console)?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Peer<'a> {
    pub fn new(qemu: &'a Qemu, image: &'a Image, cpus: u32) -> Result<Peer<'a>> {
        // Beside the images, as our own files are.
        let store = image.dir.parent().and_then(Path::parent).context("the image lies nowhere")?;
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(store)?;
        let (disk, layer) = (image.dir.join("disk.raw"), dir.path().join("disk.qcow2"));
        let mut make = Command::new("qemu-img");
        make.args(["create", "-q", "-f", "qcow2"]);
        if disk.is_file() {
            make.args(["-F", "raw", "-b"]).arg(&disk).arg(&layer);
        } else {
            // `savevm` needs a file of that format to save into.
            make.arg(&layer).arg("1M");
        }
        ensure!(make.status().context("starting qemu-img")?.success(), "qemu-img failed");
        Ok(Peer { qemu, image, dir, cpus })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it with `more`, and connects to its monitor as soon as that is possible.
    fn start(&self, more: &[&str], keep: bool) -> Result<Running> {
        let (monitor, console, port) = (self.path("monitor"), self.path("console"), guest::free_port()?);
        let mut c = Command::new(&self.qemu.program);
        c.args(["-M", "virt", "-cpu", "rv64", "-m", "1G", "-smp", &self.cpus.to_string()]);
        c.args(["-display", "none", "-no-reboot", "-nodefaults"]);
        let append =
            format!("console=ttyS0 {}", self.image.cmdline.trim_start_matches("console=ttyS0").trim());
        c.arg("-kernel").arg(self.image.dir.join("kernel"));
        c.arg("-initrd").arg(self.image.dir.join("initrd")).args(["-append", &append]);
        let forward = format!("user,id=n,hostfwd=tcp:127.0.0.1:{port}-:{}", guest::PORT);
        c.args(["-netdev", &forward, "-device", "virtio-net-device,netdev=n"]);
        let drive = format!(
            "file={},format=qcow2,if=none,id=d{}",
            self.path("disk.qcow2").display(),
            if keep { "" } else { ",snapshot=on" }
        );
        c.args(["-drive", &drive, "-device", "virtio-blk-device,drive=d", "-device", "virtio-rng-device"]);
        for (option, path) in [("-serial", &console), ("-qmp", &monitor)] {
            let _ = std::fs::remove_file(path);
            c.arg(option).arg(format!("unix:{},server=on,wait=off", path.display()));
        }
        c.args(more).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = c.spawn().with_context(|| format!("starting {}", self.qemu.program.display()))?;
        let end = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(&monitor) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < end && child.try_wait()?.is_none() => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(e) => {
                    let _ = child.kill();
                    let status = child.wait()?;
                    bail!("QEMU opens no monitor ({e}, {status})");
                }
            }
        };
        let mut running = Running { child, monitor: BufReader::new(stream), port, console };
        running.ask("qmp_capabilities", json!({}))?;
        Ok(running)
    }

    /// Boots the machine and keeps it in all of `ways`, in rounds.
    pub fn keep(&self, ways: &[Way], rounds: usize, figures: &mut [Figures]) -> Result<()> {
        let mut machine = self.start(&[], true)?;
        machine.console()?.bring_up(self.image)?;
        for (way, figures) in ways.iter().zip(figures) {
            for _ in 0..rounds {
                let start = Instant::now();
                self.save(&mut machine, *way)?;
                let took = start.elapsed().as_secs_f64() * 1e3;
                figures.add("suspend", took);
                if *way == Way::Savevm {
                    figures.add("snapshot: machine stands still", took);
                } else {
                    machine.ask("cont", json!({}))?;
                }
            }
        }
        Ok(())
    }

    fn save(&self, machine: &mut Running, way: Way) -> Result<()> {
        if way == Way::Savevm {
            let said = machine.ask("human-monitor-command", json!({ "command-line": "savevm one" }))?;
            ensure!(said.as_str() == Some(""), "savevm: {said}");
            return Ok(());
        }
        self.set_mapped(machine, way)?;
        let file = self.path(way.name());
        // Its usual limit is a network's.
        machine.ask("migrate-set-parameters", json!({ "max-bandwidth": 1u64 << 40 }))?;
        machine.ask("stop", json!({}))?;
        machine.ask("migrate", json!({ "uri": self.uri(&file, "cat >") }))?;
        machine.wait("query-migrate", "status", "completed")
    }

    fn set_mapped(&self, machine: &mut Running, way: Way) -> Result<()> {
        if self.qemu.release() >= (9, 0) {
            let mapped = json!([{ "capability": "mapped-ram", "state": way == Way::Mapped }]);
            machine.ask("migrate-set-capabilities", json!({ "capabilities": mapped }))?;
        }
        Ok(())
    }

    /// A file's address: by its name where the version knows that, by `program` where not.
    fn uri(&self, file: &Path, program: &str) -> String {
        if self.qemu.release() >= (8, 2) {
            format!("file:{}", file.display())
        } else {
            format!("exec:{program} '{}'", file.display())
        }
    }

    /// From no process to a machine that answers.
    pub fn restore(&self, way: Way, figures: &mut Figures) -> Result<()> {
        let start = Instant::now();
        let mut machine = match way {
            Way::Savevm => self.start(&["-loadvm", "one"], true)?,
            Way::File | Way::Mapped => {
                let mut machine = self.start(&["-incoming", "defer"], false)?;
                self.set_mapped(&mut machine, way)?;
                let uri = self.uri(&self.path(way.name()), "cat");
                machine.ask("migrate-incoming", json!({ "uri": uri }))?;
                machine.wait("query-migrate", "status", "completed")?;
                machine.ask("cont", json!({}))?;
                machine
            }
        };
        machine.wait("query-status", "status", "running")?;
        let took = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        let mut add = |until: &str, ms: f64| {
            figures.add(&format!("resume: until {until}"), ms);
            figures.add(&format!("restore: until {until}"), ms);
        };
        add("its first instruction", took(start));
        let (console, tcp) = std::thread::scope(|s| -> Result<(f64, f64)> {
            let tcp = s.spawn(|| guest::echo(machine.port).map(|_| took(start)));
            machine.console()?.ask("")?;
            let console = took(start);
            Ok((console, tcp.join().map_err(|_| anyhow::anyhow!("a thread failed"))??))
        })?;
        add("its console answers", console);
        add("its service answers", tcp);
        Ok(())
    }
}

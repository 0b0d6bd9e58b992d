//! Tries a pull by hand, with QEMU as the building machine:
//! `cargo run -p strata-image --example pull -- STORE IMAGE [--allow-expired]`.
//! Only for developing this crate: the product uses its own machine.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use strata_image::*;

struct Qemu;

impl GuestRunner for Qemu {
    fn ready(&self, arch: strata_image::Arch) -> std::result::Result<Place, GuestError> {
        match arch {
            strata_image::Arch::Riscv64 => Ok(Place::Machine),
            other => Err(GuestError::Failed(format!("this example makes no images for {}", other.name()))),
        }
    }
    fn run(&self, job: GuestJob, console: &mut dyn FnMut(&[u8])) -> std::result::Result<(), GuestError> {
        let failed = |e: std::io::Error| GuestError::Failed(e.to_string());
        let mut c = Command::new("qemu-system-riscv64");
        c.args([
            "-M",
            "virt",
            "-cpu",
            "rv64",
            "-nographic",
            "-no-reboot",
            "-nic",
            "none",
            "-global",
            "virtio-mmio.force-legacy=false",
        ]);
        c.arg("-m").arg(format!("{}M", job.memory >> 20));
        c.arg("-kernel").arg(&job.kernel).arg("-initrd").arg(&job.initrd).args(["-append", &job.cmdline]);
        for (i, d) in job.disks.iter().enumerate() {
            c.arg("-drive").arg(format!("file={},format=raw,if=none,id=d{i},cache=unsafe", d.display()));
            c.arg("-device").arg(format!("virtio-blk-device,drive=d{i},bus=virtio-mmio-bus.{i}"));
        }
        let mut child = c.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let mut out = child.stdout.take().ok_or_else(|| GuestError::Failed("no output".into()))?;
        let mut log = std::env::var_os("CONSOLE_LOG").and_then(|p| std::fs::File::create(p).ok());
        let mut buf = [0u8; 4096];
        loop {
            match out.read(&mut buf).map_err(failed)? {
                0 => break,
                n => {
                    if let Some(log) = &mut log {
                        log.write_all(&buf[..n]).map_err(failed)?;
                    }
                    console(&buf[..n]);
                }
            }
        }
        match child.wait().map_err(failed)? {
            s if s.success() => Ok(()),
            s => Err(GuestError::Failed(s.to_string())),
        }
    }
}

struct Lines(Instant);

impl Progress for Lines {
    fn stage(&self, stage: Stage, done: u64, total: u64) {
        eprint!("\r{:7.1}s {} {done}/{total}      ", self.0.elapsed().as_secs_f32(), stage.label());
    }
    fn note(&self, text: &str) {
        eprintln!("\n{:7.1}s {text}", self.0.elapsed().as_secs_f32());
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(root), Some(image)) = (args.first(), args.get(1)) else {
        eprintln!("usage: pull STORE IMAGE [--allow-expired]");
        std::process::exit(64);
    };
    let progress = Lines(Instant::now());
    let cancel = Cancel::default();
    let host = Host {
        root: Path::new("/"),
        environment: Environment::of_process(),
        progress: &progress,
        cancel: &cancel,
        runner: &Qemu,
    };
    let request = PullRequest {
        image: image.clone(),
        allow_expired: args.iter().any(|a| a == "--allow-expired"),
        ..Default::default()
    };
    match Store::open(Path::new(root)).and_then(|store| pull(&store, &request, &host)) {
        Ok(image) => {
            let _ = writeln!(std::io::stderr());
            progress.note(&format!("{} in {}", image.record.name, image.dir.display()));
        }
        Err(e) => {
            eprintln!("\nerror: {e}");
            std::process::exit(1);
        }
    }
}

//! Runs a program on either engine; what comes back is its RAM, of which the log is a part.

use crate::diff::compare::describe;
use crate::diff::image::Image;
use crate::diff::layout::{LOG, RAM, RAM_SIZE, RECORD, SLOTS, TABLES};
use crate::{qemu, soft};
use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use strata_machine::Tier;

/// Longest run of one program.
const LIMIT: Duration = Duration::from_secs(30);

/// What a run left behind.
pub struct Outcome {
    /// The log.
    pub log: Vec<u8>,
    /// Page tables and scratch memory.
    pub memory: Vec<u8>,
    /// How long it took.
    pub time: Duration,
}

fn ram_of(image: &Image) -> Result<OwnedFd> {
    let fd = memfd_create("strata-diff", MemfdFlags::empty())?;
    ftruncate(&fd, RAM_SIZE)?;
    let file = File::from(fd);
    for (at, bytes) in &image.parts {
        file.write_all_at(bytes, at - RAM)?;
    }
    Ok(file.into())
}

fn collect(image: &Image, ram: &File, time: Duration) -> Result<Outcome> {
    let read = |at: u64, len: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        ram.read_exact_at(&mut bytes, at - RAM)?;
        Ok(bytes)
    };
    Ok(Outcome { log: read(LOG, image.log_len())?, memory: read(TABLES, 0x2_0000)?, time })
}

/// How far a run came, for the error of one that did not end.
fn progress(image: &Image, ram: &File) -> String {
    let mut word = [0; 8];
    for n in (1..=image.slots.len() as u64).rev() {
        let _ = ram.read_exact_at(&mut word, LOG + n * RECORD + 67 * 8 - RAM);
        if word != [0; 8] {
            let next = describe(image, n as usize - 1) + &describe(image, n as usize);
            return format!("seed {:#x}: the last slot with a record is {}: {next}", image.seed, n - 1);
        }
    }
    format!("seed {:#x}: no slot has a record (count at {SLOTS:#x})", image.seed)
}

/// Runs it on QEMU.
pub fn on_qemu(image: &Image) -> Result<Outcome> {
    let ram = File::from(ram_of(image)?);
    let mut c = qemu::command("virt,memory-backend=ram")?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), ram.as_raw_fd());
    c.args(["-m", "64M", "-serial", "none", "-bios", "none", "-object"]);
    c.arg(format!("memory-backend-file,id=ram,size=64M,mem-path={path},share=on"));
    let start = Instant::now();
    let (status, _) = qemu::run(c, LIMIT).with_context(|| progress(image, &ram))?;
    ensure!(status.success(), "QEMU ended with {status}");
    collect(image, &ram, start.elapsed())
}

/// Runs it on our hart, of one of its tiers.
pub fn on_soft(image: &Image, tier: Tier) -> Result<Outcome> {
    let ram = File::from(ram_of(image)?);
    let start = Instant::now();
    soft::run_bare(tier, ram.try_clone()?.into(), RAM, RAM_SIZE, LIMIT)
        .with_context(|| format!("{tier:?}"))
        .with_context(|| progress(image, &ram))?;
    collect(image, &ram, start.elapsed())
}

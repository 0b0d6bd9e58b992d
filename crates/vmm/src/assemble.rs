//! From a spec to a machine: opens everything that the spec names, and puts `strata_machine` behind our traits.
//!
//! Order: what costs nothing and fails often first (files, disks, ports), memory and threads last; whatever was
//! opened is closed again when a later step fails. Disks are shared with the machine behind a lock, so that they can
//! be flushed, and the outcome told, when the machine has let go of them.

use crate::console::stream_pair;
use crate::control::{Assembled, MachineControl};
use crate::convert::{now_ns, paragraph};
use crate::exit::{Error, Kind, Outcome, Result};
use crate::first_touch;
use crate::instances::snapshots::manifests;
use crate::lost;
use crate::name::random;
use crate::network::{self, Network, SharedNet};
use crate::randomness::entropy;
use crate::spec::{ConsoleSpec, DiskSpec, VmmSpec};
use rustix::fs::{FileType, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use strata_block::{Chain, Disk, OpenDisk, OpenOptions, Staged};
use strata_engine::hot::HotPaths;
use strata_machine::loader::{LoadError, Placement, Source};
use strata_machine::{BuildError, ConsoleFds, Exit, Machine, MachineSpec, Nic, Refused, Resources, Restore};
use strata_snapshot::{FlowRef, Manifest, SetReader, SetWriter};

/// Host code that is kept for each hart of a clone, in bytes: what a Debian boot makes.
const CLONE_CODE: usize = 8 << 20;

/// Opens all that `spec` names and builds the machine.
pub(crate) fn assemble(spec: &VmmSpec) -> Result<Assembled> {
    let placement = Placement {
        firmware: source(spec.firmware.as_deref(), "firmware")?,
        kernel: source(spec.kernel.as_deref(), "kernel")?,
        initrd: source(spec.initrd.as_deref(), "initrd")?,
    };
    // Checked before anything of the host is taken for it.
    let restore = spec.restore.as_deref().map(|dir| restore(dir, spec)).transpose()?;
    let restored_from = restore.as_ref().and_then(|r| r.from.clone());
    let mut notes = Vec::new();
    let mut disks = Vec::new();
    for d in &spec.disks {
        let disk = open_disk(d, &spec.name)?;
        notes.extend(disk.notes());
        disks.push(SharedDisk {
            size: disk.size(),
            read_only: disk.read_only(),
            disk: Arc::new(Mutex::new(Some(disk))),
        });
    }
    let Network { backend, user, claim } = network::open(spec)?;
    let resets = user.as_ref().map_or(0, |net| net.reset(restore.as_ref().map_or(&[], |r| &r.flows)));
    if resets > 0 {
        let were = if resets == 1 { "connection was" } else { "connections were" };
        notes.push(format!(
            "{resets} {were} open in its user-mode network when it was saved; the guest is told by a reset."
        ));
    }
    let nics: Vec<Nic> = backend.into_iter().map(|backend| Nic { backend, mac: spec.mac }).collect();
    let (ours, theirs) = stream_pair()?;
    let input = fcntl_dupfd_cloexec(&theirs, 3).map_err(|e| Error::io("set up the console", e))?;
    let machine_spec = MachineSpec {
        harts: spec.cpus,
        memory: spec.memory,
        cmdline: spec.cmdline.clone(),
        deterministic: spec.deterministic.is_some(),
        slots: MachineSpec::usual_slots(disks.len(), nics.len()),
    };
    let resources = Resources {
        tier: spec.tier.map(Into::into),
        // Beside a hundred others.
        code_size: spec.renewed.then_some(CLONE_CODE),
        // Somebody may be there to keep up with; a file has time.
        pace: !matches!(spec.console, ConsoleSpec::File { .. }),
        restore: restore.map(|r| r.moment),
        placement,
        console: ConsoleFds { input, output: theirs },
        disks: disks.iter().map(|d| Box::new(d.clone()) as Box<dyn Disk>).collect(),
        nics,
        entropy: entropy(spec.deterministic, 0),
        boot_entropy: entropy(spec.deterministic, 1),
    };
    let machine = strata_machine::build(&machine_spec, resources)?;
    notes.extend(machine.note().map(paragraph));
    let paths: Vec<_> = spec.disks.iter().map(|d| d.path.clone()).collect();
    let to_flush = Mutex::new(disks.clone());
    let flush = move || paths.iter().zip(disks).filter_map(|(path, disk)| close(path, disk)).collect();
    Ok(Assembled {
        over_file: machine.over_file(),
        machine: Box::new(Real {
            tier: machine.tier().name(),
            name: spec.name.clone(),
            restored_from,
            staged: Mutex::default(),
            disks: to_flush,
            net: user,
            resets,
            claim: Mutex::new(claim),
            machine: RwLock::new(Some(machine)),
        }),
        console: ours,
        flush: Box::new(flush),
        notes,
    })
}

/// Opens a file to load from: a regular file only, since it is read again at every reset.
fn source(path: Option<&Path>, what: &str) -> Result<Option<Source>> {
    let Some(path) = path else { return Ok(None) };
    let name = path.display().to_string();
    // A FIFO under that name must not hang us.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|e| Error::io(format_args!("open the {what} {name}"), e))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| Error::io(format_args!("look at {name}"), e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let m = format!("The {what} {name} is not a regular file: copy what it should be to one.");
        return Err(Error::new(Kind::BadInput, m));
    }
    if stat.st_size == 0 {
        return Err(Error::new(
            Kind::BadInput,
            format!("The {what} {name} is empty: fetch or build it again."),
        ));
    }
    Ok(Some(Source { file, name }))
}

/// The moment that is saved in `dir`, checked, with its memory mapped.
fn restore(dir: &Path, spec: &VmmSpec) -> Result<Saved> {
    let set = SetReader::open(dir)?;
    let m = &set.manifest().machine;
    if (m.cpus, m.memory) != (spec.cpus, spec.memory) {
        let text = format!(
            "What is saved in {} is of a machine with {} CPUs and {} MiB; {} has {} and {}.",
            dir.display(),
            m.cpus,
            m.memory >> 20,
            spec.name,
            spec.cpus,
            spec.memory >> 20
        );
        return Err(Error::new(Kind::BadInput, text));
    }
    let generation = if spec.renewed { Some(random::<16>()?) } else { None };
    let manifest = set.manifest();
    let passed = match (spec.advance, manifest.stood) {
        (false, _) => 0,
        (true, Some(stood)) => now_ns().saturating_sub(stood),
        (true, None) => {
            let m = format!(
                "{} does not say when it was saved: resume it without --clock advance.",
                dir.display()
            );
            return Err(Error::new(Kind::BadInput, m));
        }
    };
    let ram = set.memory().map(strata_machine::ram_base())?;
    if let Some(dir) = &spec.first_touch {
        first_touch::begin(&ram, &set.manifest().id, dir);
    }
    let from = match set.manifest() {
        kept if !kept.tag.is_empty() => Some(kept.id.clone()),
        // Of a machine that was suspended nothing stays but the snapshot that it stands on.
        suspended => {
            let kept = spec.instance_dir.as_deref().and_then(|dir| manifests(dir).ok()).unwrap_or_default();
            let below = suspended.below.first().map(|l| &l.sha256);
            let is_below = |m: &Manifest| Some(&m.memory.sha256) == below;
            let found = kept.into_iter().find_map(|(_, m)| m.ok().filter(is_below));
            found.iter().for_each(|_| set.memory().mark_uppermost(&ram));
            found.map(|m| m.id)
        }
    };
    let moment = Restore { generation, ram, state: set.state().to_vec(), passed };
    Ok(Saved { moment, from, flows: manifest.flows.clone() })
}

/// A saved moment.
struct Saved {
    moment: Restore,
    /// The id of the snapshot from which memory differs by what is marked as written.
    from: Option<String>,
    /// Connections that were open.
    flows: Vec<FlowRef>,
}

fn open_options(d: &DiskSpec, instance: &str) -> OpenOptions {
    OpenOptions {
        format: d.format.map(Into::into),
        read_only: d.read_only,
        chain: if d.base.is_none() && d.layers.is_empty() {
            Chain::SameDirectory
        } else {
            let layers = d.layers.iter().map(|l| (l.clone(), strata_block::Format::Qcow2));
            let base = d.base.iter().map(|(path, format)| (path.clone(), (*format).into()));
            Chain::Given(layers.chain(base).collect())
        },
        ..OpenOptions::new(&d.path, instance)
    }
}

pub(crate) fn open_disk(d: &DiskSpec, instance: &str) -> Result<OpenDisk> {
    Ok(strata_block::open::open(open_options(d, instance))?)
}

/// A disk that the machine has and that we flush at the end.
#[derive(Clone)]
struct SharedDisk {
    size: u64,
    read_only: bool,
    /// None where it could not be opened again.
    disk: Arc<Mutex<Option<OpenDisk>>>,
}

impl SharedDisk {
    fn with(&self, f: impl FnOnce(&mut OpenDisk) -> std::io::Result<()>) -> std::io::Result<()> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let done =
            disk.as_mut().map_or_else(|| Err(std::io::Error::other("its file could not be opened again")), f);
        if done.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EFAULT)) {
            // The page of guest memory is gone. The guest must not hear of a bad disk before its end.
            lost::refused();
        }
        done
    }

    /// Goes on with a layer over what it has; where that fails, with that again, as `back` says.
    fn switch(&self, to: Staged, back: &DiskSpec, instance: &str) -> Result<()> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(old) = disk.take() else {
            return Err(Error::new(Kind::Io, "The machine has lost its disk."));
        };
        match to.put_on(old) {
            Ok(new) => *disk = Some(new),
            Err(e) => {
                *disk = Some(open_disk(back, instance)?);
                return Err(e.into());
            }
        }
        Ok(())
    }

    fn settle(&self) {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(e)) = disk.as_mut().map(OpenDisk::settle) {
            tracing::warn!("a layer of a disk stays without a lock: {e}");
        }
    }
}

type Slices<'a> = [vm_memory::VolatileSlice<'a>];

impl Disk for SharedDisk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&mut self, offset: u64, bufs: &Slices<'_>) -> std::io::Result<()> {
        self.with(|d| d.read(offset, bufs))
    }
    fn write(&mut self, offset: u64, bufs: &Slices<'_>) -> std::io::Result<()> {
        self.with(|d| d.write(offset, bufs))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.with(Disk::flush)
    }
    fn discard(&mut self, offset: u64, len: u64) -> std::io::Result<()> {
        self.with(|d| d.discard(offset, len))
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> std::io::Result<()> {
        self.with(|d| d.write_zeroes(offset, len, unmap))
    }
    fn abandon(&mut self) {
        // One that is gone needs no giving up.
        let _ = self.with(|d| {
            d.abandon();
            Ok(())
        });
    }
}

/// Makes a disk durable and closes it; a sentence if that failed.
fn close(path: &Path, mut disk: SharedDisk) -> Option<String> {
    if disk.read_only {
        return None;
    }
    let e = disk.flush().err()?;
    let shown = path.display();
    Some(format!("What was last written to disk {shown} could not be made durable and may be lost: {e}."))
}

/// The machine, until it is released.
struct Real {
    tier: &'static str,
    name: String,
    restored_from: Option<String>,
    /// A new layer of its first disk, which it does not have yet.
    staged: Mutex<Option<Staged>>,
    /// Until it is released, when somebody else flushes and closes them.
    disks: Mutex<Vec<SharedDisk>>,
    /// Its user-mode network, if it has one.
    net: Option<SharedNet>,
    resets: usize,
    /// The hold on its card's address, until it is released.
    claim: Mutex<Option<OwnedFd>>,
    machine: RwLock<Option<Machine>>,
}

impl Real {
    fn with<R>(&self, gone: R, f: impl FnOnce(&Machine) -> R) -> R {
        self.machine.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(gone, f)
    }

    fn ask(
        &self,
        f: impl FnOnce(&Machine) -> std::result::Result<(), Refused>,
    ) -> std::result::Result<(), String> {
        let gone = Err(Refused { phase: "ended", request: "do that" });
        self.with(gone, f).map_err(|e| paragraph(&e.to_string()))
    }
}

impl MachineControl for Real {
    fn start(&self) -> std::result::Result<(), String> {
        self.ask(Machine::start)
    }
    fn pause(&self) -> std::result::Result<(), String> {
        self.ask(|m| m.pause().map(|_| ()))
    }
    fn unpause(&self) -> std::result::Result<(), String> {
        self.ask(Machine::unpause)
    }
    fn reset(&self) -> std::result::Result<(), String> {
        self.ask(Machine::reset)
    }
    fn stop(&self) {
        self.with((), |m| {
            m.stop();
        });
    }
    fn phase(&self) -> &'static str {
        self.with("ended", |m| m.phase().name())
    }
    fn began(&self) -> Option<std::time::Instant> {
        self.with(None, Machine::began)
    }
    fn told(&self) -> Option<std::time::Instant> {
        self.with(None, Machine::told)
    }
    fn tier(&self) -> &'static str {
        self.tier
    }
    fn flush(&self) -> Result<()> {
        for disk in self.disks.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if !disk.read_only {
                disk.flush().map_err(|e| Error::io("make a disk durable", e))?;
            }
        }
        Ok(())
    }
    fn restored_from(&self) -> Option<String> {
        self.restored_from.clone()
    }
    fn stage_disk(&self, to: &DiskSpec) -> Result<()> {
        let staged = strata_block::stage(open_options(to, &self.name))?;
        *self.staged.lock().unwrap_or_else(PoisonError::into_inner) = Some(staged);
        Ok(())
    }
    fn switch_disk(&self, back: &DiskSpec) -> Result<()> {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        match (staged, disks.first()) {
            (Some(staged), Some(disk)) => disk.switch(staged, back, &self.name),
            _ => Ok(()),
        }
    }
    fn settle_disk(&self) {
        drop(self.staged.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(SharedDisk::settle);
    }
    fn save(&self, set: &mut SetWriter) -> Result<u32> {
        let gone = Error::new(Kind::Refused, "The machine has ended.");
        self.with(Err(gone), |m| {
            let state = m.save_state().map_err(|e| Error::new(Kind::Refused, paragraph(&e.to_string())))?;
            Ok(set.begin(m.ram(), state)?)
        })
    }
    fn hot_paths(&self) -> HotPaths {
        self.with(HotPaths::default(), Machine::hot_paths)
    }
    fn warm(&self, paths: HotPaths) {
        self.with((), |m| m.warm(paths));
    }
    fn open_flows(&self) -> Vec<FlowRef> {
        self.net.as_ref().map_or(Vec::new(), SharedNet::flows)
    }
    fn resets(&self) -> usize {
        self.resets
    }
    fn abandon(&self, why: String) {
        self.with((), |m| m.abandon(why));
    }
    fn wait(&self) -> Outcome {
        match self.with(Exit::Stopped, Machine::wait) {
            Exit::PowerOff(code) => Outcome::PowerOff { code },
            Exit::Stopped => Outcome::Stopped { by: String::new() },
            Exit::Stuck(why) => Outcome::Stuck { why: why.trim_end().to_owned() },
        }
    }
    fn release(&self) {
        // Dropping it joins its threads, and so closes its end of the console after the last output.
        drop(self.machine.write().unwrap_or_else(PoisonError::into_inner).take());
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.claim.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl From<BuildError> for Error {
    fn from(e: BuildError) -> Error {
        let kind = match &e {
            BuildError::Spec(_) => Kind::Config,
            BuildError::Tier(_) => Kind::Host,
            BuildError::Load(LoadError::Read { .. }) => Kind::Io,
            BuildError::Load(LoadError::NotBootable { .. } | LoadError::CutShort { .. }) => Kind::BadInput,
            BuildError::Load(LoadError::NoRoom { .. }) => Kind::Config,
            BuildError::State(_) => Kind::BadInput,
            BuildError::Memory(_) | BuildError::Device(_) | BuildError::Thread(_) => Kind::Host,
            BuildError::Tree(_) | BuildError::Bus(_) => Kind::Internal,
        };
        Error::new(kind, paragraph(&e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::NetSpec;

    fn refused(change: impl FnOnce(&mut VmmSpec)) -> Error {
        let mut spec = VmmSpec { net: NetSpec::None, ..VmmSpec::new("a") };
        change(&mut spec);
        assemble(&spec).map(|_| ()).unwrap_err()
    }

    #[test]
    fn files_that_cannot_be_started_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: &str| dir.path().join(n);
        std::fs::write(path("empty"), b"").unwrap();
        std::fs::write(path("text"), b"#!/bin/sh\n").unwrap();
        let fifo = path("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
        for (name, kind) in [
            ("absent", Kind::NotFound),
            ("empty", Kind::BadInput),
            ("text", Kind::BadInput),
            ("fifo", Kind::BadInput),
            (".", Kind::BadInput),
        ] {
            let e = refused(|s| s.kernel = Some(path(name)));
            assert_eq!(e.kind, kind, "{e}");
            assert!(e.message.contains(&path(name).display().to_string()), "{e}");
        }
    }

    #[test]
    fn a_disk_or_a_port_that_is_taken_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, kernel) = (dir.path().join("d"), dir.path().join("k"));
        std::fs::write(&disk, vec![0; 4096]).unwrap();
        std::fs::write(&kernel, b"x").unwrap();
        let spec = DiskSpec {
            path: disk.clone(),
            read_only: false,
            format: Some(crate::DiskFormat::Raw),
            base: None,
            layers: vec![],
        };
        let held = open_disk(&spec, "other").unwrap();
        let e = refused(|s| {
            s.kernel = Some(kernel.clone());
            s.disks.push(spec.clone());
        });
        assert_eq!(e.kind, Kind::InUse, "{e}");
        drop(held);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = port.local_addr().unwrap().port();
        let e = refused(|s| {
            s.kernel = Some(kernel);
            s.disks.push(spec);
            s.net = NetSpec::User { forwards: vec![format!("{number}:22")] };
        });
        assert_eq!(e.kind, Kind::InUse, "{e}");
    }
}

//! From a spec to a machine: opens everything that the spec names, and puts `strata_machine` behind our traits.
//!
//! Order: what costs nothing and fails often first (files, disks, ports), memory and threads last; whatever was
//! opened is closed again when a later step fails. Disks are made durable by a thread of their own meanwhile.

use crate::arch;
use crate::console::stream_pair;
use crate::control::{Assembled, MachineControl};
use crate::convert::{now_ns, paragraph};
use crate::disks::{SharedDisk, close, open_options, settle_in};
use crate::exit::{Error, Kind, Outcome, Result};
use crate::first_touch::FirstTouches;
use crate::instances::snapshots::readable;
use crate::name::random;
use crate::network::{self, Network, Place};
use crate::randomness::entropy;
use crate::spec::{ConsoleSpec, DiskSpec, VmmSpec};
use rustix::fs::{FileType, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use strata_block::{Disk, OpenOptions, Recording, Staged};
use strata_engine::hot::HotPaths;
use strata_kvm::KvmError;
use strata_machine::loader::{LoadError, Placement, Source};
use strata_machine::{
    Arrivals, BuildError, ConsoleFds, Exit, Machine, MachineSpec, Nic, Refused, Resources, Restore,
};
use strata_memory::GuestRam;
use strata_migration::wire::Guest;
use strata_net::{Left, Port};
use strata_snapshot::{FlowRef, Manifest, SetReader, SetWriter};

/// Host code that is kept for each hart of a clone, in bytes: what a Debian boot makes.
const CLONE_CODE: usize = 8 << 20;

/// Opens all that `spec` names and builds the machine.
pub(crate) fn assemble(spec: &VmmSpec) -> Result<Assembled> {
    // Checked before anything of the host is taken for it.
    let saved = spec.restore.as_deref().map(|dir| restore(dir, spec)).transpose()?;
    assemble_from(spec, saved, None)
}

/// The same, to go on from a moment that is here already, with disks that are open if some are given.
pub(crate) fn assemble_from(
    spec: &VmmSpec,
    restore: Option<Saved>,
    open: Option<Vec<SharedDisk>>,
) -> Result<Assembled> {
    let placement = Placement {
        firmware: source(spec.firmware.as_deref(), "firmware")?,
        kernel: source(spec.kernel.as_deref(), "kernel")?,
        initrd: source(spec.initrd.as_deref(), "initrd")?,
    };
    let restored_from = restore.as_ref().and_then(|r| r.from.clone());
    let first_touches = restore.as_ref().zip(spec.first_touch.as_ref());
    let first_touches = first_touches.and_then(|(r, dir)| FirstTouches::of(&r.moment.ram, &r.id, dir));
    let mut notes: Vec<String> =
        arch::ready(spec.arch, spec.engine, spec.cpu.as_deref())?.into_iter().collect();
    let opened = |d: &DiskSpec| {
        let recording = Recording::Later;
        let disk = strata_block::open::open(OpenOptions { recording, ..open_options(d, &spec.name) })?;
        Ok(SharedDisk::new(disk))
    };
    let disks = open.map_or_else(|| spec.disks.iter().map(opened).collect::<Result<Vec<_>>>(), Ok)?;
    let settling = settle_in(disks.clone())?;
    let Network { backend, place, claim } = network::open(spec)?;
    let resets = place.reset(restore.as_ref().map_or(&[], |r| &r.flows));
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
        board: spec.arch.board(),
        harts: spec.cpus,
        processor: spec.cpu.clone(),
        memory: spec.memory,
        cmdline: spec.cmdline.clone(),
        deterministic: spec.deterministic.is_some(),
        transport: spec.virtio.into(),
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
            tier: machine.tier(),
            name: spec.name.clone(),
            restored_from,
            staged: Mutex::default(),
            disks: to_flush,
            place,
            spec: spec.clone(),
            resets: AtomicUsize::new(resets),
            claim: Mutex::new(claim),
            first_touches: Mutex::new(first_touches),
            machine: RwLock::new(Some(machine)),
        }),
        console: ours,
        settle_in: Box::new(|| settling.finish()),
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
    let board = spec.arch.board();
    let (name, engine) = (board.name(), strata_machine::engine_of(board));
    if (m.board.as_str(), m.engine.as_str()) != (name, engine) {
        let text = format!(
            "What is saved in {} is of a machine with board {} on engine {}; {} has {name} on {engine}.",
            dir.display(),
            m.board,
            m.engine,
            spec.name
        );
        return Err(Error::new(Kind::BadInput, text));
    }
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
    let base = board.ram_regions(spec.memory).first().map_or(0, |(gpa, _)| *gpa);
    let ram = set.memory().map(base)?;
    let from = match set.manifest() {
        kept if !kept.tag.is_empty() => Some(kept.id.clone()),
        // Of a machine that was suspended nothing stays but the snapshot that it stands on.
        suspended => {
            let kept = spec.instance_dir.as_deref().and_then(|dir| readable(dir).ok()).unwrap_or_default();
            let below = suspended.below.first().map(|l| &l.sha256);
            let is_below = |m: &Manifest| Some(&m.memory.sha256) == below;
            let found = kept.into_iter().map(|(_, m)| m).find(is_below);
            found.iter().for_each(|_| set.memory().mark_uppermost(&ram));
            found.map(|m| m.id)
        }
    };
    let moment = Restore { generation, ram, state: set.state().to_vec(), passed };
    Ok(Saved { moment, id: manifest.id.clone(), from, flows: manifest.flows.clone() })
}

/// A saved moment.
pub(crate) struct Saved {
    /// Memory, state, and how it goes on.
    pub(crate) moment: Restore,
    /// Its id.
    pub(crate) id: String,
    /// The id of the snapshot from which memory differs by what is marked as written.
    pub(crate) from: Option<String>,
    /// Connections that were open.
    pub(crate) flows: Vec<FlowRef>,
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
    /// Where its card is.
    place: Place,
    spec: VmmSpec,
    resets: AtomicUsize,
    /// The hold on its card's address, until it is released.
    claim: Mutex<Option<OwnedFd>>,
    /// What is to be done about the pages that it touches first, once it runs.
    first_touches: Mutex<Option<FirstTouches>>,
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
        self.ask(Machine::start)?;
        // Not sooner: mapping pages and mapping memory keep each other waiting.
        let first = self.first_touches.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.into_iter().for_each(FirstTouches::begin);
        Ok(())
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
            if !disk.read_only() {
                disk.flush().map_err(|e| Error::io("make a disk durable", e))?;
            }
        }
        Ok(())
    }
    fn restored_from(&self) -> Option<String> {
        self.restored_from.clone()
    }
    fn ram(&self) -> Option<GuestRam> {
        self.with(None, |m| Some(m.ram().clone()))
    }
    fn collect_writes(&self) -> Result<()> {
        self.with(Ok(()), |m| m.collect_dirty().map_err(|e| Error::new(Kind::Host, paragraph(&e))))
    }
    fn logs_writes(&self) -> bool {
        self.with(false, Machine::logs_dirty)
    }
    fn stop_log(&self) {
        if let Err(e) = self.with(Ok(()), Machine::stop_log) {
            tracing::warn!("writes of {} are still logged: {e}", self.name);
        }
    }
    fn arrivals(&self) -> Option<Arc<Arrivals>> {
        self.with(None, |m| Some(m.arrivals().clone()))
    }
    fn begin_at(&self, state: &[u8], passed: u64, flows: &[FlowRef]) -> Result<()> {
        let gone = Error::new(Kind::Refused, "The machine has ended.");
        self.with(Err(gone), |m| {
            let bad = |e| Error::from(BuildError::State(e));
            m.load_state_after(state, passed).map_err(bad)
        })?;
        let resets = self.place.reset(flows);
        self.resets.store(resets, Ordering::Relaxed);
        Ok(())
    }
    fn state(&self) -> Result<Vec<u8>> {
        let gone = Error::new(Kind::Refused, "The machine has ended.");
        self.with(Err(gone), |m| {
            m.save_state().map_err(|e| Error::new(Kind::Refused, paragraph(&e.to_string())))
        })
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
    fn disks(&self) -> Vec<SharedDisk> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn settle_disk(&self) {
        drop(self.staged.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(SharedDisk::settle);
    }
    fn save(&self, set: &mut SetWriter) -> Result<u32> {
        let gone = Error::new(Kind::Refused, "The machine has ended.");
        self.with(Err(gone), |m| {
            let state = m.save_state().map_err(|e| Error::new(Kind::Refused, paragraph(&e.to_string())))?;
            // Last: reading a vCPU's state may be what has the kernel write to memory.
            m.collect_dirty().map_err(|e| Error::new(Kind::Host, paragraph(&e)))?;
            Ok(set.begin(m.ram(), state)?)
        })
    }
    fn stands_while_copied(&self) -> bool {
        self.with(false, Machine::writes_unseen)
    }
    fn hot_paths(&self) -> HotPaths {
        self.with(HotPaths::default(), Machine::hot_paths)
    }
    fn warm(&self, paths: HotPaths) {
        self.with((), |m| m.warm(paths));
    }
    fn open_flows(&self) -> Vec<FlowRef> {
        self.place.flows()
    }
    fn known(&self) -> Guest {
        self.place.known()
    }
    fn arrive(&self, known: &Guest) {
        self.place.arrive(known);
    }
    fn hold_address(&self) -> Result<()> {
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        if claim.is_none() {
            *claim = network::hold(&VmmSpec { share_mac: false, ..self.spec.clone() })?;
        }
        Ok(())
    }
    fn leave_network(&self) -> Option<Left> {
        drop(self.claim.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.port()?.leave()
    }
    fn port(&self) -> Option<Port> {
        if let Place::Port(port) = &self.place { Some(port.clone()) } else { None }
    }
    fn come_back_to_network(&self) -> Result<()> {
        if let Place::Port(port) = &self.place {
            port.come_back()?;
        }
        self.hold_address()
    }
    fn resets(&self) -> usize {
        self.resets.load(Ordering::Relaxed)
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
        // The card's port is known here too, and would be held until this process has gone.
        if let Place::Port(port) = &self.place {
            port.close();
        }
        drop(self.leave_network());
    }
}

impl From<BuildError> for Error {
    fn from(e: BuildError) -> Error {
        let kind = match &e {
            BuildError::Spec(_) => Kind::Config,
            BuildError::Kvm(KvmError::Permission { .. }) => Kind::Permission,
            BuildError::Kvm(KvmError::Vcpus { .. } | KvmError::UnknownFlag { .. }) => Kind::Config,
            BuildError::Kvm(_) | BuildError::Tier(_) => Kind::Host,
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
        let held = crate::disks::open_disk(&spec, "other").unwrap();
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

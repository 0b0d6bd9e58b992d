//! The disks of a machine that comes: which of them are here already, which are sent, and where those are put.
//!
//! ```text
//!  the instance's own   over the image's disk, which is found here by its digest, or sent    a new layer in the instance's folder
//!  a disk of the user's here it is the same file                                             opened when it is handed over
//!                       here it is not                                                       a new file, where --disk says
//! ```
//! That a file is the same is told by the record beside it: it names the source's process as its owner. One that is
//! shared is not opened before the source has let go of it, and then at a higher epoch than the source's.

use super::Arrival;
use crate::InstanceRecord;
use crate::disks::{SharedDisk, open_disk, open_options};
use crate::exit::{Error, Kind, Result};
use crate::instances::snapshots::fresh;
use crate::spec::{DiskFormat, DiskSpec, MAX_DISKS};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata_block::{Format, OpenOptions, Owner};
use strata_migration::wire::{DiskOffer, DiskWay, Holder, Offer};

/// Largest disk that is taken, in bytes.
const MAX_DISK: u64 = 1 << 50;
/// Bytes that are written to a disk before they are made durable, so that little is left at the end.
const DURABLE: u64 = 64 << 20;
/// In the folder of an instance that comes: the files outside of it that were made for it, a path a line.
const MADE: &str = "made-for-it";
/// How long a disk that was handed over may be held by a source that goes.
const LET_GO: Duration = Duration::from_secs(10);
/// Free space that a host keeps, in bytes.
const SPARE: u64 = 64 << 20;

/// Where a disk is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The instance's own: a layer in its folder.
    Own,
    /// A new file.
    New(PathBuf, DiskFormat),
    /// The same file as at the source, to be taken at this epoch.
    Same(PathBuf, u64),
    /// A file that is only read, the same as at the source.
    Read(PathBuf),
}

/// How the disks of an offered machine will come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    places: Vec<(Place, u64)>,
}

/// How a source sees whoever holds a disk.
pub(crate) fn holder(owner: &Owner, epoch: u64) -> Holder {
    let Owner { instance, host, host_key, boot, pid } = owner.clone();
    Holder { epoch, instance, host, host_key, boot, pid }
}

/// The same back.
pub(crate) fn owner(holder: &Holder) -> Owner {
    let Holder { epoch: _, instance, host, host_key, boot, pid } = holder.clone();
    Owner { instance, host, host_key, boot, pid }
}

/// Finds out how the disks of `offer` can come, whose `record` is adapted to that.
pub(super) fn plan(ask: &Arrival, offer: &Offer, record: &mut InstanceRecord) -> Result<Plan> {
    let bad = |why: &str| Err(Error::new(Kind::BadInput, format!("The offered machine {why}.")));
    let own = usize::from(record.base.is_some() || !record.layers.is_empty());
    if offer.disks.len() != own + record.disks.len() || offer.disks.len() > MAX_DISKS {
        return bad("says two things about its disks");
    }
    if offer.disks.iter().any(|d| d.size == 0 || d.size > MAX_DISK || !d.size.is_multiple_of(512)) {
        return bad("has a disk of a size that none has");
    }
    let mut plan = Plan::default();
    let (own, given) = offer.disks.split_at(own);
    if let Some(d) = own.first() {
        if !d.copy || d.path.is_some() || d.read_only {
            return bad("does not send its own disk");
        }
        plan.places.push((Place::Own, d.size));
    }
    if ask.disks.len() > record.disks.len() {
        let m = format!(
            "The machine has {} disks that were given to it, and --disk was given {} times: give it once for each of them.",
            record.disks.len(),
            ask.disks.len()
        );
        return Err(Error::new(Kind::Config, m));
    }
    for (n, (spec, d)) in record.disks.iter_mut().zip(given).enumerate() {
        let place = place(ask.disks.get(n), spec, d)?;
        (spec.path, spec.format) = match &place {
            Place::New(path, format) => (path.clone(), Some(*format)),
            Place::Same(path, _) | Place::Read(path) => (path.clone(), spec.format),
            Place::Own => continue,
        };
        plan.places.push((place, d.size));
    }
    Ok(plan)
}

fn place(given: Option<&PathBuf>, spec: &DiskSpec, d: &DiskOffer) -> Result<Place> {
    let path = given.unwrap_or(&spec.path).clone();
    let shown = path.display();
    let say = "say with --disk where it is to be here";
    if spec.read_only != d.read_only {
        return Err(Error::new(Kind::BadInput, "The offered machine says two things about a disk."));
    }
    if !path.is_absolute() {
        return Err(Error::new(Kind::BadInput, format!("The disk {shown} has no full path: {say}.")));
    }
    let found = path.symlink_metadata().is_ok();
    // Which files of this host are read or made is not for the source to say. One that it has itself is found out below.
    if given.is_none() && (!found || d.read_only) && (d.copy || d.read_only) {
        let m = format!("{shown} is where the machine has a disk at its source: {say}.");
        return Err(Error::new(Kind::Refused, m));
    }
    if found && d.read_only {
        let size = open_disk(&DiskSpec { path: path.clone(), ..spec.clone() }, "receive")?;
        if strata_block::Disk::size(&size) != d.size {
            let m =
                format!("The disk {shown}, which is only read, is another here than at the source: {say}.");
            return Err(Error::new(Kind::BadInput, m));
        }
        return Ok(Place::Read(path));
    }
    if found {
        let recorded = strata_block::recorded(&path).ok().flatten();
        let theirs = d.holder.as_ref().map(|h| (h.epoch, owner(h)));
        return match (recorded, theirs) {
            (Some(here), Some(there)) if here == there => Ok(Place::Same(path, here.0.saturating_add(1))),
            (_, None) => Err(Error::new(
                Kind::Refused,
                format!(
                    "The disk {shown} has no record beside it of who has it, so that it cannot be handed over: move it \
                     into a folder that can be written."
                ),
            )),
            _ => Err(Error::new(
                Kind::Refused,
                format!("{shown} is here, and is not the disk that the machine has at its source: {say}."),
            )),
        };
    }
    if !d.copy {
        let m = format!(
            "The machine has the disk {shown}, which is not here: make it seen under that name, {say}, or send it with \
             --with-disks."
        );
        return Err(Error::new(Kind::Refused, m));
    }
    match path.parent().filter(|dir| dir.is_dir()) {
        Some(_) if d.format == "raw" => Ok(Place::New(path, DiskFormat::Raw)),
        Some(_) => Ok(Place::New(path, DiskFormat::Qcow2)),
        None => {
            let m = format!("The disk {shown} would be in a folder that is not here: {say}.");
            Err(Error::new(Kind::Refused, m))
        }
    }
}

impl Plan {
    /// The answer to the source.
    pub(super) fn ways(&self) -> Vec<DiskWay> {
        let way = |(p, _): &(Place, u64)| match p {
            Place::Own | Place::New(..) => DiskWay::Copied,
            Place::Same(..) | Place::Read(_) => DiskWay::Shared,
        };
        self.places.iter().map(way).collect()
    }

    /// Whether there is room for what will be sent. (Of the disk that the instance's own is over it is not known how much
    /// of it are holes.)
    pub(super) fn room(&self, offer: &Offer, instances: &Path) -> Result<()> {
        for ((place, _), d) in self.places.iter().zip(&offer.disks) {
            let dir = match place {
                Place::Own => instances,
                Place::New(path, _) => path.parent().unwrap_or(path),
                _ => continue,
            };
            let fs = rustix::fs::statvfs(dir);
            let fs = fs.map_err(|e| Error::io(format_args!("look at {}", dir.display()), e))?;
            let free = fs.f_bavail.saturating_mul(fs.f_frsize).saturating_sub(SPARE);
            if free < d.bytes {
                let m = format!(
                    "There are {} MiB free in {}, and a disk of the machine needs {} MiB.",
                    free >> 20,
                    dir.display(),
                    d.bytes >> 20
                );
                return Err(Error::new(Kind::CannotCreate, m));
            }
        }
        Ok(())
    }

    /// Lets `record` name the layers that the instance's own disk will have.
    pub(super) fn name(&self, record: &mut InstanceRecord) -> Result<()> {
        record.layers.clear();
        record.layer = crate::instances::LAYER.to_owned();
        if record.base.is_none() && self.places.iter().any(|(p, _)| *p == Place::Own) {
            // Over nothing, which has to be a layer, too.
            record.layers = vec![format!("disk-{}.qcow2", fresh()?)];
        }
        Ok(())
    }

    /// Opens what will be sent, made anew, and leaves room for what will be handed over. What the layers are over is whole.
    pub(super) fn open(&self, record: &InstanceRecord, dir: &Path) -> Result<Disks> {
        let mut all = Vec::new();
        let mut given = record.disks.iter();
        let (mut made, mut list) = (Made(Vec::new()), Vec::new());
        for path in
            self.places.iter().filter_map(|(p, _)| if let Place::New(p, _) = p { Some(p) } else { None })
        {
            list.extend(path.as_os_str().as_bytes());
            list.push(0);
        }
        if !list.is_empty() {
            // Should this process die, whoever clears up after it knows them.
            let fail = |e| Error::io(format_args!("write {}", dir.join(MADE).display()), e);
            crate::instances::replace(dir, MADE, &list).map_err(fail)?;
        }
        for (place, size) in &self.places {
            let spec = match place {
                Place::Own => record.own_disk(dir),
                _ => given.next().cloned(),
            };
            let Some(spec) = spec else {
                return Err(Error::new(Kind::Internal, "A disk of the machine is in no record."));
            };
            let writable = DiskSpec { read_only: false, ..spec.clone() };
            let open = match place {
                Place::Own => {
                    match (&record.base, record.layers.first()) {
                        (Some((base, format)), _) => {
                            strata_block::create_overlay(&spec.path, base, (*format).into(), Some(*size))?;
                        }
                        (None, Some(under)) => {
                            strata_block::create_image(&dir.join(under), *size)?;
                            strata_block::create_overlay(&spec.path, &dir.join(under), Format::Qcow2, None)?;
                        }
                        (None, None) => {}
                    }
                    open_disk(&spec, &record.name)?
                }
                Place::New(path, format) => {
                    make(path, *format, *size)?;
                    made.0.push(path.clone());
                    open_disk(&writable, &record.name)?
                }
                Place::Same(..) => {
                    all.push(Coming { disk: SharedDisk::to_come(*size), taken: 0, since: 0, here: false });
                    continue;
                }
                Place::Read(_) => open_disk(&spec, &record.name)?,
            };
            let here = matches!(place, Place::Read(_));
            all.push(Coming { disk: SharedDisk::that_is(open, spec.read_only), taken: 0, since: 0, here });
        }
        Ok(Disks { all, made, dir: dir.to_owned() })
    }
}

fn make(path: &Path, format: DiskFormat, size: u64) -> Result<()> {
    match format {
        DiskFormat::Qcow2 => Ok(strata_block::create_image(path, size)?),
        DiskFormat::Raw => {
            let fail = |e| Error::io(format_args!("make {}", path.display()), e);
            let file = File::create_new(path).map_err(fail)?;
            file.set_len(size).and_then(|()| file.sync_all()).map_err(fail)?;
            File::open(path.parent().unwrap_or(path)).and_then(|d| d.sync_all()).map_err(fail)
        }
    }
}

/// A disk that comes.
struct Coming {
    disk: SharedDisk,
    /// Bytes that were sent.
    taken: u64,
    /// Of those, since they were last made durable.
    since: u64,
    /// It is here already, and nothing of it is sent.
    here: bool,
}

/// Files that were made for a machine: they go with this, unless it has come.
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| remove(path));
    }
}

fn remove(path: &Path) {
    // What cannot be removed is an unwanted file of a name that the user gave.
    let _ = std::fs::remove_file(path);
}

/// Removes the files outside of its folder that were made for an instance that will never come.
pub(super) fn clear_up(dir: &Path) {
    let list = std::fs::read(dir.join(MADE)).unwrap_or_default();
    let paths = list.split(|b| *b == 0).map(|path| Path::new(OsStr::from_bytes(path)));
    paths.filter(|path| path.is_absolute()).for_each(remove);
}

/// Disks that come.
pub(super) struct Disks {
    all: Vec<Coming>,
    made: Made,
    dir: PathBuf,
}

impl Disks {
    /// For the machine.
    pub(super) fn shared(&self) -> Vec<SharedDisk> {
        self.all.iter().map(|c| c.disk.clone()).collect()
    }

    fn coming(&mut self, n: u16) -> Result<&mut Coming> {
        let found = self.all.get_mut(usize::from(n)).filter(|c| !c.here);
        found.ok_or_else(|| Error::new(Kind::Protocol, "The source sends a disk that it was not asked for."))
    }

    /// Takes a piece of a disk: bytes, or so many zeroes.
    pub(super) fn take(&mut self, n: u16, at: u64, piece: std::result::Result<&[u8], u64>) -> Result<()> {
        let coming = self.coming(n)?;
        let fail = |e| Error::io("write a disk of the machine that comes", e);
        let len = match piece {
            Ok(bytes) => {
                coming.disk.put(at, &mut bytes.to_vec()).map_err(fail)?;
                bytes.len() as u64
            }
            Err(len) => {
                coming.disk.put_zeroes(at, len).map_err(fail)?;
                len
            }
        };
        coming.taken = coming.taken.saturating_add(len);
        coming.since = coming.since.saturating_add(len);
        if coming.since >= DURABLE {
            coming.since = 0;
            coming.disk.make_durable().map_err(fail)?;
        }
        Ok(())
    }

    /// Makes durable what has come.
    pub(super) fn make_durable(&mut self) -> Result<()> {
        for c in self.all.iter_mut().filter(|c| c.since > 0) {
            c.since = 0;
            c.disk.make_durable().map_err(|e| Error::io("make a disk durable that has come", e))?;
        }
        Ok(())
    }

    /// Whether all has come that was sent.
    pub(super) fn whole(&self, sent: &[u64]) -> bool {
        self.all.iter().map(|c| c.taken).eq(sent.iter().copied())
    }

    /// The source has let go of those that are handed over: they are ours.
    pub(super) fn take_over(&self, plan: &Plan, record: &InstanceRecord) -> Result<()> {
        let specs = record.disks.iter();
        let given = plan.places.iter().zip(&self.all).filter(|((p, _), _)| *p != Place::Own);
        for (((place, _), coming), spec) in given.zip(specs) {
            let Place::Same(_, epoch) = place else { continue };
            let options = || OpenOptions { epoch: Some(*epoch), ..open_options(spec, &record.name) };
            let until = Instant::now() + LET_GO;
            let disk = loop {
                match strata_block::open::open(options()) {
                    // A source that goes may hold it a moment longer.
                    Err(strata_block::DiskError::InUse { .. }) if Instant::now() < until => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    other => break other?,
                }
            };
            coming.disk.put_in(disk)?;
        }
        Ok(())
    }

    /// The machine has come: its disks stay.
    pub(super) fn keep(mut self) {
        self.made.0.clear();
        remove(&self.dir.join(MADE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_does_not_say_which_files_are_read_or_made_here() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        std::fs::write(&old, [7; 512]).unwrap();
        let asked = |path: &Path, read_only: bool, given: Option<&PathBuf>| {
            let spec =
                DiskSpec { path: path.to_owned(), read_only, format: None, base: None, layers: Vec::new() };
            let (path, format) = (Some(path.to_owned()), "raw".to_owned());
            let offer =
                DiskOffer { size: 512, path, format, read_only, holder: None, copy: !read_only, bytes: 512 };
            place(given, &spec, &offer).map_err(|e| e.message)
        };
        assert!(asked(&new, false, None).unwrap_err().contains("--disk"));
        assert!(asked(&old, true, None).unwrap_err().contains("--disk"));
        assert_eq!(asked(&new, false, Some(&new)), Ok(Place::New(new.clone(), DiskFormat::Raw)));
        assert_eq!(asked(&old, true, Some(&old)), Ok(Place::Read(old.clone())));
    }
}

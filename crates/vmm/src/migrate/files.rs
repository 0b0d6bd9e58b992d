//! Files that come with a machine: what it is started from, and the disk that its own layers are over. Holes are not sent.

use super::base::{Extents, digest, digest_of};
use crate::{Error, InstanceRecord, Kind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use strata_migration::link::Link;
use strata_migration::packing::FilePacking;
use strata_migration::wire::{FileOffer, Frame, MAX_PIECE, send};

/// The files that a machine is started from, by their roles.
pub(crate) const BOOT: [&str; 3] = ["firmware", "kernel", "initrd"];
/// The role and the name of the disk that the instance's own layers are over.
pub(crate) const BASE: &str = "base";
/// Most files with one machine.
pub(crate) const MAX_FILES: usize = 64;
/// Largest file that a machine is started from, in bytes.
const MAX_BOOT: u64 = 4 << 30;
/// Largest disk of an image, in bytes.
const MAX_BASE: u64 = 1 << 44;

/// A file to be sent.
pub(crate) struct Outgoing {
    pub(crate) offer: FileOffer,
    file: File,
}

/// Opens all files of an instance that go with it.
pub(crate) fn outgoing(record: &InstanceRecord) -> Result<Vec<Outgoing>> {
    let paths = [&record.firmware, &record.kernel, &record.initrd];
    let there = paths.into_iter().zip(BOOT).filter_map(|(p, role)| Some((p.as_ref()?, role)));
    let mut all = Vec::new();
    for (path, role) in there.chain(record.base.iter().map(|(p, _)| (p, BASE))) {
        let fail = |e| Error::io(format_args!("open {}", path.display()), e);
        let file = File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        // As its image has it: the destination looks for the same in its own images.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let offer = FileOffer { role: role.into(), name, size, sha256: Some(digest(path)?) };
        all.push(Outgoing { offer, file });
    }
    Ok(all)
}

impl Outgoing {
    /// Sends all of it as file number `n`, or as much as there is until `go_on`, which hears how many bytes each
    /// piece is on its way, says no more.
    pub(crate) fn send(
        &self,
        n: u16,
        (link, packing): (&mut Link, &mut FilePacking),
        go_on: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let fail = |e| Error::io(format_args!("read the {} to be sent", self.offer.role), e);
        let mut buf = vec![0; MAX_PIECE];
        let mut at = 0;
        for part in Extents::of(&self.file, self.offer.size) {
            let part = part.map_err(fail)?;
            at = part.start;
            while at < part.end {
                let most = usize::try_from(part.end - at).unwrap_or(MAX_PIECE).min(MAX_PIECE);
                let piece = buf.get_mut(..most).unwrap_or_default();
                self.file.read_exact_at(piece, at).map_err(fail)?;
                let mut going = Ok(());
                packing.send(link, (n, at), piece, |bytes| going = go_on(bytes))?;
                at += piece.len() as u64;
                going?;
            }
        }
        // A hole at its end has to be said, too.
        if at < self.offer.size { Ok(send(link, &Frame::File(n, self.offer.size, &[]))?) } else { Ok(()) }
    }
}

/// A file that comes in.
pub(crate) struct Incoming {
    file: File,
    path: PathBuf,
    size: u64,
    /// Up to where it is here.
    at: u64,
    /// Its digest, where that was said.
    digest: Option<String>,
}

/// A file of an offer that an image of this host has, whatever it is called there: the same, by its digest.
pub(crate) fn here(images: &Path, offer: &FileOffer) -> Option<PathBuf> {
    let said = offer.sha256.as_ref()?;
    let list = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    list(images).flat_map(|image| list(&image)).find(|path| {
        let fits = path.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == offer.size);
        // One that cannot be read is not used.
        fits && digest(path).is_ok_and(|d| d == *said)
    })
}

/// Makes the files of an offer in `dir`, empty yet, and lets `record`, of the instance that will be in `dir`, name them. None
/// for those that are `found` elsewhere.
pub(crate) fn incoming(
    offers: &[FileOffer],
    dir: &Path,
    record: &mut InstanceRecord,
    found: &[Option<PathBuf>],
) -> Result<Vec<Option<Incoming>>> {
    let bad = |why: &str| Error::new(Kind::BadInput, format!("The offered machine {why}."));
    if offers.len() > MAX_FILES {
        return Err(bad("comes with more files than a machine can have"));
    }
    let mut all = Vec::new();
    for (n, offer) in offers.iter().enumerate() {
        let role = BOOT.into_iter().chain([BASE]).find(|r| *r == offer.role);
        let role = role.ok_or_else(|| {
            bad(&format!("comes with a file `{:.30}` that this strata does not know", offer.role))
        })?;
        if offers.iter().skip(n + 1).any(|o| o.role == offer.role) {
            return Err(bad("has two files for one purpose"));
        }
        let (most, is_base) = if role == BASE { (MAX_BASE, true) } else { (MAX_BOOT, false) };
        if offer.size > most || offer.size == 0 {
            return Err(bad("has a file that is empty or too large to be started from"));
        }
        if found.get(n).is_some_and(Option::is_some) {
            all.push(None);
            continue;
        }
        let path = dir.join(role);
        let fail = |e| Error::io(format_args!("make {}", path.display()), e);
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(fail)?;
        file.set_len(offer.size).map_err(fail)?;
        if !is_base {
            // Room is found now, not in the middle.
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, offer.size)
                .or_else(|e| if e == rustix::io::Errno::OPNOTSUPP { Ok(()) } else { Err(fail(e.into())) })?;
        }
        all.push(Some(Incoming { file, path, size: offer.size, at: 0, digest: offer.sha256.clone() }));
    }
    let place = |role: &str| {
        let n = offers.iter().position(|o| o.role == role)?;
        Some(found.get(n).cloned().flatten().unwrap_or_else(|| dir.join(role)))
    };
    let slots = [&mut record.firmware, &mut record.kernel, &mut record.initrd];
    slots.into_iter().zip(BOOT).for_each(|(slot, role)| *slot = place(role));
    match (&mut record.base, place(BASE)) {
        (Some((path, _)), Some(at)) => *path = at,
        (None, None) => {}
        _ => return Err(bad("says two things about the disk that its own is over")),
    }
    Ok(all)
}

impl Incoming {
    /// Takes the next piece; what lies between it and the one before is a hole.
    pub(crate) fn take(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = at
            .checked_add(bytes.len() as u64)
            .filter(|end| at >= self.at && *end <= self.size && !self.whole());
        let Some(end) = end else {
            return Err(Error::new(
                Kind::Protocol,
                "The source sends pieces of a file that do not fit together.",
            ));
        };
        let fail = |e| Error::io(format_args!("write {}", self.path.display()), e);
        self.file.write_all_at(bytes, at).map_err(fail)?;
        self.at = end;
        if !self.whole() {
            return Ok(());
        }
        self.file.sync_all().map_err(fail)?;
        match &self.digest {
            Some(said) if digest_of(&self.file, &self.path)? != *said => {
                let m = format!("{} has not arrived as it is at the source.", self.path.display());
                Err(Error::new(Kind::BadInput, m))
            }
            _ => Ok(()),
        }
    }

    /// Whether all of it is here.
    pub(crate) fn whole(&self) -> bool {
        self.at == self.size
    }
}

//! A new layer that goes on top of an open disk, in as little time as can be: the machine stands still for it.
//!
//! ```text
//!   stage     open and lock the new file, with its record on the host's disk; open what lies under the disk
//!   put_on    close the disk, open it as a layer, and the new one over it: reads of headers and maps only
//!   settle    the old owner's record goes, its exclusive lock becomes a shared one
//! ```
//! Between the last two the old file stays locked for writing, so that at no moment another may write to it.

use std::fs::File;
use std::path::PathBuf;

use crate::DiskError;
use crate::lock::{FileLock, Lease, Owner, Recording, lock_shared};
use crate::open::{OpenDisk, OpenOptions, open_file};
use crate::qcow2::{Chain, Layer, Qcow2Disk};

/// See the module.
#[derive(Debug)]
pub struct Staged {
    options: OpenOptions,
    file: File,
    lease: Lease,
    /// What lies under the disk that it is to go over, nearest first.
    below: Vec<Layer>,
    shared: Vec<FileLock>,
}

/// Opens a new qcow2 layer. `options` are those with which it could be opened once the disk below is closed: its chain is
/// given, and begins with that disk.
///
/// # Errors
/// A [`DiskError`] of any kind.
pub fn stage(options: OpenOptions) -> Result<Staged, DiskError> {
    let file = open_file(&options.path, false)?;
    let lease = Lease::take(&file, &options.path, &options.owner, options.epoch, Recording::Now)?;
    let (mut below, mut shared) = (Vec::new(), Vec::new());
    if let Chain::Given(list) = &options.chain {
        for (path, format) in list.iter().skip(1) {
            let layer = Layer::open(path, *format)?;
            shared.push(lock_shared(&layer.file, path, &options.owner)?);
            below.push(layer);
        }
    }
    Ok(Staged { options, file, lease, below, shared })
}

/// What has to be done for the layer below once there is time.
#[derive(Debug)]
pub(crate) struct Unsettled {
    lease: Option<Lease>,
    file: File,
    path: PathBuf,
    owner: Owner,
}

impl Staged {
    /// Puts the layer on `disk`, which is flushed, and gives both as one disk.
    ///
    /// # Errors
    /// A [`DiskError`] of any kind: the disk is closed, and as it was.
    pub fn put_on(self, disk: OpenDisk) -> Result<OpenDisk, DiskError> {
        let Staged { options, file, mut lease, below, shared } = self;
        let (path, format, old) = disk.close();
        let top = Layer::open(&path, format)?;
        let copy = top.file.try_clone().map_err(|e| DiskError::from_io(&path, "open", e))?;
        let layers: Vec<Layer> = [top].into_iter().chain(below).collect();
        let paths = layers.iter().map(|l| l.path.clone()).collect();
        let disk = Qcow2Disk::open(file, &options.path, false, false, layers)?;
        lease.confirm();
        let unsettled = Unsettled { lease: old, file: copy, path, owner: options.owner };
        Ok(OpenDisk::stacked(Box::new(disk), lease, options.path, (paths, shared), unsettled))
    }
}

impl Unsettled {
    /// Gives the layer's shared lock.
    pub(crate) fn settle(self) -> Result<FileLock, DiskError> {
        drop(self.lease);
        lock_shared(&self.file, &self.path, &self.owner)
    }
}

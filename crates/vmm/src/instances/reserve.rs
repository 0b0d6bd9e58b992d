//! A place for an instance that comes from elsewhere: under its name from the beginning, and not to be started yet.

use super::saved::write_record;
use super::{InstanceRecord, MAKING, Store, lock_file, remove_tree, sync_dir};
use crate::{Error, Result};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// An instance that is yet to be; its lock is held.
#[derive(Debug)]
pub(crate) struct Reserved {
    dir: PathBuf,
    lock: OwnedFd,
}

impl Store {
    /// Makes the instance that `record` is about, which says that it is moving; `fill` makes its files in the folder that it
    /// will have, and may change the record.
    ///
    /// # Errors
    /// `CannotCreate` if it exists, or the host is full; those of `fill`. Nothing is left behind.
    pub(crate) fn reserve(
        &self,
        record: &mut InstanceRecord,
        fill: impl FnOnce(&Path, &mut InstanceRecord) -> Result<()>,
    ) -> Result<Reserved> {
        let _guard = self.guard()?;
        let (name, dir) = (record.name.clone(), self.free(&record.name)?);
        let making = self.dir.join(format!("{MAKING}{name}"));
        remove_tree(&making)?;
        let fail =
            |e: std::io::Error| Error::io(format_args!("make the instance {name} in {}", dir.display()), e);
        let made = (|| {
            fs::DirBuilder::new().mode(0o700).create(&making).map_err(fail)?;
            let lock =
                lock_file(&making, true)?.ok_or_else(|| fail(std::io::ErrorKind::WouldBlock.into()))?;
            fill(&making, record)?;
            // Paths are those that they will have.
            let boot = [&mut record.firmware, &mut record.kernel, &mut record.initrd];
            let base = record.base.iter_mut().map(|(path, _)| path);
            for file in boot.into_iter().flatten().chain(base) {
                if let Ok(own) = file.strip_prefix(&making) {
                    *file = dir.join(own);
                }
            }
            write_record(&making, record)?;
            fs::rename(&making, &dir).and_then(|()| sync_dir(&self.dir)).map_err(fail)?;
            Ok(Reserved { dir: dir.clone(), lock })
        })();
        if made.is_err() {
            let _ = remove_tree(&making);
        }
        made
    }
}

impl Reserved {
    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its lock, for whoever runs it.
    ///
    /// # Errors
    /// The host gives no descriptor.
    pub(crate) fn lock(&self) -> Result<OwnedFd> {
        self.lock.try_clone().map_err(|e| Error::io("hold the lock of an instance", e))
    }
}

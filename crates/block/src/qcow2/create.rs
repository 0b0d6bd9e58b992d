//! New qcow2 images: empty ones, and writable layers over a read-only file.
//!
//! A new image is durable, with its directory entry, before the call returns, unless the caller sees to that; if
//! anything fails, no file is left. An existing file is never overwritten. 64 KiB clusters, 16-bit refcounts, version 3: QEMU's defaults.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use imago::FormatCreateBuilder;
use imago::qcow2::Qcow2;

use super::header::Header;
use super::store::{Seal, Store};
use crate::{DiskError, Format, SECTOR};

/// Largest disk that is made: with 64 KiB clusters its L1 table stays far below the format's limit.
const MAX_SIZE: u64 = 1 << 50;

/// Makes an empty image of `size` bytes (a multiple of 512) at `path`.
///
/// # Errors
/// `Unsupported` if `path` exists, `TooSmall` for an impossible size, `NoSpace`, `Permission`, `Io`.
pub fn create_image(path: &Path, size: u64) -> Result<(), DiskError> {
    create(path, size, None, true)
}

/// Makes a writable layer at `path` over `backing`, which must never change from now on. `size` is the size of
/// the new disk in bytes, by default that of the backing file; a larger one reads as zeroes past its end.
///
/// The header names the backing file relative to the new image where both share a directory, else by its full
/// path; open such a layer with [`Chain::Given`](super::Chain::Given).
///
/// # Errors
/// As [`create_image`]; `TooSmall` also if `size` is less than the backing file's.
pub fn create_overlay(
    path: &Path,
    backing: &Path,
    format: Format,
    size: Option<u64>,
) -> Result<(), DiskError> {
    overlay(path, backing, format, size, true)
}

/// As [`create_overlay`], of the backing file's size; it is not durable yet when the call returns. That waits for
/// the host's disk, and is left to [`OpenDisk::settle_in`](crate::OpenDisk::settle_in) or to the caller.
///
/// # Errors
/// As [`create_overlay`].
pub fn lay_over(path: &Path, backing: &Path, format: Format) -> Result<(), DiskError> {
    overlay(path, backing, format, None, false)
}

fn overlay(
    path: &Path,
    backing: &Path,
    format: Format,
    size: Option<u64>,
    durable: bool,
) -> Result<(), DiskError> {
    let below = disk_size(backing, format)?;
    let size = size.unwrap_or(below);
    if size < below {
        return Err(DiskError::TooSmall {
            path: path.to_path_buf(),
            what: format!("{size} bytes were asked for, but {} has {below}", backing.display()),
            advice: "Ask for at least that; a disk can only grow.".to_string(),
        });
    }
    let name = header_name(path, backing)?;
    create(path, size, Some((name, format)), durable)
}

/// Size of the disk in `path`, rounded up to whole sectors.
fn disk_size(path: &Path, format: Format) -> Result<u64, DiskError> {
    let fail = |e| DiskError::from_io(path, "open the backing file", e);
    let file = File::open(path).map_err(fail)?;
    let len = crate::raw::length(&file).map_err(fail)?;
    match format {
        Format::Raw => {
            len.checked_next_multiple_of(SECTOR).ok_or_else(|| fail(io::ErrorKind::FileTooLarge.into()))
        }
        Format::Qcow2 => Ok(Header::read(&file, len, path)?.size),
    }
}

/// The backing file as the header will name it.
fn header_name(path: &Path, backing: &Path) -> Result<String, DiskError> {
    let real = backing.canonicalize().map_err(|e| DiskError::from_io(backing, "open the backing file", e))?;
    let dir = directory(path).canonicalize().map_err(|e| DiskError::from_io(path, "create", e))?;
    let name = match (real.parent() == Some(&dir), real.file_name()) {
        (true, Some(name)) => PathBuf::from(name),
        _ => real,
    };
    let text = name.to_str().filter(|t| t.len() <= 1023 && !t.split('/').next().unwrap_or("").contains(':'));
    text.map(str::to_string).ok_or_else(|| {
        DiskError::unsupported(
            backing,
            "its name cannot be written into a qcow2 header (not UTF-8, with a colon, or over 1023 bytes)",
            "Rename it.",
        )
    })
}

fn create(path: &Path, size: u64, backing: Option<(String, Format)>, durable: bool) -> Result<(), DiskError> {
    if size == 0 || !size.is_multiple_of(SECTOR) || size > MAX_SIZE {
        return Err(DiskError::TooSmall {
            path: path.to_path_buf(),
            what: format!("{size} bytes were asked for"),
            advice: format!("Ask for a multiple of 512 bytes, at most {MAX_SIZE}."),
        });
    }
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::AlreadyExists => DiskError::unsupported(
            path,
            "a file is there already",
            "Choose another name, or remove it first.",
        ),
        // Here "not found" can only be the directory.
        io::ErrorKind::NotFound => DiskError::NotFound { path: directory(path) },
        _ => DiskError::from_io(path, "create", e),
    };
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(fail)?;
    let made = format_file(&file, size, backing).and_then(|()| match durable {
        true => file.sync_all().and_then(|()| File::open(directory(path))?.sync_all()),
        false => Ok(()),
    });
    made.map_err(|e| {
        // The error that matters is the first one; what cannot be removed stays, named in that error.
        let _ = std::fs::remove_file(path);
        fail(e)
    })
}

fn format_file(file: &File, size: u64, backing: Option<(String, Format)>) -> io::Result<()> {
    let store = Store::new(file.try_clone()?, &Seal::default(), false)?;
    let mut builder = Qcow2::<Store>::create_builder(store).size(size);
    if let Some((name, format)) = backing {
        builder = builder.backing(name, format.to_string());
    }
    builder.create()
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

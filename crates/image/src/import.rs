//! Images from files of the user: a raw or qcow2 disk, with or without a kernel to boot it by.
//!
//! Only what tells the format apart is checked here; whether a qcow2 file is whole is the block layer's
//! to say when it opens it. A qcow2 that points to another file is refused: an image stands alone.

use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::progress::{Cancel, Progress, Stage};
use crate::record::{DiskFormat, DiskRecord, Image, KernelRecord, Record};
use crate::store::{Store, require_space};
use rustix::fs::SeekFrom as Seek;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const CHUNK: usize = 1 << 20;

/// What is imported, and as what.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Name of the new image.
    pub name: String,
    /// The disk's file, raw or qcow2.
    pub disk: PathBuf,
    /// A raw RISC-V kernel or a bzImage for x86, which says the architecture, if the disk does not boot by firmware alone.
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
}

/// Copies the files into the store; holes stay holes.
///
/// # Errors
/// [`Error::BadName`], [`Error::Exists`], [`Error::BadSetting`] or [`Error::Malformed`] for files that
/// cannot be used, and those of the file system.
pub fn import(
    store: &Store,
    request: &ImportRequest,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Image> {
    let file = File::open(&request.disk).map_err(|e| Error::io("read", &request.disk, e))?;
    let disk = recognize(&file, &request.disk)?;
    let kernel = request.kernel.as_deref().map(read).transpose()?;
    let arch = kernel.as_deref().map(Arch::of_kernel).transpose()?.unwrap_or_default();
    let held = store.lock(progress, cancel)?;
    let stage = store.stage(&held, &request.name)?;
    let meta = file.metadata().map_err(|e| Error::io("read", &request.disk, e))?;
    require_space(&stage.dir, meta.blocks().saturating_mul(512))?;
    copy(&file, meta.len(), &stage.dir.join(disk.format.file()), progress, cancel)?;
    let mut record = Record::new(&request.name, arch);
    record.disk = Some(disk);
    if let Some(bytes) = kernel {
        crate::kernel::write(&stage.dir.join("kernel"), &bytes)?;
        record.kernel =
            Some(KernelRecord { release: String::new(), version: String::new(), suite: String::new() });
        record.cmdline.clone_from(&request.cmdline);
        if let Some(initrd) = &request.initrd {
            crate::kernel::write(&stage.dir.join("initrd"), &read(initrd)?)?;
        }
    }
    store.commit(stage, record)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// Format and size, by the first bytes.
fn recognize(file: &File, path: &Path) -> Result<DiskRecord> {
    let bad = |why: &str| Error::malformed(format!("the disk {}", path.display()), why);
    let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if !meta.is_file() {
        return Err(bad("it is no regular file"));
    }
    let mut head = Vec::new();
    file.take(72).read_to_end(&mut head).map_err(|e| Error::io("read", path, e))?;
    let word = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let long = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    if head.starts_with(b"QFI\xfb") {
        let (Some(version), Some(backing), Some(size), Some(crypt)) = (word(4), long(8), long(24), word(32))
        else {
            return Err(bad("it is a qcow2 file cut short"));
        };
        return match (version, backing, crypt) {
            (2 | 3, 0, 0) => Ok(DiskRecord { format: DiskFormat::Qcow2, virtual_size: size }),
            (2 | 3, _, 0) => {
                Err(bad("it is a qcow2 layer over another file; flatten it first (qemu-img convert)"))
            }
            (2 | 3, ..) => Err(bad("it is encrypted")),
            _ => Err(bad("it is of a qcow2 version that is not known")),
        };
    }
    if meta.len() == 0 || !meta.len().is_multiple_of(512) {
        return Err(bad("it is neither qcow2 nor a whole number of 512-byte sectors: it may be cut short"));
    }
    Ok(DiskRecord { format: DiskFormat::Raw, virtual_size: meta.len() })
}

/// Copies data, not holes.
fn copy(from: &File, len: u64, to: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let io = |e| Error::io("write", to, e);
    let out = File::create(to).map_err(io)?;
    out.set_len(len).map_err(io)?;
    let mut buf = vec![0u8; CHUNK];
    let mut at = 0u64;
    while at < len {
        // File systems that know no holes answer with the position itself; none left is NXIO.
        at = match rustix::fs::seek(from, Seek::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => at,
            Err(e) => return Err(io(e.into())),
        };
        let end = rustix::fs::seek(from, Seek::Hole(at)).unwrap_or(len).min(len).max(at);
        while at < end {
            cancel.check()?;
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let part = buf.get_mut(..want).unwrap_or_default();
            let n = from.read_at(part, at).map_err(io)?;
            if n == 0 {
                return Ok(());
            }
            out.write_all_at(part.get(..n).unwrap_or_default(), at).map_err(io)?;
            at = at.saturating_add(n as u64);
            progress.stage(Stage::Save, at, len);
        }
    }
    progress.stage(Stage::Save, len, len);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn try_import(disk: &[u8], len: u64) -> (Result<Image>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        std::fs::write(&path, disk).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let request = ImportRequest { name: "mine".into(), disk: path, ..Default::default() };
        (import(&store, &request, &Silent, &Cancel::default()), dir)
    }

    #[test]
    fn a_raw_disk_keeps_data_and_holes() {
        let (image, _dir) = try_import(&[7u8; 1000], 64 << 20);
        let (path, format) = image.unwrap().disk().unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert!(format == DiskFormat::Raw && meta.len() == 64 << 20 && meta.blocks() < 1000);
        assert_eq!(std::fs::read(path).unwrap()[..1001], [&[7u8; 1000][..], &[0]].concat());
    }

    #[test]
    fn qcow2_is_recognized_and_bad_disks_are_refused() {
        let mut q = b"QFI\xfb\0\0\0\x03".to_vec();
        q.resize(104, 0);
        q[24..32].copy_from_slice(&(5u64 << 20).to_be_bytes());
        assert_eq!(try_import(&q, 104).0.unwrap().record.disk.unwrap().virtual_size, 5 << 20);
        for (at, value, want) in [(15, 9, "over another file"), (35, 1, "encrypted"), (7, 9, "version")] {
            let mut bad = q.clone();
            bad[at] = value;
            assert!(try_import(&bad, 104).0.unwrap_err().to_string().contains(want));
        }
        assert!(try_import(&q, 20).0.unwrap_err().to_string().contains("cut short"));
        assert!(try_import(b"x", 513).0.unwrap_err().to_string().contains("cut short"));
        let (empty, dir) = try_import(b"", 0);
        assert!(empty.is_err() && std::fs::read_dir(dir.path().join("s/images")).unwrap().count() == 0);
    }
}

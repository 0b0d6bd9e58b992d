//! What is written down about an image: `image.json`, one a folder.
//!
//! Fields are only ever added, with a default; `schema` counts changes that an older program must not
//! ignore. File names are fixed (`kernel`, `initrd`, `disk.raw` or `disk.qcow2`), so a record cannot
//! point outside its folder.

use crate::arch::Arch;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The schema this program writes.
pub const SCHEMA: u32 = 1;

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record's form.
    pub schema: u32,
    /// The name it goes by.
    pub name: String,
    /// Guest architecture: `riscv64` or `amd64`.
    pub arch: String,
    /// When it was made, RFC 3339, UTC.
    pub created: String,
    /// Kernel command line for direct boot; empty without a kernel.
    pub cmdline: String,
    /// The kernel, if the image has one.
    #[serde(default)]
    pub kernel: Option<KernelRecord>,
    /// The disk, if the image has one.
    #[serde(default)]
    pub disk: Option<DiskRecord>,
    /// Where it was pulled from; absent for imported images.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// Versions of the Debian packages in it, by name.
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
    /// Hash and length of the small files (kernel, initrd). A disk is not hashed: it is sparse and large.
    #[serde(default)]
    pub files: BTreeMap<String, FileRecord>,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub size: u64,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// `uname -r`, or empty if it was imported.
    pub release: String,
    /// Version of the Debian package, or empty.
    pub version: String,
    /// The suite it was taken from, or empty.
    #[serde(default)]
    pub suite: String,
}

/// The format of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Plain bytes.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Its format, which also gives its file's name.
    pub format: DiskFormat,
    /// What the guest sees, in bytes.
    pub virtual_size: u64,
}

/// Where a pulled image comes from, and what its own apt was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `13`, `forky` or `sid`.
    pub suite: String,
    /// `trixie`, `forky` or `sid`.
    pub codename: String,
    /// Date of the Release, as written in it.
    pub release_date: String,
    /// Fingerprint of the key that signed it.
    pub signed_by: String,
    /// The mirror.
    pub mirror: String,
    /// The proxy, if any.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Whether Valid-Until was enforced, and is in the image.
    pub check_valid_until: bool,
    /// Where mirror and settings were found.
    pub settings_from: String,
}

/// A record with its folder.
#[derive(Debug, Clone)]
pub struct Image {
    /// The folder.
    pub dir: PathBuf,
    /// What it says.
    pub record: Record,
}

impl Record {
    pub(crate) fn new(name: &str, arch: Arch) -> Record {
        Record {
            schema: SCHEMA,
            name: name.to_owned(),
            arch: arch.name().to_owned(),
            created: crate::time::rfc3339(crate::time::now()),
            cmdline: String::new(),
            kernel: None,
            disk: None,
            origin: None,
            packages: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    pub(crate) fn read(dir: &Path) -> Result<Record> {
        let path = dir.join("image.json");
        let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let bad = |why: String| Error::malformed(path.display().to_string(), why);
        let record: Record = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        if record.schema > SCHEMA {
            return Err(bad(format!(
                "it has schema {}, this program knows {SCHEMA}: use a newer one",
                record.schema
            )));
        }
        Ok(record)
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join("image.json");
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|e| Error::malformed("the image's record", e))?;
        text.push(b'\n');
        std::fs::write(&path, text).map_err(|e| Error::io("write", &path, e))
    }
}

impl DiskFormat {
    /// The file's name in the image's folder.
    pub fn file(self) -> &'static str {
        match self {
            DiskFormat::Raw => "disk.raw",
            DiskFormat::Qcow2 => "disk.qcow2",
        }
    }
}

impl Image {
    /// The kernel's file, if there is one.
    pub fn kernel(&self) -> Option<PathBuf> {
        self.record.kernel.as_ref().map(|_| self.dir.join("kernel"))
    }

    /// The initramfs's file, if there is one.
    pub fn initrd(&self) -> Option<PathBuf> {
        self.record.files.contains_key("initrd").then(|| self.dir.join("initrd"))
    }

    /// The disk's file and format, if there is one. It is shared: open it read-only.
    pub fn disk(&self) -> Option<(PathBuf, DiskFormat)> {
        self.record.disk.as_ref().map(|d| (self.dir.join(d.format.file()), d.format))
    }
}

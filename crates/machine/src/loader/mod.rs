//! What is put into RAM before the first instruction, and where the harts begin.
//!
//! Three ways in: a kernel with the machine as its firmware; an M-mode firmware, alone or with a payload; a bare
//! M-mode ELF program, with HTIF if it has the symbols for it. Nothing is kept in memory after loading: a reset
//! reads the files again.
//!
//! Placement (RAM starts at `base`), as QEMU's `virt` machine has it:
//! ```text
//! base              firmware (raw), or where its ELF says
//! base + 2 MiB      kernel Image (its text_offset), raw payload; ELF where it says
//! max(base + min(ram/2, 512 MiB), end of kernel)   initrd, page-aligned
//! below min(end of RAM, 3 GiB), 2 MiB-aligned      device tree
//! ```
//! Every file is hostile: sizes and addresses are checked against RAM and against each other.

mod elf;
mod image;
pub mod pc;
mod plan;
mod room;

pub use elf::{Elf, HtifSymbols};
pub use image::ImageHeader;
pub use plan::{Loaded, Placement, load};

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// A file to load from, with the name to use in messages. It stays open for resets.
#[derive(Debug)]
pub struct Source {
    /// The open file.
    pub file: File,
    /// What people call it: the path it was opened by.
    pub name: String,
}

/// Largest file that is loaded: no kernel or initrd is longer, and an endless file must end somewhere.
const MAX_FILE: u64 = 4 << 30;

/// Longest kernel after unpacking: a small file must not take all of the host's memory.
const MAX_UNPACKED: u64 = 1 << 30;

/// Why a kernel, firmware or initrd cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {name}: {source}")]
    Read {
        /// File.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not something that this machine can start.
    #[error("{name} is not {wanted}: {why}")]
    NotBootable {
        /// File.
        name: String,
        /// What was wanted.
        wanted: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The file ends before it should.
    #[error("{name} is cut short: it has {have} bytes, but its headers say {need}; fetch it again")]
    CutShort {
        /// File.
        name: String,
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// It does not fit.
    #[error(
        "{name} does not fit into the machine's {ram} MiB of memory ({why}); give the machine more memory"
    )]
    NoRoom {
        /// File or table.
        name: String,
        /// RAM in MiB.
        ram: u64,
        /// What collides.
        why: String,
    },
}

impl Source {
    /// Length in bytes.
    pub(crate) fn len(&self) -> Result<u64, LoadError> {
        let len = (&self.file).seek(SeekFrom::End(0)).map_err(|e| self.read_error(e))?;
        if len > MAX_FILE {
            return Err(self.not("a file that can be loaded", "it is longer than 4 GiB"));
        }
        Ok(len)
    }

    /// The whole content, unpacked if it is gzip (Debian's other architectures and Image.gz).
    pub(crate) fn content(&self) -> Result<Vec<u8>, LoadError> {
        let len = self.len()?;
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, 0).map_err(|e| self.read_error(e))?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut out = Vec::new();
            flate2::read::MultiGzDecoder::new(&bytes[..])
                .take(MAX_UNPACKED + 1)
                .read_to_end(&mut out)
                .map_err(|e| self.not("a whole gzip file", &e.to_string()))?;
            if out.len() as u64 > MAX_UNPACKED {
                return Err(self.not("a kernel", "it unpacks to more than 1 GiB"));
            }
            bytes = out;
        }
        Ok(bytes)
    }

    /// The content as it stands, for an initrd (whose compression is the kernel's affair) or a raw firmware.
    pub(crate) fn raw_content(&self) -> Result<Vec<u8>, LoadError> {
        let mut bytes = vec![0; self.len()? as usize];
        self.file.read_exact_at(&mut bytes, 0).map_err(|e| self.read_error(e))?;
        Ok(bytes)
    }

    /// The HTIF symbols, if this is an ELF program that has them.
    pub(crate) fn htif(&self) -> Result<Option<HtifSymbols>, LoadError> {
        let bytes = self.raw_content()?;
        if Elf::is_elf(&bytes) { Ok(Elf::parse(self, &bytes)?.htif) } else { Ok(None) }
    }

    pub(crate) fn read_error(&self, source: io::Error) -> LoadError {
        LoadError::Read { name: self.name.clone(), source }
    }

    pub(crate) fn not(&self, wanted: &'static str, why: &str) -> LoadError {
        LoadError::NotBootable { name: self.name.clone(), wanted, why: why.to_owned() }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

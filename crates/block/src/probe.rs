//! Which format is a disk file in? By its first bytes and its last sector, never by its name.
//!
//! A file without any known magic is raw: that includes ISO images, partition tables and bare file systems.
//! Formats that people often have, but Strata does not read, are refused by name with the command that converts
//! them, instead of booting a machine from garbage.
//!
//! Guessing has a trap: a guest can write another format's magic into the first sector of its raw disk, and have
//! the file taken for that format the next time. Disks that were *guessed* to be raw therefore refuse such writes
//! ([`crate::RawDisk::keep_raw`]); disks that were declared raw take them.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::DiskError;

/// Bytes needed from the file's start.
pub const HEAD: usize = 512;

/// A format that Strata reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        })
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            _ => Err(format!("unknown disk format '{text}': use raw or qcow2")),
        }
    }
}

/// One foreign format: where its magic stands, what it is called, how to get away from it.
struct Foreign {
    at: usize,
    magic: &'static [u8],
    name: &'static str,
    cure: Cure,
}

#[derive(Clone, Copy)]
enum Cure {
    Convert,
    Unpack(&'static str),
}

const fn foreign(at: usize, magic: &'static [u8], name: &'static str, cure: Cure) -> Foreign {
    Foreign { at, magic, name, cure }
}

const FOREIGN: &[Foreign] = &[
    foreign(0, b"QFI\xfb\0\0\0\x01", "a qcow image of version 1", Cure::Convert),
    foreign(0, b"KDMV", "a VMware image (VMDK)", Cure::Convert),
    foreign(0, b"COWD", "a VMware image (VMDK)", Cure::Convert),
    foreign(0, b"# Disk DescriptorFile", "the description of a VMware image (VMDK)", Cure::Convert),
    foreign(0, b"vhdxfile", "a Hyper-V image (VHDX)", Cure::Convert),
    foreign(0, b"conectix", "a Virtual PC image (VHD)", Cure::Convert),
    foreign(64, b"\x7f\x10\xda\xbe", "a VirtualBox image (VDI)", Cure::Convert),
    foreign(0, b"QED\0", "a QEMU image of the QED format", Cure::Convert),
    foreign(0, b"WithoutFreeSpace", "a Parallels image", Cure::Convert),
    foreign(0, b"WithouFreSpacExt", "a Parallels image", Cure::Convert),
    foreign(0, b"\x1f\x8b", "compressed with gzip", Cure::Unpack("gunzip -k")),
    foreign(0, b"\xfd7zXZ\0", "compressed with xz", Cure::Unpack("unxz -k")),
    foreign(0, b"\x28\xb5\x2f\xfd", "compressed with zstd", Cure::Unpack("unzstd")),
    foreign(0, b"BZh", "compressed with bzip2", Cure::Unpack("bunzip2 -k")),
    foreign(0, b"\x04\x22\x4d\x18", "compressed with lz4", Cure::Unpack("unlz4")),
    foreign(0, b"PK\x03\x04", "a zip archive", Cure::Unpack("unzip")),
    foreign(0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", Cure::Unpack("7z x")),
    foreign(257, b"ustar", "a tar archive", Cure::Unpack("tar xf")),
];

/// What the file's first bytes (up to [`HEAD`]) and its last sector say. The error is the foreign format's name
/// and what to do.
pub fn probe_bytes(head: &[u8], last: &[u8]) -> Result<Format, (String, String)> {
    let has = |bytes: &[u8], at: usize, magic: &[u8]| bytes.get(at..).is_some_and(|b| b.starts_with(magic));
    let convert = "Convert it with `qemu-img convert -O qcow2 OLD NEW`, and use NEW.".to_string();
    if let Some(f) = FOREIGN.iter().find(|f| has(head, f.at, f.magic)) {
        let advice = match f.cure {
            Cure::Convert => convert,
            Cure::Unpack(command) => format!(
                "Unpack it with `{command} FILE` and use what comes out; if these bytes really are the disk, say \
                 that its format is raw."
            ),
        };
        return Err((format!("it is {}", f.name), advice));
    }
    if has(last, 0, b"conectix") {
        return Err(("it is a Virtual PC image (VHD)".to_string(), convert));
    }
    if has(last, 0, b"koly") {
        return Err(("it is an Apple disk image (DMG)".to_string(), convert));
    }
    Ok(if has(head, 0, &crate::qcow2::header::MAGIC) { Format::Qcow2 } else { Format::Raw })
}

/// Probes an open file; `path` is for messages.
///
/// # Errors
/// `Unsupported` for a foreign format, `Io`.
pub fn probe(file: &File, path: &Path) -> Result<Format, DiskError> {
    let read = || -> std::io::Result<(Vec<u8>, Vec<u8>)> {
        let len = crate::raw::length(file)?;
        let mut head = vec![0; len.min(HEAD as u64) as usize];
        let mut last = head.clone();
        file.read_exact_at(&mut head, 0)?;
        let tail = len - last.len() as u64;
        file.read_exact_at(&mut last, tail)?;
        Ok((head, last))
    };
    let (head, last) = read().map_err(|e| DiskError::from_io(path, "read", e))?;
    probe_bytes(&head, &last).map_err(|(what, advice)| DiskError::unsupported(path, what, advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_bytes() {
        assert_eq!(probe_bytes(b"QFI\xfb\0\0\0\x03", b""), Ok(Format::Qcow2));
        assert_eq!(probe_bytes(&[0; 512], &[0; 512]), Ok(Format::Raw));
        assert_eq!(probe_bytes(b"", b""), Ok(Format::Raw));
        // An ISO's magic is far behind, a disk's boot sector ends in 55 aa: both are raw.
        let mut boot = [0; 512];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(probe_bytes(&boot, &boot), Ok(Format::Raw));
    }

    #[test]
    fn foreign_formats_are_named_with_a_cure() {
        for f in FOREIGN {
            let mut head = vec![0; 512];
            head[f.at..f.at + f.magic.len()].copy_from_slice(f.magic);
            let (what, advice) = probe_bytes(&head, &[]).unwrap_err();
            assert!(what.contains(f.name) && advice.contains('`'), "{what} {advice}");
        }
        assert!(probe_bytes(&[0; 512], b"conectix").unwrap_err().0.contains("VHD"));
        assert!(probe_bytes(&[0; 512], b"koly").unwrap_err().0.contains("DMG"));
    }
}

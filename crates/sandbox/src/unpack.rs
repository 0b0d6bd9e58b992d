//! Unpacks a `newc` cpio archive: folders, files and symbolic links. Format: Linux
//! Documentation/driver-api/early-userspace/buffer-format.rst. Devices are left out: a sandbox has none of its own.

use crate::Error;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

const HEADER: usize = 110;

/// Unpacks `archive` into the folder `to`, which should be empty.
///
/// # Errors
/// It is malformed, names a place outside of `to`, or cannot be written.
pub fn unpack(archive: &[u8], to: &Path) -> Result<(), Error> {
    let bad = |why: &str| {
        Error::host("unpacking its root file system")(io::Error::new(io::ErrorKind::InvalidData, why))
    };
    let mut rest = archive;
    loop {
        let header = rest.get(..HEADER).filter(|h| h.starts_with(b"070701"));
        let header = header.ok_or_else(|| bad("it is no cpio archive, or is cut short"))?;
        let field = |n: usize| {
            let digits = header.get(6 + 8 * n..14 + 8 * n).and_then(|d| std::str::from_utf8(d).ok());
            digits.and_then(|d| u32::from_str_radix(d, 16).ok()).ok_or_else(|| bad("a field is no number"))
        };
        let (mode, len, name_len) = (field(1)?, field(6)? as usize, field(11)? as usize);
        // Headers with their names are padded to four bytes, and so are contents.
        let start = (HEADER + name_len).next_multiple_of(4);
        let name = rest.get(HEADER..(HEADER + name_len).saturating_sub(1));
        let name =
            name.and_then(|n| std::str::from_utf8(n).ok()).ok_or_else(|| bad("a name is cut short"))?;
        let data = rest.get(start..start + len).ok_or_else(|| bad("a file is cut short"))?;
        if name == "TRAILER!!!" {
            return Ok(());
        }
        let path = Path::new(name);
        if !path.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(bad(&format!("{name} is outside of it")));
        }
        write(&to.join(path), mode, data).map_err(Error::host(format!("unpacking {name}")))?;
        rest = rest.get((start + len).next_multiple_of(4)..).unwrap_or_default();
    }
}

fn write(to: &Path, mode: u32, data: &[u8]) -> io::Result<()> {
    match mode & 0o170_000 {
        0o040_000 => fs::create_dir_all(to),
        0o100_000 => {
            // A new file: what a link before it points to is not written.
            let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(to)?;
            io::Write::write_all(&mut file, data)?;
            file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))
        }
        0o120_000 => {
            let target = std::str::from_utf8(data).map_err(io::Error::other)?;
            symlink(target, to)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
        let mut out = b"070701".to_vec();
        let fields = [0, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        out.extend(fields.iter().flat_map(|f| format!("{f:08x}").into_bytes()));
        out.extend(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(data);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn an_archive_becomes_files() {
        let dir = tempfile::tempdir().unwrap();
        let archive = [
            entry("a", 0o040_755, b""),
            entry("a/program", 0o100_755, b"seven!!"),
            entry("console", 0o020_600, b""),
            entry("link", 0o120_777, b"a/program"),
            entry("TRAILER!!!", 0, b""),
        ]
        .concat();
        unpack(&archive, dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("link")).unwrap(), b"seven!!");
        let mode = fs::metadata(dir.path().join("a/program")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        assert!(!dir.path().join("console").exists());
    }

    #[test]
    fn what_is_cut_or_leads_outside_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let good = [entry("f", 0o100_644, b"1234567"), entry("TRAILER!!!", 0, b"")].concat();
        for cut in 0..good.len() - 1 {
            let to = dir.path().join(cut.to_string());
            fs::create_dir(&to).unwrap();
            assert!(unpack(&good[..cut], &to).is_err(), "cut to {cut}");
        }
        for name in ["../x", "/x", "a/../../x"] {
            let e = unpack(&entry(name, 0o100_644, b"x"), dir.path()).unwrap_err().to_string();
            assert!(e.contains("outside"), "{e}");
        }
        // A link that an archive makes is not followed by what comes after it under the same name.
        let outside = dir.path().join("victim");
        fs::write(&outside, "untouched").unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let link = entry("l", 0o120_777, outside.to_str().unwrap().as_bytes());
        assert!(unpack(&[link, entry("l", 0o100_644, b"x")].concat(), &to).is_err());
        assert_eq!(fs::read(&outside).unwrap(), b"untouched");
    }
}

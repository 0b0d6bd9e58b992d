//! A Debian binary package, read without being installed. Format: deb(5), an `ar` archive of
//! `debian-binary`, `control.tar[.gz|.xz|.zst]` and `data.tar[...]`.
//!
//! Everything is bounded and every path is made safe: relative, without `..`. A package whose hash was
//! right can still be nonsense to us; then it is refused by name.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

const MAX_CONTROL: u64 = 32 << 20;
/// No package we take unpacks to more; a decompression bomb ends here.
const MAX_DATA: u64 = 4 << 30;
const MAX_MEMBERS: usize = 16;

/// An open package.
pub struct Deb<R = File> {
    from: R,
    name: String,
    members: Vec<Member>,
}

struct Member {
    name: String,
    at: u64,
    len: u64,
}

impl Deb<File> {
    /// Opens a file; `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] if it is no Debian package.
    pub fn open(path: &Path, name: &str) -> Result<Deb> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        Deb::new(file, name)
    }
}

impl<R: Read + Seek> Deb<R> {
    /// Reads the table of members.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn new(mut from: R, name: &str) -> Result<Deb<R>> {
        let bad = |why: &str| Error::malformed(format!("package {name}"), why);
        let mut magic = [0u8; 8];
        from.read_exact(&mut magic).map_err(|_| bad("it is too short"))?;
        if &magic != b"!<arch>\n" {
            return Err(bad("it is no ar archive"));
        }
        let mut members = Vec::new();
        let mut at = 8u64;
        while members.len() < MAX_MEMBERS {
            let mut head = [0u8; 60];
            from.seek(SeekFrom::Start(at)).map_err(|e| bad(&e.to_string()))?;
            match from.read_exact(&mut head) {
                Ok(()) => {}
                Err(_) => break,
            }
            let text = |r: std::ops::Range<usize>| {
                head.get(r).and_then(|b| std::str::from_utf8(b).ok()).map(str::trim).unwrap_or("")
            };
            let len: u64 = text(48..58).parse().map_err(|_| bad("a member has no length"))?;
            let start = at.saturating_add(60);
            members.push(Member { name: text(0..16).trim_end_matches('/').to_owned(), at: start, len });
            at = start.saturating_add(len).saturating_add(len & 1);
        }
        Ok(Deb { from, name: name.to_owned(), members })
    }

    fn member(&mut self, stem: &str, limit: u64) -> Result<tar::Archive<Box<dyn Read + '_>>> {
        let bad = |why: String| Error::malformed(format!("package {}", self.name), why);
        let is =
            |m: &&Member| m.name == stem || m.name.strip_prefix(stem).is_some_and(|r| r.starts_with('.'));
        let found = self.members.iter().find(is).ok_or_else(|| bad(format!("it has no {stem}")))?;
        self.from.seek(SeekFrom::Start(found.at)).map_err(|e| bad(e.to_string()))?;
        let packed = BufReader::with_capacity(64 << 10, (&mut self.from).take(found.len));
        let plain = decoder(&found.name, packed)
            .ok_or_else(|| bad(format!("{} is packed in an unknown way", found.name)))?;
        Ok(tar::Archive::new(Box::new(plain.take(limit))))
    }

    /// The control files: name and contents.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn control(&mut self) -> Result<Vec<(String, Vec<u8>)>> {
        let name = self.name.clone();
        let bad = |e: std::io::Error| Error::malformed(format!("package {name}"), e);
        let mut out = Vec::new();
        for entry in self.member("control.tar", MAX_CONTROL)?.entries().map_err(bad)? {
            let mut entry = entry.map_err(bad)?;
            let path = safe_path(&entry.path().map_err(bad)?).ok_or_else(|| unsafe_path(&name))?;
            if entry.header().entry_type().is_file()
                && let Some(file) = path.to_str().filter(|p| !p.contains('/'))
            {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(bad)?;
                out.push((file.to_owned(), bytes));
            }
        }
        Ok(out)
    }

    /// Hands every entry of the data archive to `visit`, in order: its safe path (relative, empty for
    /// the root) and the entry itself.
    ///
    /// # Errors
    /// [`Error::Malformed`], or what `visit` returns.
    pub fn each_entry(
        &mut self,
        mut visit: impl FnMut(&Path, &mut Entry<'_, '_>) -> Result<()>,
    ) -> Result<()> {
        let name = self.name.clone();
        let bad = |e: std::io::Error| Error::malformed(format!("package {name}"), e);
        let mut archive = self.member("data.tar", MAX_DATA)?;
        for entry in archive.entries().map_err(bad)? {
            let mut entry = entry.map_err(bad)?;
            let path = safe_path(&entry.path().map_err(bad)?).ok_or_else(|| unsafe_path(&name))?;
            visit(&path, &mut entry)?;
        }
        Ok(())
    }
}

/// An entry of a package's data archive.
pub type Entry<'a, 'b> = tar::Entry<'a, Box<dyn Read + 'b>>;

fn unsafe_path(name: &str) -> Error {
    Error::malformed(format!("package {name}"), "a path in it leads outside its root")
}

/// `./usr/x` as `usr/x`; `None` for a path that climbs out.
pub(crate) fn safe_path(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(p) => out.push(p),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// A reader of the plain bytes, by the ending of `name`: `.xz`, `.gz`, `.zst`, or none of them.
pub(crate) fn decoder<'a>(name: &str, packed: impl Read + 'a) -> Option<Box<dyn Read + 'a>> {
    Some(match name.rsplit('.').next()? {
        "xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(packed)),
        "gz" => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        "zst" => Box::new(ruzstd::decoding::StreamingDecoder::new(packed).ok()?),
        "tar" | "ko" => Box::new(packed),
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::{Cursor, Write};

    /// A tar of files, written without the safety of a builder so that bad paths are possible.
    pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data) in files {
            let mut h = tar::Header::new_gnu();
            h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            h.set_size(data.len() as u64);
            h.set_uid(0);
            h.set_gid(0);
            h.set_mtime(0);
            h.set_mode(if name.ends_with("postinst") { 0o755 } else { 0o644 });
            h.set_cksum();
            builder.append(&h, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut e = liblzma::write::XzEncoder::new(Vec::new(), 1);
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    }

    pub(crate) fn ar_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, data) in members {
            out.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, data.len()).bytes(),
            );
            out.extend(data);
            if data.len() % 2 == 1 {
                out.push(b'\n');
            }
        }
        out
    }

    /// A package with one control stanza and some files.
    pub(crate) fn deb_of(control: &str, data: &[(&str, &[u8])]) -> Vec<u8> {
        let control = xz(&tar_of(&[("./control", control.as_bytes()), ("./postinst", b"#!/bin/sh\n")]));
        ar_of(&[
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar.xz", control),
            ("data.tar.xz", xz(&tar_of(data))),
        ])
    }

    fn files(deb: Vec<u8>) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut out = Vec::new();
        Deb::new(Cursor::new(deb), "t")?.each_entry(|path, entry| {
            let mut data = Vec::new();
            entry.read_to_end(&mut data).map_err(|e| Error::malformed("package t", e))?;
            out.push((path.to_owned(), data));
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn every_packing_reads_the_same() {
        let tar = tar_of(&[("./usr/bin/x", b"hello")]);
        let zst = ruzstd::encoding::compress_to_vec(&tar[..], ruzstd::encoding::CompressionLevel::Fastest);
        for (name, data) in [
            ("data.tar", tar.clone()),
            ("data.tar.gz", gz(&tar)),
            ("data.tar.xz/", xz(&tar)),
            ("data.tar.zst", zst),
        ] {
            let got = files(ar_of(&[("debian-binary", b"2.0\n".to_vec()), (name, data)])).unwrap();
            assert_eq!(got, [(PathBuf::from("usr/bin/x"), b"hello".to_vec())], "{name}");
        }
    }

    #[test]
    fn control_files_are_read() {
        let mut deb = Deb::new(Cursor::new(deb_of("Package: x\n", &[])), "x").unwrap();
        let control = deb.control().unwrap();
        assert_eq!(control[0], ("control".into(), b"Package: x\n".to_vec()));
    }

    #[test]
    fn bad_packages_are_refused() {
        for bad in [b"".to_vec(), b"!<arch>\n".to_vec(), b"not an archive".to_vec()] {
            assert!(files(bad).is_err());
        }
        let climb = ar_of(&[("data.tar", tar_of(&[("./a/../../etc/passwd", b"x")]))]);
        assert!(files(climb).unwrap_err().to_string().contains("outside"));
        let mut cut = deb_of("Package: x\n", &[("./f", &[7u8; 4096])]);
        cut.truncate(cut.len() - 40);
        assert!(files(cut).is_err());
        assert!(files(ar_of(&[("data.tar.lz9", vec![])])).unwrap_err().to_string().contains("unknown way"));
    }
}

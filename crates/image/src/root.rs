//! A root file system as one tar, from packages that are unpacked but not configured.
//!
//! What `dpkg --unpack` would do in the guest at 0.2 G instructions a package is done here: files go to
//! their merged-/usr places, dpkg's database (status, lists, control files, triggers; deb-triggers(5),
//! dpkg's `lib/dpkg`) says "install ok unpacked", and the guest has only to run `dpkg --configure`.
//! Packages are read by several threads; the tar keeps their order.

use crate::arch::Arch;
use crate::archive::lock;
use crate::deb::{Deb, Entry, safe_path};
use crate::deb822;
use crate::error::{Error, Result};
use crate::fetch::hex;
use crate::progress::{Cancel, Progress, Stage};
use md5::{Digest, Md5};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const WORKERS: usize = 2;
const INFO: &str = "var/lib/dpkg/info";

/// A regular file: path, permission bits, contents.
pub(crate) type FileEntry = (String, u32, Vec<u8>);

/// One package, taken apart.
struct Unpacked {
    /// Name as in `info/`: with `:arch` if several architectures can be installed together.
    id: String,
    /// Tar entries without an end mark.
    tar: Vec<u8>,
    /// Its paragraph of dpkg's status file.
    status: String,
    /// `triggers` control file.
    triggers: String,
    has_preinst: bool,
    programs: Vec<FileEntry>,
    links: Vec<(String, String)>,
}

/// What came out besides the tar.
#[derive(Default)]
pub(crate) struct Merged {
    /// Packages with a preinst, in order.
    pub preinst: Vec<String>,
    /// Files that were to be captured.
    pub programs: Vec<FileEntry>,
    /// Links that were to be captured: path and target.
    pub links: Vec<(String, String)>,
}

/// Merges `debs` (file and package name, in this order) into `out`; `extra` are files of ours. Files whose merged path
/// `captured` wants are also handed back.
///
/// # Errors
/// [`Error::Malformed`] for a package that cannot be read; [`Error::DiskFull`], [`Error::Io`] on `out`.
pub(crate) fn merge(
    arch: Arch,
    debs: &[(PathBuf, String)],
    extra: &[FileEntry],
    captured: &(dyn Fn(&str) -> bool + Sync),
    out: (&mut dyn Write, &Path),
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Merged> {
    let (out, out_path) = out;
    let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io("write", out_path, e));
    write(&skeleton(arch)?)?;
    let total = debs.len() as u64;
    let mut merged = Merged::default();
    let mut db = Database::default();
    for chunk in debs.chunks(8) {
        cancel.check()?;
        for u in unpack_all(chunk, captured)? {
            write(&u.tar)?;
            db.add(&u);
            if u.has_preinst {
                merged.preinst.push(u.id);
            }
            merged.programs.extend(u.programs);
            merged.links.extend(u.links);
            progress.stage(Stage::Unpack, db.count, total);
        }
    }
    let mut tail = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in db.files(arch.name()).iter().chain(extra) {
        file(&mut tail, path, *mode, bytes)?;
    }
    write(&tail.into_inner().map_err(in_memory)?)?;
    Ok(merged)
}

fn unpack_all(debs: &[(PathBuf, String)], captured: &(dyn Fn(&str) -> bool + Sync)) -> Result<Vec<Unpacked>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<usize, Result<Unpacked>>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some((path, name)) = debs.get(i) else { return };
                    let result = Deb::open(path, name).and_then(|mut deb| unpack(&mut deb, name, captured));
                    lock(&results).insert(i, result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(|e| e.into_inner()).into_values().collect()
}

/// The links that make `/usr` merged must be there before anything lands behind them.
fn skeleton(arch: Arch) -> Result<Vec<u8>> {
    let mut b = tar::Builder::new(Vec::new());
    for dir in [
        "usr",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "var",
        "var/lib",
        "var/lib/dpkg",
        INFO,
        "var/lib/dpkg/triggers",
        "var/lib/dpkg/updates",
    ] {
        entry(&mut b, dir, tar::EntryType::Directory, 0o755, &[], None)?;
    }
    if arch == Arch::Amd64 {
        entry(&mut b, "usr/lib64", tar::EntryType::Directory, 0o755, &[], None)?;
    }
    let lib64 = (arch == Arch::Amd64).then_some("lib64");
    for dir in ["bin", "sbin", "lib"].into_iter().chain(lib64) {
        entry(&mut b, dir, tar::EntryType::Symlink, 0o777, &[], Some(&format!("usr/{dir}")))?;
    }
    open_end(b)
}

/// The archive without its end mark, to be continued.
fn open_end(b: tar::Builder<Vec<u8>>) -> Result<Vec<u8>> {
    let mut bytes = b.into_inner().map_err(in_memory)?;
    bytes.truncate(bytes.len().saturating_sub(1024));
    Ok(bytes)
}

fn in_memory(e: std::io::Error) -> Error {
    Error::malformed("an archive made in memory", e)
}

fn entry(
    b: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    data: &[u8],
    link: Option<&str>,
) -> Result<()> {
    let mut h = tar::Header::new_gnu();
    h.set_entry_type(kind);
    h.set_mode(mode);
    h.set_size(data.len() as u64);
    match link {
        Some(target) => b.append_link(&mut h, path, target),
        None => b.append_data(&mut h, path, data),
    }
    .map_err(in_memory)
}

fn file(b: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) -> Result<()> {
    entry(b, path, tar::EntryType::Regular, mode, data, None)
}

/// Where a path of a package lies when `/bin`, `/sbin` and `/lib*` are links into `/usr`.
fn merged_path(path: &Path) -> PathBuf {
    let first = path.components().next().and_then(|c| c.as_os_str().to_str());
    if matches!(first, Some("bin" | "sbin" | "lib" | "lib64")) {
        Path::new("usr").join(path)
    } else {
        path.to_owned()
    }
}

fn unpack<R: Read + std::io::Seek>(
    deb: &mut Deb<R>,
    name: &str,
    captured: &dyn Fn(&str) -> bool,
) -> Result<Unpacked> {
    let bad = |why: &str| Error::malformed(format!("package {name}"), why);
    let control = deb.control()?;
    let text = |file: &str| {
        let bytes = control.iter().find(|(n, _)| n == file).map(|(_, b)| b.as_slice()).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let stanza_text = text("control");
    let stanza = deb822::stanzas(&stanza_text).next().ok_or_else(|| bad("it has no control paragraph"))?;
    if stanza.get("Package") != Some(name) {
        return Err(bad("its control file names another package"));
    }
    let id = match (stanza.get("Multi-Arch"), stanza.get("Architecture")) {
        (Some("same"), Some(arch)) => format!("{name}:{arch}"),
        _ => name.to_owned(),
    };
    let conffiles: BTreeSet<String> =
        text("conffiles").lines().filter(|l| l.starts_with('/')).map(|l| l.trim().to_owned()).collect();
    let mut take = Take {
        tar: tar::Builder::new(Vec::new()),
        list: "/.\n".into(),
        conffiles,
        sums: String::new(),
        programs: vec![],
        links: vec![],
    };
    deb.each_entry(|path, entry| take.entry(path, entry, captured).map_err(|e| bad(&e.to_string())))?;
    let Take { mut tar, list, sums, programs, links, .. } = take;
    file(&mut tar, &format!("{INFO}/{id}.list"), 0o644, list.as_bytes())?;
    let mut has_preinst = false;
    for (member, bytes) in control.iter().filter(|(n, _)| n != "control") {
        let script = matches!(member.as_str(), "preinst" | "postinst" | "prerm" | "postrm" | "config");
        has_preinst |= member == "preinst";
        file(&mut tar, &format!("{INFO}/{id}.{member}"), if script { 0o755 } else { 0o644 }, bytes)?;
    }
    Ok(Unpacked {
        id,
        tar: open_end(tar)?,
        status: status(stanza, &sums),
        triggers: text("triggers"),
        has_preinst,
        programs,
        links,
    })
}

/// The paragraph dpkg keeps, here of a package that waits for its configuration.
fn status(stanza: deb822::Stanza<'_>, conffile_sums: &str) -> String {
    let mut out = String::new();
    for (name, value) in stanza.fields().filter(|(n, _)| !n.eq_ignore_ascii_case("status")) {
        let _ = writeln!(out, "{name}: {value}");
        if name == "Package" {
            out.push_str("Status: install ok unpacked\n");
        }
    }
    if !conffile_sums.is_empty() {
        let _ = write!(out, "Conffiles:\n{conffile_sums}");
    }
    out.push('\n');
    out
}

/// The data archive of one package on its way into the merged tar.
struct Take {
    tar: tar::Builder<Vec<u8>>,
    list: String,
    conffiles: BTreeSet<String>,
    sums: String,
    programs: Vec<FileEntry>,
    links: Vec<(String, String)>,
}

impl Take {
    fn entry(
        &mut self,
        path: &Path,
        entry: &mut Entry<'_, '_>,
        captured: &dyn Fn(&str) -> bool,
    ) -> std::io::Result<()> {
        let invalid = |why: &str| std::io::Error::other(format!("{}: {why}", path.display()));
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let name = path.to_str().ok_or_else(|| invalid("the name is not UTF-8"))?;
        let _ = writeln!(self.list, "/{name}");
        let kind = entry.header().entry_type();
        // base-files brings the links of the skeleton itself.
        if matches!(name, "bin" | "sbin" | "lib" | "lib64") {
            return Ok(());
        }
        let place = merged_path(path);
        let key = place.to_str().unwrap_or(name);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(entry.header().mode()?);
        header.set_uid(entry.header().uid()?);
        header.set_gid(entry.header().gid()?);
        header.set_mtime(entry.header().mtime()?);
        header.set_size(0);
        if kind.is_dir() {
            return self.tar.append_data(&mut header, &place, std::io::empty());
        }
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name()?.ok_or_else(|| invalid("a link without a target"))?.into_owned();
            if kind.is_hard_link() {
                let target = safe_path(&target).ok_or_else(|| invalid("a link that leads outside"))?;
                return self.tar.append_link(&mut header, &place, merged_path(&target));
            }
            if captured(key) {
                self.links.push((key.to_owned(), target.display().to_string()));
            }
            return self.tar.append_link(&mut header, &place, target);
        }
        if !kind.is_file() {
            return Err(invalid("an entry that is no file, folder or link"));
        }
        let mut data = Vec::new();
        entry.read_to_end(&mut data)?;
        let absolute = format!("/{name}");
        if self.conffiles.contains(&absolute) {
            let _ = writeln!(self.sums, " {absolute} {}", hex(&Md5::digest(&data)));
        }
        header.set_size(data.len() as u64);
        self.tar.append_data(&mut header, &place, data.as_slice())?;
        if captured(key) {
            self.programs.push((key.to_owned(), 0o755, data));
        }
        Ok(())
    }
}

/// dpkg's files that speak of all packages.
#[derive(Default)]
struct Database {
    count: u64,
    status: String,
    /// `path package` lines.
    file_triggers: String,
    /// Packages interested, by trigger name.
    triggers: BTreeMap<String, String>,
}

impl Database {
    fn add(&mut self, u: &Unpacked) {
        self.count = self.count.saturating_add(1);
        self.status.push_str(&u.status);
        for line in u.triggers.lines() {
            let mut words = line.split_whitespace();
            let suffix = match words.next() {
                Some("interest" | "interest-await") => "",
                Some("interest-noawait") => "/noawait",
                _ => continue,
            };
            let Some(name) = words.next() else { continue };
            if name.starts_with('/') {
                let _ = writeln!(self.file_triggers, "{name} {}{suffix}", u.id);
            } else if !name.contains('/') {
                let _ = writeln!(self.triggers.entry(name.to_owned()).or_default(), "{}{suffix}", u.id);
            }
        }
    }

    fn files(self, arch: &str) -> Vec<FileEntry> {
        let dpkg = |name: &str, text: &str| (format!("var/lib/dpkg/{name}"), 0o644, text.as_bytes().to_vec());
        let mut out = vec![
            dpkg("status", &self.status),
            dpkg("available", ""),
            dpkg("diversions", ""),
            dpkg("statoverride", ""),
            dpkg("arch", &format!("{arch}\n")),
            dpkg("info/format", "1\n"),
            dpkg("triggers/File", &self.file_triggers),
        ];
        out.extend(self.triggers.iter().map(|(name, text)| dpkg(&format!("triggers/{name}"), text)));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb::tests::{ar_of, deb_of, tar_of, xz};
    use crate::progress::Silent;

    fn merge_one(arch: Arch, name: &str, deb: Vec<u8>) -> (BTreeMap<String, Vec<u8>>, Merged) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.deb");
        std::fs::write(&path, deb).unwrap();
        let mut out = Vec::new();
        let extra = [("etc/extra".to_owned(), 0o600, b"e".to_vec())];
        let merged = merge(
            arch,
            &[(path, name.to_owned())],
            &extra,
            &|p| p == "usr/sbin/tool",
            (&mut out, Path::new("out")),
            &Silent,
            &Cancel::default(),
        )
        .unwrap();
        let mut files = BTreeMap::new();
        for e in tar::Archive::new(&out[..]).entries().unwrap() {
            let mut e = e.unwrap();
            let mut data = Vec::new();
            e.read_to_end(&mut data).unwrap();
            if let Some(l) = e.link_name().unwrap() {
                data = l.display().to_string().into_bytes();
            }
            files.insert(e.path().unwrap().display().to_string(), data);
        }
        (files, merged)
    }

    #[test]
    fn an_unpacked_system_comes_out() {
        let control =
            "Package: tool\nVersion: 1\nArchitecture: riscv64\nMulti-Arch: same\nDescription: x\n y\n";
        let control = tar_of(&[
            ("./control", control.as_bytes()),
            ("./conffiles", b"/etc/tool.conf\n"),
            ("./preinst", b"#!/bin/sh\n"),
            ("./triggers", b"interest-noawait /usr/share/x\ninterest ldconfig\nactivate other\n"),
        ]);
        let data = tar_of(&[("./sbin/tool", b"prog"), ("./etc/tool.conf", b"c")]);
        let deb = ar_of(&[
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar.xz", xz(&control)),
            ("data.tar.xz", xz(&data)),
        ]);
        let (files, merged) = merge_one(Arch::Riscv64, "tool", deb);
        let text = |p: &str| String::from_utf8(files[p].clone()).unwrap();
        assert_eq!(text("sbin"), "usr/sbin");
        assert_eq!(text("usr/sbin/tool"), "prog");
        assert_eq!(text("etc/extra"), "e");
        assert_eq!(text("var/lib/dpkg/info/tool:riscv64.list"), "/.\n/sbin/tool\n/etc/tool.conf\n");
        assert_eq!(text("var/lib/dpkg/triggers/File"), "/usr/share/x tool:riscv64/noawait\n");
        assert_eq!(text("var/lib/dpkg/triggers/ldconfig"), "tool:riscv64\n");
        let status = text("var/lib/dpkg/status");
        assert!(status.starts_with("Package: tool\nStatus: install ok unpacked\nVersion: 1\n"), "{status}");
        assert!(
            status.ends_with("Conffiles:\n /etc/tool.conf 4a8a08f09d37b73795649038408b5f33\n\n"),
            "{status}"
        );
        assert_eq!(merged.preinst, ["tool:riscv64"]);
        assert_eq!(merged.programs, [("usr/sbin/tool".to_owned(), 0o755, b"prog".to_vec())]);
    }

    #[test]
    fn the_links_of_a_merged_usr_are_there_once() {
        for arch in Arch::ALL {
            let mut data = tar::Builder::new(Vec::new());
            for dir in ["bin", "lib", "lib64", "sbin"] {
                entry(&mut data, dir, tar::EntryType::Symlink, 0o777, &[], Some(&format!("usr/{dir}")))
                    .unwrap();
            }
            let deb = ar_of(&[
                ("debian-binary", b"2.0\n".to_vec()),
                ("control.tar.xz", xz(&tar_of(&[("./control", b"Package: base-files\nVersion: 1\n")]))),
                ("data.tar.xz", xz(&data.into_inner().unwrap())),
            ]);
            let (files, _) = merge_one(arch, "base-files", deb);
            assert_eq!(files["lib"], b"usr/lib");
            // As links they would be where programs are expected behind them.
            let is_link = |dir: &str| files.get(dir).is_some_and(|target| !target.is_empty());
            assert!(!["usr/bin", "usr/lib", "usr/lib64", "usr/sbin"].iter().any(|d| is_link(d)), "{files:?}");
            assert_eq!(is_link("lib64"), arch == Arch::Amd64);
        }
    }

    #[test]
    fn a_package_under_a_false_name_is_refused() {
        let mut deb = Deb::new(std::io::Cursor::new(deb_of("Package: other\n", &[])), "tool").unwrap();
        let e = unpack(&mut deb, "tool", &|_| false).err().unwrap();
        assert!(e.to_string().contains("another package"));
    }
}

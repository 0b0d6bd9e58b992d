//! Initial RAM file systems: a writer of `newc` cpio archives. Format: Linux
//! Documentation/driver-api/early-userspace/buffer-format.rst.
//!
//! The same entries give the same bytes: inode numbers count up, times are zero, everything is root's.
//! Parents are made as needed, each once.

use std::collections::BTreeSet;

/// An archive being written.
#[derive(Debug, Default)]
pub struct Cpio {
    out: Vec<u8>,
    inode: u32,
    made: BTreeSet<String>,
}

impl Cpio {
    /// An empty archive.
    pub fn new() -> Cpio {
        Cpio::default()
    }

    /// A folder (with its parents), mode 0755.
    pub fn dir(&mut self, path: &str) -> &mut Cpio {
        let mut whole = String::new();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            if !whole.is_empty() {
                whole.push('/');
            }
            whole.push_str(part);
            if self.made.insert(whole.clone()) {
                self.entry(&whole, 0o040_755, (0, 0), &[]);
            }
        }
        self
    }

    /// A regular file with permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> &mut Cpio {
        self.parent(path);
        self.entry(path, 0o100_000 | (mode & 0o7777), (0, 0), data);
        self
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Cpio {
        self.parent(path);
        self.entry(path, 0o120_777, (0, 0), target.as_bytes());
        self
    }

    /// A character device, mode 0600.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> &mut Cpio {
        self.parent(path);
        self.entry(path, 0o020_600, (major, minor), &[]);
        self
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = u32::MAX; // the trailer's number is 0 after wrapping
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.out
    }

    fn parent(&mut self, path: &str) {
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.dir(dir);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, rdev: (u32, u32), data: &[u8]) {
        self.inode = self.inode.wrapping_add(1);
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_len = u32::try_from(path.len()).unwrap_or(u32::MAX).saturating_add(1);
        let fields = [self.inode, mode, 0, 0, links, 0, len, 0, 0, rdev.0, rdev.1, name_len, 0];
        self.out.extend_from_slice(b"070701");
        for f in fields {
            self.out.extend_from_slice(format!("{f:08x}").as_bytes());
        }
        self.out.extend_from_slice(path.as_bytes());
        self.out.push(0);
        self.pad();
        self.out.extend_from_slice(data.get(..len as usize).unwrap_or(data));
        self.pad();
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Name, mode and data of every entry, by the format's own rules.
    fn read(mut b: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut out = Vec::new();
        let mut at = 0usize;
        loop {
            assert_eq!(&b[..6], b"070701");
            let field = |i: usize| {
                u32::from_str_radix(std::str::from_utf8(&b[6 + i * 8..14 + i * 8]).unwrap(), 16).unwrap()
            };
            let (mode, len, name_len) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(b[110..110 + name_len - 1].to_vec()).unwrap();
            let data = (at + 110 + name_len).next_multiple_of(4) - at;
            if name == "TRAILER!!!" {
                assert_eq!(b.len(), data);
                return out;
            }
            out.push((name, mode, b[data..data + len].to_vec()));
            let next = (at + data + len).next_multiple_of(4) - at;
            b = &b[next..];
            at += next;
        }
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut c = Cpio::new();
        c.file("a/b/c", 0o644, b"x").file("a/b/d", 0o755, b"").link("a/l", "b").device("dev/console", 5, 1);
        let bytes = c.finish();
        let names: Vec<_> = read(&bytes).into_iter().map(|(n, m, _)| (n, m >> 12)).collect();
        let want =
            [("a", 4), ("a/b", 4), ("a/b/c", 8), ("a/b/d", 8), ("a/l", 10), ("dev", 4), ("dev/console", 2)];
        assert_eq!(names, want.map(|(n, t)| (n.to_owned(), t)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(files in prop::collection::btree_map("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let write = || {
                let mut c = Cpio::new();
                for (n, d) in &files { c.file(n, 0o600, d); }
                c.finish()
            };
            let back: Vec<_> = read(&write()).into_iter().map(|(n, _, d)| (n, d)).collect();
            prop_assert_eq!(back, files.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(write(), write());
        }
    }
}

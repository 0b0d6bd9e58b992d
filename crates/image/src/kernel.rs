//! Debian's kernel for an architecture and the modules of it that a machine of ours needs.
//!
//! `linux-image-ARCH` depends on the current `linux-image-VERSION`; that holds kernel and modules, or
//! (from Linux 7 on) depends on `linux-binary-VERSION` and `linux-modules-VERSION`. No modules.dep is
//! shipped: dependencies are read from the modules themselves.

use crate::arch::Arch;
use crate::deb::{Deb, decoder};
use crate::error::{Error, Result};
use crate::index::{Index, Package};
use crate::module;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A raw kernel is about 37 MB, a module at most a few.
const MAX_KERNEL: u64 = 256 << 20;
const MAX_MODULE: u64 = 64 << 20;

/// Loaded by our initramfs, in this order of wish; what a kernel has built in or not at all is skipped.
/// The crc32c entries are what jbd2 and ext4 ask the crypto layer for by name.
pub(crate) const BOOT_MODULES: [&str; 9] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "crc32c_cryptoapi",
    "libcrc32c",
    "ext4",
    "virtio_net",
    "virtio_rng",
];

/// What is kept of a kernel's packages.
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// Version of the Debian package.
    pub version: String,
    /// The raw Image, or the bzImage.
    pub image: Vec<u8>,
    /// Modules by canonical name.
    modules: BTreeMap<String, Module>,
    /// `modules.builtin` and its kin, by file name.
    pub lists: BTreeMap<String, Vec<u8>>,
}

struct Module {
    /// Below `kernel/`, without the ending of its packing.
    path: String,
    packing: String,
    bytes: Vec<u8>,
}

/// A module ready for a guest.
pub struct Plain {
    /// Canonical name.
    pub name: String,
    /// Path below `/lib/modules/RELEASE/`, ending in `.ko`.
    pub path: String,
    /// Unpacked, without signature.
    pub bytes: Vec<u8>,
}

/// The packages that hold the kernel of a suite.
///
/// # Errors
/// [`Error::Unresolvable`].
pub(crate) fn packages(index: &Index, arch: Arch) -> Result<Vec<&Package>> {
    let arch = arch.name();
    let meta = index.get(&format!("linux-image-{arch}"), "every image")?;
    let named = |p: &Package, stem: &str| {
        p.groups().flatten().map(|r| r.name.to_owned()).find(|n| {
            n.strip_prefix(stem)
                .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()) && v.ends_with(arch))
        })
    };
    let image = named(meta, "linux-image-").ok_or_else(|| {
        Error::malformed(
            format!("the index entry of linux-image-{arch}"),
            format!("it depends on no linux-image-VERSION-{arch}"),
        )
    })?;
    let image = index.get(&image, &meta.name)?;
    let parts: Vec<String> =
        ["linux-binary-", "linux-modules-", "linux-base-"].iter().filter_map(|s| named(image, s)).collect();
    if parts.is_empty() {
        return Ok(vec![image]);
    }
    parts.iter().map(|p| index.get(p, &image.name)).collect()
}

/// Reads the packages: the kernel, and of the modules those whose path below `kernel/` is `kept`.
///
/// # Errors
/// [`Error::Malformed`] if there is no kernel of that architecture in them.
pub(crate) fn unpack(
    debs: &[(PathBuf, &Package)],
    arch: Arch,
    kept: &dyn Fn(&str) -> bool,
) -> Result<Kernel> {
    let version = debs.first().map(|(_, p)| p.version.clone()).unwrap_or_default();
    let mut k = Kernel {
        release: String::new(),
        version,
        image: Vec::new(),
        modules: BTreeMap::new(),
        lists: BTreeMap::new(),
    };
    for (path, package) in debs {
        Deb::open(path, &package.name)?.each_entry(|path, entry| {
            let Some(path) = path.to_str().filter(|_| entry.header().entry_type().is_file()) else {
                return Ok(());
            };
            k.take(path, entry, kept).map_err(|e| Error::malformed(format!("package {}", package.name), e))
        })?;
    }
    if k.image.get(..2) == Some(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        let read = flate2::read::GzDecoder::new(&k.image[..]).take(MAX_KERNEL).read_to_end(&mut plain);
        read.map_err(|e| Error::malformed("the kernel", e))?;
        k.image = plain;
    }
    arch.check_kernel(&k.image)?;
    Ok(k)
}

impl Kernel {
    fn take(
        &mut self,
        path: &str,
        entry: &mut impl Read,
        kept: &dyn Fn(&str) -> bool,
    ) -> std::io::Result<()> {
        let in_boot = path.strip_prefix("boot/vmlinux-").or_else(|| path.strip_prefix("boot/vmlinuz-"));
        let path = path.strip_prefix("usr/").unwrap_or(path);
        let in_modules = path.strip_prefix("lib/modules/").and_then(|p| p.split_once('/'));
        match (in_boot, in_modules) {
            (Some(release), _) | (None, Some((release, "vmlinuz" | "vmlinux"))) => {
                release.clone_into(&mut self.release);
                self.image.clear();
                entry.take(MAX_KERNEL).read_to_end(&mut self.image)?;
            }
            (None, Some((_, list))) if list.starts_with("modules.") => {
                let mut bytes = Vec::new();
                entry.take(MAX_MODULE).read_to_end(&mut bytes)?;
                self.lists.insert(list.to_owned(), bytes);
            }
            (None, Some((_, file))) => {
                let Some((stem, packing)) = file.strip_prefix("kernel/").and_then(|f| f.split_once(".ko"))
                else {
                    return Ok(());
                };
                if kept(stem) {
                    let mut bytes = Vec::new();
                    entry.take(MAX_MODULE).read_to_end(&mut bytes)?;
                    let name = module::canonical(stem.rsplit('/').next().unwrap_or(stem));
                    let packing = format!("x.ko{packing}");
                    self.modules.insert(name, Module { path: format!("kernel/{stem}.ko"), packing, bytes });
                }
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Canonical names of all modules kept.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// The modules `wanted` and all they depend on, each after what it needs. Names that the kernel does
    /// not have as modules are taken to be built in.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a module that does not unpack.
    pub(crate) fn with_needs<'a>(&self, wanted: impl Iterator<Item = &'a str>) -> Result<Vec<Plain>> {
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for name in wanted {
            self.add(name, &mut seen, &mut out)?;
        }
        Ok(out)
    }

    fn add(&self, name: &str, seen: &mut BTreeSet<String>, out: &mut Vec<Plain>) -> Result<()> {
        // Marked before its needs are followed, so that a circle ends; depth is bounded by the modules.
        let Some(m) = self.modules.get(name).filter(|_| seen.insert(name.to_owned())) else { return Ok(()) };
        let bad = |e: &str| Error::malformed(format!("kernel module {name}"), e);
        let mut plain = Vec::new();
        let packed =
            decoder(&m.packing, &m.bytes[..]).ok_or_else(|| bad("it is packed in an unknown way"))?;
        packed.take(MAX_MODULE).read_to_end(&mut plain).map_err(|e| bad(&e.to_string()))?;
        plain.truncate(module::without_signature(&plain).len());
        let needs = module::needs(name, &plain)?;
        for n in needs.soft.iter().chain(&needs.depends) {
            self.add(n, seen, out)?;
        }
        out.push(Plain { name: name.to_owned(), path: m.path.clone(), bytes: plain });
        Ok(())
    }
}

/// Which modules an initramfs can need: everything below these, so that dependencies are at hand too.
pub(crate) fn kept_for_boot(stem: &str) -> bool {
    [
        "fs/ext4/",
        "fs/jbd2/",
        "fs/mbcache",
        "crypto/",
        "lib/",
        "arch/riscv/",
        "arch/x86/crypto/",
        "drivers/virtio/",
        "net/core/",
        "drivers/char/hw_random/virtio",
    ]
    .iter()
    .any(|p| stem.starts_with(p))
        || matches!(stem, "drivers/block/virtio_blk" | "drivers/net/virtio_net" | "drivers/net/net_failover")
}

/// A file of the host as the path to a kernel to run.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Error::io("write", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::tests::module_of;

    fn kernel(modules: &[(&str, &str, &[u8])]) -> Kernel {
        let mut k = Kernel {
            release: "r".into(),
            version: "1".into(),
            image: vec![],
            modules: BTreeMap::new(),
            lists: BTreeMap::new(),
        };
        for (dir, name, info) in modules {
            let bytes = crate::deb::tests::xz(&module_of(info));
            k.take(&format!("usr/lib/modules/r/kernel/{dir}/{name}.ko.xz"), &mut &bytes[..], &|_| true)
                .unwrap();
        }
        k
    }

    #[test]
    fn modules_come_after_their_needs() {
        let k = kernel(&[
            ("fs/ext4", "ext4", b"depends=jbd2,mbcache\0softdep=pre: crc32c-x\0"),
            ("fs/jbd2", "jbd2", b"depends=built_in\0"),
            ("fs", "mbcache", b"depends=ext4\0"),
            ("lib", "crc32c-x", b"depends=\0"),
        ]);
        let order: Vec<_> = k
            .with_needs(["ext4", "absent", "jbd2"].into_iter())
            .unwrap()
            .into_iter()
            .map(|m| m.name)
            .collect();
        assert_eq!(order, ["crc32c_x", "jbd2", "mbcache", "ext4"]);
    }
}

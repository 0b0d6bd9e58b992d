//! The image `busybox`: Debian's kernel and an initramfs that ends at a root shell on the console.
//!
//! Kernel, modules and the static busybox come from the first suite, of 13, forky and sid, that
//! verifies. There is no disk; the modules for virtio disks, ext4 and the network are loaded.

use crate::archive::{Archive, OpenSuite};
use crate::error::{Error, Result};
use crate::index::Package;
use crate::initramfs;
use crate::kernel::{self, BOOT_MODULES, Kernel};
use crate::progress::Stage;
use crate::record::{KernelRecord, Origin, Record};
use crate::store::Staging;

/// Default kernel command line: the console, and only what matters on it.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet";

/// What any image of a suite starts from.
pub(crate) struct Base {
    pub kernel: Kernel,
    pub busybox: Vec<u8>,
}

/// Fetches and unpacks kernel and busybox; `kept` chooses the modules to keep at hand besides those an
/// initramfs can need.
pub(crate) fn base(
    archive: &Archive<'_>,
    open: &OpenSuite,
    kept: &dyn Fn(&str) -> bool,
) -> Result<(Base, Vec<Package>)> {
    let mut wanted = kernel::packages(&open.index, archive.arch)?;
    wanted.push(open.index.get("busybox-static", "every image")?);
    let mut files = archive.fetch(&wanted)?;
    archive.progress.stage(Stage::Unpack, 0, 2);
    let busybox = files.pop().ok_or_else(|| Error::malformed("the list of downloads", "it is short"))?;
    let busybox = initramfs::busybox_program(&busybox)?;
    archive.progress.stage(Stage::Unpack, 1, 2);
    archive.cancel.check()?;
    let debs: Vec<_> = files.into_iter().zip(wanted.iter().copied()).collect();
    let kernel = kernel::unpack(&debs, archive.arch, &|stem| kernel::kept_for_boot(stem) || kept(stem))?;
    archive.progress.stage(Stage::Unpack, 2, 2);
    Ok((Base { kernel, busybox }, wanted.into_iter().cloned().collect()))
}

pub(crate) fn origin(archive: &Archive<'_>, open: &OpenSuite) -> Origin {
    Origin {
        suite: open.suite.name.into(),
        codename: open.suite.codename.into(),
        release_date: open.release.date.clone(),
        signed_by: open.signer.clone(),
        mirror: archive.source.mirror.clone(),
        proxy: archive.source.proxy.clone(),
        check_valid_until: archive.source.check_valid_until && !archive.allow_expired,
        settings_from: archive.source.origin.clone(),
    }
}

pub(crate) fn kernel_record(open: &OpenSuite, kernel: &Kernel) -> KernelRecord {
    KernelRecord {
        release: kernel.release.clone(),
        version: kernel.version.clone(),
        suite: open.suite.name.into(),
    }
}

/// Makes kernel and initrd in `stage`, an initrd with a `shell` or one that boots a disk; the record.
pub(crate) fn make(
    archive: &Archive<'_>,
    open: &OpenSuite,
    shell: bool,
    name: &str,
    stage: &Staging,
) -> Result<Record> {
    let (base, packages) = base(archive, open, &|_| false)?;
    let modules = base.kernel.with_needs(BOOT_MODULES.into_iter())?;
    archive.progress.stage(Stage::Save, 0, 2);
    kernel::write(&stage.dir.join("kernel"), &base.kernel.image)?;
    archive.progress.stage(Stage::Save, 1, 2);
    let initrd = if shell { initramfs::busybox } else { initramfs::disk };
    kernel::write(&stage.dir.join("initrd"), &initrd(&base.busybox, &modules))?;
    archive.progress.stage(Stage::Save, 2, 2);
    let mut record = Record::new(name, archive.arch);
    record.cmdline = CMDLINE.into();
    record.kernel = Some(kernel_record(open, &base.kernel));
    record.origin = Some(origin(archive, open));
    record.packages = packages.into_iter().map(|p| (p.name, p.version)).collect();
    Ok(record)
}

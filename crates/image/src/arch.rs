//! Architectures that images are made for: what Debian calls things on each.
//!
//! An image's name says which it is of: `debian:13` and `busybox` are riscv64, `debian:13-amd64` is what it says. So both
//! can be in one store, and what stands on an image never changes its architecture.

use crate::error::{Error, Result};

/// An architecture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit RISC-V.
    #[default]
    Riscv64,
    /// x86-64.
    Amd64,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Arch; 2] = [Arch::Riscv64, Arch::Amd64];

    /// Debian's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Riscv64 => "riscv64",
            Arch::Amd64 => "amd64",
        }
    }

    /// By that name.
    pub fn by_name(name: &str) -> Option<Arch> {
        Arch::ALL.into_iter().find(|a| a.name() == name)
    }

    /// What an image's name ends with.
    fn suffix(self) -> &'static str {
        match self {
            Arch::Riscv64 => "",
            Arch::Amd64 => "-amd64",
        }
    }

    /// The name of an image without its architecture, and that.
    pub fn of_image(name: &str) -> (&str, Arch) {
        match name.strip_suffix(Arch::Amd64.suffix()) {
            Some(rest) => (rest, Arch::Amd64),
            None => (name, Arch::Riscv64),
        }
    }

    /// The name of the same image for this architecture.
    pub fn image(self, name: &str) -> String {
        format!("{}{}", Arch::of_image(name).0, self.suffix())
    }

    /// The folder of its shared libraries, below `usr/lib`.
    pub(crate) fn triplet(self) -> &'static str {
        match self {
            Arch::Riscv64 => "riscv64-linux-gnu",
            Arch::Amd64 => "x86_64-linux-gnu",
        }
    }

    /// Where programs look for their loader, up to its version.
    pub(crate) fn loader(self) -> &'static str {
        match self {
            Arch::Riscv64 => "usr/lib/ld-linux-riscv64",
            Arch::Amd64 => "usr/lib64/ld-linux-x86-64",
        }
    }

    /// Checks that a kernel is one of this architecture that a machine can start: a raw RISC-V Image carries `RSC\x05` at 0x38
    /// (Linux, Documentation/arch/riscv/boot-image-header.rst), a bzImage `HdrS` at 0x202 (Documentation/arch/x86/boot.rst).
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(crate) fn check_kernel(self, image: &[u8]) -> Result<()> {
        let (at, magic, what): (usize, &[u8; 4], _) = match self {
            Arch::Riscv64 => (0x38, b"RSC\x05", "it is no raw RISC-V Image"),
            Arch::Amd64 => (0x202, b"HdrS", "it is no bzImage for x86"),
        };
        match image.get(at..at + 4) {
            Some(found) if found == magic => Ok(()),
            Some(_) => Err(Error::malformed("the kernel", what)),
            None => Err(Error::malformed("the kernel", "there is none, or it is cut short")),
        }
    }

    /// The architecture of a kernel.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is none of any.
    pub(crate) fn of_kernel(image: &[u8]) -> Result<Arch> {
        let found = Arch::ALL.into_iter().find(|a| a.check_kernel(image).is_ok());
        found.ok_or_else(|| {
            Error::malformed("the kernel", "it is neither a raw RISC-V Image nor a bzImage for x86")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_the_architecture() {
        assert_eq!(Arch::of_image("debian:13"), ("debian:13", Arch::Riscv64));
        assert_eq!(Arch::of_image("debian:13-amd64"), ("debian:13", Arch::Amd64));
        assert_eq!(Arch::Amd64.image("busybox"), "busybox-amd64");
        assert_eq!(Arch::Amd64.image("busybox-amd64"), "busybox-amd64");
        assert_eq!(Arch::Riscv64.image("busybox-amd64"), "busybox");
        assert_eq!(Arch::by_name("amd64"), Some(Arch::Amd64));
    }

    #[test]
    fn kernels_are_checked() {
        let mut image = vec![0u8; 64];
        let says = |r: Result<()>, what: &str| assert!(r.unwrap_err().to_string().contains(what));
        says(Arch::Riscv64.check_kernel(&image), "no raw RISC-V");
        image[0x38..0x3c].copy_from_slice(b"RSC\x05");
        Arch::Riscv64.check_kernel(&image).unwrap();
        says(Arch::Riscv64.check_kernel(&image[..0x3a]), "cut short");
        assert_eq!(Arch::of_kernel(&image).unwrap(), Arch::Riscv64);
        let mut pc = vec![0u8; 0x206];
        says(Arch::Amd64.check_kernel(&pc), "no bzImage");
        assert!(Arch::of_kernel(&pc).is_err());
        pc[0x202..].copy_from_slice(b"HdrS");
        assert_eq!(Arch::of_kernel(&pc).unwrap(), Arch::Amd64);
    }
}

//! Which kind of machine: the architecture of its guest, the engine that runs it, and whether this host can.
//!
//! An architecture has one board and one engine so far: riscv64 the software engine, amd64 the host's KVM. That /dev/kvm
//! opens says little, so it is measured ([`strata_kvm::probe`]), and what was found is kept until the host boots again:
//! a machine with nothing but a slow /dev/kvm is refused unless KVM is asked for by name.

use crate::exit::{Error, Kind, Result};
use crate::runtime::Runtime;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use strata_kvm::{KernelSpeed, Kind as Speed, Unusable};
use strata_machine::Board;

/// The architecture of a guest. What has been made for one never changes to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit RISC-V.
    #[default]
    Riscv64,
    /// x86-64.
    Amd64,
}

/// What runs a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Whichever there is for the architecture, where it is worth using.
    #[default]
    Auto,
    /// The host's KVM, however slow it is.
    Kvm,
    /// The software engine.
    Soft,
}

impl Arch {
    /// As Debian calls it.
    pub fn name(self) -> &'static str {
        self.board().arch()
    }

    /// By that name.
    pub fn by_name(name: &str) -> Option<Arch> {
        [Arch::Riscv64, Arch::Amd64].into_iter().find(|a| a.name() == name)
    }

    /// The board of its machines.
    pub fn board(self) -> Board {
        match self {
            Arch::Riscv64 => Board::RiscvVirt,
            Arch::Amd64 => Board::X86Micro,
        }
    }

    /// The architecture of a kernel, by the first bytes of its file; none where they do not say. (RISC-V: Linux,
    /// Documentation/arch/riscv/boot-image-header.rst; x86: arch/x86/boot.rst; ELF's `e_machine`.)
    pub fn of_kernel(path: &Path) -> Option<Arch> {
        let mut bytes = Vec::new();
        let mut file = File::open(path).ok()?;
        Read::by_ref(&mut file).take(0x206).read_to_end(&mut bytes).ok()?;
        let arch = Arch::of_head(&bytes)?;
        if arch == Arch::Amd64 && bytes.starts_with(b"\x7fELF") {
            // Most ELF files for x86 are programs of this host: a kernel has an entry for us in a note.
            file.take(LARGEST_ELF).read_to_end(&mut bytes).ok()?;
            return has_pvh_note(&bytes).then_some(arch);
        }
        Some(arch)
    }

    fn of_head(head: &[u8]) -> Option<Arch> {
        if head.starts_with(b"\x7fELF") {
            return match head.get(18..20)? {
                [243, 0] => Some(Arch::Riscv64),
                [62, 0] => Some(Arch::Amd64),
                _ => None,
            };
        }
        if head.get(56..60) == Some(b"RSC\x05") {
            return Some(Arch::Riscv64);
        }
        (head.get(0x202..0x206) == Some(b"HdrS")).then_some(Arch::Amd64)
    }
}

/// A kernel with all its symbols has some 100 MB.
const LARGEST_ELF: u64 = 1 << 30;

/// Whether an ELF file has the note of a PVH entry somewhere: the lengths of its name and its value, its type, its name.
fn has_pvh_note(bytes: &[u8]) -> bool {
    let note = |len| [[4, 0, 0, 0], [len, 0, 0, 0], [18, 0, 0, 0], *b"Xen\0"].concat();
    let (short, long) = (note(4), note(8));
    bytes.windows(16).any(|w| w[0] == 4 && (w == short || w == long))
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Refuses an engine that does not run guests of `arch`, and a processor that there is not.
///
/// # Errors
/// `Config`.
pub fn check(arch: Arch, engine: Engine, cpu: Option<&str>) -> Result<()> {
    let m = match (arch, engine) {
        (Arch::Riscv64, Engine::Kvm) => {
            "KVM runs guests of the host's own architecture, amd64, and this machine is riscv64: leave --engine out, or \
             make a machine with --arch amd64."
        }
        (Arch::Amd64, Engine::Soft) => {
            "The software engine runs riscv64, and this machine is amd64: leave --engine out, or make a machine with \
             --arch riscv64."
        }
        (Arch::Riscv64, _) if cpu.is_some() => {
            "--cpu chooses the processor of an amd64 machine, and this one is riscv64: leave it out, or make a machine \
             with --arch amd64."
        }
        _ => return cpu.map_or(Ok(()), |name| processor::parse(name).map(drop)),
    };
    Err(Error::new(Kind::Config, m))
}

/// Whether this host runs such a machine; gives what a person should know of it, a sentence.
///
/// # Errors
/// `Host`, `Permission` or `Config`, with what to do.
pub fn ready(arch: Arch, engine: Engine, cpu: Option<&str>) -> Result<Option<String>> {
    match arch {
        Arch::Riscv64 => Ok(None),
        Arch::Amd64 => {
            let word = judge(speed(), engine)?;
            cpu.map_or(Ok(()), processor::check)?;
            Ok(word)
        }
    }
}

/// Processors that amd64 guests can be shown.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) mod processor {
    use crate::exit::{Error, Result};
    use strata_kvm::cpuid::CpuModel;
    use strata_kvm::{Host, KvmError, Seen};
    use strata_machine::BuildError;
    use strata_migration::wire::Processor;

    fn error(e: KvmError) -> Error {
        BuildError::from(e).into()
    }

    /// The one of that name.
    pub(super) fn parse(name: &str) -> Result<CpuModel> {
        name.parse().map_err(error)
    }

    /// Refuses one that this host's cannot be taken for.
    pub(super) fn check(name: &str) -> Result<()> {
        let model = parse(name)?;
        model.check(&Host::open().map_err(error)?).map_err(error)
    }

    /// The names of all that this host's can be taken for, and of the lowest level that it cannot, with why.
    pub(crate) fn here() -> Result<(Vec<String>, Option<String>)> {
        let host = Host::open().map_err(error)?;
        let mut names = vec![CpuModel::Host.to_string()];
        for level in CpuModel::LEVELS {
            match level.check(&host) {
                Ok(()) => names.push(level.to_string()),
                Err(e) => return Ok((names, Some(e.to_string()))),
            }
        }
        Ok((names, None))
    }

    /// What the guest of a saved machine has seen of it.
    pub(crate) fn seen(state: &[u8]) -> Result<Option<Processor>> {
        let seen = strata_machine::seen_in(state).map_err(BuildError::State)?;
        Ok(seen.map(|Seen { flags, counter_khz }| Processor { flags, counter_khz }))
    }

    /// Where the kernel reads guest memory when a machine is loaded with that state.
    pub(crate) fn read_at_load(state: &[u8]) -> Result<Vec<u64>> {
        strata_machine::read_at_load(state).map_err(|e| BuildError::State(e).into())
    }

    /// Refuses a guest of `vcpus` that has seen what this host's cannot show it.
    pub(crate) fn meets(Processor { flags, counter_khz }: &Processor, vcpus: u32) -> Result<()> {
        let seen = Seen { flags: flags.clone(), counter_khz: *counter_khz };
        Host::open().map_err(error)?.can_show(&seen, vcpus).map_err(error)
    }
}

/// Where KVM has no amd64 guests, nor have they processors.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) mod processor {
    use crate::exit::{Error, Result};
    use strata_kvm::KvmError;
    use strata_machine::BuildError;
    use strata_migration::wire::Processor;

    fn absent() -> Error {
        BuildError::from(KvmError::Absent).into()
    }
    pub(super) fn parse(_name: &str) -> Result<()> {
        Err(absent())
    }
    pub(super) fn check(_name: &str) -> Result<()> {
        Err(absent())
    }
    pub(crate) fn here() -> Result<(Vec<String>, Option<String>)> {
        Err(absent())
    }
    pub(crate) fn seen(_state: &[u8]) -> Result<Option<Processor>> {
        Err(absent())
    }
    pub(crate) fn read_at_load(_state: &[u8]) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }
    pub(crate) fn meets(_seen: &Processor, _vcpus: u32) -> Result<()> {
        Err(absent())
    }
}

fn judge(found: std::result::Result<KernelSpeed, Unusable>, engine: Engine) -> Result<Option<String>> {
    let named = engine == Engine::Kvm;
    let host = |m: String| Err(Error::new(Kind::Host, m));
    match found {
        Ok(speed) => match speed.kind() {
            Speed::Native => Ok(None),
            Speed::Slow => Ok(Some(format!(
                "This host's KVM is slower than a processor should be ({:.0} million instructions a second).",
                speed.mips
            ))),
            Speed::Emulated if named => Ok(Some(format!(
                "This host interprets guest kernel code instead of running it ({:.1} million instructions a second): \
                 operating systems do not start here, only small programs do.",
                speed.mips
            ))),
            Speed::Emulated => host(format!(
                "This host has a /dev/kvm that interprets guest kernel code instead of running it ({:.1} million \
                 instructions a second), on which no amd64 system is usable: run it with --arch riscv64, or, if it is a \
                 small program, with --engine kvm all the same.",
                speed.mips
            )),
        },
        Err(Unusable::Permission(e)) => Err(Error::new(
            Kind::Permission,
            format!(
                "amd64 machines run on KVM, and /dev/kvm may not be opened by this user ({e}): `sudo usermod -aG kvm \
                 $USER`, then log in again; --arch riscv64 needs no rights."
            ),
        )),
        Err(e @ (Unusable::Absent | Unusable::Architecture(_) | Unusable::Version(_))) => host(format!(
            "amd64 machines run on KVM, which this host does not offer ({e}): run it with --arch riscv64, or see `strata \
             doctor`."
        )),
        // Late several times is a busy host: nothing that says that the machine would not run.
        Err(e @ Unusable::Late { .. }) => Ok(Some(format!("This host's KVM could not be measured ({e})."))),
        Err(e) if named => {
            Ok(Some(format!("This host's KVM failed its test ({e}); the machine may fail, too.")))
        }
        Err(e) => host(format!(
            "This host's KVM failed its test ({e}): try again, run it with --arch riscv64, or with --engine kvm all the \
             same."
        )),
    }
}

/// What was measured, and since which boot of the host it holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    boot: String,
    mips: f64,
    exit_us: f64,
}

/// The measure, in the user's folder of running machines.
const KEPT: &str = "kvm-speed.json";

/// How fast KVM is here: as it was measured since the host booted, or measured now.
fn speed() -> std::result::Result<KernelSpeed, Unusable> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let place = Runtime::open().ok().map(|r| r.path().join(KEPT)).zip(boot);
    let Some((path, boot)) = place else { return measured() };
    let kept = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
    if let Some(kept) = kept.filter(|k| k.boot == boot.trim()) {
        // Rights may have changed since.
        return match File::options().read(true).write(true).open("/dev/kvm") {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(Unusable::Permission(e)),
            Err(_) => Err(Unusable::Absent),
            Ok(_) => Ok(KernelSpeed { mips: kept.mips, exit_us: kept.exit_us }),
        };
    }
    let speed = measured()?;
    // One that was slow because the host was busy is measured again.
    if speed.kind() != Speed::Slow {
        keep(&path, &Kept { boot: boot.trim().to_owned(), mips: speed.mips, exit_us: speed.exit_us });
    }
    Ok(speed)
}

/// Tries of a measurement that comes late.
const TRIES: usize = 3;

/// Measures it.
fn measured() -> std::result::Result<KernelSpeed, Unusable> {
    let late = |r: &std::result::Result<_, Unusable>| matches!(r, Err(Unusable::Late { .. }));
    let mut found = strata_kvm::probe();
    for _ in 1..TRIES {
        if !late(&found) {
            break;
        }
        found = strata_kvm::probe();
    }
    found.map(|r| r.speed)
}

/// Writes it down; without it, it is measured again.
fn keep(path: &Path, kept: &Kept) {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let text = serde_json::to_vec(kept).unwrap_or_default();
    let written =
        File::create(&new).and_then(|mut f| f.write_all(&text)).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_first_bytes() {
        let mut riscv = vec![0; 64];
        riscv[56..60].copy_from_slice(b"RSC\x05");
        let mut pc = vec![0; 0x206];
        pc[0x202..].copy_from_slice(b"HdrS");
        let elf = |machine: u8| [&b"\x7fELF"[..], &[0; 14], &[machine, 0]].concat();
        for (head, arch) in [
            (riscv, Some(Arch::Riscv64)),
            (pc, Some(Arch::Amd64)),
            (elf(243), Some(Arch::Riscv64)),
            (elf(62), Some(Arch::Amd64)),
            (elf(183), None),
            (vec![0x1f, 0x8b], None),
            (b"\x7fELF".to_vec(), None),
            (vec![], None),
        ] {
            assert_eq!(Arch::of_head(&head), arch);
        }
        assert_eq!(Arch::by_name("amd64"), Some(Arch::Amd64));
        assert_eq!(Arch::by_name("x86"), None);
    }

    #[test]
    fn a_program_of_the_host_is_no_kernel() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(Arch::of_kernel(&own), None);
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("vmlinux");
        let head = [&b"\x7fELF"[..], &[0; 14], &[62, 0], &[0; 600]].concat();
        let note = [&[4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0][..], b"Xen\0", &[0; 8]].concat();
        std::fs::write(&kernel, [head, note].concat()).unwrap();
        assert_eq!(Arch::of_kernel(&kernel), Some(Arch::Amd64));
    }

    #[test]
    fn only_who_names_kvm_gets_one_that_interprets() {
        let at = |mips| Ok(KernelSpeed { mips, exit_us: 7.0 });
        assert!(matches!(judge(at(4000.0), Engine::Auto), Ok(None)));
        assert!(judge(at(100.0), Engine::Auto).unwrap().unwrap().contains("100 million"));
        let refused = judge(at(1.4), Engine::Auto).unwrap_err();
        assert!(refused.kind == Kind::Host && refused.message.contains("--engine kvm"), "{refused}");
        assert!(judge(at(1.4), Engine::Kvm).unwrap().unwrap().contains("1.4 million"));
        let late = || Err(Unusable::Late { step: "KVM_RUN" });
        let wrong = || Err(Unusable::Stopped("Shutdown".into()));
        assert!(judge(late(), Engine::Auto).unwrap().is_some());
        assert!(judge(wrong(), Engine::Kvm).unwrap().is_some() && judge(wrong(), Engine::Auto).is_err());
        for engine in [Engine::Auto, Engine::Kvm] {
            assert!(judge(Err(Unusable::Absent), engine).unwrap_err().message.contains("riscv64"));
            let denied = Unusable::Permission(std::io::ErrorKind::PermissionDenied.into());
            assert_eq!(judge(Err(denied), engine).unwrap_err().kind, Kind::Permission);
        }
    }

    #[test]
    fn each_architecture_has_its_engine() {
        for (arch, engine, good) in [
            (Arch::Riscv64, Engine::Auto, true),
            (Arch::Riscv64, Engine::Soft, true),
            (Arch::Riscv64, Engine::Kvm, false),
            (Arch::Amd64, Engine::Auto, true),
            (Arch::Amd64, Engine::Kvm, true),
            (Arch::Amd64, Engine::Soft, false),
        ] {
            assert_eq!(check(arch, engine, None).is_ok(), good, "{arch} on {engine:?}");
        }
        assert!(matches!(ready(Arch::Riscv64, Engine::Auto, None), Ok(None)));
    }

    #[test]
    fn a_processor_is_an_amd64_machines_and_has_a_name() {
        let said = check(Arch::Riscv64, Engine::Auto, Some("host")).unwrap_err();
        assert!(said.kind == Kind::Config && said.message.contains("--arch amd64"), "{said}");
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return;
        }
        for name in ["host", "x86-64-v3", "avx2,aes"] {
            assert!(check(Arch::Amd64, Engine::Auto, Some(name)).is_ok(), "{name}");
        }
        let said = check(Arch::Amd64, Engine::Auto, Some("x86-64-v9")).unwrap_err();
        assert!(said.kind == Kind::Config && said.message.contains("x86-64-v9"), "{said}");
        // What no guest is given is lacking on every host that has a KVM at all.
        if let Ok((names, missing)) = processor::here() {
            assert_eq!(names.first().map(String::as_str), Some("host"));
            assert!(names.len() == 4 || missing.is_some_and(|why| why.contains("lacks")));
            let said = processor::check("svm").unwrap_err();
            assert!(said.kind == Kind::Host && said.message.contains("svm"), "{said}");
        }
    }
}

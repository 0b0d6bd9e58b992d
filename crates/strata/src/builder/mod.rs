//! Where the packages of an image are configured: their own scripts do that, and so it needs their architecture.
//!
//! | image | where |
//! |---|---|
//! | riscv64 | in a machine of ours (`machine.rs`) |
//! | amd64, KVM is good | in a machine of ours, likewise |
//! | amd64, on an amd64 host | by this host's kernel, in namespaces that hide the host (`namespaces.rs`) |

mod machine;
mod namespaces;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use strata_image::{Arch, GuestError, GuestJob, GuestRunner, Place};
use strata_sandbox::{Ids, Way};
use strata_vmm::Engine;

/// Configures images where this host can.
#[derive(Default)]
pub struct Builder {
    /// The way that was found for amd64.
    amd64: OnceCell<Where>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Where {
    Machine,
    Namespaces(Way),
}

impl Builder {
    fn place(&self, arch: Arch) -> Result<Where, GuestError> {
        if arch == Arch::Riscv64 {
            return Ok(Where::Machine);
        }
        if let Some(found) = self.amd64.get() {
            return Ok(found.clone());
        }
        let kvm = strata_vmm::arch::ready(strata_vmm::Arch::Amd64, Engine::Auto, None);
        let ways = || {
            let path: Vec<PathBuf> =
                std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
            let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            strata_sandbox::ways(Path::new("/"), uid, gid, &path).map_err(|e| e.to_string())
        };
        let probe = |ids: &Ids| strata_sandbox::probe(ids).map_err(|e| e.to_string());
        let found = choose(kvm.map(drop).map_err(|e| e.message), std::env::consts::ARCH, ways, probe)
            .map_err(GuestError::Failed)?;
        Ok(self.amd64.get_or_init(|| found).clone())
    }
}

/// Where an amd64 image is configured: `kvm` is whether machines run here, and else why not; `ways` gives what namespaces may
/// be made, and `probe` makes them.
fn choose(
    kvm: Result<(), String>,
    host: &str,
    ways: impl FnOnce() -> Result<Vec<Way>, String>,
    probe: impl Fn(&Ids) -> Result<(), String>,
) -> Result<Where, String> {
    let Err(no_kvm) = kvm else { return Ok(Where::Machine) };
    if host != "x86_64" {
        return Err(no_kvm);
    }
    let refused = |why: String| {
        format!(
            "it needs KVM, or namespaces in which its packages are configured by this host. {no_kvm} And namespaces: {why}"
        )
    };
    let mut whys = Vec::new();
    for way in ways().map_err(refused)? {
        match probe(&way.ids) {
            Ok(()) => return Ok(Where::Namespaces(way)),
            Err(why) => whys.push(format!("{}: {why}", way.name)),
        }
    }
    whys.push(
        "the host, or the container that this runs in, has to allow them (sysctl user.max_user_namespaces, \
         kernel.apparmor_restrict_unprivileged_userns)"
            .to_owned(),
    );
    Err(refused(whys.join("; ")))
}

impl GuestRunner for Builder {
    fn ready(&self, arch: Arch) -> Result<Place, GuestError> {
        Ok(match self.place(arch)? {
            Where::Machine => Place::Machine,
            Where::Namespaces(way) => Place::Host(way.name),
        })
    }

    fn run(&self, job: GuestJob, console: &mut dyn FnMut(&[u8])) -> Result<(), GuestError> {
        match self.place(job.arch)? {
            Where::Machine => machine::run(&job, console),
            Where::Namespaces(way) => namespaces::run(&way.ids, &job, console),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_ways() -> Result<Vec<Way>, String> {
        strata_sandbox::ways(Path::new("/"), 0, 0, &[]).map_err(|e| e.to_string())
    }

    fn name(found: Result<Where, String>) -> &'static str {
        match found.unwrap() {
            Where::Machine => "machine",
            Where::Namespaces(way) => way.name,
        }
    }

    #[test]
    fn a_machine_comes_first_then_a_user_namespace_then_root() {
        let never = |_: &Ids| -> Result<(), String> { panic!("a sandbox is tried though machines run") };
        assert_eq!(name(choose(Ok(()), "x86_64", || panic!("likewise"), never)), "machine");
        let no_kvm = || Err("KVM is slow here.".to_owned());
        assert_eq!(name(choose(no_kvm(), "x86_64", root_ways, |_| Ok(()))), "in a user namespace");
        let only_root = |ids: &Ids| if *ids == Ids::Root { Ok(()) } else { Err("no user namespaces".into()) };
        let found = choose(no_kvm(), "x86_64", root_ways, only_root);
        assert_eq!(name(found), "as root, without a user namespace");
    }

    #[test]
    fn a_refusal_says_all_that_was_tried_and_what_to_install() {
        let no_kvm = || Err("KVM is slow here.".to_owned());
        let e = choose(no_kvm(), "x86_64", root_ways, |_| Err("not permitted".into())).unwrap_err();
        for part in
            ["KVM is slow here.", "in a user namespace: not permitted", "as root", "max_user_namespaces"]
        {
            assert!(e.contains(part), "{part}: {e}");
        }
        let user = || strata_sandbox::ways(Path::new("/"), 1000, 1000, &[]).map_err(|e| e.to_string());
        let e = choose(no_kvm(), "x86_64", user, |_| Ok(())).unwrap_err();
        assert!(e.contains("package uidmap"), "{e}");
        // Another host's kernel runs no amd64 scripts, whatever namespaces it makes.
        let e = choose(no_kvm(), "riscv64", root_ways, |_| Ok(())).unwrap_err();
        assert_eq!(e, "KVM is slow here.");
    }
}

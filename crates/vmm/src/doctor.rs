//! What this host offers, and what each missing thing costs.
//!
//! Looks only: nothing is changed, loaded or left open. How fast `/dev/kvm` really runs kernel code (some hosts
//! interpret it) is measured, for some milliseconds.

mod kvm;

use crate::spec::meminfo;
use rustix::fs::{Access, MemfdFlags, access, memfd_create};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// There, and usable by this user.
    Good,
    /// Missing or limited; Strata works without it.
    Missing,
    /// Strata cannot work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub name: &'static str,
    /// How good it is.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What its being as it is costs; empty if nothing.
    pub cost: &'static str,
    /// How to mend it; empty if there is nothing to mend.
    pub fix: &'static str,
}

impl Finding {
    fn good(name: &'static str, detail: impl Into<String>) -> Finding {
        Finding { name, level: Level::Good, detail: detail.into(), cost: "", fix: "" }
    }

    fn missing(
        name: &'static str,
        detail: impl Into<String>,
        cost: &'static str,
        fix: &'static str,
    ) -> Finding {
        Finding { name, level: Level::Missing, detail: detail.into(), cost, fix }
    }
}

/// Looks at everything.
#[must_use]
pub fn examine() -> Vec<Finding> {
    vec![
        cores(),
        memory(),
        kvm::kvm(),
        tun(),
        ping(),
        userfaultfd(),
        hugepages(),
        cgroups(),
        user_namespaces(),
        io_uring(),
        executable_memory(),
        runtime_dir(),
    ]
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
}

fn number(path: &str) -> Option<i64> {
    text(path)?.split_whitespace().next()?.parse().ok()
}

fn usable(path: &str) -> Result<(), rustix::io::Errno> {
    access(path, Access::READ_OK | Access::WRITE_OK)
}

fn cores() -> Finding {
    let n = std::thread::available_parallelism().map_or(1, |n| n.get());
    let detail = format!("{n} usable by this process, {}", std::env::consts::ARCH);
    if n > 1 {
        return Finding::good("processors", detail);
    }
    Finding::missing(
        "processors",
        detail,
        "machines share one processor with their disks and networks",
        "give this host or container more processors",
    )
}

fn memory() -> Finding {
    let info = text("/proc/meminfo").unwrap_or_default();
    let mib = |rows: &[&str]| meminfo(&info, rows).map_or("?".into(), |b| (b >> 20).to_string());
    let detail = format!(
        "{} MiB, {} MiB available, {} MiB of swap",
        mib(&["MemTotal"]),
        mib(&["MemAvailable"]),
        mib(&["SwapTotal"])
    );
    match meminfo(&info, &["MemAvailable"]) {
        Some(free) if free < 512 << 20 => Finding::missing(
            "memory",
            detail,
            "a machine of the default size does not fit",
            "free some memory, or use a smaller --memory",
        ),
        _ => Finding::good("memory", detail),
    }
}

fn tun() -> Finding {
    const COST: &str = "no --net tap; user-mode networking works";
    match usable("/dev/net/tun") {
        Ok(()) => Finding::good("tun", "/dev/net/tun can be opened"),
        Err(e) => Finding::missing(
            "tun",
            format!("/dev/net/tun: {e}"),
            COST,
            "`modprobe tun`; in a container, pass the device in",
        ),
    }
}

fn ping() -> Finding {
    let range = text("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
    let mut bounds = range.split_whitespace().filter_map(|n| n.parse::<u32>().ok());
    let groups = rustix::process::getgroups().unwrap_or_default();
    let mut all = groups.iter().map(|g| g.as_raw()).chain([rustix::process::getegid().as_raw()]);
    let allowed = match (bounds.next(), bounds.next()) {
        (Some(low), Some(high)) => all.any(|g| (low..=high).contains(&g)),
        _ => false,
    };
    if allowed {
        return Finding::good("ping", "this user may open ping sockets");
    }
    Finding::missing(
        "ping",
        format!("net.ipv4.ping_group_range is `{range}`"),
        "guests on user-mode networking reach no outside host by ping; everything else works",
        "`sysctl net.ipv4.ping_group_range=\"0 2147483647\"`",
    )
}

fn userfaultfd() -> Finding {
    let open = number("/proc/sys/vm/unprivileged_userfaultfd") == Some(1);
    let device = usable("/dev/userfaultfd").is_ok();
    if open || device || rustix::process::geteuid().is_root() {
        return Finding::good("userfaultfd", if device { "/dev/userfaultfd" } else { "by system call" });
    }
    Finding::missing(
        "userfaultfd",
        "not for this user",
        "nothing in this version; later, restoring a machine before its memory has been read",
        "`sysctl vm.unprivileged_userfaultfd=1`, or a rule that opens /dev/userfaultfd",
    )
}

fn hugepages() -> Finding {
    let transparent = text("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    let chosen = transparent.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned();
    let reserved = number("/proc/sys/vm/nr_hugepages").unwrap_or(0);
    let detail = format!("transparent for shared memory: {chosen}; reserved: {reserved}");
    if matches!(chosen.as_str(), "always" | "within_size" | "advise" | "force") || reserved > 0 {
        return Finding::good("hugepages", detail);
    }
    Finding::missing(
        "hugepages",
        detail,
        "guest memory is mapped in pages of 4 KiB: some percent of speed for machines with much memory",
        "`echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled`",
    )
}

fn cgroups() -> Finding {
    match text("/sys/fs/cgroup/cgroup.controllers") {
        Some(c) => Finding::good("cgroups", format!("version 2, controllers: {c}")),
        None => Finding::missing(
            "cgroups",
            "version 2 is not mounted on /sys/fs/cgroup",
            "machines cannot be given shares of processors and memory",
            "boot the host with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

fn user_namespaces() -> Finding {
    let most = number("/proc/sys/user/max_user_namespaces");
    let barred = number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1)
        || number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0);
    if most.is_some_and(|n| n > 0) && (!barred || rustix::process::geteuid().is_root()) {
        return Finding::good("user namespaces", "this user may make them");
    }
    Finding::missing(
        "user namespaces",
        "not for this user",
        "amd64 images of Debian cannot be made without root or a good KVM; later, less isolation of machines without root",
        "`sysctl user.max_user_namespaces=10000`, and allow them in AppArmor's settings",
    )
}

fn io_uring() -> Finding {
    match number("/proc/sys/kernel/io_uring_disabled") {
        Some(0) => Finding::good("io_uring", "allowed"),
        other => Finding::missing(
            "io_uring",
            other.map_or("the kernel has none, or does not say".into(), |n| {
                format!("io_uring_disabled is {n}")
            }),
            "nothing in this version: disks are served by plain reads and writes",
            "`sysctl kernel.io_uring_disabled=0`",
        ),
    }
}

fn executable_memory() -> Finding {
    let policy = number("/proc/sys/vm/memfd_noexec").unwrap_or(0);
    let made = memfd_create("strata-doctor", MemfdFlags::CLOEXEC | MemfdFlags::EXEC)
        // Kernels before 6.3 do not know the flag, and have no such policy.
        .or_else(|e| {
            if e == rustix::io::Errno::INVAL {
                memfd_create("strata-doctor", MemfdFlags::CLOEXEC)
            } else {
                Err(e)
            }
        });
    match made {
        Ok(_) => Finding::good("executable memory", "memory files may be executable"),
        Err(e) => Finding::missing(
            "executable memory",
            format!("a memory file may not be executable: {e} (vm.memfd_noexec is {policy})"),
            "nothing in this version; later, no translated code: guests run at the interpreter's speed",
            "`sysctl vm.memfd_noexec=0`",
        ),
    }
}

fn runtime_dir() -> Finding {
    match crate::runtime::Runtime::open() {
        Err(e) => Finding {
            name: "control sockets",
            level: Level::Bad,
            detail: e.message,
            cost: "no machine can be started",
            fix: "set XDG_RUNTIME_DIR to a folder of your own",
        },
        Ok(r) if !Path::new("/proc/self/fd").exists() => Finding {
            name: "control sockets",
            level: Level::Bad,
            detail: format!("in {}, but /proc is not mounted", r.path().display()),
            cost: "no machine can be started",
            fix: "mount /proc",
        },
        Ok(r) => Finding::good("control sockets", format!("in {}", r.path().display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flaw_has_a_cost_and_a_fix_and_names_are_distinct() {
        let findings = examine();
        let mut names: Vec<_> = findings.iter().map(|f| f.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), findings.len());
        for f in findings {
            assert!(!f.detail.is_empty(), "{f:?}");
            assert_eq!(f.level == Level::Good, f.cost.is_empty() && f.fix.is_empty(), "{f:?}");
        }
    }
}

//! Whose rights a sandbox is made with: the ids of users and groups that it has, and whether there are any to be had.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// A package's files belong to users up to `nobody`, 65534.
pub(crate) const NEEDED: u32 = 65_534;

/// How ids inside are mapped to ids of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// A user namespace: root inside is this user, and others are of the ranges that the host set aside for it. Made by
    /// newuidmap and newgidmap.
    Subordinate {
        /// The user.
        uid: u32,
        /// The user's group.
        gid: u32,
        /// First of the range of users.
        users: u32,
        /// First of the range of groups.
        groups: u32,
        /// The programs newuidmap and newgidmap.
        programs: [PathBuf; 2],
    },
    /// A user namespace made by root: ids are the same inside. Root there rules over nothing of the kernel's but what the
    /// namespaces have; over the host's files it would, and sees none but those that it is given.
    Identity,
    /// No user namespace: root's own rights, less those that are given away. A program that makes a user namespace has all of
    /// them over that.
    Root,
}

/// A way that may work here: with the words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The ids.
    pub ids: Ids,
    /// What it is, in words.
    pub name: &'static str,
}

/// What is missing, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// newuidmap and newgidmap are not installed.
    NoProgram,
    /// No range of ids is set aside for the user, by the file named.
    NoRange {
        /// The file.
        file: &'static str,
        /// The user.
        user: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoProgram => write!(
                f,
                "a user who is not root needs newuidmap and newgidmap for it: install the package uidmap (`sudo apt install \
                 uidmap`), or do it as root"
            ),
            Refusal::NoRange { file, user } => write!(
                f,
                "{file} sets no {NEEDED} ids aside for {user}: `sudo usermod --add-subuids 100000-165535 --add-subgids \
                 100000-165535 {user}`, or do it as root"
            ),
        }
    }
}

/// The ways that this user has on the host whose root folder is `root`, the best first. `path` is where programs are looked
/// for.
///
/// # Errors
/// There is none.
pub fn ways(root: &Path, uid: u32, gid: u32, path: &[PathBuf]) -> Result<Vec<Way>, Refusal> {
    if uid == 0 {
        return Ok(vec![
            Way { ids: Ids::Identity, name: "in a user namespace" },
            Way { ids: Ids::Root, name: "as root, without a user namespace" },
        ]);
    }
    let program = |name: &str| path.iter().map(|d| d.join(name)).find(|p| p.is_file());
    let (Some(u), Some(g)) = (program("newuidmap"), program("newgidmap")) else {
        return Err(Refusal::NoProgram);
    };
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let user = user_name(&read("etc/passwd"), uid);
    let first = |file: &'static str| {
        let none = || Refusal::NoRange { file, user: user.clone() };
        range(&read(file.trim_start_matches('/')), &user, uid).ok_or_else(none)
    };
    let (users, groups) = (first("/etc/subuid")?, first("/etc/subgid")?);
    let ids = Ids::Subordinate { uid, gid, users, groups, programs: [u, g] };
    Ok(vec![Way { ids, name: "in a user namespace" }])
}

/// The name of a user, or the number if it has none.
fn user_name(passwd: &str, uid: u32) -> String {
    let found = passwd.lines().find_map(|l| {
        let mut fields = l.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| uid.to_string())
}

/// The first id of a range in subuid(5)'s form that is the user's and large enough.
fn range(text: &str, user: &str, uid: u32) -> Option<u32> {
    text.lines().find_map(|l| {
        let mut fields = l.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
        let fits = first > 0 && first.checked_add(count).is_some();
        ((owner == user || owner == uid.to_string()) && count >= NEEDED && fits).then_some(first)
    })
}

impl Ids {
    /// Whether a user namespace is made.
    pub(crate) fn apart(&self) -> bool {
        *self != Ids::Root
    }

    /// The arguments of newuidmap (0) or newgidmap (1) for a process.
    pub(crate) fn map(own: u32, first: u32, pid: u32) -> [String; 7] {
        [pid, 0, own, 1, 1, first, NEEDED].map(|n| n.to_string())
    }

    /// The map of [`Ids::Identity`].
    pub(crate) fn identity() -> String {
        format!("0 0 {}\n", NEEDED + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn root_needs_nothing_and_others_what_is_missing_by_name() {
        let host = tempfile::tempdir().unwrap();
        let (root, bin) = (host.path(), vec![host.path().join("bin")]);
        for dir in ["bin", "etc"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        let ways_of = |uid| ways(root, uid, 100, &bin);
        let names: Vec<Ids> = ways_of(0).unwrap().into_iter().map(|w| w.ids).collect();
        assert_eq!(names, [Ids::Identity, Ids::Root]);

        assert_eq!(ways_of(1000), Err(Refusal::NoProgram));
        assert!(Refusal::NoProgram.to_string().contains("package uidmap"));
        for program in ["newuidmap", "newgidmap"] {
            fs::write(root.join("bin").join(program), "").unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nana:x:1000:100::/home:/bin/sh\n")
            .unwrap();
        let none = |file| Err(Refusal::NoRange { file, user: "ana".into() });
        assert_eq!(ways_of(1000), none("/etc/subuid"));
        fs::write(root.join("etc/subuid"), "bob:100000:65536\nana:165536:1000\nana:231072:65536\n").unwrap();
        assert_eq!(ways_of(1000), none("/etc/subgid"));
        fs::write(root.join("etc/subgid"), "1000:300000:65534\n").unwrap();
        let found = ways_of(1000).unwrap();
        let Ids::Subordinate { uid: 1000, gid: 100, users: 231_072, groups: 300_000, .. } = found[0].ids
        else {
            panic!("{found:?}")
        };
        // A user without a name is known by number, and told so.
        assert!(ways_of(1001).unwrap_err().to_string().contains("1001"));
    }

    #[test]
    fn ranges_that_are_none_are_passed_over() {
        for text in ["", "ana", "ana:1", "ana:x:65536", "ana:0:65536", "ana:4294967290:65536", "ana:5:65533"]
        {
            assert_eq!(range(text, "ana", 1000), None, "{text}");
        }
        assert_eq!(range("ana:4294901760:65535", "ana", 1000), Some(4_294_901_760));
    }
}

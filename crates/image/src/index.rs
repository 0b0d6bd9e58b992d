//! The package index of a suite, and which packages belong together.
//!
//! The resolver is made for a fixed base set on an empty system: it follows Depends and Pre-Depends,
//! takes of each group an alternative that is already chosen, else the first real package that fits,
//! else the best provider by priority. Conflicts and Breaks are not weighed: within one suite the base
//! set has none, and dpkg in the guest has the last word.

use crate::deb822;
use crate::error::{Error, Result};
use crate::fetch::Wanted;
use crate::release::wanted;
use crate::version;
use std::collections::{BTreeSet, HashMap};

/// A package as the index describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Path below the mirror's base.
    pub filename: String,
    /// Hash and length of the file.
    pub wanted: Wanted,
    depends: String,
    provides: String,
    essential: bool,
    priority: u8,
}

/// One alternative of a dependency: a name, and maybe a relation with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relation<'a> {
    pub name: &'a str,
    pub version: Option<(&'a str, &'a str)>,
}

/// All packages of a suite, the newest version of each name.
pub struct Index {
    suite: String,
    packages: Vec<Package>,
    by_name: HashMap<String, usize>,
    providers: HashMap<String, Vec<usize>>,
}

impl Package {
    fn parse(s: deb822::Stanza<'_>) -> Option<Package> {
        let mut p = Package {
            name: String::new(),
            version: String::new(),
            filename: String::new(),
            wanted: Wanted { sha256: String::new(), size: 0 },
            depends: String::new(),
            provides: String::new(),
            essential: false,
            priority: 9,
        };
        let (mut hash, mut size) = ("", "");
        for (name, value) in s.fields() {
            match name {
                "Package" => value.clone_into(&mut p.name),
                "Version" => value.clone_into(&mut p.version),
                "Filename" => value.clone_into(&mut p.filename),
                "SHA256" => hash = value,
                "Size" => size = value,
                "Depends" | "Pre-Depends" => {
                    if !p.depends.is_empty() {
                        p.depends.push(',');
                    }
                    p.depends.push_str(value);
                }
                "Provides" => value.clone_into(&mut p.provides),
                "Essential" => p.essential = value == "yes",
                "Priority" => p.priority = rank(value),
                _ => {}
            }
        }
        p.wanted = wanted(hash, size)?;
        let safe = !p.filename.starts_with('/') && !p.filename.split('/').any(|c| c == "..");
        (!p.name.is_empty() && !p.version.is_empty() && !p.filename.is_empty() && safe).then_some(p)
    }

    /// Dependency groups: all must hold, each by one of its alternatives.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Vec<Relation<'_>>> {
        self.depends
            .split(',')
            .map(|g| g.split('|').filter_map(relation).collect::<Vec<_>>())
            .filter(|g| !g.is_empty())
    }

    fn satisfies(&self, r: Relation<'_>) -> bool {
        if self.name == r.name {
            return r.version.is_none_or(|(op, want)| version::satisfies(&self.version, op, want));
        }
        self.provides.split(',').filter_map(relation).filter(|p| p.name == r.name).any(|p| {
            match (r.version, p.version) {
                (None, _) => true,
                // Only a versioned Provides satisfies a versioned dependency (policy 7.5).
                (Some((op, want)), Some((_, have))) => version::satisfies(have, op, want),
                (Some(_), None) => false,
            }
        })
    }
}

fn rank(priority: &str) -> u8 {
    ["required", "important", "standard", "optional", "extra"]
        .iter()
        .position(|p| *p == priority)
        .and_then(|n| u8::try_from(n).ok())
        .unwrap_or(8)
}

/// `name[:arch] [(op version)] [[arch ...]] [<profile>]`
pub(crate) fn relation(text: &str) -> Option<Relation<'_>> {
    let text = text.trim();
    let end =
        text.find(|c: char| c.is_whitespace() || c == '(' || c == '[' || c == '<').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.split(':').next().filter(|n| !n.is_empty())?;
    let version = rest.split_once('(').and_then(|(_, r)| r.split_once(')')).and_then(|(inside, _)| {
        let inside = inside.trim();
        let op = inside.find(|c| !"<>=".contains(c))?;
        let (op, want) = inside.split_at(op);
        (!op.is_empty()).then_some((op, want.trim()))
    });
    Some(Relation { name, version })
}

impl Index {
    /// Parses a Packages file; `suite` is for messages. Stanzas without name, version, path, length or
    /// hash are left out.
    pub fn parse(suite: &str, text: &str) -> Index {
        let mut packages: Vec<Package> = Vec::new();
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for p in deb822::stanzas(text).filter_map(Package::parse) {
            match by_name.get(&p.name).and_then(|&i| packages.get_mut(i)) {
                Some(old) if version::compare(&old.version, &p.version).is_ge() => {}
                Some(old) => *old = p,
                None => {
                    by_name.insert(p.name.clone(), packages.len());
                    packages.push(p);
                }
            }
        }
        let mut providers: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, p) in packages.iter().enumerate() {
            for r in p.provides.split(',').filter_map(relation) {
                providers.entry(r.name.to_owned()).or_default().push(i);
            }
        }
        Index { suite: suite.to_owned(), packages, by_name, providers }
    }

    /// A package by name.
    ///
    /// # Errors
    /// [`Error::Unresolvable`], on behalf of `needed_by`.
    pub fn get(&self, name: &str, needed_by: &str) -> Result<&Package> {
        self.by_name.get(name).and_then(|&i| self.packages.get(i)).ok_or_else(|| Error::Unresolvable {
            package: name.to_owned(),
            needed_by: needed_by.to_owned(),
            suite: self.suite.clone(),
        })
    }

    /// The essential packages, `roots`, and all they need, in the order they were found.
    ///
    /// # Errors
    /// [`Error::Unresolvable`] names the first root or group that nothing satisfies.
    pub fn resolve(&self, roots: &[&str]) -> Result<Vec<&Package>> {
        let mut chosen: Vec<&Package> = Vec::new();
        let mut names: BTreeSet<&str> = BTreeSet::new();
        let essential = self.packages.iter().filter(|p| p.essential).map(Ok);
        for p in essential.chain(roots.iter().map(|r| self.get(r, "the image's package set"))) {
            let p = p?;
            if names.insert(&p.name) {
                chosen.push(p);
            }
        }
        let mut at = 0;
        while let Some(&p) = chosen.get(at) {
            at = at.saturating_add(1);
            for group in p.groups() {
                let held = group.iter().any(|r| match names.get(r.name) {
                    Some(_) => self.get(r.name, "").is_ok_and(|q| q.satisfies(*r)),
                    None => self.provider(*r).any(|q| names.contains(q.name.as_str())),
                });
                if !held {
                    let q = self.choose(&group).ok_or_else(|| Error::Unresolvable {
                        package: group.iter().map(|r| r.name).collect::<Vec<_>>().join(" | "),
                        needed_by: p.name.clone(),
                        suite: self.suite.clone(),
                    })?;
                    names.insert(&q.name);
                    chosen.push(q);
                }
            }
        }
        Ok(chosen)
    }

    fn provider<'a>(&'a self, r: Relation<'a>) -> impl Iterator<Item = &'a Package> {
        let all = self.providers.get(r.name).map(Vec::as_slice).unwrap_or(&[]);
        all.iter().filter_map(|&i| self.packages.get(i)).filter(move |p| p.satisfies(r))
    }

    fn choose(&self, group: &[Relation<'_>]) -> Option<&Package> {
        group.iter().find_map(|r| {
            let real = self.get(r.name, "").ok().filter(|p| p.satisfies(*r));
            let best = || {
                self.packages_providing(*r).min_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)))
            };
            real.or_else(best)
        })
    }

    fn packages_providing(&self, r: Relation<'_>) -> impl Iterator<Item = &Package> {
        let all = self.providers.get(r.name).map(Vec::as_slice).unwrap_or(&[]);
        let fits: Vec<&Package> =
            all.iter().filter_map(|&i| self.packages.get(i)).filter(|p| p.satisfies(r)).collect();
        fits.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nFilename: pool/{name}.deb\nSize: 1\nSHA256: {}\n{more}\n",
            "a".repeat(64)
        )
    }

    fn names(index: &Index, roots: &[&str]) -> Vec<String> {
        index.resolve(roots).unwrap().iter().map(|p| p.name.clone()).collect()
    }

    #[test]
    fn relations_parse() {
        assert_eq!(
            relation(" libc6:any (>= 2.34) [riscv64]"),
            Some(Relation { name: "libc6", version: Some((">=", "2.34")) })
        );
        assert_eq!(relation("a(=1)"), Some(Relation { name: "a", version: Some(("=", "1")) }));
        assert_eq!(relation("a"), Some(Relation { name: "a", version: None }));
        assert_eq!(relation("  "), None);
    }

    #[test]
    fn the_set_is_closed_and_small() {
        let text = [
            stanza("base", "1", "Essential: yes\nPre-Depends: awk\n"),
            stanza("gawk", "1", "Priority: optional\nProvides: awk\n"),
            stanza("mawk", "1", "Priority: required\nProvides: awk\n"),
            stanza("app", "1", "Depends: lib (>= 2) | other, virt (>= 3), old | lib\n"),
            stanza("lib", "1", ""),
            stanza("lib", "2", "Depends: app\n"),
            stanza("v2", "9", "Provides: virt (= 2)\n"),
            stanza("v3", "1", "Provides: virt (= 3.1), x\n"),
            stanza("unversioned", "1", "Provides: virt\n"),
        ]
        .concat();
        let index = Index::parse("t", &text);
        assert_eq!(names(&index, &["app"]), ["base", "app", "mawk", "lib", "v3"]);
        assert_eq!(names(&index, &["gawk"]), ["base", "gawk"]);
        assert_eq!(index.get("lib", "").unwrap().version, "2");
    }

    #[test]
    fn what_is_missing_is_named() {
        let index = Index::parse("t", &stanza("app", "1", "Depends: gone | lost (>> 4)\n"));
        let e = index.resolve(&["app"]).unwrap_err().to_string();
        assert!(e.contains("gone | lost") && e.contains("needed by app"), "{e}");
        assert!(index.resolve(&["none"]).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn unsafe_or_broken_stanzas_are_left_out() {
        let text = stanza("up", "1", "").replace("pool/", "pool/../../")
            + &stanza("short", "1", "").replace("aa", "a");
        assert!(Index::parse("t", &text).packages.is_empty());
    }
}

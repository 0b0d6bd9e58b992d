//! The house kept tidy: what a reader would notice, checked.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "node_modules") {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn files(ending: &str) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    walk(&root(), &mut all);
    all.retain(|p| p.to_string_lossy().ends_with(ending));
    all.into_iter()
        .map(|p| (p.strip_prefix(root()).unwrap().to_owned(), fs::read_to_string(&p).unwrap()))
        .collect()
}

fn is_test(path: &Path) -> bool {
    path.components()
        .any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "benches" | "examples" | "tests.rs")))
}

/// The part of a file before its inline tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod").next().unwrap_or(text)
}

#[test]
fn every_path_in_the_architecture_exists() {
    for doc in ["docs/ARCHITECTURE.md", "docs/status.md", "README.md"] {
        let text = fs::read_to_string(root().join(doc)).unwrap();
        let mut seen = 0;
        for word in text.split(|c: char| c.is_whitespace() || "`(),;:".contains(c)) {
            let starts = ["crates/", "docs/", "guests/", "tests/", "benches/", "xtask/"];
            if starts.iter().any(|s| word.starts_with(s)) {
                let path = word.trim_end_matches('.');
                assert!(root().join(path).exists(), "{doc} names {path}, which does not exist");
                seen += 1;
            }
        }
        assert!(doc != "docs/ARCHITECTURE.md" || seen > 30, "{doc} names only {seen} paths");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for (path, text) in files(".md") {
        for link in text.split("](").skip(1).filter_map(|s| s.split(')').next()) {
            let link = link.split('#').next().unwrap();
            if !link.is_empty() && !link.contains("://") {
                let target = root().join(path.parent().unwrap()).join(link);
                assert!(target.exists(), "{} links to {link}, which does not exist", path.display());
            }
        }
    }
}

#[test]
fn files_fit_in_a_head_and_open_with_an_essay() {
    let mut long = Vec::new();
    for (path, text) in files(".rs").into_iter().filter(|(p, _)| !is_test(p)) {
        let lines = production(&text).lines().count();
        if lines > 500 {
            long.push(format!("{} ({lines} lines)", path.display()));
        }
        let opens = text.lines().take(3).any(|l| l.starts_with("//!"));
        assert!(opens, "{} does not open with what it is", path.display());
    }
    assert!(long.is_empty(), "longer than 500 lines: {long:?}");
}

#[test]
fn nothing_unfinished_looks_finished() {
    let words =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("X", "XX:")];
    for (path, text) in files(".rs") {
        for word in words {
            assert!(!text.contains(word), "{} contains {word}", path.display());
        }
    }
}

#[test]
fn dependencies_point_down() {
    let order = [
        "state",
        "float",
        "isa",
        "x64",
        "memory",
        "snapshot",
        "migration",
        "engine",
        "block",
        "net",
        "riscv",
        "translator",
        "kvm",
        "devices",
        "board",
        "machine",
        "sandbox",
        "vmm",
        "image",
        "strata",
    ];
    let place = |name: &str| order.iter().position(|o| *o == name);
    for (path, text) in files("Cargo.toml") {
        let Ok(inside) = path.strip_prefix("crates") else { continue };
        let name = inside.iter().next().unwrap().to_string_lossy().into_owned();
        let mine = place(&name).unwrap_or_else(|| panic!("crate {name} has no place in the layers"));
        let production = text.split("[dev-dependencies]").next().unwrap();
        for line in production.lines().filter_map(|l| l.strip_prefix("strata-")) {
            let other = line.split(['.', ' ', '=']).next().unwrap();
            assert!(
                place(other).is_some_and(|p| p < mine),
                "{name} depends on {other}, which is not below it"
            );
        }
    }
}

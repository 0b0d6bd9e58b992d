//! The busybox image of the tests: pulled by the binary under test, from the mirror that the host's apt uses.
//!
//! It is kept under the target folder and used again, until the code that makes images changes; downloads stay in
//! that home's cache in any case. A lock lets one test program pull while the others wait.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Folder of the image.
///
/// # Panics
/// It cannot be pulled; the message says whose fault that is.
pub fn busybox() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e-home");
    fs::create_dir_all(&home).unwrap();
    let lock = File::create(home.join("e2e.lock")).unwrap();
    lock.lock().unwrap();
    let (image, stamp) = (home.join("images/busybox"), home.join("e2e.stamp"));
    let maker = maker();
    if !image.join("image.json").exists() || fs::read_to_string(&stamp).ok().as_ref() != Some(&maker) {
        let strata = |words: &[&str]| {
            let mut c = Command::new(env!("CARGO_BIN_EXE_strata"));
            c.args(words).env("STRATA_HOME", &home).output().unwrap()
        };
        if image.exists() {
            strata(&["image", "remove", "busybox"]);
        }
        let pulled = strata(&["image", "pull", "busybox"]);
        assert!(pulled.status.success(), "{}", mirror_or_strata(&pulled));
        fs::write(&stamp, maker).unwrap();
        let shown = strata(&["image", "show", "busybox"]);
        eprintln!("pulled the busybox image:\n{}", String::from_utf8_lossy(&shown.stdout));
    }
    image
}

/// Whose fault a failed pull is.
pub fn mirror_or_strata(pull: &Output) -> String {
    let whose = match pull.status.code() {
        Some(75) => "MIRROR: the network or the Debian mirror failed, Strata is not to blame",
        _ => "STRATA: the pull failed by itself",
    };
    format!("{whose} ({}):\n{}", pull.status, String::from_utf8_lossy(&pull.stderr))
}

/// Changes when the code that makes images does.
fn maker() -> String {
    fn add(dir: &Path, hash: &mut DefaultHasher) {
        let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort_unstable();
        for path in paths {
            if path.is_dir() {
                add(&path, hash);
            } else {
                (path.file_name(), fs::read(&path).unwrap()).hash(hash);
            }
        }
    }
    let mut hash = DefaultHasher::new();
    add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/src"), &mut hash);
    format!("{:016x}\n", hash.finish())
}

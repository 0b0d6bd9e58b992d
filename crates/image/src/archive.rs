//! A suite of the archive, opened: Release verified, index checked against it, packages fetched by hash.
//!
//! ```text
//! InRelease ──signature, dates──▶ Release ──hash──▶ Packages.xz ──hash──▶ Index ──hash──▶ .deb
//! ```
//! Nothing is used before the arrow that leads to it has held. A mirror in the middle of an update may
//! give an index that is newer or older than the Release: a fresh Release is asked for once; if they
//! still differ, the mirror is out of step, which is said as such, with the suites that do match.

use crate::arch::Arch;
use crate::error::{Error, Kind, Result};
use crate::fetch::{Client, Wanted};
use crate::index::{Index, Package};
use crate::mirror::Source;
use crate::progress::{Cancel, Progress, Stage};
use crate::release::Release;
use crate::time;
use crate::verify::{CLOCK_SKEW, Keyring};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// A Release with all its hashes is about 300 KB.
const MAX_RELEASE: u64 = 8 << 20;
/// The largest index is 55 MB of text; a signed one that claims more than this is not believed.
const MAX_INDEX: u64 = 512 << 20;
const MAX_DEB: u64 = 2 << 30;
const DOWNLOADS: usize = 4;

/// A suite we know how to make images of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// The short name that images carry: `13`, `forky`, `sid`.
    pub name: &'static str,
    /// The folder below `dists/`, which is also the Release's Codename.
    pub codename: &'static str,
    aliases: &'static [&'static str],
}

/// In the order in which they are tried when any will do.
pub const SUITES: [Suite; 3] = [
    Suite { name: "13", codename: "trixie", aliases: &["trixie"] },
    Suite { name: "forky", codename: "forky", aliases: &["14"] },
    Suite { name: "sid", codename: "sid", aliases: &["unstable"] },
];

impl Suite {
    /// By name or alias.
    pub fn named(name: &str) -> Option<Suite> {
        SUITES.into_iter().find(|s| s.name == name || s.aliases.contains(&name))
    }
}

/// Where suites are opened: a mirror, the keys that must have signed, the cache.
pub struct Archive<'a> {
    /// The mirror and its settings.
    pub source: &'a Source,
    /// The guest architecture.
    pub arch: Arch,
    /// Keys that may sign.
    pub keyring: &'a Keyring,
    /// Accept a Release past its Valid-Until, with a note.
    pub allow_expired: bool,
    /// Folder of files by hash; exists and is locked by the caller.
    pub cache: &'a Path,
    /// How to fetch.
    pub client: Client,
    /// Who listens.
    pub progress: &'a dyn Progress,
    /// Who may stop it.
    pub cancel: &'a Cancel,
}

/// A verified suite.
pub struct OpenSuite {
    /// Which.
    pub suite: Suite,
    /// Its Release.
    pub release: Release,
    /// Its packages.
    pub index: Index,
    /// Fingerprint of the key that signed.
    pub signer: String,
}

impl Archive<'_> {
    /// Opens one suite.
    ///
    /// # Errors
    /// [`Error::OutOfStep`] with the suites that match, [`Error::Expired`], [`Error::BadSignature`], and
    /// what fetching can give.
    pub fn open(&self, suite: Suite) -> Result<OpenSuite> {
        match self.open_once(suite) {
            Err(Error::OutOfStep { suite: name, why, .. }) => {
                let others = SUITES.into_iter().filter(|s| s.codename != suite.codename);
                let mut matching = Vec::new();
                for other in others {
                    match self.open_once(other) {
                        Ok(_) => matching.push(other.name.to_owned()),
                        Err(e) if e.kind() == Kind::Mirror || e.kind() == Kind::Data => {}
                        Err(e) => return Err(e),
                    }
                }
                Err(Error::OutOfStep { suite: name, arch: self.arch.name(), why, matching })
            }
            other => other,
        }
    }

    /// Opens the first suite of [`SUITES`] that verifies, and notes which and why not the ones before.
    ///
    /// # Errors
    /// [`Error::NoSuite`] if none does; at once, what is not the mirror's fault.
    pub fn open_first(&self) -> Result<OpenSuite> {
        let mut tried = Vec::new();
        for suite in SUITES {
            match self.open_once(suite) {
                Ok(open) => {
                    self.progress.note(&format!("using suite {} ({})", suite.name, suite.codename));
                    return Ok(open);
                }
                Err(e) if e.kind() == Kind::Mirror || e.kind() == Kind::Data => {
                    let why = match &e {
                        Error::OutOfStep { why, .. } => {
                            format!("its index does not match its own signed Release ({why})")
                        }
                        other => other.to_string(),
                    };
                    self.progress.note(&format!("suite {} cannot be used: {why}", suite.name));
                    tried.push((suite.name.to_owned(), why));
                }
                Err(e) => return Err(e),
            }
        }
        Err(Error::NoSuite { tried })
    }

    fn open_once(&self, suite: Suite) -> Result<OpenSuite> {
        let mut last = None;
        // The second round asks for a fresh Release: the mirror may have been updated in between.
        for _ in 0..2 {
            let (release, signer) = self.release(suite)?;
            match self.packages(suite, &release) {
                Ok(text) => {
                    self.check_expiry(suite, &release, true)?;
                    let index = Index::parse(suite.name, &text);
                    return Ok(OpenSuite { suite, release, index, signer });
                }
                Err(e @ (Error::NotFound { .. } | Error::HashMismatch { .. })) => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        let why = match last {
            Some(Error::NotFound { status, .. }) => format!("the mirror answers {status} for it"),
            Some(Error::HashMismatch { want, got, .. }) => format!("wanted SHA-256 {want}, got {got}"),
            _ => "it is missing".into(),
        };
        Err(Error::OutOfStep { suite: suite.name.into(), arch: self.arch.name(), why, matching: Vec::new() })
    }

    fn base(&self, suite: Suite) -> String {
        format!("{}/dists/{}", self.source.mirror, suite.codename)
    }

    fn release(&self, suite: Suite) -> Result<(Release, String)> {
        self.progress.stage(Stage::Index, 0, 0);
        let bytes = self.client.small(&format!("{}/InRelease", self.base(suite)), MAX_RELEASE)?;
        let now = time::now();
        let signed = self.keyring.verify(suite.name, &bytes, now)?;
        let release = Release::parse(&signed.text)?;
        // A good signature on another suite's Release must not pass for this one's.
        if release.codename != suite.codename {
            return Err(Error::BadSignature {
                suite: suite.name.into(),
                why: format!("it is the Release of {}, not of {}", release.codename, suite.codename),
            });
        }
        if release.made()? > now.saturating_add(CLOCK_SKEW) {
            return Err(Error::NotYetValid { suite: suite.name.into(), date: release.date.clone() });
        }
        self.check_expiry(suite, &release, false)?;
        Ok((release, signed.signer))
    }

    /// Enforces Valid-Until; where it is waived and past, `say` so.
    fn check_expiry(&self, suite: Suite, release: &Release, say: bool) -> Result<()> {
        let (Some(at), Some(until)) = (release.expires()?, &release.valid_until) else { return Ok(()) };
        if at >= time::now() {
            return Ok(());
        }
        let waived_by = match (self.allow_expired, self.source.check_valid_until) {
            (true, _) => "--allow-expired",
            (false, false) => "this host's apt configuration (Acquire::Check-Valid-Until)",
            (false, true) => {
                return Err(Error::Expired { suite: suite.name.into(), until: until.clone() });
            }
        };
        if say {
            self.progress.note(&format!(
                "warning: the Release of suite {} was valid until {until} only; accepted because of {waived_by}",
                suite.name
            ));
        }
        Ok(())
    }

    fn packages(&self, suite: Suite, release: &Release) -> Result<String> {
        let arch = self.arch.name();
        let plain = format!("main/binary-{arch}/Packages");
        let packed = format!("{plain}.xz");
        let missing = |what: &str| {
            Error::malformed(format!("the Release of suite {}", suite.name), format!("it lists no {what}"))
        };
        let want = release.file(&packed).ok_or_else(|| missing(&packed))?;
        let inner = release.file(&plain).ok_or_else(|| missing(&plain))?;
        if want.size > MAX_INDEX || inner.size > MAX_INDEX {
            return Err(Error::malformed(
                format!("the Release of suite {}", suite.name),
                "its index is absurdly large",
            ));
        }
        let base = self.base(suite);
        let mut urls = vec![format!("{base}/{packed}")];
        if release.by_hash {
            urls.insert(0, format!("{base}/main/binary-{arch}/by-hash/SHA256/{}", want.sha256));
        }
        let done = AtomicI64::new(0);
        let news = |n: i64| self.progress.stage(Stage::Index, add(&done, n), want.size);
        let path = self.client.file(&urls, want, self.cache, &news)?;
        unpack_index(&path, inner, &packed)
    }

    /// Fetches packages into the cache, several at a time; their paths, in the order asked for.
    ///
    /// # Errors
    /// The first failure; the other downloads stop too.
    pub fn fetch(&self, packages: &[&Package]) -> Result<Vec<PathBuf>> {
        let total: u64 = packages.iter().map(|p| p.wanted.size).fold(0, u64::saturating_add);
        let done = AtomicI64::new(0);
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<PathBuf>>> = Mutex::new(vec![None; packages.len()]);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let news = |n: i64| self.progress.stage(Stage::Download, add(&done, n), total);
        let worker = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(p) = packages.get(i) else { return };
                if lock(&failed).is_some() {
                    return;
                }
                match self.fetch_one(p, &news) {
                    Ok(path) => {
                        if let Some(slot) = lock(&results).get_mut(i) {
                            *slot = Some(path);
                        }
                    }
                    Err(e) => {
                        lock(&failed).get_or_insert(e);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..DOWNLOADS.min(packages.len()) {
                scope.spawn(worker);
            }
        });
        if let Some(e) = lock(&failed).take() {
            return Err(e);
        }
        Ok(lock(&results).iter_mut().filter_map(Option::take).collect())
    }

    fn fetch_one(&self, p: &Package, news: &dyn Fn(i64)) -> Result<PathBuf> {
        if p.wanted.size > MAX_DEB {
            return Err(Error::malformed(
                format!("the index entry of {}", p.name),
                "the package is absurdly large",
            ));
        }
        let url = format!("{}/{}", self.source.mirror, p.filename);
        self.client.file(&[url], &p.wanted, self.cache, news)
    }
}

fn add(done: &AtomicI64, n: i64) -> u64 {
    u64::try_from(done.fetch_add(n, Ordering::Relaxed).saturating_add(n)).unwrap_or(0)
}

/// A panic in a worker is already on its way out; its data is whole.
pub(crate) fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

fn unpack_index(path: &Path, want: &Wanted, name: &str) -> Result<String> {
    let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut text = Vec::with_capacity(usize::try_from(want.size).unwrap_or(0));
    let mut xz =
        liblzma::read::XzDecoder::new(std::io::BufReader::new(file)).take(want.size.saturating_add(1));
    xz.read_to_end(&mut text).map_err(|e| Error::malformed(name, e))?;
    let got = crate::fetch::hex(&Sha256::digest(&text));
    if got != want.sha256 {
        return Err(Error::HashMismatch {
            url: format!("the unpacked {name}"),
            want: want.sha256.clone(),
            got,
        });
    }
    String::from_utf8(text).map_err(|e| Error::malformed(name, e))
}

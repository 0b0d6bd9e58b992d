//! A pull from beginning to end: mirror, suite, packages, image, record.

use crate::arch::Arch;
use crate::archive::{Archive, OpenSuite, Suite};
use crate::busybox;
use crate::debian;
use crate::error::{Error, Result};
use crate::fetch::Client;
use crate::mirror::{self, Environment, Source};
use crate::progress::{Cancel, Progress};
use crate::record::Image;
use crate::runner::{GuestError, GuestRunner, Place};
use crate::store::{Lock, Store, require_space};
use crate::verify::Keyring;
use std::path::{Path, PathBuf};

/// Room a busybox image needs, downloads included.
const BUSYBOX_SPACE: u64 = 200 << 20;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// `busybox`, or `debian:` and a suite: `13` (`trixie`), `forky`, `sid`; for amd64 with `-amd64` behind it
    /// ([`Arch::image`]).
    pub image: String,
    /// `--mirror`: base address of a Debian archive; otherwise the host's apt configuration says.
    pub mirror: Option<String>,
    /// `--keyring`: keys to trust instead of Debian's.
    pub keyring: Option<PathBuf>,
    /// `--allow-expired`: accept a Release past its Valid-Until.
    pub allow_expired: bool,
    /// `--root-password-file`: its first line becomes root's password (for other ways in than the serial
    /// console, which asks for none). Debian images only.
    pub root_password_file: Option<PathBuf>,
    /// `--ssh-key`: a public key; brings an SSH server that admits root with it. Debian images only.
    pub ssh_key: Option<PathBuf>,
    /// Size of the disk in bytes, a multiple of 1 MiB; 0: the default of 8 GiB (sparse).
    pub disk_size: u64,
}

/// What the host brings to a pull.
pub struct Host<'a> {
    /// Where `etc/apt` is found; `/` outside tests.
    pub root: &'a Path,
    /// Proxy settings of the environment.
    pub environment: Environment,
    /// Who listens.
    pub progress: &'a dyn Progress,
    /// Who may stop it.
    pub cancel: &'a Cancel,
    /// Runs the building machine; `busybox` needs none.
    pub runner: &'a dyn GuestRunner,
}

/// What a name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipe {
    Busybox,
    Debian(Suite),
}

pub(crate) fn recipe(image: &str) -> Result<Recipe> {
    let unknown = || Error::UnknownImage { name: image.to_owned() };
    let (name, _) = Arch::of_image(image);
    match name.split_once(':') {
        None if name == "busybox" => Ok(Recipe::Busybox),
        Some(("debian", suite)) => Suite::named(suite).map(Recipe::Debian).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

/// The name an image is kept under: `debian:trixie` is `debian:13`, and likewise with an architecture; other names are themselves.
pub fn canonical_name(name: &str) -> String {
    match recipe(name) {
        Ok(Recipe::Debian(suite)) => Arch::of_image(name).1.image(&format!("debian:{}", suite.name)),
        _ => name.to_owned(),
    }
}

/// Everything a recipe works with, opened.
pub(crate) struct Session<'a> {
    pub archive: Archive<'a>,
}

/// Where to pull from and whom to trust, settled before anything is written.
pub(crate) struct Settled {
    pub source: Source,
    pub keyring: Keyring,
    pub client: Client,
    pub cache: PathBuf,
}

impl Settled {
    pub fn new(store: &Store, request: &PullRequest, host: &Host<'_>) -> Result<Settled> {
        let source = mirror::discover(host.root, request.mirror.as_deref(), &host.environment)?;
        let keyring = match &request.keyring {
            Some(path) => Keyring::from_file(path)?,
            None => Keyring::debian()?,
        };
        let client = Client::new(&source, host.cancel)?;
        Ok(Settled { source, keyring, client, cache: store.cache() })
    }

    pub fn session<'a>(&'a self, request: &PullRequest, host: &Host<'a>) -> Session<'a> {
        Session {
            archive: Archive {
                source: &self.source,
                arch: Arch::of_image(&request.image).1,
                keyring: &self.keyring,
                allow_expired: request.allow_expired,
                cache: &self.cache,
                client: self.client.clone(),
                progress: host.progress,
                cancel: host.cancel,
            },
        }
    }
}

/// Makes the image that is asked for, and puts it into the store.
///
/// # Errors
/// [`Error::Exists`] if it is there already; else whatever of [`Error`] stopped it: then nothing is
/// left but finished downloads.
pub fn pull(store: &Store, request: &PullRequest, host: &Host<'_>) -> Result<Image> {
    let recipe = recipe(&request.image)?;
    let settled = Settled::new(store, request, host)?;
    let held = store.lock(host.progress, host.cancel)?;
    let session = settled.session(request, host);
    match recipe {
        Recipe::Busybox => pull_busybox(store, &held, &session, &canonical_name(&request.image)),
        Recipe::Debian(suite) => pull_debian(store, &held, &session, request, host, suite),
    }
}

fn pull_busybox(store: &Store, held: &Lock, session: &Session<'_>, name: &str) -> Result<Image> {
    let stage = store.stage(held, name)?;
    require_space(&stage.dir, BUSYBOX_SPACE)?;
    let open: OpenSuite = session.archive.open_first()?;
    let record = busybox::make(&session.archive, &open, true, name, &stage)?;
    session.archive.cancel.check()?;
    store.commit(stage, record)
}

fn pull_debian(
    store: &Store,
    held: &Lock,
    session: &Session<'_>,
    request: &PullRequest,
    host: &Host<'_>,
    suite: Suite,
) -> Result<Image> {
    let refused = |e: GuestError| Error::NoBuilder { image: request.image.clone(), why: e.to_string() };
    if let Place::Host(how) = host.runner.ready(session.archive.arch).map_err(refused)? {
        host.progress.note(&format!(
            "its packages are configured by this host's kernel, {how} and apart from the host"
        ));
    }
    let stage = store.stage(held, &canonical_name(&request.image))?;
    let open = session.archive.open(suite)?;
    let record = debian::make(&session.archive, &open, request, host.runner, &stage)?;
    session.archive.cancel.check()?;
    store.commit(stage, record)
}

/// Gives image `name` the newest kernel of its suite, with our initramfs. The disk is not touched: what
/// lies in its `/boot` and `/lib/modules` stays as it was made, so modules beyond those of the initramfs
/// are not there for the new kernel.
///
/// # Errors
/// [`Error::NoSuchImage`]; [`Error::BadSetting`] for an image that was not pulled; those of [`pull`].
pub fn update_kernel(store: &Store, name: &str, request: &PullRequest, host: &Host<'_>) -> Result<Image> {
    let image = store.get(name)?;
    let recipe = recipe(&image.record.name)?;
    let suite = image.record.origin.as_ref().and_then(|o| Suite::named(&o.suite)).ok_or_else(|| {
        Error::BadSetting {
            what: format!("the image {name}"),
            why: "it was not pulled, so there is no suite to take a kernel from".into(),
        }
    })?;
    let settled = Settled::new(store, request, host)?;
    let held = store.lock(host.progress, host.cancel)?;
    let session = settled.session(&PullRequest { image: image.record.name.clone(), ..request.clone() }, host);
    let stage = store.stage_refresh(&held, &image.record.name)?;
    require_space(&stage.dir, BUSYBOX_SPACE)?;
    let open = session.archive.open(suite)?;
    let mut record = image.record.clone();
    let fresh = busybox::make(&session.archive, &open, recipe == Recipe::Busybox, &record.name, &stage)?;
    record.kernel = fresh.kernel;
    record.packages.retain(|name, _| !name.starts_with("linux-"));
    record.packages.extend(fresh.packages);
    session.archive.cancel.check()?;
    store.refresh(stage, &image, record)
}

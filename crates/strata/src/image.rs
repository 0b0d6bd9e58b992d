//! `strata image …`: images, with progress bars.

use crate::args::{ImageCommand, PullArgs, SourceArgs};
use crate::builder::Builder;
use crate::progress::bar;
use crate::{manage, print};
use indicatif::ProgressBar;
use std::collections::HashMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;
use strata_image as image;
use strata_image::{Cancel, Environment, Host, Image, Progress, PullRequest, Stage, Store};
use strata_vmm::{Arch, Error, Kind, Result, home};

/// Carries an image command out.
pub fn image(command: ImageCommand) -> Result<u8> {
    match command {
        ImageCommand::Pull(args) => pull(&named(&args.image, args.arch), &args.source).map(|i| {
            print(format!("{}\n", i.record.name).as_bytes());
            0
        }),
        ImageCommand::List => list(),
        ImageCommand::Show(name) => show(&name.name),
        ImageCommand::Remove { names } => remove(&names),
        ImageCommand::Import(args) => import(args),
        ImageCommand::UpdateKernel(args) => update_kernel(&args),
    }
}

/// An image's error as this program's.
fn error(e: image::Error) -> Error {
    let kind = match (&e, e.kind()) {
        (image::Error::NoSuchImage { .. } | image::Error::UnknownImage { .. }, _) => Kind::NotFound,
        (image::Error::Exists { .. }, _) => Kind::CannotCreate,
        (image::Error::DiskFull { .. }, _) => Kind::CannotCreate,
        (image::Error::NoBuilder { .. }, _) => Kind::Host,
        (_, image::Kind::Usage) => Kind::Config,
        (_, image::Kind::Network | image::Kind::Mirror) => Kind::Network,
        (_, image::Kind::Disk) => Kind::Io,
        (_, image::Kind::Data) => Kind::BadInput,
        (_, image::Kind::Guest) => Kind::Internal,
        (_, image::Kind::Cancelled) => Kind::Cancelled,
    };
    Error::new(kind, e.to_string())
}

fn store() -> Result<Store> {
    Store::open(&home()?).map_err(error)
}

/// The name of an image with the architecture that is asked for, if one is.
pub fn named(name: &str, arch: Option<Arch>) -> String {
    let Some(arch) = arch.and_then(|a| image::Arch::by_name(a.name())) else { return name.to_owned() };
    // One that was imported is of its architecture, whatever it is called.
    let is_already =
        |s: Store| s.get(&image::canonical_name(name)).is_ok_and(|i| i.record.arch == arch.name());
    if store().is_ok_and(is_already) { name.to_owned() } else { arch.image(name) }
}

/// The architecture of the image of that name, whether it is here or not.
pub fn arch(name: &str) -> Result<Arch> {
    let by_name = image::Arch::of_image(name).1.name();
    match store()?.get(&image::canonical_name(name)) {
        Ok(found) => Arch::by_name(&found.record.arch).ok_or_else(|| {
            let m = format!(
                "The image {name} is for {}, of which this program has no machine.",
                found.record.arch
            );
            Error::new(Kind::BadInput, m)
        }),
        Err(_) => Ok(Arch::by_name(by_name).unwrap_or_default()),
    }
}

/// The image of that name, pulled if it is not here.
pub fn find_or_pull(name: &str, source: &SourceArgs) -> Result<Image> {
    match store()?.get(&image::canonical_name(name)) {
        Ok(found) => Ok(found),
        Err(image::Error::NoSuchImage { .. }) => match pull(name, source) {
            // Another strata pulled it while this one waited for its turn.
            Err(e) if e.kind == Kind::CannotCreate => {
                store()?.get(&image::canonical_name(name)).map_err(|_| e)
            }
            pulled => pulled,
        },
        Err(e) => Err(error(e)),
    }
}

fn request(name: &str, source: &SourceArgs) -> PullRequest {
    PullRequest {
        image: name.to_owned(),
        mirror: source.mirror.clone(),
        keyring: source.keyring.clone(),
        allow_expired: source.allow_expired,
        root_password_file: source.root_password_file.clone(),
        ssh_key: source.ssh_key.clone(),
        disk_size: 0,
    }
}

/// Does `work` with progress shown.
fn shown<T>(work: impl FnOnce(&Host<'_>) -> image::Result<T>) -> Result<T> {
    let bars = Bars::new();
    let cancel = Cancel::default();
    let host = Host {
        root: Path::new("/"),
        environment: Environment::of_process(),
        progress: &bars,
        cancel: &cancel,
        runner: &Builder::default(),
    };
    let outcome = work(&host);
    bars.close();
    outcome.map_err(error)
}

fn pull(name: &str, source: &SourceArgs) -> Result<Image> {
    let store = store()?;
    shown(|host| image::pull(&store, &request(name, source), host))
}

fn update_kernel(args: &PullArgs) -> Result<u8> {
    let store = store()?;
    let name = image::canonical_name(&named(&args.image, args.arch));
    let image = shown(|host| image::update_kernel(&store, &name, &request(&name, &args.source), host))?;
    let release = image.record.kernel.map(|k| k.release).unwrap_or_default();
    print(format!("{} {release}\n", image.record.name).as_bytes());
    Ok(0)
}

fn import(args: crate::args::ImportArgs) -> Result<u8> {
    let store = store()?;
    let stem = args.file.file_stem().map(|s| s.to_string_lossy().to_lowercase());
    let request = image::ImportRequest {
        name: args.name.or(stem).unwrap_or_default(),
        disk: args.file,
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.append.unwrap_or_default(),
    };
    let image = shown(|host| image::import(&store, &request, host.progress, host.cancel))?;
    print(format!("{}\n", image.record.name).as_bytes());
    Ok(0)
}

fn list() -> Result<u8> {
    let images = store()?.list().map_err(error)?;
    let name = images.iter().map(|i| i.record.name.len()).max().unwrap_or(0).max(4);
    let mut out = format!("{:name$}  {:8}  {:24}  {:>8}  CREATED\n", "NAME", "ARCH", "KERNEL", "DISK");
    for i in &images {
        let r = &i.record;
        let kernel = r.kernel.as_ref().map_or("-", |k| if k.release.is_empty() { "own" } else { &k.release });
        let disk = r.disk.as_ref().map_or("-".into(), |d| manage::size(d.virtual_size));
        let _ = writeln!(out, "{:name$}  {:8}  {kernel:24}  {disk:>8}  {}", r.name, r.arch, r.created);
    }
    print(out.as_bytes());
    Ok(0)
}

fn show(name: &str) -> Result<u8> {
    let image = store()?.get(&image::canonical_name(name)).map_err(error)?;
    let r = &image.record;
    let mut out = String::new();
    // Writing to a string does not fail.
    let mut line = |k: &str, v: &str| out.push_str(&format!("{k:16} {v}\n"));
    line("name", &r.name);
    line("architecture", &r.arch);
    line("created", &r.created);
    line("folder", &image.dir.display().to_string());
    if let Some(k) = &r.kernel {
        line("kernel", &format!("{} ({} {})", k.release, k.version, k.suite));
        line("command line", &r.cmdline);
    }
    if let Some(d) = &r.disk {
        line("disk", &format!("{} ({:?})", manage::size(d.virtual_size), d.format).to_lowercase());
    }
    if let Some(o) = &r.origin {
        line("suite", &format!("{} ({}), of {}", o.suite, o.codename, o.release_date));
        line("signed by", &o.signed_by);
        line("mirror", &o.mirror);
        line("proxy", o.proxy.as_deref().unwrap_or("none"));
        line(
            "valid-until",
            if o.check_valid_until { "enforced" } else { "not enforced, as the pull's own settings say" },
        );
        line("settings from", &o.settings_from);
    }
    for (package, version) in &r.packages {
        line("package", &format!("{package} {version}"));
    }
    print(out.as_bytes());
    Ok(0)
}

fn remove(names: &[String]) -> Result<u8> {
    let store = store()?;
    let instances = strata_vmm::Store::open()?.list()?;
    for name in names {
        let name = image::canonical_name(name);
        let image = store.get(&name).map_err(error)?;
        let user = instances.iter().find(|i| {
            let r = &i.record;
            let paths = [r.base.as_ref().map(|b| &b.0), r.kernel.as_ref(), r.initrd.as_ref()];
            paths.into_iter().flatten().any(|p| p.starts_with(&image.dir))
        });
        if let Some(user) = user {
            let m = format!(
                "Image {name} is what instance {0} stands on; remove that first (`strata delete {0}`).",
                user.record.name
            );
            return Err(Error::new(Kind::InUse, m));
        }
        store.remove(&name).map_err(error)?;
    }
    Ok(0)
}

/// Progress bars on a terminal, a line a stage elsewhere.
struct Bars {
    terminal: bool,
    bars: Mutex<HashMap<Stage, ProgressBar>>,
}

impl Bars {
    fn new() -> Bars {
        Bars { terminal: std::io::stderr().is_terminal(), bars: Mutex::default() }
    }

    fn close(&self) {
        let bars = self.bars.lock().unwrap_or_else(|e| e.into_inner());
        bars.values().filter(|b| !b.is_finished()).for_each(ProgressBar::abandon);
    }

    fn bar(&self, stage: Stage) -> ProgressBar {
        let bytes = matches!(stage, Stage::Index | Stage::Download);
        bar(stage.label(), bytes)
    }
}

impl Progress for Bars {
    fn stage(&self, stage: Stage, done: u64, total: u64) {
        let mut bars = self.bars.lock().unwrap_or_else(|e| e.into_inner());
        if !self.terminal {
            if bars.insert(stage, ProgressBar::hidden()).is_none() {
                crate::say(&stage.label());
            }
            return;
        }
        if !bars.contains_key(&stage) {
            // One stage after the other: what came before stays as a finished line.
            bars.values().filter(|b| !b.is_finished()).for_each(ProgressBar::abandon);
        }
        let bar = bars.entry(stage).or_insert_with(|| self.bar(stage));
        if total > 0 {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    fn note(&self, text: &str) {
        let bars = self.bars.lock().unwrap_or_else(|e| e.into_inner());
        match bars.values().find(|b| !b.is_finished()) {
            Some(bar) if self.terminal => bar.suspend(|| crate::say(&text)),
            _ => crate::say(&text),
        }
    }
}

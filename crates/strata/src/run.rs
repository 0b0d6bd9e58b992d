//! `strata run`: from words to a new instance.

use crate::args::{MachineArgs, Net, RunArgs, SourceArgs};
use crate::{image, start};
use std::path::{Path, PathBuf};
use strata_image::Image;
use strata_vmm::{
    Arch, DiskFormat, DiskSpec, Engine, Error, Kind, NetSpec, NewInstance, Result, Store, VmmSpec,
};

/// Command line of a kernel that comes without an image.
const PLAIN_CMDLINE: &str = "console=ttyS0";

/// Makes an instance and runs it.
pub fn run(args: RunArgs) -> Result<u8> {
    if args.image.is_none() && args.kernel.is_none() && args.firmware.is_none() {
        let m = "There is nothing to run: name an image (`strata run busybox`), a --kernel or a --firmware.";
        return Err(Error::new(Kind::Usage, m));
    }
    start::check_front(&args.front)?;
    // It begins while the rest is looked at, and the instance is made, which waits for the host's disk. Should nothing come
    // of it, it ends with us.
    let process = start::begin_process(!args.front.detach)?;
    let store = Store::open()?;
    // What a killed machine left is removed by whoever comes next; trouble with it is not this command's.
    let _ = store.sweep();
    let net = network(&args.machine)?;
    let files = files_to_boot(&args)?;
    let disks = args.disk.iter().map(|d| disk(d)).collect::<Result<Vec<_>>>()?;
    let arch = arch(&args, &files)?;
    check_early(&args, arch, &disks, &net)?;
    let find =
        |name: &str| image::find_or_pull(&image::named(name, args.machine.arch), &SourceArgs::default());
    let found = args.image.as_deref().map(find).transpose()?;
    let new = assemble(&args, arch, found.as_ref(), files, disks, net)?;
    start::bring_up(store.create(new)?, process, &args.front, start::Begin::default())
}

/// Tells impossible numbers and names before an image is pulled for them.
fn check_early(args: &RunArgs, arch: Arch, disks: &[DiskSpec], net: &NetSpec) -> Result<()> {
    let spec = VmmSpec {
        arch,
        engine: args.machine.engine,
        cpu: args.machine.cpu.clone(),
        deterministic: args.deterministic.then_some(args.seed),
        firmware: args.firmware.clone(),
        cpus: args.machine.cpus,
        memory: args.machine.memory,
        tier: args.machine.tier,
        disks: disks.to_vec(),
        net: net.clone(),
        // Stands for whatever will be started.
        kernel: Some(PathBuf::from("/")),
        ..VmmSpec::new(args.name.as_deref().unwrap_or("unnamed"))
    };
    spec.check()?;
    // What a person should know of it is told when it starts.
    strata_vmm::arch::ready(arch, args.machine.engine, args.machine.cpu.as_deref()).map(drop)
}

/// The architecture: as it is named, or as image, engine and kernel demand, in this order.
fn arch(args: &RunArgs, files: &Files) -> Result<Arch> {
    let by_engine = match args.machine.engine {
        Engine::Kvm => Some(Arch::Amd64),
        Engine::Soft => Some(Arch::Riscv64),
        Engine::Auto => None,
    };
    let by_kernel = || files.kernel.as_deref().and_then(Arch::of_kernel);
    let by_image = args.image.as_deref().map(|name| image::arch(&image::named(name, args.machine.arch)));
    let by_image = by_image.transpose()?;
    Ok(args.machine.arch.or(by_image).or(by_engine).or_else(by_kernel).unwrap_or_default())
}

struct Files {
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    firmware: Option<PathBuf>,
}

/// The files named on the command line, made absolute; missing ones are told before an image is pulled.
fn files_to_boot(args: &RunArgs) -> Result<Files> {
    let there = |p: &Option<PathBuf>| p.as_deref().map(existing).transpose();
    Ok(Files { kernel: there(&args.kernel)?, initrd: there(&args.initrd)?, firmware: there(&args.firmware)? })
}

fn existing(path: &Path) -> Result<PathBuf> {
    let path = start::absolute(path)?;
    match std::fs::metadata(&path) {
        Ok(m) if m.is_dir() => {
            Err(Error::new(Kind::BadInput, format!("{} is a folder, not a file.", path.display())))
        }
        Ok(_) => Ok(path),
        Err(e) => Err(Error::io(format!("open {}", path.display()), e)),
    }
}

/// `FILE` or `FILE,ro`.
fn disk(text: &Path) -> Result<DiskSpec> {
    let (path, read_only) = match text.to_str().and_then(|t| t.strip_suffix(",ro")) {
        Some(path) => (PathBuf::from(path), true),
        None => (text.to_owned(), false),
    };
    Ok(DiskSpec { path: existing(&path)?, read_only, format: None, base: None, layers: vec![] })
}

/// The network that was asked for.
fn network(args: &MachineArgs) -> Result<NetSpec> {
    match &args.net {
        Net::User => Ok(NetSpec::User { forwards: args.forward.clone() }),
        _ if !args.forward.is_empty() => Err(Error::new(
            Kind::Usage,
            "--forward passes ports through user-mode networking; use it with --net user.",
        )),
        Net::Tap(name) => Ok(NetSpec::Tap { name: name.clone() }),
        Net::None => Ok(NetSpec::None),
    }
}

/// Puts image and options together: with a firmware the image gives only its disk; a kernel of one's own replaces
/// the image's with its initrd, whose modules would not fit.
fn assemble(
    args: &RunArgs,
    arch: Arch,
    image: Option<&Image>,
    files: Files,
    disks: Vec<DiskSpec>,
    net: NetSpec,
) -> Result<NewInstance> {
    let base = image.and_then(Image::disk).map(|(path, format)| {
        let format = match format {
            strata_image::DiskFormat::Raw => DiskFormat::Raw,
            strata_image::DiskFormat::Qcow2 => DiskFormat::Qcow2,
        };
        (path, format)
    });
    let own = files.kernel.is_some() || files.firmware.is_some();
    let kernel = files.kernel.or_else(|| image.filter(|_| !own).and_then(Image::kernel));
    if kernel.is_none() && files.firmware.is_none() {
        let name = args.image.as_deref().unwrap_or_default();
        let m = format!(
            "Image {name} has no kernel of its own: give a --kernel, or a --firmware that boots its disk."
        );
        return Err(Error::new(Kind::Config, m));
    }
    let initrd = files.initrd.or_else(|| image.filter(|_| !own).and_then(Image::initrd));
    let first = match image {
        Some(i) if !i.record.cmdline.is_empty() && files.firmware.is_none() => i.record.cmdline.clone(),
        _ if files.firmware.is_some() => String::new(),
        _ => PLAIN_CMDLINE.to_owned(),
    };
    let cmdline = match &args.append {
        Some(more) if first.is_empty() => more.clone(),
        Some(more) => format!("{first} {more}"),
        None => first,
    };
    Ok(NewInstance {
        name: args.name.clone(),
        ephemeral: args.name.is_none(),
        image: image.map(|i| i.record.name.clone()),
        base,
        disk_size: None,
        arch,
        engine: args.machine.engine,
        cpu: args.machine.cpu.clone(),
        virtio: args.machine.virtio,
        cpus: args.machine.cpus,
        memory: args.machine.memory,
        deterministic: args.deterministic.then_some(args.seed),
        tier: args.machine.tier,
        cmdline,
        firmware: files.firmware,
        kernel,
        initrd,
        disks,
        net,
    })
}

//! The two processes between the caller and the program: one that leaves the namespaces, and process 1 of the new ones.

use crate::ids::NEEDED;
use crate::outside::{FAILED, FIRST, GO, MAP, Order, UP};
use crate::{Error, unpack};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::mount::{mount, mount_bind, mount_bind_recursive, mount_change, mount_remount, unmount};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use std::fs;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Devices of the host that hold nothing: all that there are.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// What a program may do that makes and owns files of several users, and runs programs as them.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_CHROOT);

/// The life of such a process, for the hidden subcommand; words are what follows its name.
#[must_use]
pub fn child_main(words: &[std::ffi::OsString]) -> ExitCode {
    let first = words.first().is_some_and(|w| w == FIRST);
    match close_the_rest().and_then(|()| if first { process_one() } else { leave() }) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            // Whoever started this reads it; if nobody does, the status says enough.
            let _ = writeln!(io::stdout(), "{FAILED}{e}");
            ExitCode::FAILURE
        }
    }
}

/// Descriptors that were left open by whoever started the caller end with the next program: a folder among them would lead
/// out of the sandbox.
fn close_the_rest() -> Result<(), Error> {
    let listing = || Error::host("listing what is open");
    for entry in fs::read_dir("/proc/self/fd").map_err(listing())? {
        let name = entry.map_err(listing())?.file_name();
        let Some(n @ 3..) = name.to_str().and_then(|n| n.parse().ok()) else { continue };
        // SAFETY: only its flag is changed; it may be closed already, as that of this listing is at its end.
        let fd = unsafe { BorrowedFd::borrow_raw(n) };
        match fcntl_setfd(fd, FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(e) => return Err(Error::host("closing what is open")(e.into())),
        }
    }
    Ok(())
}

fn line() -> Result<String, Error> {
    let mut text = String::new();
    // Nothing follows a line until it is answered, so no part of the next one is lost in this reader's buffer.
    io::stdin().lock().read_line(&mut text).map_err(Error::host("reading what to do"))?;
    Ok(text)
}

fn say(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::host("answering"))
}

/// Dies with its parent from now on, whose end of this process's input stays open as long as it lives.
fn die_with_parent() -> Result<(), Error> {
    let e = |e: Errno| Error::host("tying it to its parent")(e.into());
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(e)?;
    // It may have died just before.
    let input = io::stdin();
    let mut fds = [PollFd::new(&input, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(e)?;
    match fds.iter().any(|f| f.revents().contains(PollFlags::HUP)) {
        true => Err(Error::Stopped),
        false => Ok(()),
    }
}

/// Leaves all namespaces, has its ids mapped, and starts process 1.
fn leave() -> Result<u8, Error> {
    let order: Order =
        serde_json::from_str(&line()?).map_err(|e| Error::host("reading what to do")(e.into()))?;
    let mut flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWCGROUP;
    if order.ids.apart() {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: the table of descriptors is not among what is left, and this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|e| Error::host("leaving the host's namespaces")(e.into()))?;
    die_with_parent()?;
    say(MAP)?;
    if line()? != format!("{GO}\n") {
        return Err(Error::Stopped);
    }
    let program = std::env::current_exe().map_err(Error::host("finding this program"))?;
    let mut child = Command::new(program)
        .args([crate::SUBCOMMAND, FIRST])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(Error::host("starting process 1"))?;
    let mut text = serde_json::to_string(&order).map_err(|e| Error::host("passing it on")(e.into()))?;
    text.push('\n');
    if let Some(input) = &mut child.stdin {
        input.write_all(text.as_bytes()).map_err(Error::host("passing it on"))?;
    }
    // `wait` would close its input, which tells it that this process died.
    let input = child.stdin.take();
    let status = child.wait().map_err(Error::host("waiting for process 1"))?;
    drop(input);
    // As a shell says it.
    let code = status.code().or(status.signal().map(|n| 128 + n));
    Ok(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(u8::MAX))
}

/// Makes the root, gives rights away, and becomes the program.
fn process_one() -> Result<u8, Error> {
    let order: Order =
        serde_json::from_str(&line()?).map_err(|e| Error::host("reading what to do")(e.into()))?;
    die_with_parent()?;
    rustix::process::setsid().map_err(|e| Error::host("leaving the session")(e.into()))?;
    let archive = match order.job.archive.as_os_str().is_empty() {
        true => None,
        false => Some(
            fs::read(&order.job.archive)
                .map_err(Error::host(format!("reading {}", order.job.archive.display())))?,
        ),
    };
    make_root(&order)?;
    has_users()?;
    let lengths = order.job.files.iter().filter_map(|(_, at)| Some(fs::metadata(at).ok()?.len()));
    let longest = lengths.fold(order.job.size, u64::max);
    let Some(archive) = archive else {
        give_rights_away(longest)?;
        say(UP)?;
        return Ok(0);
    };
    // Only now: there is nothing of the host any more that a link in it could lead to.
    unpack(&archive, Path::new("/"))?;
    drop(archive);
    for (of, at) in &order.job.views {
        folder(Path::new(at))?;
        mount_bind_recursive(of, at).map_err(|e| Error::host(format!("showing {of} at {at}"))(e.into()))?;
    }
    give_rights_away(longest)?;
    say(UP)?;
    let (program, args) = order.job.command.split_first().ok_or(Error::Stopped)?;
    let errors = io::stdout().as_fd().try_clone_to_owned().map_err(Error::host("joining its outputs"))?;
    let e = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stderr(errors)
        .exec();
    Err(Error::host(format!("starting {program}"))(e))
}

/// Refuses a place where root is the only user there is, as in a container within a container.
fn has_users() -> Result<(), Error> {
    let give = |id| std::os::unix::fs::chown("/tmp", Some(id), Some(id));
    give(NEEDED).and_then(|()| give(0)).map_err(Error::host("giving a file to another user"))
}

fn folder(at: &Path) -> Result<(), Error> {
    fs::create_dir_all(at).map_err(Error::host(format!("making {}", at.display())))
}

/// Makes the root file system at `root` and moves there; the host's is out of reach afterwards.
fn make_root(Order { root, job, ids }: &Order) -> Result<(), Error> {
    let mounting = |what: &str| {
        let doing = format!("mounting {what} of its own");
        move |e: Errno| Error::host(doing)(e.into())
    };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(mounting("all"))?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    let size = format!("size={},mode=755\0", job.size);
    let size = std::ffi::CStr::from_bytes_with_nul(size.as_bytes()).map_err(|_| Error::Stopped)?;
    mount("tmpfs", root, "tmpfs", MountFlags::NODEV, size).map_err(mounting("a root"))?;
    for name in ["proc", "dev/shm", "run", "tmp"] {
        folder(&root.join(name))?;
    }
    let sticky = fs::Permissions::from_mode(0o1777);
    for name in ["dev/shm", "tmp"] {
        fs::set_permissions(root.join(name), sticky.clone())
            .map_err(Error::host("setting rights of /tmp"))?;
    }
    // While the host's is still to be seen: without that, the kernel refuses another.
    let proc = root.join("proc");
    mount("proc", &proc, "proc", quiet | MountFlags::NOEXEC, None).map_err(mounting("/proc"))?;
    if ids.apart() {
        // One made in there would have all capabilities again. The limit is that of this user namespace; without one, it
        // would be the host's.
        let limit = proc.join("sys/user/max_user_namespaces");
        fs::write(&limit, "0").map_err(Error::host("forbidding it user namespaces"))?;
    }
    // Much in there changes the host when root writes to it, whatever root's capabilities.
    let still = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_remount(&proc, still | MountFlags::NODEV, "")
        .map_err(mounting("a /proc that cannot be written"))?;
    let show = |of: &Path, at: &Path| {
        let showing = || Error::host(format!("showing it {}", of.display()));
        at.parent().map_or(Ok(()), folder)?;
        fs::File::create_new(at).map_err(Error::host(format!("making {}", at.display())))?;
        mount_bind(of, at).map_err(|e| showing()(e.into()))
    };
    for device in DEVICES {
        let at = root.join("dev").join(device);
        show(&Path::new("/dev").join(device), &at)?;
        // It can be written all the same; its owner and mode, which are the host's, cannot be changed.
        mount_remount(&at, still, "").map_err(mounting("a device"))?;
    }
    job.files.iter().try_for_each(|(of, at)| show(of, &root.join(at.trim_start_matches('/'))))?;
    for (of, at) in [("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")] {
        symlink(of, root.join("dev").join(at)).map_err(Error::host("linking /dev/fd"))?;
    }
    let moving = |e: Errno| Error::host("moving to its root")(e.into());
    rustix::process::chdir(root).map_err(moving)?;
    rustix::process::pivot_root(".", ".").map_err(moving)?;
    unmount(".", UnmountFlags::DETACH).map_err(moving)?;
    rustix::process::chdir("/").map_err(moving)?;
    job.folders.iter().try_for_each(|f| folder(Path::new(f)))
}

/// Leaves the capabilities of [`KEPT`], for this process and all that it will ever start, no groups, and no files longer than
/// `longest` bytes.
fn give_rights_away(longest: u64) -> Result<(), Error> {
    let e = |e: Errno| Error::host("giving rights away")(e.into());
    rustix::thread::set_thread_groups(&[]).map_err(e)?;
    setrlimit(Resource::Fsize, Rlimit { current: Some(longest), maximum: Some(longest) }).map_err(e)?;
    // Numbers beyond those that this kernel knows are invalid, and not missed.
    for n in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << n);
        if !KEPT.contains(one) && rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false) {
            rustix::thread::remove_capability_from_bounding_set(one).map_err(e)?;
        }
    }
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(e)?;
    rustix::thread::set_no_new_privs(true).map_err(e)
}

//! Builds the guest's machine, times it, and stays within the bound.

use super::guest::{self, COUNT, EXITS, MEMORY, PORT, SUM, TURN_INSNS, TURN_SUM};
use super::{BOUND, BUILD, KernelSpeed, RUN, Report, Unusable};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem, ptr, thread};

/// A run this long is a good measure: exits and interrupts are lost in it. Three of them are enough.
const LONG_RUN: Duration = Duration::from_millis(1);
/// When no further run is begun, after the building of the machine.
const ENOUGH: Duration = Duration::from_millis(25);

/// Where the vCPU's thread is, for a caller who gives up on it.
struct Trail(Mutex<&'static str>);

/// What that thread tells the caller.
enum News {
    /// The guest runs from now on, and the thread blocks the kick: it may be sent.
    Built,
    Done(Result<Report, Unusable>),
}

impl Trail {
    fn step<T, E: Into<io::Error>>(
        &self,
        step: &'static str,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, Unusable> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
        f().map_err(|e| Unusable::Failed { step, source: e.into() })
    }

    fn late(&self) -> Unusable {
        Unusable::Late { step: *self.0.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// Measures how fast KVM runs kernel-mode code here, in some milliseconds and never more than [`BOUND`].
///
/// # Errors
/// Any [`Unusable`]. After [`Unusable::Late`] a thread may be left that waits for the host's kernel.
pub fn probe() -> Result<Report, Unusable> {
    probe_with(guest::memory())
}

fn probe_with(image: [u8; MEMORY]) -> Result<Report, Unusable> {
    let start = Instant::now();
    let trail = Arc::new(Trail(Mutex::new("")));
    let (tell, news) = channel();
    let theirs = Arc::clone(&trail);
    let body = move || {
        let _ = match Machine::build(&theirs, image) {
            Ok(mut machine) => {
                let _ = tell.send(News::Built);
                // Taking a machine down can take the host longer than all of the probe, so the answer goes first.
                tell.send(News::Done(machine.measure(&theirs, start)))
            }
            Err(e) => tell.send(News::Done(Err(e))),
        };
    };
    let thread =
        trail.step("starting a thread", || thread::Builder::new().name("kvm-probe".into()).spawn(body))?;
    let mut heard = news.recv_timeout(BUILD);
    if let Ok(News::Built) = heard {
        heard = news.recv_timeout(RUN);
        if let Err(RecvTimeoutError::Timeout) = heard {
            // SAFETY: the thread's handle is alive and not joined, so its id is valid even if the thread has ended. It
            // blocks the signal until its end, so that no handler and no default action of the process can run.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGRTMIN()) };
            heard = news.recv_timeout(BOUND - BUILD - RUN);
        }
    }
    match heard {
        Ok(News::Done(result)) => result,
        Ok(News::Built) | Err(RecvTimeoutError::Timeout) => Err(trail.late()),
        Err(RecvTimeoutError::Disconnected) => {
            trail.step("the probe's thread", || Err(io::Error::other("ended without an answer")))
        }
    }
}

/// Guest memory; unmapped on drop.
struct Pages(*mut u8);

impl Pages {
    fn new(image: [u8; MEMORY]) -> io::Result<Pages> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, which replaces none.
        let at = unsafe { libc::mmap(ptr::null_mut(), MEMORY, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is new, MEMORY bytes long as the array is, and aligned to more than an array of bytes needs.
        unsafe { at.cast::<[u8; MEMORY]>().write(image) };
        Ok(Pages(at.cast()))
    }

    fn set_count(&self, turns: u32) {
        // SAFETY: COUNT is inside the mapping and aligned; the vCPU, the only other user, is not running.
        unsafe { self.0.add(COUNT).cast::<u32>().write_volatile(turns) }
    }

    fn sum(&self) -> u64 {
        // SAFETY: as in `set_count`.
        unsafe { self.0.add(SUM).cast::<u64>().read_volatile() }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`; the vCPU and the VM were dropped before (order of fields in `Machine`).
        unsafe { libc::munmap(self.0.cast(), MEMORY) };
    }
}

/// The guest's machine. The order of the fields is the order in which they go.
struct Machine {
    vcpu: VcpuFd,
    _vm: VmFd,
    pages: Pages,
    built: Instant,
}

impl Machine {
    fn build(trail: &Trail, image: [u8; MEMORY]) -> Result<Machine, Unusable> {
        trail.step("pthread_sigmask", mask_signals)?;
        let kvm = trail.step("opening /dev/kvm", Kvm::new).map_err(why_closed)?;
        match kvm.get_api_version() {
            12 => {}
            other => return Err(Unusable::Version(other)),
        }
        let pages = trail.step("mapping guest memory", || Pages::new(image))?;
        let vm = trail.step("KVM_CREATE_VM", || kvm.create_vm())?;
        let region = kvm_userspace_memory_region {
            memory_size: MEMORY as u64,
            userspace_addr: pages.0 as u64,
            ..Default::default()
        };
        // SAFETY: the mapping is MEMORY bytes, and outlives the VM: `pages` is dropped after it, here and in `Machine`.
        trail.step("KVM_SET_USER_MEMORY_REGION", || unsafe { vm.set_user_memory_region(region) })?;
        let vcpu = trail.step("KVM_CREATE_VCPU", || vm.create_vcpu(0))?;
        let reset = trail.step("KVM_GET_SREGS", || vcpu.get_sregs())?;
        trail.step("KVM_SET_SREGS", || vcpu.set_sregs(&guest::to_long_mode(reset)))?;
        trail.step("KVM_SET_REGS", || vcpu.set_regs(&guest::registers()))?;
        trail.step("KVM_SET_SIGNAL_MASK", || let_the_kick_in(&vcpu))?;
        Ok(Machine { vcpu, _vm: vm, pages, built: Instant::now() })
    }

    fn measure(&mut self, trail: &Trail, start: Instant) -> Result<Report, Unusable> {
        let first = self.run_to_exit(trail)?;
        let mut exits = Vec::with_capacity(EXITS);
        for _ in 1..EXITS {
            exits.push(self.run_to_exit(trail)?);
        }
        exits.sort_unstable();
        let exit = exits.get(exits.len() / 2).copied().unwrap_or(first);

        // Short runs first: on an interpreter one turn already takes most of a millisecond.
        let (mut turns, mut all, mut long_runs, mut mips) = (1_u32, 0_u64, 0, 0_f64);
        while long_runs < 3 && self.built.elapsed() < ENOUGH {
            self.pages.set_count(turns);
            // In this thread's own time: what other programs take from it is not the guest's.
            let from = cpu_time();
            self.run_to_exit(trail)?;
            let took = cpu_time().saturating_sub(from);
            all += u64::from(turns);
            mips = mips.max((u64::from(turns) * TURN_INSNS) as f64 / (took.as_nanos().max(1) as f64 / 1e3));
            if took >= LONG_RUN {
                long_runs += 1;
            } else {
                turns = turns.saturating_mul(4);
            }
        }
        if all == 0 {
            return Err(trail.late());
        }
        let (expected, found) = (all.wrapping_mul(TURN_SUM), self.pages.sum());
        if found != expected {
            return Err(Unusable::Wrong { expected, found });
        }
        let speed = KernelSpeed { mips, exit_us: exit.as_secs_f64() * 1e6 };
        Ok(Report { speed, start: self.built.duration_since(start) + first, took: start.elapsed() })
    }

    /// Runs to the next write to the port; how long that took.
    fn run_to_exit(&mut self, trail: &Trail) -> Result<Duration, Unusable> {
        let from = Instant::now();
        loop {
            match trail.step("KVM_RUN", || self.vcpu.run()) {
                Ok(VcpuExit::IoOut(PORT, _)) => return Ok(from.elapsed()),
                Ok(other) => return Err(Unusable::Stopped(format!("{other:?}"))),
                // The kick; or something like a debugger, which asks for nothing.
                Err(Unusable::Failed { source, .. }) if source.kind() == io::ErrorKind::Interrupted => {
                    if self.built.elapsed() >= RUN {
                        return Err(trail.late());
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Tells the reasons apart for which the device cannot be opened.
fn why_closed(e: Unusable) -> Unusable {
    match e {
        Unusable::Failed { source, step } => match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Unusable::Absent,
            Some(libc::EACCES | libc::EPERM) => Unusable::Permission(source),
            _ => Unusable::Failed { step, source },
        },
        e => e,
    }
}

/// How long this thread has had a processor, inside the guest and outside.
fn cpu_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is written to, and nothing else. The clock exists on every Linux; were it missing, `t` stays 0.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// Blocks every signal in this thread: the process's own are for its other threads, and the kick is for `KVM_RUN`.
fn mask_signals() -> io::Result<()> {
    // SAFETY: a signal set is plain data that sigfillset overwrites; the old mask is not asked for.
    let e = unsafe {
        let mut all = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut())
    };
    if e == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(e)) }
}

/// Makes `KVM_RUN` end with `EINTR` when the kick is there. The signal is let in inside `KVM_RUN` only, and stays
/// pending: no later run gets past it, so it cannot come too early.
fn let_the_kick_in(vcpu: &VcpuFd) -> io::Result<()> {
    /// `struct kvm_signal_mask` with its set, which is the kernel's (8 bytes), not the C library's.
    #[repr(C)]
    struct Mask {
        len: u32,
        blocked: [u8; 8],
    }
    /// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`; kvm-ioctls does not have it.
    const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    let kick = 1_u64 << (libc::SIGRTMIN() - 1);
    let mask = Mask { len: 8, blocked: (!kick).to_ne_bytes() };
    // SAFETY: `mask` has the layout that the ioctl reads, and it is only read.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &mask) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probe over a guest whose program is changed; none where this host has no KVM to try it on.
    fn with_program(change: impl FnOnce(&mut [u8])) -> Option<Unusable> {
        let mut image = guest::memory();
        change(&mut image);
        match probe_with(image) {
            Err(e @ (Unusable::Absent | Unusable::Permission(_) | Unusable::Failed { .. })) => {
                println!("skipped here: {e}");
                None
            }
            found => Some(found.expect_err("no such guest passes")),
        }
    }

    #[test]
    fn a_guest_that_never_exits_is_kicked() {
        let start = Instant::now();
        // jmp to itself, with interrupts off
        let Some(e) = with_program(|p| p[..2].copy_from_slice(&[0xeb, 0xfe])) else { return };
        assert!(matches!(e, Unusable::Late { .. }), "{e}");
        assert!((RUN..BOUND * 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[test]
    fn a_guest_that_computes_wrongly_is_found_out() {
        let add = [0x48, 0x01, 0xd0];
        let sub = |p: &mut [u8]| {
            let at = p.windows(3).position(|w| w == add).expect("the program adds");
            p[at + 1] = 0x29;
        };
        let Some(e) = with_program(sub) else { return };
        assert!(matches!(e, Unusable::Wrong { .. } | Unusable::Late { .. }), "{e}");
    }

    #[test]
    fn a_guest_that_dies_is_no_hang() {
        // ud2, and no handler: a triple fault
        let Some(e) = with_program(|p| p[..2].copy_from_slice(&[0x0f, 0x0b])) else { return };
        assert!(!matches!(e, Unusable::Wrong { .. }), "{e}");
        println!("{e}");
    }
}

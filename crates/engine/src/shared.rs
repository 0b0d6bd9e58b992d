//! What the rest of a machine may do to a vCPU while it runs.
//!
//! A vCPU's thread looks at one word, [`VcpuShared::attention`], between blocks of instructions. Everyone else sets
//! state first and that word last, then wakes the thread if it sleeps:
//! - **pins**: interrupt inputs as a bit set, numbered by the guest architecture (for RISC-V the bits of `mip`);
//! - **latched bits**: interrupts that another sets and the vCPU itself clears (RISC-V SSIP, sent by SBI IPI);
//! - **timer**: the compare value of a machine timer that a device owns (RISC-V `mtimecmp`);
//! - **mail**: work that the vCPU must do itself (remote fences). Mail is served while running, while sleeping in
//!   WFI and while the machine is paused, so that whoever waits for it never waits for an unpause;
//! - **kick**: [`crate::Vcpu::run`] returns as soon as it can.
//!
//! A vCPU that does not look at the word while it executes (hardware runs it) gives an **alarm**, which is raised after
//! the word was set and makes it look.
//!
//! Nothing here is guest-visible state by itself: pins are derived by the devices' `settle()`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Work for a vCPU to do between two of its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// Make earlier stores of others visible to instruction fetch.
    FenceI,
    /// Forget translations of `size` bytes from guest virtual address `start` on (`size` `u64::MAX`: all), of one
    /// address space or of all.
    FenceVma {
        /// First guest virtual address.
        start: u64,
        /// Length in bytes.
        size: u64,
        /// Address-space identifier, or all.
        asid: Option<u16>,
    },
    /// Forget every cached right to write: a new dirty epoch has begun, or pages changed their presence.
    DropPages,
}

/// Longest list of mail kept apart; beyond it, everything is forgotten at once, which is always right.
const MAIL_LIMIT: usize = 32;

#[derive(Default)]
struct Post {
    mail: Vec<Mail>,
    overflow: bool,
    posted: u64,
    /// The thread sleeps: without it, waking would be a system call for nothing, at every interrupt.
    asleep: bool,
}

/// Makes a vCPU look at its attention word; called from any thread.
type Alarm = Box<dyn Fn() + Send + Sync>;

/// The part of a vCPU that others share.
pub struct VcpuShared {
    alarm: Option<Alarm>,
    attention: AtomicBool,
    pins: AtomicU64,
    latched: AtomicU64,
    timer: AtomicU64,
    kicked: AtomicBool,
    served: AtomicU64,
    retired: AtomicU64,
    post: Mutex<Post>,
    wake: Condvar,
}

impl Default for VcpuShared {
    fn default() -> Self {
        VcpuShared {
            alarm: None,
            attention: AtomicBool::new(false),
            pins: AtomicU64::new(0),
            latched: AtomicU64::new(0),
            timer: AtomicU64::new(u64::MAX),
            kicked: AtomicBool::new(false),
            served: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            post: Mutex::default(),
            wake: Condvar::new(),
        }
    }
}

impl VcpuShared {
    /// One whose vCPU must be interrupted to look: `alarm` does that, wherever the vCPU is.
    pub fn with_alarm(alarm: impl Fn() + Send + Sync + 'static) -> VcpuShared {
        VcpuShared { alarm: Some(Box::new(alarm)), ..VcpuShared::default() }
    }

    fn post(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sets the attention word and wakes the thread if it sleeps.
    fn alert(&self) {
        self.attention.store(true, SeqCst);
        // The lock orders this with a sleeper that has looked but not yet gone to sleep.
        let asleep = self.post().asleep;
        if asleep {
            self.wake.notify_all();
        } else if let Some(alarm) = &self.alarm {
            alarm();
        }
    }

    /// Whether something below has changed since [`VcpuShared::take_attention`]. One relaxed load: cheap enough for
    /// every block.
    #[inline(always)]
    pub fn attention(&self) -> bool {
        self.attention.load(Relaxed)
    }

    /// The word itself, for code that looks at it by its address.
    pub fn attention_word(&self) -> &AtomicBool {
        &self.attention
    }

    /// The word of pins, for the same.
    pub fn pins_word(&self) -> &AtomicU64 {
        &self.pins
    }

    /// Clears the attention word; the caller then looks at pins, mail and kick, in any order.
    pub fn take_attention(&self) -> bool {
        self.attention.load(Relaxed) && self.attention.swap(false, SeqCst)
    }

    /// Interrupt pins that are high.
    #[inline]
    pub fn pins(&self) -> u64 {
        self.pins.load(Acquire)
    }

    /// Sets pin `bit` to `level`.
    pub fn set_pin(&self, bit: u32, level: bool) {
        let mask = 1u64 << (bit & 63);
        let old = if level { self.pins.fetch_or(mask, SeqCst) } else { self.pins.fetch_and(!mask, SeqCst) };
        if (old & mask != 0) != level {
            self.alert();
        }
    }

    /// Sets bit `bit` once; the vCPU takes it into its own pending register and clears it there.
    pub fn latch(&self, bit: u32) {
        self.latched.fetch_or(1 << (bit & 63), SeqCst);
        self.alert();
    }

    /// The latched bits that the vCPU has not taken yet: they belong to its saved state.
    pub fn latched(&self) -> u64 {
        self.latched.load(SeqCst)
    }

    /// Takes the latched bits.
    pub fn take_latched(&self) -> u64 {
        if self.latched.load(Relaxed) == 0 { 0 } else { self.latched.swap(0, SeqCst) }
    }

    /// The timer's compare value, in ticks of the guest's own timebase; `u64::MAX` is never.
    #[inline]
    pub fn timer(&self) -> u64 {
        self.timer.load(Relaxed)
    }

    /// Sets the timer's compare value.
    pub fn set_timer(&self, at: u64) {
        self.timer.store(at, SeqCst);
        self.alert();
    }

    /// Makes `run` return soon.
    pub fn kick(&self) {
        self.kicked.store(true, SeqCst);
        self.alert();
    }

    /// Takes the kick.
    pub fn take_kick(&self) -> bool {
        self.kicked.load(Relaxed) && self.kicked.swap(false, SeqCst)
    }

    /// Whether a kick waits to be taken.
    pub fn kicked(&self) -> bool {
        self.kicked.load(SeqCst)
    }

    /// Leaves `mail` and gives the ticket to ask [`VcpuShared::has_served`] about.
    pub fn send(&self, mail: Mail) -> u64 {
        let ticket = {
            let mut p = self.post();
            if p.mail.len() < MAIL_LIMIT {
                p.mail.push(mail)
            } else {
                p.overflow = true
            }
            p.posted += 1;
            p.posted
        };
        self.alert();
        ticket
    }

    /// Whether the mail with that ticket has been served.
    pub fn has_served(&self, ticket: u64) -> bool {
        self.served.load(Acquire) >= ticket
    }

    /// Serves all mail through `serve`; a flood of it becomes one full fence.
    pub fn serve_mail(&self, mut serve: impl FnMut(Mail)) {
        let (mail, overflow, ticket) = {
            let mut p = self.post();
            if p.posted == self.served.load(Relaxed) {
                return;
            }
            (std::mem::take(&mut p.mail), std::mem::take(&mut p.overflow), p.posted)
        };
        mail.into_iter().for_each(&mut serve);
        if overflow {
            serve(Mail::FenceI);
            serve(Mail::FenceVma { start: 0, size: u64::MAX, asid: None });
            serve(Mail::DropPages);
        }
        self.served.store(ticket, SeqCst);
    }

    /// Sleeps until there is attention, or for `at_most`. The word is not cleared.
    pub fn sleep(&self, at_most: Option<Duration>) {
        let mut p = self.post();
        p.asleep = true;
        match at_most {
            Some(d) => {
                if !self.attention.load(SeqCst) {
                    p = self.wake.wait_timeout(p, d).map_or_else(|e| e.into_inner().0, |r| r.0);
                }
            }
            None => {
                while !self.attention.load(SeqCst) {
                    p = self.wake.wait(p).unwrap_or_else(|e| e.into_inner());
                }
            }
        }
        p.asleep = false;
    }

    /// Instructions retired, as the vCPU told last: exact while it does not run, a little behind while it does.
    pub fn retired(&self) -> u64 {
        self.retired.load(Relaxed)
    }

    /// The vCPU tells how many instructions it has retired, every now and then.
    pub fn set_retired(&self, count: u64) {
        self.retired.store(count, Relaxed);
    }
}

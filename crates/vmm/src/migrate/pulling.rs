//! The destination's end of post-copy: the machine runs here, and what it touches first is fetched first.
//!
//! Connections come in by the door (`door.rs`), and as often as they are lost: one at a time fetches what is waited for. A
//! machine whose source has lost the rest of its memory runs on until it touches a page of that; then it ends by name.

use super::Step;
use super::door::lock;
use crate::control::MachineControl;
use crate::exit::{Error, Kind, Result};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};
use strata_machine::Arrivals;
use strata_memory::GuestRam;
use strata_migration::late::Pulling;
use strata_migration::link::Link;
use strata_migration::streams::Meter;
use strata_migration::wire::WireError;

/// How often figures are renewed.
const LOOK: Duration = Duration::from_millis(100);

/// Memory that follows a machine.
pub(crate) struct Pull {
    ram: GuestRam,
    arrivals: Arc<Arrivals>,
    started: Mutex<bool>,
    start: Condvar,
    /// The connection that fetches, to be ended by the next one, and whoever uses it.
    urgent: Mutex<Weak<TcpStream>>,
    turn: Mutex<()>,
    connections: AtomicUsize,
    /// What is missing will never come.
    doomed: AtomicBool,
    /// A person has given the source up.
    forced: AtomicBool,
    /// The machine has ended: nothing is needed.
    ended: AtomicBool,
    /// The source has been told what it has to know.
    told: Mutex<bool>,
    telling: Condvar,
    whole: OnceLock<Duration>,
    began: Instant,
}

/// Why vCPUs on KVM cannot wait for memory here, a sentence.
fn why_not(e: impl std::fmt::Display) -> String {
    format!(
        "This host does not let strata stop vCPUs on KVM at memory that is not there (userfaultfd: {e}): allow it by `sysctl \
         vm.unprivileged_userfaultfd=1` or rights to /dev/userfaultfd."
    )
}

/// Why vCPUs on KVM cannot wait for memory here, if they cannot.
pub(super) fn cannot_wait() -> Option<String> {
    strata_memory::can_catch_touches().err().map(why_not)
}

impl Pull {
    /// Memory of `machine`, of which pages are missing, and whose state is loaded: what its vCPUs read without asking is
    /// fetched for them from now on, until all has come.
    pub(super) fn new(ram: GuestRam, machine: &dyn MachineControl) -> Result<Pull> {
        let none =
            || Error::new(Kind::Refused, "This kind of machine cannot run before its memory is there.");
        let arrivals = machine.arrivals().ok_or_else(none)?;
        if machine.stands_while_copied() {
            ram.catch_touches().map_err(|e| Error::new(Kind::Host, why_not(e)))?;
            let ram = ram.clone();
            std::thread::Builder::new()
                .name("touches".into())
                .spawn(move || ram.serve_touches())
                .map_err(|e| Error::io("start a thread that fetches memory", e))?;
        }
        Ok(Pull::over(ram, arrivals))
    }

    /// Memory of a machine whose harts and devices wait as `arrivals` says.
    pub(crate) fn over(ram: GuestRam, arrivals: Arc<Arrivals>) -> Pull {
        Pull {
            ram,
            arrivals,
            started: Mutex::new(false),
            start: Condvar::new(),
            urgent: Mutex::default(),
            turn: Mutex::new(()),
            connections: AtomicUsize::new(0),
            doomed: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            told: Mutex::new(false),
            telling: Condvar::new(),
            whole: OnceLock::new(),
            began: Instant::now(),
        }
    }

    /// Runs `f` with what takes pages; `meter` counts them.
    pub(super) fn with<'a>(&'a self, meter: &'a Meter, tell: &'a (dyn Fn() + Sync)) -> Pulling<'a> {
        Pulling { ram: &self.ram, meter, tell }
    }

    /// Tells whoever waits for pages that some have come.
    pub(super) fn tell(&self) {
        self.arrivals.tell();
    }

    /// It runs here from now on: pages may be fetched.
    pub(super) fn begin(&self) {
        *lock(&self.started) = true;
        self.start.notify_all();
    }

    /// Fetches by this connection, whose socket is given, when the machine runs, until all has come or the connection is
    /// lost.
    pub(super) fn fetch(
        &self,
        link: &mut Link,
        socket: &Arc<TcpStream>,
        meter: &Meter,
    ) -> Result<(), WireError> {
        let old = std::mem::replace(&mut *lock(&self.urgent), Arc::downgrade(socket));
        if let Some(old) = old.upgrade() {
            // Its source has given it up, or we have.
            let _ = old.shutdown(Shutdown::Both);
        }
        let _turn = lock(&self.turn);
        let mut started = lock(&self.started);
        while !*started {
            started = self.start.wait(started).unwrap_or_else(|e| e.into_inner());
        }
        drop(started);
        self.connections.fetch_add(1, SeqCst);
        let tell = || self.tell();
        let done = self.with(meter, &tell).fetch(link);
        self.connections.fetch_sub(1, SeqCst);
        done
    }

    /// How many pages have not come, and may be needed.
    pub(crate) fn missing(&self) -> usize {
        if self.ended.load(SeqCst) { 0 } else { self.ram.missing() }
    }

    /// Nothing is left to be said to the source.
    pub(super) fn settled(&self) {
        *lock(&self.told) = true;
        self.telling.notify_all();
    }

    /// The machine has ended. Waits until the source has been told, or the journal has it, for up to `limit`.
    pub(crate) fn end(&self, limit: Duration) {
        self.ended.store(true, SeqCst);
        let told = lock(&self.told);
        drop(self.telling.wait_timeout_while(told, limit, |told| !*told));
    }

    /// Nothing comes any more.
    pub(super) fn give_up(&self) {
        self.doomed.store(true, SeqCst);
    }

    /// Whether there is a connection that fetches.
    pub(crate) fn is_connected(&self) -> bool {
        self.connections.load(Relaxed) > 0
    }

    /// A person says that the source never comes back.
    pub(crate) fn force(&self) {
        self.forced.store(true, SeqCst);
    }

    /// Whether a person has said that, once; void if it has come back since.
    pub(crate) fn take_forced(&self) -> bool {
        self.forced.swap(false, SeqCst) && !self.is_connected()
    }

    /// Whether what has not come is given up.
    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(SeqCst)
    }

    /// How far it is.
    pub(crate) fn show(&self, f: &mut super::Figures) {
        let missing = self.missing();
        if missing == 0 {
            let _ = self.whole.set(self.began.elapsed());
        }
        let doomed = self.is_doomed() && missing > 0;
        f.step = if missing == 0 { Step::Moved } else { Step::Pulling };
        (f.pending, f.connected) = ([missing as u64, 0], self.is_connected() || missing == 0 || doomed);
        if doomed {
            f.notes = vec![format!("{missing} pages never come: it ends when it touches one of them.")];
        }
        // vCPUs that ask, and those that do not.
        let ((stalls, stalled), (touches, stood)) = (self.arrivals.stalls(), self.ram.touches());
        (f.stalls, f.stalled) = (stalls + touches, (stalled + stood) / 1000);
        f.took = self.whole.get().copied().unwrap_or_else(|| self.began.elapsed()).as_millis() as u64;
    }

    /// Renews the machine's figures, until all has come; says `lost` when it waits for what never comes.
    pub(crate) fn watch(&self, figure: impl Fn(&dyn Fn(&mut super::Figures)), lost: impl FnOnce(&str)) {
        loop {
            let missing = self.missing();
            figure(&|f| self.show(f));
            if missing == 0 {
                return;
            }
            if self.is_doomed() && !self.ram.missing_pages(true).is_empty() {
                return lost(&format!(
                    "a part of its memory is gone: the host that it came from has lost {missing} pages before they were \
                     fetched, and it has touched one of them. It stood still there; start it anew."
                ));
            }
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_came_back_is_not_given_up() {
        let ram = GuestRam::single(0x8000_0000, 4 * strata_memory::PAGE).unwrap();
        let arrivals = Arc::new(Arrivals::new(ram.clone(), &[], Vec::new()));
        let pull = Pull::over(ram, arrivals);
        pull.force();
        assert!(pull.take_forced() && !pull.take_forced(), "once");
        // It connects between the wish and whoever would act on it.
        pull.force();
        pull.connections.store(1, SeqCst);
        assert!(!pull.take_forced(), "its pages are thrown away");
        pull.connections.store(0, SeqCst);
        assert!(!pull.take_forced(), "the wish is void");
    }
}

//! A machine that is built, and the handle by which others drive it.

use crate::BuildError;
use crate::arrivals::Arrivals;
use crate::cpus::{Cpus, SharedVcpu};
use crate::deterministic::{Counted, PauseAtError, Schedule};
use crate::driver::{Driver, Message, Published};
use crate::gate::{Gate, Want};
use crate::harts::Harts;
use crate::io_thread::Waker;
use crate::lifecycle::{Event, Exit, Phase, Refused};
use crate::threads::Threads;
use crate::timekeeper::Timekeeper;
use crate::unseen::Unseen;
use crate::warmth::Warmth;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;
use strata_board::Board;
use strata_devices::virtio::Doorbell;
use strata_devices::{SystemSink, Worker};
use strata_engine::VcpuShared;
use strata_memory::{Backing, GuestRam, Region};
use strata_state::{Part, Schema, StateError};

/// A part under its name in board order.
pub struct NamedPart {
    /// Name, as in saved states: "uart0".
    pub name: String,
    /// The part.
    pub part: Arc<Mutex<dyn Part + Send>>,
}

/// Loads the files and readies the vCPUs.
pub(crate) type PowerOn = Box<dyn FnMut() -> Result<(), BuildError> + Send>;

/// What it takes to put a machine back to power-on.
pub(crate) struct Rebuild {
    pub(crate) ram: GuestRam,
    pub(crate) parts: Arc<Vec<NamedPart>>,
    pub(crate) vcpus: Vec<SharedVcpu>,
    pub(crate) harts: Arc<Harts>,
    pub(crate) power_on: PowerOn,
}

impl Rebuild {
    /// Back to power-on; all threads are parked.
    pub(crate) fn reset(&mut self) -> Result<(), String> {
        self.ram.clear();
        for p in self.parts.iter() {
            p.part.lock().unwrap_or_else(|e| e.into_inner()).reset();
        }
        (self.power_on)().map_err(|e| format!("the machine cannot be reset: {e}"))
    }
}

/// Everything that `assemble` has wired, ready to be given its threads.
pub(crate) struct Assembled {
    pub(crate) rebuild: Rebuild,
    pub(crate) board: Board,
    pub(crate) tier: &'static str,
    pub(crate) note: Option<String>,
    pub(crate) unseen: Option<Arc<dyn Unseen>>,
    pub(crate) shared: Vec<Arc<VcpuShared>>,
    pub(crate) workers: Vec<Box<dyn Worker>>,
    pub(crate) clock: Arc<dyn Timekeeper>,
    pub(crate) counted: Option<Counted>,
    pub(crate) console: Arc<dyn crate::console::DebugConsole>,
    pub(crate) doorbells: Vec<Doorbell>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) system: SystemSink,
    pub(crate) inbox: Receiver<Message>,
    pub(crate) driver: Sender<Message>,
    #[cfg(test)]
    pub(crate) bus: Arc<dyn strata_engine::Bus>,
}

/// A running (or not yet started, or ended) machine.
pub struct Machine {
    driver: Sender<Message>,
    published: Arc<Published>,
    parts: Arc<Vec<NamedPart>>,
    ram: GuestRam,
    vcpus: Vec<SharedVcpu>,
    shared: Vec<Arc<VcpuShared>>,
    pub(crate) warmth: Arc<Warmth>,
    arrivals: Arc<Arrivals>,
    schedule: Option<Arc<Schedule>>,
    board: Board,
    tier: &'static str,
    note: Option<String>,
    unseen: Option<Arc<dyn Unseen>>,
    began: Arc<OnceLock<Instant>>,
    /// When the guest first read the generation ID that it began with.
    pub(crate) told: Arc<OnceLock<Instant>>,
    gate: Arc<Gate>,
    wakers: Vec<Waker>,
    abandoned: AtomicBool,
    threads: Vec<JoinHandle<()>>,
    #[cfg(test)]
    pub(crate) bus: Arc<dyn strata_engine::Bus>,
    pub(crate) clock: Arc<dyn Timekeeper>,
}

/// The channel by which devices reach the driver before the machine exists.
pub(crate) fn mailbox() -> (Sender<Message>, Receiver<Message>) {
    channel()
}

impl Machine {
    pub(crate) fn spawn(a: Assembled) -> Result<Machine, BuildError> {
        let gate = a.gate.clone();
        let warmth = Arc::new(Warmth::new(&a.rebuild.vcpus));
        let began = Arc::<OnceLock<Instant>>::default();
        let arrivals = Arc::new(Arrivals::new(a.rebuild.ram.clone(), &a.shared, a.doorbells));
        let cpus = Arc::new(Cpus {
            shared: a.shared.clone(),
            one_thread: a.counted.is_some().then(|| a.rebuild.vcpus.clone()),
            harts: a.rebuild.harts.clone(),
            gate: gate.clone(),
            warmth: warmth.clone(),
            arrivals: arrivals.clone(),
            system: a.system,
            ram: a.rebuild.ram.clone(),
            console: a.console,
            began: began.clone(),
        });
        let mut threads = Threads::new(gate.clone(), a.shared.clone());
        let schedule = a.counted.as_ref().map(|c| c.schedule.clone());
        match a.counted {
            Some(counted) => threads.one(counted, cpus, &a.rebuild.vcpus, a.workers)?,
            None => threads.many(&cpus, &a.rebuild.vcpus, a.workers)?,
        }
        let published = Arc::new(Published::new());
        let (parts, ram, vcpus) = (a.rebuild.parts.clone(), a.rebuild.ram.clone(), a.rebuild.vcpus.clone());
        let driver = Driver {
            inbox: a.inbox,
            gate,
            vcpus: a.shared.clone(),
            wakers: threads.wakers().to_vec(),
            clock: a.clock.clone(),
            published: published.clone(),
            rebuild: a.rebuild,
        };
        threads.spawn("driver".into(), move || driver.run())?;
        let wakers = threads.wakers().to_vec();
        Ok(Machine {
            driver: a.driver,
            published,
            parts,
            ram,
            vcpus,
            shared: a.shared,
            warmth,
            arrivals,
            schedule,
            board: a.board,
            tier: a.tier,
            note: a.note,
            unseen: a.unseen,
            began,
            told: Arc::default(),
            gate: a.gate,
            wakers,
            abandoned: AtomicBool::new(false),
            threads: threads.take(),
            #[cfg(test)]
            bus: a.bus,
            clock: a.clock,
        })
    }

    fn request(&self, event: Event) -> Result<(), Refused> {
        let (reply, answer) = channel();
        let over = Refused { phase: "ended", request: event.name() };
        self.driver.send(Message::Request(event, reply)).map_err(|_| over.clone())?;
        answer.recv().unwrap_or(Err(over))
    }

    /// Starts it for the first time.
    pub fn start(&self) -> Result<(), Refused> {
        self.request(Event::Start)
    }

    /// Pauses it; returns when nothing guest-visible changes any more, or it has ended meanwhile, or someone else has
    /// let it go on: the phase says which.
    pub fn pause(&self) -> Result<Phase, Refused> {
        self.request(Event::Pause)?;
        let under_way = |p: &Phase| {
            matches!(p, Phase::Pausing | Phase::Resetting { then_pause: true } | Phase::Ending(_))
        };
        Ok(self.published.wait(|p| !under_way(p)))
    }

    /// Lets it go on.
    pub fn unpause(&self) -> Result<(), Refused> {
        self.request(Event::Unpause)
    }

    /// Resets it, as the reset button would; returns when that is under way.
    pub fn reset(&self) -> Result<(), Refused> {
        self.request(Event::Reset)
    }

    /// Ends it, as pulling the plug would; returns when it has ended. What the guest has printed before is handed
    /// over first, which a reader that does not read delays by some seconds.
    pub fn stop(&self) -> Exit {
        // A refusal means it has ended already.
        let _ = self.request(Event::Stop);
        self.wait()
    }

    /// Ends it at once, for `why`, without its threads: one of them stands still for good. Whoever waits hears of it, the
    /// others end by themselves, and dropping the machine waits for none.
    pub fn abandon(&self, why: String) {
        self.abandoned.store(true, Ordering::Release);
        self.gate.set(Want::Exit);
        self.shared.iter().for_each(|v| v.kick());
        self.wakers.iter().for_each(Waker::wake);
        self.published.set(Phase::Ended(Exit::Stuck(why)));
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.published.get()
    }

    /// Waits until it has ended, and its last output has been handed over.
    pub fn wait(&self) -> Exit {
        match self.published.wait(|p| matches!(p, Phase::Ended(_))) {
            Phase::Ended(exit) => exit,
            // `wait` returns only for the phase asked for.
            _ => Exit::Stopped,
        }
    }

    /// How its vCPUs are run: a word.
    pub fn tier(&self) -> &'static str {
        self.tier
    }

    /// Its board.
    pub fn board(&self) -> Board {
        self.board
    }

    /// Whether its vCPUs write to memory without asking: what was written is known only after
    /// [`Machine::collect_dirty`], and nothing can be saved before it is overwritten.
    pub fn writes_unseen(&self) -> bool {
        self.unseen.is_some()
    }

    /// Marks in the map of pages what its vCPUs have written without asking. In any phase; while it runs, what is written
    /// meanwhile is marked by this call or the next.
    ///
    /// # Errors
    /// What the host refused.
    pub fn collect_dirty(&self) -> Result<(), String> {
        self.unseen.as_ref().map_or(Ok(()), |u| u.collect())
    }

    /// Whether the host logs what its vCPUs write without asking, as it does from the first [`Machine::collect_dirty`] on.
    pub fn logs_dirty(&self) -> bool {
        self.unseen.as_ref().is_some_and(|u| u.is_logged())
    }

    /// Has the host log that no more; in any phase. All that was ever written is marked by the next
    /// [`Machine::collect_dirty`].
    ///
    /// # Errors
    /// What the host refused.
    pub fn stop_log(&self) -> Result<(), String> {
        self.unseen.as_ref().map_or(Ok(()), |u| u.stop_log())
    }

    /// What a person should know about how it was built, a sentence without its full stop.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// When a vCPU ran for the first time, if one has.
    pub fn began(&self) -> Option<Instant> {
        self.began.get().copied()
    }

    /// When the guest first read the generation ID that it was given for this beginning, if it has.
    pub fn told(&self) -> Option<Instant> {
        self.told.get().copied()
    }

    /// Where in this process RAM lies that may be mapped from files, which must not be cut while it runs: host addresses.
    pub fn over_file(&self) -> Vec<Range<usize>> {
        let over_file = |r: &&Region| !matches!(r.backing(), Backing::SharedFd(_));
        self.ram.regions().iter().filter(over_file).map(Region::host_range).collect()
    }

    /// Guest RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// All parts in board order.
    pub fn parts(&self) -> &[NamedPart] {
        &self.parts
    }

    /// Registers of every vCPU as text; `None` unless paused, created or ended.
    pub fn registers(&self) -> Option<Vec<String>> {
        let _still = self.published.hold();
        self.quiet().then(|| self.vcpus.iter().map(|v| with(v, |v| v.describe_registers())).collect())
    }

    /// Guest instructions retired by all vCPUs. It waits for no one: a vCPU that runs is counted as it told last, some
    /// thousand instructions ago.
    pub fn retired(&self) -> u64 {
        let exact = |v: &SharedVcpu| v.try_lock().ok().map(|v| v.retired());
        self.vcpus.iter().zip(&self.shared).map(|(v, s)| exact(v).unwrap_or(s.retired())).sum()
    }

    /// In a deterministic machine: instructions retired by all vCPUs since power-on, exact while nothing runs. They name
    /// every moment of its run.
    pub fn count(&self) -> Option<u64> {
        self.schedule.as_ref().map(|s| s.count())
    }

    /// Asks a deterministic machine, which is not running now, to pause when its [`count`](Machine::count) is `at`. The
    /// request is forgotten when that has happened, and at a reset or a load.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn pause_at(&self, at: u64) -> Result<(), PauseAtError> {
        let _still = self.published.hold();
        let schedule = self.schedule.as_ref().ok_or(PauseAtError::NotDeterministic)?;
        if !self.quiet() {
            return Err(PauseAtError::Runs(self.phase().name()));
        }
        schedule.pause_at(at)
    }

    /// Waits until it is paused, by whoever asked for that, or has ended.
    pub fn wait_pause(&self) -> Phase {
        self.published.wait(|p| matches!(p, Phase::Paused | Phase::Ended(_)))
    }

    /// Who waits for pages of guest memory that come late, and is to be told when they have.
    pub fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }

    #[cfg(test)]
    pub(crate) fn clock_at(&self) -> u64 {
        strata_engine::Clock::now(&*self.clock)
    }

    fn quiet(&self) -> bool {
        matches!(self.phase(), Phase::Created | Phase::Paused | Phase::Ended(_))
    }

    /// The state of every part, by name, in board order. Only while nothing runs, and nothing is let go meanwhile.
    pub fn save(&self) -> Result<Vec<(String, Vec<u8>)>, Refused> {
        let _still = self.published.hold();
        if !self.quiet() {
            return Err(Refused { phase: self.phase().name(), request: "save its state" });
        }
        let save = |p: &NamedPart| (p.name.clone(), with(&p.part, |part| part.save()));
        Ok(self.parts.iter().map(save).collect())
    }

    /// Loads the state of every part. Only while nothing runs. On error the machine must be reset or ended.
    pub fn load(&self, states: &[(String, Vec<u8>)]) -> Result<(), StateError> {
        let _still = self.published.hold();
        let invalid = |why: String| Err(StateError::Invalid { id: "machine".into(), why });
        if !self.quiet() {
            return invalid("the machine is not paused".into());
        }
        if let Some((name, _)) = states.iter().find(|(n, _)| !self.parts.iter().any(|p| p.name == *n)) {
            return invalid(format!("this machine has no part {name}"));
        }
        if let Some(p) = self.parts.iter().find(|p| !states.iter().any(|(n, _)| *n == p.name)) {
            return invalid(format!("the state of {} is missing", p.name));
        }
        // In board order, whatever order they come in: interrupt controllers before what drives their lines.
        for p in self.parts.iter() {
            for (_, bytes) in states.iter().filter(|(n, _)| *n == p.name) {
                p.part.lock().unwrap_or_else(|e| e.into_inner()).load(bytes)?;
            }
        }
        Ok(())
    }

    /// The schema of all parts' records, as committed.
    pub fn schema(&self) -> String {
        let mut schema = Schema::default();
        for p in self.parts.iter() {
            with(&p.part, |part| part.describe(&mut schema));
        }
        schema.text()
    }
}

fn with<T: ?Sized, R>(m: &Mutex<T>, f: impl FnOnce(&T) -> R) -> R {
    f(&m.lock().unwrap_or_else(|e| e.into_inner()))
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.abandoned.load(Ordering::Acquire) {
            return;
        }
        self.stop();
        for t in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing to add here.
            let _ = t.join();
        }
    }
}

/// A vCPU as a named part: it lives behind the same lock as its thread's.
pub(crate) struct VcpuPart(pub(crate) SharedVcpu);

impl Part for VcpuPart {
    fn record_id(&self) -> &'static str {
        with(&self.0, |v| v.record_id())
    }
    fn save(&self) -> Vec<u8> {
        with(&self.0, |v| v.save())
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).load(bytes)
    }
    fn reset(&mut self) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).reset();
    }
    fn describe(&self, out: &mut Schema) {
        with(&self.0, |v| v.describe(out));
    }
}

//! What the control server needs of a machine. `strata_machine::Machine` is one; tests have their own.

use crate::disks::SharedDisk;
use crate::exit::{Error, Kind, Outcome};
use crate::spec::DiskSpec;
use std::sync::Arc;
use std::time::Instant;
use strata_engine::hot::HotPaths;
use strata_machine::Arrivals;
use strata_memory::GuestRam;
use strata_migration::wire::Guest;
use strata_net::{Left, Port};
use strata_snapshot::{FlowRef, SetWriter};

/// A machine, as it is driven from outside.
pub trait MachineControl: Send + Sync {
    /// Starts it for the first time.
    ///
    /// # Errors
    /// Why it cannot be, as a sentence.
    fn start(&self) -> Result<(), String>;
    /// Pauses it; returns when nothing guest-visible changes any more, or it has ended.
    ///
    /// # Errors
    /// As [`MachineControl::start`].
    fn pause(&self) -> Result<(), String>;
    /// Lets it go on.
    ///
    /// # Errors
    /// As [`MachineControl::start`].
    fn unpause(&self) -> Result<(), String>;
    /// Resets it, as the reset button would.
    ///
    /// # Errors
    /// As [`MachineControl::start`].
    fn reset(&self) -> Result<(), String>;
    /// Ends it, as pulling the plug would; returns when it has ended. Harmless on one that has.
    fn stop(&self);
    /// A word for where it is in its life.
    fn phase(&self) -> &'static str;
    /// When a vCPU ran for the first time, if one has.
    fn began(&self) -> Option<Instant> {
        None
    }
    /// When its guest learnt that it is a copy, or went back, if it did.
    fn told(&self) -> Option<Instant> {
        None
    }
    /// How its guest code is run: a word.
    fn tier(&self) -> &'static str;
    /// Makes durable what is on its disks.
    ///
    /// # Errors
    /// A disk that cannot be flushed.
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Gives `set` its state, and its memory as it is now: it may go on while that is copied. Only while it is paused.
    /// Gives memory's new dirty epoch.
    ///
    /// # Errors
    /// It is of a kind that cannot be saved, or is not paused.
    fn save(&self, set: &mut SetWriter) -> Result<u32, Error> {
        let _ = set;
        Err(Error::new(Kind::Refused, "This kind of machine cannot be saved."))
    }
    /// Its memory, for whoever copies it; none from a kind of machine whose memory cannot be copied.
    fn ram(&self) -> Option<GuestRam> {
        None
    }
    /// Who waits for pages of its memory that come late; none in a kind of machine that cannot wait for them.
    fn arrivals(&self) -> Option<Arc<Arrivals>> {
        None
    }
    /// The state of all its parts. Only while it is paused.
    ///
    /// # Errors
    /// It is of a kind that has none to give, or is not paused.
    fn state(&self) -> Result<Vec<u8>, Error> {
        Err(Error::new(Kind::Refused, "This kind of machine has no state that could be sent."))
    }
    /// Before its start: it begins at this state instead, `passed` nanoseconds later, after these connections were reset.
    ///
    /// # Errors
    /// It is of a kind that cannot, has started, or the state is not one of its.
    fn begin_at(&self, state: &[u8], passed: u64, flows: &[FlowRef]) -> Result<(), Error> {
        let m = format!(
            "This kind of machine cannot begin at a state ({} bytes, {passed} ns, {} flows).",
            state.len(),
            flows.len()
        );
        Err(Error::new(Kind::Refused, m))
    }
    /// Whether its vCPUs write without asking, so that it must stand still until what was saved has been copied.
    fn stands_while_copied(&self) -> bool {
        false
    }
    /// Marks in the map of its pages what its vCPUs have written without asking since the last time. In any phase; while it
    /// runs, what is written meanwhile is marked now or the next time.
    ///
    /// # Errors
    /// The host does not say what was written.
    fn collect_writes(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Whether the host keeps a log for that already.
    fn logs_writes(&self) -> bool {
        false
    }
    /// Ends that log. In any phase.
    fn stop_log(&self) {}
    /// The id of the snapshot from which its memory differs only by what was written since the first dirty epoch.
    fn restored_from(&self) -> Option<String> {
        None
    }
    /// What another run of its guest could begin with; nothing from one that has no use for it. In any phase.
    fn hot_paths(&self) -> HotPaths {
        HotPaths::default()
    }
    /// Gives it what earlier runs have found hot, for what it may be worth. In any phase.
    fn warm(&self, _paths: HotPaths) {}
    /// Makes ready to go on with a new layer over its first disk. It may run.
    ///
    /// # Errors
    /// That layer cannot be opened.
    fn stage_disk(&self, to: &DiskSpec) -> Result<(), Error> {
        let m = format!("This kind of machine cannot be switched to {}.", to.path.display());
        Err(Error::new(Kind::Refused, m))
    }
    /// Goes on with that layer. Only while it is paused and flushed.
    ///
    /// # Errors
    /// It cannot be opened over the disk, with which the machine goes on, as `back` says.
    fn switch_disk(&self, back: &DiskSpec) -> Result<(), Error> {
        let m = format!("This kind of machine cannot be switched from {}.", back.path.display());
        Err(Error::new(Kind::Refused, m))
    }
    /// Its disks, in the order of their slots.
    fn disks(&self) -> Vec<SharedDisk> {
        Vec::new()
    }
    /// After a switch, or instead of it, when there is time: what is left to be done for it.
    fn settle_disk(&self) {}
    /// Connections of its user-mode network that are open now.
    fn open_flows(&self) -> Vec<FlowRef> {
        Vec::new()
    }
    /// What its network knows of its guest.
    fn known(&self) -> Guest {
        Guest::default()
    }
    /// Before its first instruction here: its guest has come from a network that knew this of it.
    fn arrive(&self, _known: &Guest) {}
    /// Holds its card's address, which somebody else had until now.
    ///
    /// # Errors
    /// Another machine has it.
    fn hold_address(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Leaves its place on a host's network. Only while it is paused. Gives what it has left, if its card was on an
    /// interface: whoever comes has that when it is dropped.
    fn leave_network(&self) -> Option<Left> {
        None
    }
    /// Its card's port, if that is on an interface of the host.
    fn port(&self) -> Option<Port> {
        None
    }
    /// Takes that again.
    ///
    /// # Errors
    /// Somebody has it.
    fn come_back_to_network(&self) -> Result<(), Error> {
        Ok(())
    }
    /// How many connections were reset when it went on from where it was saved.
    fn resets(&self) -> usize {
        0
    }
    /// Ends it at once because one of its threads cannot go on, which `why` explains; none of them is waited for.
    fn abandon(&self, why: String) {
        drop(why);
        self.stop();
    }
    /// Waits until it has ended. The reason of a stop from the host is the caller's to know: `by` is empty.
    fn wait(&self) -> Outcome;
    /// After its end: frees all that it holds (threads, disks, its end of the console). What is asked of it later is
    /// refused, and its phase is "ended".
    fn release(&self);
}

/// A machine with all that has to be done around it.
pub struct Assembled {
    /// The machine, created and not started.
    pub machine: Box<dyn MachineControl>,
    /// The hub's end of its console; the machine has the other.
    pub console: std::os::fd::OwnedFd,
    /// To be called before it is started: waits until its disks, and the words that they are in use, are durable. Gives what
    /// a person should know about them.
    pub settle_in: Box<dyn FnOnce() -> Result<Vec<String>, Error> + Send>,
    /// Flushes its disks after it is gone: one sentence for each that fails.
    pub flush: Box<dyn FnOnce() -> Vec<String> + Send>,
    /// Host addresses of its memory over a file that may be cut under it.
    pub over_file: Vec<std::ops::Range<usize>>,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

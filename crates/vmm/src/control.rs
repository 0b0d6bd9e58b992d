//! What the control server needs of a machine. `strata_machine::Machine` is one; tests have their own.

use crate::exit::{Error, Kind, Outcome};
use crate::spec::DiskSpec;
use std::path::Path;
use strata_snapshot::SetWriter;

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
    /// How its guest code is run: a word.
    fn tier(&self) -> &'static str;
    /// Makes durable what is on its disks.
    ///
    /// # Errors
    /// A disk that cannot be flushed.
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Copies its memory and state into the new folder `dir`. Only while it is paused.
    ///
    /// # Errors
    /// It is of a kind that cannot be saved, is not paused, or the host does not let it be written.
    fn save(&self, dir: &Path) -> Result<SetWriter, Error> {
        let m = format!("This kind of machine cannot be saved to {}.", dir.display());
        Err(Error::new(Kind::Refused, m))
    }
    /// Goes on with another file for its first disk, which has the same content. Only while it is paused and flushed.
    ///
    /// # Errors
    /// That file cannot be opened: the disk is gone until it is switched again.
    fn switch_disk(&self, to: &DiskSpec) -> Result<(), Error> {
        let m = format!("This kind of machine cannot be switched to {}.", to.path.display());
        Err(Error::new(Kind::Refused, m))
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
    /// Flushes its disks after it is gone: one sentence for each that fails.
    pub flush: Box<dyn FnOnce() -> Vec<String> + Send>,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

//! A machine's parts as a state file, and back.
//!
//! The file says which board and engine it is of and what it takes to read it (`strata_state::StateFile`); memory and
//! disks are the caller's. How an engine runs code leaves no trace in it: what the interpreter saved, the translator
//! loads, and the other way round.

use crate::timekeeper::ClockState;
use crate::{Machine, Refused};
use strata_board::Board;
use strata_state::{DETERMINISTIC, StateError, StateFile, StateHeader, read_record, write_record};

/// The part that keeps time.
const CLOCK: &str = "clock";
/// Parts that files of older builds lack: they stay as after power-on.
const LATER: [&str; 1] = ["vmgenid"];

/// The engine that runs machines of a board.
pub fn engine_of(board: Board) -> &'static str {
    match board {
        Board::RiscvVirt => "soft",
        Board::X86Micro => "kvm",
    }
}

/// What the guest of a saved machine has seen of its processor: one on KVM's; none of other machines.
///
/// # Errors
/// It is damaged.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn seen_in(state: &[u8]) -> Result<Option<strata_kvm::Seen>, StateError> {
    let StateFile { header, parts } = StateFile::parse(state)?;
    if header.board != Board::X86Micro.name() {
        return Ok(None);
    }
    // Its vCPUs differ by their numbers only.
    let first = parts.iter().find(|(name, _)| name == "cpu0");
    let seen = |(_, record): &(String, Vec<u8>)| Ok(strata_kvm::Seen::by(&read_record(record)?));
    first.map(seen).transpose()
}

/// Guest physical addresses that the host's kernel reads when a machine is loaded with that state: their pages have to be
/// there.
///
/// # Errors
/// It is damaged.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn read_at_load(state: &[u8]) -> Result<Vec<u64>, StateError> {
    let StateFile { header, parts } = StateFile::parse(state)?;
    let mut places = Vec::new();
    if header.board == Board::X86Micro.name() {
        for (_, record) in parts.iter().filter(|(name, _)| name.starts_with("cpu")) {
            places.extend(strata_kvm::read_at_load(&read_record(record)?));
        }
    }
    Ok(places)
}

impl Machine {
    /// All its parts as a state file. Only while nothing runs.
    ///
    /// # Errors
    /// Something runs.
    pub fn save_state(&self) -> Result<Vec<u8>, Refused> {
        let parts = self.save()?;
        let features = self.count().map(|_| DETERMINISTIC.to_owned()).into_iter().collect();
        let producer = concat!("strata ", env!("CARGO_PKG_VERSION")).to_owned();
        let (board, engine) = (self.board().name().into(), engine_of(self.board()).into());
        let header = StateHeader { producer, features, board, engine };
        Ok(StateFile { header, parts }.bytes())
    }

    /// Loads a state file into all its parts. Only while nothing runs.
    ///
    /// # Errors
    /// It is damaged, or of another kind of machine, and then nothing has changed; or a part refuses its state, and then
    /// the machine must be reset or ended.
    pub fn load_state(&self, bytes: &[u8]) -> Result<(), StateError> {
        self.load_state_after(bytes, 0)
    }

    /// As [`Machine::load_state`], for a machine whose clock has gone on for `passed` nanoseconds meanwhile.
    ///
    /// # Errors
    /// As there.
    pub fn load_state_after(&self, bytes: &[u8], passed: u64) -> Result<(), StateError> {
        let StateFile { header, mut parts } = StateFile::parse(bytes)?;
        let (board, engine) = (self.board().name(), engine_of(self.board()));
        for (what, found, ours) in [("board", &header.board, board), ("engine", &header.engine, engine)] {
            if found != ours {
                let why = format!("it is of a machine with {what} {found}, this one has {ours}");
                return Err(StateError::Invalid { id: "state file".into(), why });
            }
        }
        let theirs = header.features.iter().any(|f| f == DETERMINISTIC);
        if theirs != self.count().is_some() {
            let is = if theirs { "is" } else { "is not" };
            let why = format!("it is of a machine that {is} deterministic, unlike this one");
            return Err(StateError::Invalid { id: "state file".into(), why });
        }
        for part in self.parts().iter().filter(|p| LATER.contains(&p.name.as_str())) {
            if !parts.iter().any(|(name, _)| *name == part.name) {
                let now = part.part.lock().unwrap_or_else(|e| e.into_inner()).save();
                parts.push((part.name.clone(), now));
            }
        }
        // Before timers are derived from it.
        for (_, record) in parts.iter_mut().filter(|(name, _)| name == CLOCK) {
            let ClockState { now } = read_record(record)?;
            *record = write_record(&ClockState { now: now.saturating_add(passed) });
        }
        self.load(&parts)?;
        // By the counters of its vCPUs, too.
        let refused = |why| StateError::Invalid { id: CLOCK.into(), why };
        if passed > 0 { self.clock.passed(passed).map_err(refused) } else { Ok(()) }
    }
}

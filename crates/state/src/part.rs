//! Parts: what a machine is made of, as far as saving, loading and resetting go.

use crate::{Record, Schema, StateError, read_record, write_record};

/// Something with guest-visible state. Parts are registered with the machine in board order under a name of
/// their own ("uart0"); the snapshot holds one record a part.
pub trait Part {
    /// Id of the part's record.
    fn record_id(&self) -> &'static str;
    /// The whole guest-visible state.
    fn save(&self) -> Vec<u8>;
    /// Replaces the state and derives what follows from it. On error nothing has changed.
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError>;
    /// Back to the state after power-on.
    fn reset(&mut self);
    /// Adds the part's records to `out`.
    fn describe(&self, out: &mut Schema);
}

/// A part whose guest-visible state is one record. Implementing this gives [`Part`].
pub trait Stateful {
    /// The record.
    type State: Record + Clone;
    /// The state as it is now.
    fn state(&self) -> Self::State;
    /// The state after power-on.
    fn reset_state(&self) -> Self::State;
    /// Refuses a state that no sequence of guest accesses could have made and that would break an invariant:
    /// saved bytes may come from anyone.
    fn check(&self, _state: &Self::State) -> Result<(), StateError> {
        Ok(())
    }
    /// Replaces the state.
    fn set_state(&mut self, state: Self::State);
    /// Derives pins, timers and caches from the state; called after every register write and every load.
    fn settle(&mut self);
}

impl<T: Stateful> Part for T {
    fn record_id(&self) -> &'static str {
        T::State::ID
    }
    fn save(&self) -> Vec<u8> {
        write_record(&self.state())
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let state = read_record(bytes)?;
        self.check(&state)?;
        self.set_state(state);
        self.settle();
        Ok(())
    }
    fn reset(&mut self) {
        self.set_state(self.reset_state());
        self.settle();
    }
    fn describe(&self, out: &mut Schema) {
        T::State::describe_fields(out);
    }
}

/// The laws that hold for every part, for use in tests over all registered parts.
pub mod laws {
    use super::Part;

    /// load(save(x)) = x, and reset twice = reset once. `part` is in any state; it is left reset.
    /// Gives what does not hold.
    pub fn check(part: &mut dyn Part) -> Result<(), String> {
        let id = part.record_id();
        let saved = part.save();
        part.reset();
        let once = part.save();
        part.reset();
        if part.save() != once {
            return Err(format!("{id}: reset twice differs from reset once"));
        }
        part.load(&saved).map_err(|e| format!("{id}: does not load what it saved: {e}"))?;
        if part.save() != saved {
            return Err(format!("{id}: load(save(x)) differs from x"));
        }
        part.reset();
        if part.save() != once {
            return Err(format!("{id}: reset depends on the state before it"));
        }
        Ok(())
    }
}

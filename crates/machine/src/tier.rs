//! Tiers: how the soft engine runs a machine's harts, and the one place where a hart is made.
//!
//! The tier is the host's choice. No guest can tell which it has, so it belongs to no saved state and to no
//! [`MachineSpec`](crate::MachineSpec). Whoever names one gets that one or an error; whoever names none gets
//! [`Tier::best`], and the interpreter where the host does not allow the best.

use std::sync::Arc;
use strata_engine::{Bus, Clock, Vcpu};
use strata_memory::GuestRam;
use strata_riscv::{Hart, HartConfig};
use strata_translator::Options;

/// How guest code is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Instruction by instruction: the reference, on every host.
    Interpreter,
    /// As host code, where the host allows that.
    Translator,
    /// The translator with other habits than its own, for tests; no user can name it.
    Tuned(Options),
}

/// Why harts of a tier cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// The host allows no translator.
    #[error(transparent)]
    Translator(#[from] strata_translator::TranslatorError),
}

impl Tier {
    /// Every tier, the plainest first.
    pub const ALL: [Tier; 2] = [Tier::Interpreter, Tier::Translator];

    /// The fastest tier of this build: what a machine gets that asks for none.
    pub fn best() -> Tier {
        Tier::Translator
    }

    /// Whether this build and this host have it: for refusing early what [`crate::build`] would refuse.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self) -> Result<(), TierError> {
        match self {
            Tier::Interpreter => Ok(()),
            Tier::Translator => strata_translator::tier().map(drop).map_err(TierError::from),
            Tier::Tuned(options) => strata_translator::tier_with(options).map(drop).map_err(TierError::from),
        }
    }

    /// A word for options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Interpreter => "interpreter",
            Tier::Translator | Tier::Tuned(_) => "translator",
        }
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Makes one hart of a tier, with a bound on its host code in bytes if it is not to be the tier's own.
pub(crate) fn hart(
    (tier, code_size): (Tier, Option<usize>),
    config: HartConfig,
    ram: GuestRam,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn Vcpu>, TierError> {
    let second = match tier {
        Tier::Interpreter => None,
        Tier::Translator => {
            let usual = Options::default();
            let code_size = code_size.unwrap_or(usual.code_size);
            Some(strata_translator::tier_with(Options { code_size, ..usual })?)
        }
        Tier::Tuned(options) => Some(strata_translator::tier_with(options)?),
    };
    Ok(Box::new(Hart::with_tier(config, ram, bus, clock, second)))
}

/// What [`choose`] came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen<T> {
    /// The tier.
    pub(crate) tier: Tier,
    /// What was made with it.
    pub(crate) made: T,
    /// What a person should know: the best tier was not to be had.
    pub(crate) note: Option<String>,
}

/// Makes something with the tier that is `wanted`, or with `best`, or, where that fails, with the interpreter.
pub(crate) fn choose<T>(
    wanted: Option<Tier>,
    best: Tier,
    make: impl Fn(Tier) -> Result<T, TierError>,
) -> Result<Chosen<T>, TierError> {
    let tier = wanted.unwrap_or(best);
    match make(tier) {
        Ok(made) => Ok(Chosen { tier, made, note: None }),
        Err(why) if wanted.is_none() && tier != Tier::Interpreter => {
            let note = format!("the machine is interpreted, which is slower: {why}");
            Ok(Chosen { tier: Tier::Interpreter, made: make(Tier::Interpreter)?, note: Some(note) })
        }
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(tier: Tier) -> Result<Tier, TierError> {
        if tier == Tier::Translator {
            Err(TierError::Translator(strata_translator::TranslatorError::Processor))
        } else {
            Ok(tier)
        }
    }

    #[test]
    fn only_who_names_no_tier_gets_another() {
        use Tier::{Interpreter, Translator};
        assert_eq!(
            choose(Some(Translator), Translator, forbidden),
            Err(TierError::Translator(strata_translator::TranslatorError::Processor))
        );
        let fell = choose(None, Translator, forbidden).unwrap();
        assert_eq!((fell.tier, fell.made), (Interpreter, Interpreter));
        assert!(fell.note.unwrap().contains("--tier interpreter"));
        for (wanted, best, tier) in [
            (None, Translator, Translator),
            (None, Interpreter, Interpreter),
            (Some(Interpreter), Translator, Interpreter),
        ] {
            assert_eq!(choose(wanted, best, Ok), Ok(Chosen { tier, made: tier, note: None }));
        }
    }
}
